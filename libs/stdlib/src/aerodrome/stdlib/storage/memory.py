"""Storage in memory: the same contract, for tests and for platforms whose data may be forgotten when they stop."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from aerodrome.stdlib.storage.port import Metadata, SignedUrl, check_size, join_reference
from aerodrome.stdlib.storage.signing import LocalSigner

SCHEME = "mem://"


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    metadata: Metadata


class MemStorage:
    """Objects below `mem://name`, and below the names in `containers`; an async context manager."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        containers: Sequence[str] = (),
        limit_bytes: int = 2 * 2**20,
        signer: LocalSigner | None = None,
    ) -> None:
        for each in (name, *containers):
            if not each or "/" in each:
                raise InvalidArgument(f"[{each}] cannot be the name of a store in memory")
        self._name = name
        self._names = frozenset((name, *containers))
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._signer = signer
        self._objects: dict[str, _Object] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._objects.clear()

    @property
    def base(self) -> str:
        return SCHEME + self._name

    def join(self, *parts: str) -> str:
        return join_reference(self.base, parts)

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        found = self._get(reference)
        check_size(reference, len(found.data), self._limit_bytes if limit_bytes is None else limit_bytes)
        return found.data

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        self._put(reference, bytes(data), content_type, None)

    async def head(self, reference: str) -> Metadata | None:
        found = self._objects.get(self._key(reference))
        return None if found is None else found.metadata

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, Metadata]]:
        for key in sorted(self._covered(prefix)):
            found = self._objects.get(key)
            if found is not None:
                yield key, found.metadata

    async def delete(self, reference: str) -> None:
        self._objects.pop(self._key(reference), None)

    async def delete_prefix(self, prefix: str) -> int:
        covered = self._covered(prefix)
        for key in covered:
            del self._objects[key]
        return len(covered)

    async def copy(self, source: str, destination: str) -> None:
        found = self._get(source)
        self._put(destination, found.data, found.metadata.content_type, found.metadata.content_md5)

    async def freeze(self, prefix: str) -> None:
        self._covered(prefix)

    async def sign_upload(
        self,
        reference: str,
        *,
        expires_in: timedelta,
        content_md5: bytes | None = None,
        add_md5_metadata: bool = False,
        content_length: int | None = None,
    ) -> SignedUrl:
        return self._signs().sign_upload(
            self._key(reference),
            expires_in=expires_in,
            content_md5=content_md5,
            add_md5_metadata=add_md5_metadata,
            content_length=content_length,
        )

    async def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        return self._signs().sign_download(self._key(reference), expires_in=expires_in)

    async def begin_upload(self, reference: str) -> MemUpload:
        self._key(reference)
        return MemUpload(self, reference)

    async def open(self, reference: str) -> MemOpened:
        """Raises NotFound."""
        found = self._get(reference)
        return MemOpened(found.data, found.metadata)

    def _key(self, reference: str) -> str:
        """The reference without duplicate slashes.  Raises PermissionDenied outside of the store."""
        name, _, path = reference.removeprefix(SCHEME).partition("/")
        if not reference.startswith(SCHEME) or name not in self._names:
            raise PermissionDenied(f"[{reference[:1024]}] lies outside of the store {self.base}")
        if "\0" in reference or any(part in (".", "..") for part in path.split("/")):
            raise PermissionDenied(f"[{reference[:1024]!r}] holds '.', '..' or a NUL character")
        return join_reference(SCHEME + name, (path.lstrip("/"),))

    def _get(self, reference: str) -> _Object:
        found = self._objects.get(self._key(reference))
        if found is None:
            raise NotFound(f"[{reference}] does not exist")
        return found

    def _put(self, reference: str, data: bytes, content_type: str | None, content_md5: str | None) -> None:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        metadata = Metadata(len(data), etag, content_md5, content_type, self._clock.now())
        key = self._key(reference)
        if key.count("/") < 3:
            raise NotFound(f"[{reference}] is the store itself, not an object")
        self._objects[key] = _Object(data, metadata)

    def _covered(self, prefix: str) -> Sequence[str]:
        key = self._key(prefix)
        return [each for each in self._objects if each == key or each.startswith(key + "/")]

    def _signs(self) -> LocalSigner:
        if self._signer is None:
            raise FailedPrecondition("this store was opened without a signer, so it cannot give signed URLs")
        return self._signer


class MemUpload:
    """Bytes that are being uploaded."""

    def __init__(self, storage: MemStorage, reference: str) -> None:
        self._storage = storage
        self._reference = reference
        self._data = bytearray()

    async def write(self, chunk: bytes) -> None:
        self._data += chunk

    async def commit(self, content_md5: str | None) -> None:
        self._storage._put(self._reference, bytes(self._data), None, content_md5)

    async def abort(self) -> None:
        self._data.clear()


class MemOpened:
    """Bytes that are being downloaded."""

    def __init__(self, data: bytes, metadata: Metadata) -> None:
        self._data = data
        self.metadata = metadata

    async def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    async def close(self) -> None:
        self._data = b""
