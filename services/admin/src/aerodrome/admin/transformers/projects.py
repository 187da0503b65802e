"""Between rows and messages of projects."""

from __future__ import annotations

from collections.abc import Iterable

from flyteidl.admin.common_pb2 import Labels
from flyteidl.admin.project_pb2 import Domain, Project

from aerodrome.admin.config import DomainConfig
from aerodrome.stdlib.postgres.database import Record


def project_of(row: Record) -> Project:
    """The message of a row; domains are not part of it."""
    project = Project(id=row["identifier"], name=row["name"], description=row["description"], state=row["state"])
    if row["labels"]:
        project.labels.CopyFrom(Labels.FromString(row["labels"]))
    return project


def domains_of(domains: Iterable[DomainConfig]) -> list[Domain]:
    """The configured domains as every project has them."""
    return [Domain(id=domain.id, name=domain.shown_name) for domain in domains]
