"""Files below a few root directories, reached without ever being led outside.

A directory is opened by its whole path and then asked where it is; unless that is where it should be, the path is
walked one component at a time, each opened relative to the one before without following links, so nothing that happens
to the directories meanwhile can lead anywhere else.  A link whose target lies inside is followed by walking the
target's own path in the same manner; one that leads outside is refused.  Everything here blocks.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from aerodrome.stdlib.errors import (
    AerodromeError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

RESERVED = ".aerodrome"
"""What names of our own start with: the directory of side files in each root, and files that are being written."""

MAX_LINKS = 8

_WALK = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Root:
    """A directory below which everything stays; created if it is missing."""

    def __init__(self, path: str) -> None:
        self.path = path
        """As configured: references show this form."""
        os.makedirs(path, exist_ok=True)
        self.real = os.path.realpath(path)
        self.fd = os.open(self.real, _WALK)
        self.prefixes = tuple(dict.fromkeys((_pieces(path), _pieces(self.real))))

    def close(self) -> None:
        fd, self.fd = self.fd, -1  # first: a thread that is still at work must not use the number again
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Place:
    """A path below a root; no parts for the root itself."""

    root: Root
    parts: tuple[str, ...]

    @property
    def reference(self) -> str:
        return "/".join((self.root.path.rstrip("/"), *self.parts))


class _Link(Exception):
    """A component turned out to be a link; `path` is where the whole path leads through it."""

    def __init__(self, path: str) -> None:
        self.path = path


class Roots:
    """The directories, and the ways to open what lies below them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._roots: list[Root] = []
        try:
            for path in paths:
                self._roots.append(Root(path))
        except OSError as error:
            self.close()
            raise FailedPrecondition(f"the storage directory [{path}] cannot be used: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for root in self._roots:
            root.close()

    def locate(self, reference: str, *, url_too: bool = False) -> Place:
        """Where a reference lies.  `url_too` accepts `file:///...`.

        Raises PermissionDenied outside of the roots and for names that are ours, InvalidArgument for what is no path.
        """
        path = reference
        if url_too and path.startswith("file://"):
            path = path[len("file://") :]
        if not path.startswith("/"):
            raise PermissionDenied(f"[{reference[:1024]}] is not an absolute path inside of the store")
        if "\0" in path:
            raise PermissionDenied(f"[{reference[:1024]!r}] holds a NUL character")
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"[{reference[:1024]!r}] holds characters that no file name can hold") from error
        pieces = _pieces(path)
        if ".." in pieces or "." in pieces:
            raise PermissionDenied(f"[{reference[:1024]}] holds '.' or '..' as a part; write the path without it")
        for root in self._roots:
            for prefix in root.prefixes:
                if pieces[: len(prefix)] == prefix:
                    parts = pieces[len(prefix) :]
                    if any(part.startswith(RESERVED) for part in parts):
                        raise PermissionDenied(f"[{reference[:1024]}] is a name that the store keeps for itself")
                    return Place(root, parts)
        raise PermissionDenied(
            f"[{reference[:1024]}] lies outside of the store; add its directory to storage.containers"
        )

    @contextmanager
    def parent(self, place: Place, *, create: bool = False) -> Iterator[tuple[int, str, Place]]:
        """The open directory that holds `place`, the name in it, and where that really is.

        With `create` missing directories are made, unless one is frozen.  The root itself has no parent: NotFound.
        """
        for _ in range(MAX_LINKS):
            if not place.parts:
                raise NotFound(f"[{place.reference}] is the store's directory, not an object")
            try:
                fd = _walk(place, place.parts[:-1], create=create)
            except _Link as link:
                place = self._behind(link, place)
                continue
            try:
                yield fd, place.parts[-1], place
            finally:
                os.close(fd)
            return
        raise PermissionDenied(f"[{place.reference}] leads through too many links")

    @contextmanager
    def file(self, place: Place) -> Iterator[tuple[int, os.stat_result, Place]]:
        """An object's file, open for reading; NotFound if there is none (a directory is none)."""
        fd, info, place = self.open_file(place)
        try:
            yield fd, info, place
        finally:
            os.close(fd)

    def open_file(self, place: Place) -> tuple[int, os.stat_result, Place]:
        """As `file`; the caller closes the descriptor."""
        for _ in range(MAX_LINKS):
            try:
                with self.parent(place) as (directory, name, place):
                    fd = _open(name, _READ_FILE, directory, place, len(place.parts) - 1)
            except _Link as link:
                place = self._behind(link, place)
                continue
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                os.close(fd)
                raise NotFound(f"[{place.reference}] does not exist")
            return fd, info, place
        raise PermissionDenied(f"[{place.reference}] leads through too many links")

    @contextmanager
    def directory(self, place: Place) -> Iterator[tuple[int, Place]]:
        """A directory, open for reading.  Raises FileNotFoundError, and NotADirectoryError for anything else."""
        for _ in range(MAX_LINKS):
            try:
                walked = _walk(place, place.parts, create=False)
            except _Link as link:
                place = self._behind(link, place)
                continue
            try:
                fd = os.open(".", _READ_DIRECTORY, dir_fd=walked)
            finally:
                os.close(walked)
            try:
                yield fd, place
            finally:
                os.close(fd)
            return
        raise PermissionDenied(f"[{place.reference}] leads through too many links")

    def _behind(self, link: _Link, place: Place) -> Place:
        real = os.path.realpath(link.path)
        try:
            return self.locate(real)
        except PermissionDenied as error:
            raise PermissionDenied(f"[{place.reference}] is a link that leads outside of the store") from error


