"""Code distributions: fetched and unpacked once per content, laid into the folder of each attempt."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import py_compile
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

PICKLE_FILE = "pkl.gz"


class DistributionError(Exception):
    """A code distribution that cannot be used, with a message for people."""


class Distributions:
    """Distributions of code, unpacked once per content into a folder that attempts only copy from.

    `content/<sha256>/tree` is the unpacked content and `content/<sha256>/manifest` what it must look like; `refs/` maps
    what is known about a reference to its content.  A tree that differs from its manifest is unpacked again.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def lay(self, reference: str, destination: str, fetch: Callable[[str, str], None] | None) -> None:
        """Put the content of `reference` into the folder `destination`, as files that belong to the caller.

        `fetch` brings what is not a local path to a file.  Raises DistributionError with what to do about it.
        """
        for _ in range(3):
            content = self._known(reference) or self._add(reference, fetch)
            if self._copy(content, destination):
                return
            self._remove(content)
        raise DistributionError(
            f"the unpacked copy of {reference} keeps changing; nothing else may write to {self._folder}"
        )

    def _content(self, content: str) -> str:
        return os.path.join(self._folder, "content", content)

    def facts(self, reference: str) -> str:
        """What changes when a reference on this machine gets other content.  Raises DistributionError."""
        local = local_path(reference)
        facts = reference
        if local is not None:
            try:
                found = os.stat(local)
            except OSError as error:
                raise DistributionError(
                    f"the code distribution {reference} cannot be read: {error.strerror}"
                ) from error
            facts = f"{local}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}"
        return facts

    def _note(self, reference: str) -> str:
        return os.path.join(self._folder, "refs", hashlib.sha256(self.facts(reference).encode()).hexdigest())

    def _known(self, reference: str) -> str | None:
        try:
            with open(self._note(reference)) as file:
                content = file.read()
        except FileNotFoundError:
            return None
        return content if content and os.path.exists(os.path.join(self._content(content), "manifest")) else None

    def _add(self, reference: str, fetch: Callable[[str, str], None] | None) -> str:
        note = self._note(reference)
        for folder in ("refs", "content", "locks", "incoming"):
            os.makedirs(os.path.join(self._folder, folder), mode=0o700, exist_ok=True)
        with _locked(os.path.join(self._folder, "locks", os.path.basename(note))):
            known = self._known(reference)
            if known is not None:
                return known
            with tempfile.TemporaryDirectory(dir=os.path.join(self._folder, "incoming")) as incoming:
                archive = local_path(reference)
                if archive is None:
                    if fetch is None:
                        raise DistributionError(
                            f"the code distribution {reference} is not on this machine, and the environment has no "
                            "flytekit to fetch it with; install flytekit there"
                        )
                    archive = os.path.join(incoming, os.path.basename(reference))
                    fetch(reference, archive)
                content = _digest(archive)
                if not os.path.exists(os.path.join(self._content(content), "manifest")):
                    self._unpack(reference, archive, incoming)
                    try:
                        os.rename(os.path.join(incoming, "entry"), self._content(content))
                    except OSError:
                        if not os.path.exists(os.path.join(self._content(content), "manifest")):
                            raise  # otherwise the same content came by another reference meanwhile
            temporary = f"{note}.{os.getpid()}"
            with open(temporary, "w") as file:
                file.write(content)
            os.rename(temporary, note)
            return content

    def _unpack(self, reference: str, archive: str, incoming: str) -> None:
        tree = os.path.join(incoming, "entry", "tree")
        os.makedirs(tree)
        if os.path.basename(reference) == PICKLE_FILE:
            shutil.copyfile(archive, os.path.join(tree, PICKLE_FILE))
        else:
            try:
                with tarfile.open(archive, "r:*") as tar:
                    unpack(tar, tree, self._limit)
            except (tarfile.TarError, EOFError, OSError, ValueError) as error:
                raise DistributionError(f"the code distribution {reference} cannot be unpacked: {error}") from error
        _compile(tree)
        manifest = []
        for path in _walk(tree):
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode):
                os.chmod(path, 0o555 if found.st_mode & stat.S_IXUSR else 0o444)
            manifest.append([os.path.relpath(path, tree), *_appearance(path)])
        with open(os.path.join(incoming, "entry", "manifest"), "w") as file:
            json.dump(manifest, file)

    def _copy(self, content: str, destination: str) -> bool:
        """Copy a tree; False if it is not what its manifest says."""
        entry = self._content(content)
        tree = os.path.join(entry, "tree")
        with _locked(os.path.join(self._folder, "locks", content), shared=True):
            try:
                with open(os.path.join(entry, "manifest")) as file:
                    manifest = json.load(file)
                os.utime(entry)  # the last use, by which the oldest is evicted
                for relative, mode, size, modified in manifest:
                    source, target = os.path.join(tree, relative), os.path.join(destination, relative)
                    if stat.S_ISREG(mode) and size <= _AT_ONCE_BYTES:
                        content_of_file = _read_as(source, (mode, size, modified))
                        if content_of_file is None:
                            return False
                        _write_file(target, content_of_file, mode, modified)
                    elif _appearance(source) != (mode, size, modified):
                        return False
                    elif stat.S_ISDIR(mode):
                        os.makedirs(target, exist_ok=True)
                    elif stat.S_ISLNK(mode):
                        with contextlib.suppress(FileExistsError):
                            os.symlink(os.readlink(source), target)
                    else:
                        shutil.copyfile(source, target)
                        os.chmod(target, _permissions(mode))
                        os.utime(target, ns=(modified, modified))
            except (FileNotFoundError, ValueError):
                return False
        return True

    def read(self, reference: str, limit_bytes: int) -> Laid | None:
        """The content of a distribution that was unpacked before, to be laid from memory.

        None if it was not, if it is not what its manifest says, or if it has more than `limit_bytes`.
        """
        content = self._known(reference)
        if content is None:
            return None
        tree = os.path.join(self._content(content), "tree")
        files: list[tuple[str, int, bytes, int]] = []
        with _locked(os.path.join(self._folder, "locks", content), shared=True):
            try:
                with open(os.path.join(self._content(content), "manifest")) as file:
                    manifest = json.load(file)
                if sum(size for _, _, size, _ in manifest) > limit_bytes:
                    return None
                for relative, mode, size, modified in manifest:
                    source = os.path.join(tree, relative)
                    if stat.S_ISREG(mode):
                        data = _read_as(source, (mode, size, modified))
                        if data is None:
                            return None
                    elif _appearance(source) != (mode, size, modified):
                        return None
                    else:
                        data = os.fsencode(os.readlink(source)) if stat.S_ISLNK(mode) else b""
                    files.append((relative, mode, data, modified))
            except (FileNotFoundError, ValueError):
                return None
        return Laid(content, tree, files)

    def _remove(self, content: str) -> None:
        """Take an entry out of use at once, then delete it."""
        outgoing = tempfile.mkdtemp(dir=os.path.join(self._folder, "incoming"))
        with _locked(os.path.join(self._folder, "locks", content)), contextlib.suppress(FileNotFoundError):
            os.rename(self._content(content), os.path.join(outgoing, "entry"))
        shutil.rmtree(outgoing, ignore_errors=True)

    def evict(self) -> list[str]:
        """Delete what was not used for longest until the rest fits the limit; returns what was deleted."""
        try:
            contents = os.listdir(os.path.join(self._folder, "content"))
        except FileNotFoundError:
            return []
        entries = []
        for content in contents:
            with contextlib.suppress(FileNotFoundError):
                used = os.stat(self._content(content)).st_mtime
                entries.append((used, content, sum(os.lstat(path).st_size for path in _walk(self._content(content)))))
        total = sum(size for _, _, size in entries)
        gone = []
        for _, content, size in sorted(entries):
            if total <= self._limit:
                break
            self._remove(content)
            total -= size
            gone.append(content)
        return gone


