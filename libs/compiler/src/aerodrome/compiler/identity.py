"""Identifiers as values that can be compared, sorted and used as keys."""

from typing import NamedTuple

from flyteidl.core.identifier_pb2 import Identifier

from aerodrome.compiler.errors import clip


class Key(NamedTuple):
    """A hashable core.Identifier, sorted by its fields in this order; the organisation is not part of it."""

    resource_type: int
    project: str
    domain: str
    name: str
    version: str

    def __str__(self) -> str:
        return ":".join(clip(part) for part in self[1:])


def key_of(identifier: Identifier) -> Key:
    """The key of an identifier."""
    return Key(identifier.resource_type, identifier.project, identifier.domain, identifier.name, identifier.version)


def identifier_of(key: Key) -> Identifier:
    """A new identifier with the fields of `key`."""
    return Identifier(
        resource_type=key.resource_type,  # type: ignore[arg-type]  # an int at run time; the stubs want its own type
        project=key.project,
        domain=key.domain,
        name=key.name,
        version=key.version,
    )
