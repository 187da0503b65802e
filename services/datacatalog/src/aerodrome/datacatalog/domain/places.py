"""Where literals are stored.  Source: spec/datacatalog-scheduler-notifier.md, A.3."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote

from flyteidl.datacatalog.datacatalog_pb2 import DatasetID

_LONGEST = 200
"""Characters of a path element; file systems take 255 bytes."""


def data_parts(prefix: str, dataset: DatasetID, artifact_id: str, name: str) -> tuple[str, ...]:
    """The path of one data item below the store's container."""
    named = (dataset.project, dataset.domain, dataset.name, dataset.version, artifact_id, name)
    return (prefix, *(element(each) for each in named), "data.pb")


def output_parts(prefix: str, key: str) -> tuple[str, ...]:
    """The path of an output of CacheService."""
    digest = sha256(key.encode()).hexdigest()
    return (prefix, "outputs", digest[:2], digest, "data.pb")


def element(name: str) -> str:
    """`name` as one element of a path: unchanged if it can be, else percent-encoded; a long one is cut and hashed."""
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%00"
    quoted = quote(name, safe=" !#$&'()*+,:;=@[]^`{|}~\"<>?")
    if len(quoted.encode()) <= _LONGEST:
        return quoted
    return f"{quoted[: _LONGEST - 70]}-{sha256(name.encode()).hexdigest()}"