class Laid(NamedTuple):
    """The content of a distribution in memory."""

    content: str
    tree: str
    """The folder that it was read from."""
    files: list[tuple[str, int, bytes, int]]
    """Relative path, mode, bytes (of a link: where it points to) and time of modification of each."""

    def lay(self, destination: str, without: Iterable[str] = ()) -> None:
        """Put it into a folder, as files that belong to the caller, except for the files `without`."""
        left_out = frozenset(without)
        for relative, mode, data, modified in self.files:
            if relative in left_out:
                continue
            target = os.path.join(destination, relative)
            if stat.S_ISREG(mode):
                _write_file(target, data, mode, modified)
            elif stat.S_ISDIR(mode):
                os.makedirs(target, exist_ok=True)
            else:
                with contextlib.suppress(FileExistsError):
                    os.symlink(os.fsdecode(data), target)

    def stamps(self, folder: str, without: Iterable[str] = ()) -> list[tuple[int, ...]] | None:
        """What says of all that `lay` puts into a folder that it is still the same; the time of change is the last.

        None if something is missing or was added.  A file that is written to, or replaced, gets another time of
        change, which nobody can choose; so do the folders below this one.
        """
        left_out = frozenset(without)
        wanted = [each[0] for each in self.files if each[0] not in left_out]
        try:
            if set(os.listdir(folder)) != {relative for relative in wanted if os.sep not in relative}:
                return None
            return [_stamp(os.path.join(folder, relative)) for relative in wanted]
        except OSError:
            return None

    def is_in(self, folder: str, without: Iterable[str] = ()) -> bool:
        """Whether a folder of the caller has what `lay` puts there, byte by byte, and nothing else."""
        left_out = frozenset(without)
        wanted = [each for each in self.files if each[0] not in left_out]
        places = [folder, *(os.path.join(folder, each[0]) for each in wanted if stat.S_ISDIR(each[1]))]
        try:
            if sum(len(os.listdir(place)) for place in places) != len(wanted):
                return False
            return all(_is_laid(os.path.join(folder, each[0]), *each[1:]) for each in wanted)
        except OSError:
            return False


