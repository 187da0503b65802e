"""The storage port: immutable-by-convention objects under references, on a local directory, S3, or in memory.

A reference is a text that names one object: a plain absolute path, `s3://bucket/key`, or `mem://name/key`.  Whatever
the adapter, every reference is refused unless it lies in a configured container.  A *prefix* names the object of that
very reference, if there is one, and all objects below it as if it were a directory: `a/b` covers `a/b` and `a/b/c`, not
`a/bc`.  Source: spec control-plane 13 and 9.5, data-plane 2.1.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from aerodrome.stdlib.errors import ResourceExhausted

MD5_METADATA_HEADER = "x-amz-meta-flyteContentMD5"
"""Where an uploading client states the content's MD5, to be kept with the object."""

STREAM_BYTES = 256 * 2**10
"""How much of a large object is held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a store knows about an object without reading it."""

    size_bytes: int
    etag: str
    """Changes whenever the content does; opaque."""
    content_md5: str | None
    """Base64, as it was stated when the object was uploaded; None if it was not, and always None in listings of S3."""
    content_type: str | None
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL that gives whoever holds it one right to one object, until it expires."""

    url: str
    headers: Mapping[str, str]
    """What the client has to send with it, exactly."""
    expires_at: datetime


class Storage(Protocol):
    """Where objects are kept.  Errors are of `aerodrome.stdlib.errors` and name the reference."""

    @property
    def base(self) -> str:
        """The reference of the store's own container: `/abs/dir`, `s3://bucket` or `mem://name`."""
        ...

    def join(self, *parts: str) -> str:
        """Parts joined by single slashes; below `base` unless the first is a reference of its own."""
        ...

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        """The object's content.

        `limit_bytes` is the most that is accepted, 0 for any size, None for the configured limit.  Raises NotFound,
        ResourceExhausted (naming size and limit), PermissionDenied.
        """
        ...

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        """Put an object in place as a whole, replacing what was there; readers see the old or the new."""
        ...

    async def head(self, reference: str) -> Metadata | None:
        """What is known about the object; None if there is none."""
        ...

    def list(self, prefix: str) -> AsyncIterator[tuple[str, Metadata]]:
        """The objects that `prefix` covers, in the order of their references."""
        ...

    async def delete(self, reference: str) -> None:
        """Remove an object, frozen or not; none is fine."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Remove all objects that `prefix` covers, frozen or not; how many there were."""
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Copy an object inside of the store, with its MD5 and content type.  Raises NotFound."""
        ...

    async def freeze(self, prefix: str) -> None:
        """Where objects are handed out as files: let nobody change them any more.  Elsewhere nothing happens."""
        ...

    async def sign_upload(
        self,
        reference: str,
        *,
        expires_in: timedelta,
        content_md5: bytes | None = None,
        add_md5_metadata: bool = False,
        content_length: int | None = None,
    ) -> SignedUrl:
        """A URL to PUT the object to, once its content has this MD5 (16 bytes) and length where they are given."""
        ...

    async def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        """A URL to GET the object from; whether it exists is not looked at."""
        ...


class Upload(Protocol):
    """An object that arrives in pieces, and is not there before `commit`."""

    async def write(self, chunk: bytes) -> None: ...

    async def commit(self, content_md5: str | None) -> None:
        """Put it in place; `content_md5` (base64) is kept with it."""
        ...

    async def abort(self) -> None:
        """Forget it; does nothing after `commit`."""
        ...


class Opened(Protocol):
    """One version of an object, to be read in pieces."""

    @property
    def metadata(self) -> Metadata: ...

    async def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; none at the end."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class ServedStorage(Storage, Protocol):
    """A store without an HTTP service of its own: ours serves it (`aerodrome.stdlib.storage.http`).

    `isinstance` tells whether a store is one.
    """

    async def begin_upload(self, reference: str) -> Upload: ...

    async def open(self, reference: str) -> Opened:
        """Raises NotFound."""
        ...


def join_reference(base: str, parts: tuple[str, ...]) -> str:
    """`parts` below `base`, or below the first part if that is a reference; duplicate slashes are trimmed."""
    absolute = bool(parts) and (parts[0].startswith("/") or "://" in parts[0])
    head, rest = (parts[0], parts[1:]) if absolute else (base, parts)
    scheme, separator, path = head.partition("://")
    if not separator:
        scheme, path = "", head
    pieces = [piece for part in (path, *rest) for piece in part.split("/") if piece]
    root = "/" if path.startswith("/") else ""
    return f"{scheme}{separator}{root}{'/'.join(pieces)}"


def check_size(reference: str, size_bytes: int, limit_bytes: int) -> None:
    """Raises ResourceExhausted if an object is over the limit; 0 is no limit."""
    if limit_bytes and size_bytes > limit_bytes:
        raise ResourceExhausted(
            f"[{reference}] holds {size_bytes} bytes, more than the limit of {limit_bytes} for reading it whole; "
            "make it smaller or raise storage.limits.maxDownloadMBs"
        )


def base64_md5(digest: bytes) -> str:
    """The form in which HTTP headers carry an MD5."""
    return base64.b64encode(digest).decode("ascii")
