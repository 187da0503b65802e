"""Literal maps in storage, the recent ones kept in memory: a node's outputs are read once, however many use them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from flyteidl.core import literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.storage import Storage

log = get_logger(__name__)

T = TypeVar("T")

_AGAIN = (0.02, 0.2)
"""Seconds before an object that cannot be parsed is read again."""
_INLINE_BYTES = 256 << 10
"""What is larger is parsed in a thread."""
_OVERHEAD_BYTES = 1024
"""What a map takes in memory beside its content; there may be very many small ones."""


class Corrupt(AerodromeError):
    """What is stored is not a literal map."""


class Literals:
    """Reads and writes literal maps; what was written or read lately is kept, up to `max_bytes` of serialized size.

    The maps that it gives are shared: nobody may change them.
    """

    def __init__(self, storage: Storage, *, max_bytes: int = 64 << 20) -> None:
        self.storage = storage
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[literals_pb2.LiteralMap, int]] = OrderedDict()
        self._bytes = 0

    async def read(self, reference: str) -> literals_pb2.LiteralMap:
        """The map at `reference`, however large: what is written was measured then.

        Raises the storage's errors, and Corrupt.
        """
        known = self._kept.get(reference)
        if known is not None:
            self._kept.move_to_end(reference)
            return known[0]
        literals, size = await self.read_as(reference, lambda data: (_parse(reference, data), len(data)), limit_bytes=0)
        self._remember(reference, literals, size)
        return literals

    async def read_as(self, reference: str, parse: Callable[[bytes], T], *, limit_bytes: int | None = None) -> T:
        """What `parse` makes of an object; what it does not understand is read again, for the rest may have been lost.

        Raises the storage's errors, and DecodeError or Corrupt, as `parse` does, if it stays so.
        """
        for delay in _AGAIN:
            try:
                return await self._read_as(reference, parse, limit_bytes)
            except (DecodeError, Corrupt) as error:
                log.warning("an object is not understood, reading again", reference=reference, reason=str(error))
            await asyncio.sleep(delay)
        return await self._read_as(reference, parse, limit_bytes)

    async def _read_as(self, reference: str, parse: Callable[[bytes], T], limit_bytes: int | None) -> T:
        data = await self.storage.read(reference, limit_bytes=limit_bytes)
        return parse(data) if len(data) <= _INLINE_BYTES else await asyncio.to_thread(parse, data)

    def keep(self, reference: str, data: bytes) -> literals_pb2.LiteralMap:
        """Parse and remember what is stored at `reference`.  Raises Corrupt."""
        literals = _parse(reference, data)
        self._remember(reference, literals, len(data))
        return literals

    async def write(self, reference: str, literals: literals_pb2.LiteralMap) -> None:
        """Store a map at `reference`."""
        data = literals.SerializeToString()
        await self.storage.write(reference, data)
        self._remember(reference, literals, len(data))

    def _remember(self, reference: str, literals: literals_pb2.LiteralMap, size: int) -> None:
        previous = self._kept.pop(reference, None)
        if previous is not None:
            self._bytes -= previous[1]
        if size > self._max_bytes // 4:
            return
        size += _OVERHEAD_BYTES
        self._kept[reference] = (literals, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= dropped


def _parse(reference: str, data: bytes) -> literals_pb2.LiteralMap:
    try:
        return literals_pb2.LiteralMap.FromString(data)
    except DecodeError as error:
        raise Corrupt(f"{reference} is not a literal map: {error}") from error
