"""Storage on a local directory, for one machine.

References are plain absolute paths, because that is what flytekit reads and writes without a plugin; `file://` is
understood where something is only read.  Tasks write into the directory themselves, so whatever is found there is an
object.  The MD5 that was stated with an upload stands in a side file below `.aerodrome/` of its root, with the size and
time of the file it belongs to, so that it outlives restarts and is void once the file changes.  Content types are not
kept: whoever serves a file goes by its name.

Small objects are read and written right on the event loop: that takes tens of microseconds, less than handing the work
to a thread, as long as they are quick (`stdlib.blocking`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import FileIO
from itertools import islice
from typing import ParamSpec, Self, TypeVar

from aerodrome.stdlib.blocking import Pace
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, NotFound
from aerodrome.stdlib.storage.confined import RESERVED, NewFile, Place, Roots, translated
from aerodrome.stdlib.storage.port import STREAM_BYTES, Metadata, SignedUrl, check_size, join_reference
from aerodrome.stdlib.storage.signing import LocalSigner

P = ParamSpec("P")
R = TypeVar("R")

INLINE_BYTES = 64 * 2**10
"""Objects up to this size are read and written without a thread."""

LIST_BATCH = 256

FREEZE_INLINE = 8
"""A directory with up to this many files, and nothing below, is made read-only without a thread."""


class LocalStorage:
    """Objects in `base` (an absolute path) and the directories `containers`; an async context manager."""

    def __init__(
        self,
        base: str,
        *,
        containers: Sequence[str] = (),
        limit_bytes: int = 2 * 2**20,
        signer: LocalSigner | None = None,
        sync_writes: bool = False,
    ) -> None:
        for path in (base, *containers):
            if not path.startswith("/") or "\0" in path:
                raise InvalidArgument(f"a local storage directory has to be an absolute path, and [{path!r}] is not")
        self._paths = tuple(dict.fromkeys(os.path.normpath(path) for path in (base, *containers)))
        self._limit_bytes = limit_bytes
        self._signer = signer
        self._sync = sync_writes
        self._opened: Roots | None = None
        self._pace = Pace()

    async def __aenter__(self) -> Self:
        self._opened = await asyncio.to_thread(Roots, self._paths)
        self._pace.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
            self._pace.close()

    @property
    def base(self) -> str:
        return self._paths[0]

    def join(self, *parts: str) -> str:
        return join_reference(self.base, parts)

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        limit = self._limit_bytes if limit_bytes is None else limit_bytes
        place = self._roots.locate(reference, url_too=True)
        data = await self._pace.run(self._read, place, reference, limit, INLINE_BYTES)
        while data is None:
            data = await asyncio.to_thread(self._read, place, reference, limit, None)
        return data

    async def write(self, reference: str, data: bytes, *, content_type: str | None = None) -> None:
        place = self._roots.locate(reference)
        if len(data) <= INLINE_BYTES and not self._sync:
            await self._pace.run(self._write, place, reference, data)
        else:
            await asyncio.to_thread(self._write, place, reference, data)

    async def head(self, reference: str) -> Metadata | None:
        return await self._pace.run(self._head, self._roots.locate(reference, url_too=True), reference)

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, Metadata]]:
        found = self._walk(self._roots.locate(prefix, url_too=True), prefix)
        while batch := await asyncio.to_thread(_some, found):
            for each in batch:
                yield each

    async def delete(self, reference: str) -> None:
        await self._pace.run(self._delete, self._roots.locate(reference), reference)

    async def delete_prefix(self, prefix: str) -> int:
        return await asyncio.to_thread(self._delete_prefix, self._roots.locate(prefix), prefix)

    async def copy(self, source: str, destination: str) -> None:
        origin = self._roots.locate(source, url_too=True)
        await asyncio.to_thread(self._copy, origin, source, self._roots.locate(destination), destination)

    async def freeze(self, prefix: str) -> None:
        place = self._roots.locate(prefix)
        if not await self._pace.run(self._freeze_small, place):
            await asyncio.to_thread(self._freeze, place, prefix)

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
            self._roots.locate(reference).reference,
            expires_in=expires_in,
            content_md5=content_md5,
            add_md5_metadata=add_md5_metadata,
            content_length=content_length,
        )

    async def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        place = self._roots.locate(reference, url_too=True)
        return self._signs().sign_download(place.reference, expires_in=expires_in)

    # What the HTTP service needs

    async def begin_upload(self, reference: str) -> LocalUpload:
        """Raises PermissionDenied at once where the object could not be put in place."""
        place = self._roots.locate(reference)
        return await _owned(lambda: LocalUpload(self, place, reference), LocalUpload.close)

    async def open(self, reference: str) -> LocalOpened:
        """Raises NotFound."""
        place = self._roots.locate(reference)

        def opened() -> LocalOpened:
            with translated(reference):
                fd, info, real = self._roots.open_file(place)
            file = FileIO(fd)
            try:
                return LocalOpened(file, _metadata(info, self._stated_md5(real, info)))
            except BaseException:
                file.close()
                raise

        return await _owned(opened, LocalOpened.close_now)

    # All that follows blocks

    @property
    def _roots(self) -> Roots:
        if self._opened is None:
            raise FailedPrecondition("the store is not open")
        return self._opened

    def _signs(self) -> LocalSigner:
        if self._signer is None:
            raise FailedPrecondition("this store was opened without a signer, so it cannot give signed URLs")
        return self._signer

    def _read(self, place: Place, reference: str, limit: int, largest: int | None) -> bytes | None:
        """The content, or None if it is longer than `largest`."""
        with translated(reference), self._roots.file(place) as (fd, info, _):
            check_size(reference, info.st_size, limit)
            if largest is not None and info.st_size > largest:
                return None
            return _read_all(fd, reference, limit)

    def _write(self, place: Place, reference: str, data: bytes) -> None:
        with translated(reference):
            file = NewFile(self._roots, place)
            try:
                file.write(data)
                file.put(sync=self._sync)
            finally:
                file.close()

    def _head(self, place: Place, reference: str) -> Metadata | None:
        try:
            with translated(reference), self._roots.file(place) as (_, info, real):
                return _metadata(info, self._stated_md5(real, info))
        except NotFound:
            return None

    def _walk(self, place: Place, prefix: str) -> Iterator[tuple[str, Metadata]]:
        """Everything that `place` covers, in order, but for what disappears meanwhile or has no name in UTF-8.

        Links to directories are not entered, so that a link to a parent does not make the store endless.
        """
        pending = [(place, True)]
        while pending:
            here, may_be_directory = pending.pop()
            found = self._head(here, prefix) if here.parts else None
            if found is not None:
                yield here.reference, found
            elif may_be_directory:
                try:
                    with self._roots.directory(here) as (fd, _), os.scandir(fd) as entries:
                        named = sorted(_in_order(entry) for entry in entries if _is_listed(entry.name))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                below = [(Place(here.root, (*here.parts, key.rstrip("/"))), key.endswith("/")) for key in named]
                pending.extend(reversed(below))

    def _delete(self, place: Place, reference: str) -> None:
        try:
            with translated(reference), self._roots.parent(place) as (directory, name, real):
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    return
                _unlink(name, directory)
                self._forget_md5(real)
        except NotFound:
            return

    def _delete_prefix(self, place: Place, prefix: str) -> int:
        with translated(prefix):
            if not place.parts:
                return self._empty(place)
            try:
                with self._roots.parent(place) as (directory, name, real):
                    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if not stat.S_ISDIR(info.st_mode):
                        _unlink(name, directory)
                        self._forget_md5(real)
                        return 1
                    count = self._empty(real)
                    _made_writable(directory, lambda: os.rmdir(name, dir_fd=directory))
                    return count
            except (FileNotFoundError, NotADirectoryError):
                return 0

    def _empty(self, place: Place) -> int:
        """Remove what a directory holds; how many objects that were.  Links go, what they lead to stays."""
        count = 0
        with self._roots.directory(place) as (fd, real):
            if not os.fstat(fd).st_mode & 0o200 and real.parts:
                os.fchmod(fd, os.fstat(fd).st_mode | 0o700)
            with os.scandir(fd) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            for name, is_directory in entries:
                if not real.parts and name == RESERVED:
                    continue
                below = Place(real.root, (*real.parts, name))
                try:
                    if is_directory:
                        count += self._empty(below)
                        os.rmdir(name, dir_fd=fd)
                    else:
                        os.unlink(name, dir_fd=fd)
                        self._forget_md5(below)
                        count += not name.startswith(RESERVED)
                except FileNotFoundError:
                    continue
        return count

    def _copy(self, origin: Place, source: str, target: Place, destination: str) -> None:
        with translated(source):
            fd, info, real = self._roots.open_file(origin)
        try:
            with translated(destination):
                file = NewFile(self._roots, target)
                try:
                    while chunk := os.read(fd, STREAM_BYTES):
                        file.write(chunk)
                    self._put_with_md5(file, self._stated_md5(real, info))
                finally:
                    file.close()
        finally:
            os.close(fd)

    def _freeze_small(self, place: Place) -> bool:
        """Whether it is a file or a directory of a few files, which is read-only now, or nothing at all."""
        if not place.parts:
            return False
        seen = False
        try:
            with self._roots.directory(place) as (fd, real):
                seen = True
                with os.scandir(fd) as found:
                    entries = list(islice(found, FREEZE_INLINE + 1))
                if len(entries) > FREEZE_INLINE or not all(each.is_file(follow_symlinks=False) for each in entries):
                    return False
                for entry in entries:
                    with self._roots.file(Place(real.root, (*real.parts, entry.name))) as (file, info, _):
                        os.fchmod(file, info.st_mode & ~0o222)
                os.fchmod(fd, os.fstat(fd).st_mode & ~0o222)
        except NotADirectoryError:
            return self._freeze_file(place)
        except FileNotFoundError:
            return not seen  # else a file of it went away meanwhile, and there may be more
        except (OSError, NotFound):
            return False  # whatever it is, the thorough way finds it too, and says so
        return True

    def _freeze_file(self, place: Place) -> bool:
        try:
            with self._roots.file(place) as (fd, info, _):
                os.fchmod(fd, info.st_mode & ~0o222)
        except (OSError, NotFound):
            return False
        return True

    def _freeze(self, place: Place, prefix: str) -> None:
        try:
            with translated(prefix), self._roots.file(place) as (fd, info, _):
                os.fchmod(fd, info.st_mode & ~0o222)
                return
        except NotFound:
            pass
        with translated(prefix):
            try:
                self._freeze_directory(place)
            except (FileNotFoundError, NotADirectoryError):
                return

    def _freeze_directory(self, place: Place) -> None:
        with self._roots.directory(place) as (fd, real):
            with os.scandir(fd) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in found]
            for name, is_directory, is_link in entries:
                below = Place(real.root, (*real.parts, name))
                if is_link or (not real.parts and name == RESERVED):
                    continue
                try:
                    if is_directory:
                        self._freeze_directory(below)
                    else:
                        with self._roots.file(below) as (file, info, _):
                            os.fchmod(file, info.st_mode & ~0o222)
                except (FileNotFoundError, NotFound):
                    continue
            if real.parts:
                os.fchmod(fd, os.fstat(fd).st_mode & ~0o222)

    # MD5s that uploads stated

    def _put_with_md5(self, file: NewFile, content_md5: str | None) -> None:
        """Make the file appear; the side file goes first, and means nothing until the file it describes is there."""
        if content_md5 is not None:
            info = os.fstat(file.fd)
            text = json.dumps([info.st_size, info.st_mtime_ns, content_md5]).encode()
            side = NewFile(self._roots, _side_file(file.place))
            try:
                side.write(text)
                side.put(sync=self._sync)
            finally:
                side.close()
        file.put(sync=self._sync)

    def _stated_md5(self, place: Place, info: os.stat_result) -> str | None:
        try:
            with self._roots.file(_side_file(place)) as (fd, _, _):
                size, modified_ns, md5 = json.loads(os.read(fd, 4096))
        except (FileNotFoundError, NotFound):
            return None
        except ValueError:  # cut short by a full disk or a power failure
            return None
        return md5 if (size, modified_ns) == (info.st_size, info.st_mtime_ns) and isinstance(md5, str) else None

    def _forget_md5(self, place: Place) -> None:
        try:
            with self._roots.parent(_side_file(place)) as (directory, name, _):
                os.unlink(name, dir_fd=directory)
        except (FileNotFoundError, NotFound):
            return


class LocalUpload:
    """A file that is being uploaded.  The lock keeps it open while a thread, perhaps abandoned, still writes to it."""

    def __init__(self, storage: LocalStorage, place: Place, reference: str) -> None:
        self._storage = storage
        self._reference = reference
        self._lock = threading.Lock()
        with translated(reference):
            self._file = NewFile(storage._roots, place)

    async def write(self, chunk: bytes) -> None:
        await asyncio.to_thread(self._write, chunk)

    async def commit(self, content_md5: str | None) -> None:
        await asyncio.to_thread(self._commit, content_md5)

    async def abort(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _write(self, chunk: bytes) -> None:
        with self._lock, translated(self._reference):
            self._file.write(chunk)

    def _commit(self, content_md5: str | None) -> None:
        with self._lock:
            try:
                with translated(self._reference):
                    self._storage._put_with_md5(self._file, content_md5)
            finally:
                self._file.close()


class LocalOpened:
    """A file that is being downloaded; it stays the same whatever is written in its place."""

    def __init__(self, file: FileIO, metadata: Metadata) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.metadata = metadata

    async def read_at(self, offset: int, size: int) -> bytes:
        return await asyncio.to_thread(self._read_at, offset, size)

    async def close(self) -> None:
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        with self._lock:
            self._file.close()

    def _read_at(self, offset: int, size: int) -> bytes:
        with self._lock:
            return os.pread(self._file.fileno(), size, offset)


async def _owned(make: Callable[[], R], release: Callable[[R], None]) -> R:
    """What `make` gives in a thread; released again if by then nobody waits for it any more."""
    made = asyncio.get_running_loop().run_in_executor(None, make)
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        made.add_done_callback(lambda late: None if late.cancelled() or late.exception() else release(late.result()))
        raise


def _read_all(fd: int, reference: str, limit: int) -> bytes:
    """What an open file holds, even if it grows meanwhile, up to the limit."""
    chunks: list[bytes] = []
    size = 0
    while chunk := os.read(fd, INLINE_BYTES + 1 if not chunks else 2**20):
        chunks.append(chunk)
        size += len(chunk)
        check_size(reference, size, limit)
        if len(chunk) < INLINE_BYTES:
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _metadata(info: os.stat_result, content_md5: str | None) -> Metadata:
    return Metadata(
        size_bytes=info.st_size,
        etag=f"{info.st_mtime_ns:x}-{info.st_size:x}-{info.st_ino:x}",
        content_md5=content_md5,
        content_type=None,
        modified_at=datetime.fromtimestamp(info.st_mtime_ns / 1e9, tz=UTC),
    )


def _side_file(place: Place) -> Place:
    digest = hashlib.sha256("/".join(place.parts).encode()).hexdigest()
    return Place(place.root, (RESERVED, "md5", digest[:2], digest))


def _is_listed(name: str) -> bool:
    return not name.startswith(RESERVED) and not any("\ud800" <= character <= "\udfff" for character in name)


def _in_order(entry: os.DirEntry[str]) -> str:
    """A name as it takes part in the order of references: what a directory holds comes after its name and a slash."""
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _unlink(name: str, directory: int) -> None:
    _made_writable(directory, lambda: os.unlink(name, dir_fd=directory))


def _made_writable(directory: int, act: Callable[[], None]) -> None:
    """Act in a directory, which is made writable for that moment if it was frozen."""
    try:
        act()
    except PermissionError:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            mode = os.fstat(fd).st_mode
            os.fchmod(fd, mode | 0o200)
            try:
                act()
            finally:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def _some(found: Iterator[tuple[str, Metadata]]) -> list[tuple[str, Metadata]]:
    return list(islice(found, LIST_BATCH))
