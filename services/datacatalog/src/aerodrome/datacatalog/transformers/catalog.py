"""Datasets, artifacts and reservations between messages and rows."""

from __future__ import annotations

from collections.abc import Iterable

from flyteidl.datacatalog import datacatalog_pb2 as catalog
from google.protobuf.duration_pb2 import Duration

from aerodrome.datacatalog.domain.reservations import Held
from aerodrome.datacatalog.repositories.artifacts import Kept, Source
from aerodrome.datacatalog.repositories.reservations import Reserved
from aerodrome.stdlib.postgres.database import Record

SOURCE_PROJECT = "exec-project"
SOURCE_DOMAIN = "exec-domain"
SOURCE_EXECUTION = "execution-name"
SOURCE_NODE = "exec-node"
INPUT_HASH = "input-hash/"
"""What the keys of our metadata begin with that hold the hash of one input."""


def dataset_id(row: Record) -> catalog.DatasetID:
    """The dataset that a row is of or belongs to, with the UUID that it was given."""
    return catalog.DatasetID(
        project=row["project"],
        domain=row["domain"],
        name=row["name"],
        version=row["version"],
        org=row["org"],
        UUID=row["uuid"],
    )


def dataset(row: Record) -> catalog.Dataset:
    """A dataset's row as a message."""
    return catalog.Dataset(
        id=dataset_id(row),
        metadata=catalog.Metadata.FromString(row["metadata"]),
        partitionKeys=row["partition_keys"],
    )


def artifact(row: Record, data: Iterable[catalog.ArtifactData]) -> catalog.Artifact:
    """An artifact's row as a message, with its data as loaded."""
    identity = dataset_id(row)
    message = catalog.Artifact(
        id=row["artifact_id"],
        dataset=identity,
        data=data,
        metadata=catalog.Metadata.FromString(row["metadata"]),
        partitions=(
            catalog.Partition(key=key, value=value)
            for key, value in zip(row["partition_keys"], row["partition_values"], strict=True)
        ),
        tags=(catalog.Tag(name=tag, artifact_id=row["artifact_id"], dataset=identity) for tag in row["tags"]),
    )
    message.created_at.FromDatetime(row["created_at"])
    return message


def kept(row: Record) -> list[Kept]:
    """Where an artifact's data is."""
    return [
        Kept(name, location, value)
        for name, location, value in zip(row["data_names"], row["data_locations"], row["data_values"], strict=True)
    ]


def source(metadata: catalog.Metadata) -> Source:
    """The execution that an artifact's metadata names."""
    known = metadata.key_map
    return Source(*(_storable(known.get(key, "")) for key in (SOURCE_PROJECT, SOURCE_DOMAIN, SOURCE_EXECUTION)))


def reserved(reservation: catalog.ReservationID) -> Reserved:
    """What a request wants to reserve."""
    of = reservation.dataset_id
    return Reserved("dataset", of.project, of.domain, of.name, of.version, of.org, reservation.tag_name)


def reservation(what: Reserved, held: Held) -> catalog.Reservation:
    """Who has a reservation, as a message."""
    message = catalog.Reservation(
        reservation_id=catalog.ReservationID(
            dataset_id=catalog.DatasetID(
                project=what.project, domain=what.domain, name=what.name, version=what.version
            ),
            tag_name=what.tag,
        ),
        owner_id=held.owner_id,
        heartbeat_interval=duration(held),
    )
    message.expires_at.FromDatetime(held.expires_at)
    return message


def duration(held: Held) -> Duration:
    """The interval between two extensions."""
    message = Duration()
    message.FromTimedelta(held.heartbeat)
    return message


def _storable(value: str) -> str:
    """As much of a text of free metadata as an index takes."""
    return value.replace("\0", "")[:500]
