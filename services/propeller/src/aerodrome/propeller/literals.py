"""Literal maps in storage, the recent ones kept in memory: a node's outputs are read once, however many use them."""

from __future__ import annotations

from collections import OrderedDict

from flyteidl.core import literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.storage import Storage

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
        return self.keep(reference, await self.storage.read(reference, limit_bytes=0))

    def keep(self, reference: str, data: bytes) -> literals_pb2.LiteralMap:
        """Parse and remember what is stored at `reference`.  Raises Corrupt."""
        try:
            literals = literals_pb2.LiteralMap.FromString(data)
        except DecodeError as error:
            raise Corrupt(f"{reference} is not a literal map: {error}") from error
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
