"""A store that fails, stalls or truncates where a test's plan says so (`aerodrome.stdlib.faults`).

The points are `storage.read` (also what is known of objects), `storage.write` (also copies and freezing) and
`storage.delete`.  `fail` lets a call fail before it has done anything, `late` after it has done everything, as when the
answer is lost; `stall=SECONDS` lets it wait; `cut` hands out, or leaves in place, all but the last byte: as a reader
sees an object whose rest is lost, and as a crash leaves a file that was not synced.
"""

from __future__ import annotations

import asyncio

from aerodrome.stdlib import faults
from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.storage.local import LocalStorage
from aerodrome.stdlib.storage.port import Metadata


class FaultyLocalStorage(LocalStorage):
    """A local store with such points."""

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        actions = await _begin("storage.read", reference)
        data = await super().read(reference, limit_bytes=limit_bytes)
        return data[:-1] if "cut" in actions else data

    async def head(self, reference: str) -> Metadata | None:
        await _begin("storage.read", reference)
        return await super().head(reference)

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        actions = await _begin("storage.write", reference)
        await super().write(reference, data[:-1] if "cut" in actions else data, content_type=content_type)
        if "cut" in actions:
            raise Unavailable(f"[{reference}] was written in part, as a test wants it")
        _end(actions, reference)

    async def copy(self, source: str, destination: str) -> None:
        actions = await _begin("storage.write", destination)
        await super().copy(source, destination)
        _end(actions, destination)

    async def freeze(self, prefix: str) -> None:
        actions = await _begin("storage.write", prefix)
        await super().freeze(prefix)
        _end(actions, prefix)

    async def delete(self, reference: str) -> None:
        actions = await _begin("storage.delete", reference)
        await super().delete(reference)
        _end(actions, reference)


async def _begin(point: str, reference: str) -> list[str]:
    actions = faults.due(point)
    for action in actions:
        name, _, value = action.partition("=")
        match name:
            case "fail":
                raise Unavailable(f"[{reference}] cannot be reached, as a test wants it")
            case "stall":
                await asyncio.sleep(float(value))
            case "cut" | "late":
                pass
            case _:
                raise ValueError(f"{action!r} is no fault of a store: use fail, late, stall=SECONDS or cut")
    return actions


def _end(actions: list[str], reference: str) -> None:
    if "late" in actions:
        raise Unavailable(f"[{reference}] was changed, but the answer is lost, as a test wants it")