def _stamp(path: str) -> tuple[int, ...]:
    found = os.lstat(path)
    return (
        found.st_ino,
        found.st_mode,
        found.st_uid,
        found.st_nlink,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _is_laid(path: str, mode: int, data: bytes, modified: int) -> bool:
    """Whether a path has what `Laid.lay` puts there; a folder may have been given other permissions."""
    found = os.lstat(path)
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode) or found.st_uid != os.geteuid():
        return False
    if stat.S_ISDIR(mode):
        return stat.S_IMODE(found.st_mode) & stat.S_IRWXU == stat.S_IRWXU
    if stat.S_ISLNK(mode):
        return os.fsencode(os.readlink(path)) == data
    appearance = (stat.S_IFREG | _permissions(mode), len(data), modified)
    return found.st_nlink == 1 and _read_as(path, appearance) == data


def local_path(reference: str) -> str | None:
    """The path that a reference names on this machine; None if it names something elsewhere."""
    if reference.startswith("file://"):
        return reference[len("file://") :]
    return reference if reference.startswith("/") else None


def unpack(tar: tarfile.TarFile, folder: str, limit_bytes: int) -> None:
    """Unpack an archive into an existing folder, which nothing in it may leave.

    Takes files, folders and links that stay inside.  Raises ValueError naming the first member that does not, or when
    the content would exceed `limit_bytes`.
    """
    root = os.path.realpath(folder)
    total = 0
    for member in tar:
        name = os.path.normpath(member.name)
        target = os.path.join(root, name)
        if (
            os.path.isabs(member.name)
            or name.split(os.sep)[0] == os.pardir
            or not _inside(os.path.dirname(target), root)
        ):
            raise ValueError(f"{member.name!r} would be written outside")
        if member.isdir():
            os.makedirs(target, exist_ok=True)
        elif member.isfile():
            total += member.size
            if total > limit_bytes:
                raise ValueError(f"its content exceeds {limit_bytes} bytes")
            source = tar.extractfile(member)
            if source is None:
                raise ValueError(f"{member.name!r} has no content")
            _make_way(target)
            with source, open(target, "xb") as file:
                shutil.copyfileobj(source, file)
            os.chmod(target, 0o755 if member.mode & stat.S_IXUSR else 0o644)
            os.utime(target, (member.mtime, member.mtime))
        elif member.issym():
            link = os.path.join(os.path.dirname(target), member.linkname)
            if os.path.isabs(member.linkname) or not _inside(link, root):
                raise ValueError(f"the link {member.name!r} points outside")
            _make_way(target)
            os.symlink(member.linkname, target)
        elif member.islnk():
            source_path = os.path.join(root, os.path.normpath(member.linkname))
            if os.path.isabs(member.linkname) or not _inside(source_path, root) or not os.path.isfile(source_path):
                raise ValueError(f"the link {member.name!r} points outside")
            _make_way(target)
            shutil.copy2(source_path, target)
        else:
            raise ValueError(f"{member.name!r} is neither a file, a folder nor a link")


def _make_way(target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)


def _inside(path: str, root: str) -> bool:
    real = os.path.realpath(path)
    return real == root or real.startswith(root + os.sep)


def _walk(tree: str) -> Iterator[str]:
    for folder, folders, files in os.walk(tree):
        for name in sorted(folders + files):
            yield os.path.join(folder, name)


def _appearance(path: str) -> tuple[int, int, int]:
    found = os.lstat(path)
    if stat.S_ISREG(found.st_mode):
        return found.st_mode, found.st_size, found.st_mtime_ns
    return found.st_mode, 0, 0


_AT_ONCE_BYTES = 1 << 20
"""Files up to this size are read whole, which takes fewer calls than copying."""


def _permissions(mode: int) -> int:
    return 0o755 if mode & stat.S_IXUSR else 0o644


def _read_as(path: str, appearance: tuple[int, int, int]) -> bytes | None:
    """The content of a file that looks as it should; None if it does not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if (found.st_mode, found.st_size, found.st_mtime_ns) != appearance:
            return None
        parts = []
        left = found.st_size
        while left:
            part = os.read(descriptor, left)
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _write_file(path: str, content: bytes, mode: int, modified: int) -> None:
    """Write a file of a distribution; its time of modification is the one that compiled code was made for."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _permissions(mode))
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fchmod(descriptor, _permissions(mode))
        os.utime(descriptor, ns=(modified, modified))
    finally:
        os.close(descriptor)


def _compile(tree: str, limit_bytes: int = 1 << 20) -> None:
    """Compile the first megabyte of source once, so that not every attempt does it again."""
    for path in list(_walk(tree)):
        if path.endswith(".py") and os.path.isfile(path) and not os.path.islink(path):
            limit_bytes -= os.path.getsize(path)
            if limit_bytes < 0:
                return
            with contextlib.suppress(OSError, ValueError):
                py_compile.compile(path, quiet=2)


def _digest(path: str) -> str:
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                sha.update(block)
    except OSError as error:
        raise DistributionError(f"the code distribution {path} cannot be read: {error.strerror}") from error
    return sha.hexdigest()


@contextlib.contextmanager
def _locked(path: str, shared: bool = False) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
