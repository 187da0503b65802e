"""Literal maps in storage, the recent ones kept in memory: a node's outputs are read once, however many use them.

Maps that no process is given a directory for are stored once per execution and content (`SharedValues`): a fan-out
hands the same few values to a great many nodes, and making directories and files costs more than all else there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from flyteidl.core import literals_pb2
from google.protobuf.message import DecodeError, Message

from aerodrome.stdlib.errors import AerodromeError, PermissionDenied
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
_SHARED_BYTES = 64 << 10
"""Larger maps are not shared: their digests would hold the loop up."""
_DIGEST_BYTES = 16
_MOST_KNOWN = 100_000
"""How many shared values of one execution are known to be stored; what is forgotten is found in the storage again."""


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

    async def read_data(self, reference: str, kind: type[Message] = literals_pb2.LiteralMap) -> bytes:
        """What is stored at `reference`, known to be a message of `kind`.  Raises the storage's errors, DecodeError."""

        def checked(data: bytes) -> bytes:
            kind.FromString(data)
            return data

        return await self.read_as(reference, checked, limit_bytes=0)

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

    def remembered(self, reference: str) -> literals_pb2.LiteralMap | None:
        """The map at `reference`, if that needs no look into the storage."""
        known = self._kept.get(reference)
        return None if known is None else known[0]

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


class SharedValues:
    """Maps of one execution by their content, each stored once and read-only before anybody refers to it."""

    def __init__(self, literals: Literals, place: Callable[[bytes], str]) -> None:
        """`place` gives the reference for the digest of a content."""
        self._literals = literals
        self._place = place
        self._stored: set[bytes] = set()
        self._storing: dict[bytes, asyncio.Future[None]] = {}
        self._taken: dict[str, bytes] = {}

    async def put(self, literals: literals_pb2.LiteralMap) -> bytes | None:
        """The digest by which the map is found, once it is stored; None if it is too large to be shared.

        Raises the storage's errors.
        """
        data = literals.SerializeToString(deterministic=True)
        digest = await self.put_data(data)
        if digest is not None and self._literals.remembered(self._place(digest)) is None:
            self._literals.keep(self._place(digest), data)
        return digest

    def known(self, literals: literals_pb2.LiteralMap) -> bytes | None:
        """As `put`, but None for what is not known to be stored."""
        digest = _digest(literals.SerializeToString(deterministic=True))
        if digest is None or digest not in self._stored or self._literals.remembered(self._place(digest)) is None:
            return None
        return digest

    async def take(self, reference: str) -> bytes | None:
        """As `put`, for a map at `reference` that never changes, such as one of an earlier execution.

        Raises also DecodeError.
        """
        digest = self._taken.get(reference)
        if digest is not None and digest in self._stored:
            return digest
        data = await self._literals.read_data(reference)
        digest = await self.put_data(data)
        if digest is not None:
            if len(self._taken) >= _MOST_KNOWN:
                self._taken.clear()
            self._taken[reference] = digest
        return digest

    async def put_data(self, data: bytes) -> bytes | None:
        """As `put`, for a map that is serialized already."""
        digest = _digest(data)
        if digest is not None and digest not in self._stored:
            await self._store(digest, data)
        return digest

    async def _store(self, digest: bytes, data: bytes) -> None:
        while (storing := self._storing.get(digest)) is not None:
            await asyncio.wait([storing])  # whoever stores it may fail, and it is then this caller's to do
            if digest in self._stored:
                return
        storing = self._storing[digest] = asyncio.get_running_loop().create_future()
        try:
            await self._write(self._place(digest), data)
            if len(self._stored) >= _MOST_KNOWN:
                self._stored.clear()
            self._stored.add(digest)
        finally:
            del self._storing[digest]
            storing.set_result(None)

    async def _write(self, reference: str, data: bytes) -> None:
        storage = self._literals.storage
        try:
            await storage.write(reference, data)
        except PermissionDenied:
            # An earlier holder has stored and frozen it: then it is what its name says, unless a disk has lost a part.
            for delay in (*_AGAIN, None):
                if await storage.read(reference, limit_bytes=0) == data:
                    return
                if delay is not None:
                    await asyncio.sleep(delay)
            log.error("a shared value is damaged, storing it anew", reference=reference)
            await storage.delete(reference)
            await storage.write(reference, data)
        await storage.freeze(reference)


def _digest(data: bytes) -> bytes | None:
    """By what a shared value is found; None for what is too large to be shared."""
    return None if len(data) > _SHARED_BYTES else hashlib.sha256(data).digest()[:_DIGEST_BYTES]


def _parse(reference: str, data: bytes) -> literals_pb2.LiteralMap:
    try:
        return literals_pb2.LiteralMap.FromString(data)
    except DecodeError as error:
        raise Corrupt(f"{reference} is not a literal map: {error}") from error
