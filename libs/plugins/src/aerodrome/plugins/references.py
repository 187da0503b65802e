"""What literals refer to in the store: files, directories, structured datasets, offloaded values."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from flyteidl.core import literals_pb2

from aerodrome.stdlib.errors import InvalidArgument, PermissionDenied
from aerodrome.stdlib.storage import Storage

_HEADS_AT_ONCE = 32


async def missing_references(storage: Storage, outputs: literals_pb2.LiteralMap) -> list[str]:
    """References in `outputs` at which nothing is stored.  What lies outside of our storage cannot be looked at."""
    found = sorted({reference for literal in outputs.literals.values() for reference in references(literal)})
    room = asyncio.Semaphore(_HEADS_AT_ONCE)

    async def is_gone(reference: str) -> bool:
        async with room:
            return not await _exists(storage, reference)

    gone = await asyncio.gather(*(is_gone(each) for each in found))
    return [reference for reference, is_missing in zip(found, gone, strict=True) if is_missing]


async def _exists(storage: Storage, reference: str) -> bool:
    try:
        if await storage.head(reference) is not None:
            return True
        async for _ in storage.list(reference):  # a directory
            return True
    except (PermissionDenied, InvalidArgument):
        return True
    return False


def references(literal: literals_pb2.Literal) -> Iterator[str]:
    """The references that a literal holds, at any depth."""
    stack = [literal]
    while stack:
        each = stack.pop()
        match each.WhichOneof("value"):
            case "collection":
                stack.extend(each.collection.literals)
            case "map":
                stack.extend(each.map.literals.values())
            case "offloaded_metadata":
                yield each.offloaded_metadata.uri
            case "scalar":
                match each.scalar.WhichOneof("value"):
                    case "blob":
                        reference = each.scalar.blob.uri
                    case "schema":
                        reference = each.scalar.schema.uri
                    case "structured_dataset":
                        reference = each.scalar.structured_dataset.uri
                    case "union":
                        stack.append(each.scalar.union.value)
                        continue
                    case _:
                        continue
                if reference:
                    yield reference