class NewFile:
    """A file under a name of ours in the directory where it will stand; `put` makes it appear under its own."""

    def __init__(self, roots: Roots, place: Place) -> None:
        with roots.parent(place, create=True) as (directory, name, real):
            self.place = real
            self._name = name
            self._refuse_frozen(directory)
            self._directory = os.dup(directory)
        self._temporary = f"{RESERVED}-{secrets.token_hex(8)}"
        try:
            self.fd = os.open(self._temporary, _NEW_FILE, 0o666, dir_fd=self._directory)
        except BaseException:
            os.close(self._directory)
            raise
        self._open = True

    def write(self, data: bytes) -> None:
        if not self._open:
            raise FailedPrecondition(f"[{self.place.reference}] is not being written any more")
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def put(self, *, sync: bool) -> None:
        """Rename it into place; raises PermissionDenied if what stands there was frozen meanwhile."""
        if sync:
            os.fsync(self.fd)
        self._refuse_frozen(self._directory)
        os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._temporary = ""
        if sync:
            directory = os.open(".", _READ_DIRECTORY, dir_fd=self._directory)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def close(self) -> None:
        """Release it; what was not put is removed."""
        if not self._open:
            return
        self._open = False
        try:
            os.close(self.fd)
            if self._temporary:
                os.unlink(self._temporary, dir_fd=self._directory)
        finally:
            os.close(self._directory)

    def _refuse_frozen(self, directory: int) -> None:
        if not os.fstat(directory).st_mode & 0o222:
            raise PermissionDenied(f"[{self.place.reference}] is in a directory that was made read-only")
        try:
            there = os.stat(self._name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(there.st_mode):
            raise FailedPrecondition(f"[{self.place.reference}] is a directory; an object cannot take its place")
        if stat.S_ISREG(there.st_mode) and not there.st_mode & 0o222:
            raise PermissionDenied(f"[{self.place.reference}] was made read-only and cannot be written any more")


@contextmanager
def translated(reference: str) -> Iterator[None]:
    """Turns what the operating system says about `reference` into the errors that callers know."""
    try:
        yield
    except AerodromeError:
        raise
    except OSError as error:
        shown = reference[:1024]
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR | errno.EISDIR | errno.ENXIO:
                raise NotFound(f"[{shown}] does not exist") from error
            case errno.EACCES | errno.EPERM | errno.EROFS:
                raise PermissionDenied(f"[{shown}] cannot be accessed: {error.strerror}") from error
            case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                raise ResourceExhausted(f"[{shown}] cannot be written: {error.strerror}") from error
            case errno.ENAMETOOLONG | errno.EINVAL:
                raise InvalidArgument(f"[{shown}] cannot be a file's name: {error.strerror}") from error
        raise Unavailable(f"[{shown}] cannot be accessed now: {error.strerror or error}") from error


def _straight(root: Root, parts: Sequence[str]) -> int | None:
    """The directory `parts` below the root, open, if its path leads there without any link; None asks for a walk.

    Opening a directory only for its place has no effect, wherever a link on the way may lead.
    """
    try:
        fd = os.open("/".join(parts), _WALK, dir_fd=root.fd)
    except OSError:
        return None
    try:
        if os.readlink(f"/proc/self/fd/{fd}") == "/".join((root.real.rstrip("/"), *parts)):
            return fd
    except OSError:  # there is no /proc
        pass
    os.close(fd)
    return None


def _walk(place: Place, parts: Sequence[str], *, create: bool) -> int:
    """The directory `parts` below the root, open; the caller closes it."""
    if len(parts) > 1 and (straight := _straight(place.root, parts)) is not None:
        return straight
    fd = os.dup(place.root.fd)
    try:
        for at, part in enumerate(parts):
            try:
                below = _open(part, _WALK, fd, place, at)
            except FileNotFoundError:
                if not create:
                    raise
                if not os.fstat(fd).st_mode & 0o222:
                    raise PermissionDenied(f"[{place.reference}] is in a directory that was made read-only") from None
                try:
                    os.mkdir(part, dir_fd=fd)
                except FileExistsError:
                    pass  # made by another writer just now
                below = _open(part, _WALK, fd, place, at)
            except NotADirectoryError:
                if create:
                    above = "/".join((place.root.path, *parts[: at + 1]))
                    raise FailedPrecondition(f"[{place.reference}] cannot lie below [{above}], an object") from None
                raise
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(name: str, flags: int, directory: int, place: Place, at: int) -> int:
    """Open a component, the `at`-th of `place`; raises _Link if it is a link."""
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise
        try:
            target = os.readlink(name, dir_fd=directory)
        except OSError:
            raise error from None
    parent = os.path.join(place.root.real, *place.parts[:at])
    raise _Link(os.path.join(parent, target, *place.parts[at + 1 :]))


def _pieces(path: str) -> tuple[str, ...]:
    return tuple(piece for piece in path.split("/") if piece)
