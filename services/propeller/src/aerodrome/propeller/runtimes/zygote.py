"""The zygote: a warm Python that forks tasks, so that a task need not spend a second on importing flytekit.

This file is executed by the Python of the chosen environment (any Python from 3.9 on), so it is one file, needs nothing
but the standard library and imports nothing of ours.  The local runtime imports it too, for what both sides share: how
processes are found in /proc, and the small files that say that an attempt has a process or has ended.

What it does: it listens on a Unix socket in its working directory, preloads flytekit's entry point where there is one,
and keeps a few children forked ahead of need.  A child waits on a socket pair for its job; then it becomes the attempt,
either by calling flytekit's command in the fork, or by `exec`.  It never runs user code itself, and has one thread.

A zygote can be a *template*: forked from another one by order of the platform, with the code of one distribution read
and its module of tasks imported, if that module and all that it imports of the distribution is plain (`plain`, beside
this file).  Everything below holds for it as for any other: it has its own socket and promises the same.

What it promises:

* `<record>.pid` exists before a child learns its job, and is created exclusively: no attempt starts twice.
* `<record>.exit` is written when the attempt is reaped, whether or not the platform is there to be told.
* An attempt is a subreaper: what it starts stays below it, whatever it does with sessions.  When it ends, the rest
  comes to the zygote as children that it does not know, which it kills before it reports the end.
* Without the platform it lives on for `outlive` seconds; then it ends its attempts, reason `Shutdown`, and leaves.

The protocol is one JSON object a line, each with an `op`.  In: `start`, `end`, `retire`, `template`.  Out: `hello`,
`started`, `refused`, `exited`, `templated`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose modules would otherwise shadow those of the environment

import atexit
import base64
import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import functools
import gc
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import py_compile
import random
import select
import shutil
import signal
import socket
import stat
import struct
import tarfile
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

PROTOCOL = 1
MARKER = "AERODROME_POD"
"""Variable that every process of an attempt inherits: `<namespace>/<name>@<runtime>`."""
MARKER_ROOM = 480
FAULTS = "AERODROME_FAULTS_FILE"
"""Variable that names the file of `aerodrome.stdlib.faults`, where a test plans faults of zygotes and tasks."""
FAMILY = ("pyflyte-execute", "pyflyte-fast-execute", "pyflyte-map-execute")
NICENESS = 5
UNMET_SECONDS = 10.0
"""How long a warm zygote waits for the platform that started it, which is there at once unless it died."""
OOM_SCORE = 300
PICKLE_FILE = "pkl.gz"

_PRACTICE = 2
"""How often a zygote practises each command: the second time finds made what the first one made."""

_MADV_POPULATE_WRITE = 23
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION = 0x20080522
_TICKS = os.sysconf("SC_CLK_TCK")


# -- processes, as /proc shows them ------------------------------------------------------------------------------------


class Process(NamedTuple):
    """One process: `start` is in clock ticks since boot, and tells apart two holders of one pid."""

    pid: int
    parent: int
    state: str
    start: int
    cpu_seconds: float
    """Used by itself and by the children that it waited for."""


def process(pid: int) -> Process | None:
    """The process with this pid, zombies included; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line[line.rindex(b")") + 2 :].split()
    used = sum(int(field) for field in fields[11:15])
    return Process(pid, int(fields[1]), fields[0].decode(), int(fields[19]), used / _TICKS)


def processes() -> dict[int, Process]:
    """Every process of the machine that is visible from here, by pid."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {each.pid: each for each in found if each is not None}


def is_alive(pid: int, start: int) -> bool:
    """Whether the process that had this pid and start time still runs; a zombie does not."""
    found = process(pid)
    return found is not None and found.start == start and found.state not in "ZX"


def descendants(table: Mapping[int, Process], roots: Iterable[int]) -> dict[int, Process]:
    """The roots that exist and everything below them."""
    below: dict[int, list[int]] = {}
    for each in table.values():
        below.setdefault(each.parent, []).append(each.pid)
    found: dict[int, Process] = {}
    waiting = [root for root in roots if root in table]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = table[pid]
            waiting.extend(below.get(pid, ()))
    return found


def marked(table: Iterable[int], marker: str) -> list[int]:
    """Those of the pids whose environment carries `marker`; what cannot be read is not ours."""
    wanted = f"{MARKER}={marker}".encode() + b"\0"
    found = []
    for pid in table:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = b"\0" + file.read() + b"\0"
        except OSError:
            continue
        if b"\0" + wanted in environment:
            found.append(pid)
    return found


def members(pid: int, start: int, marker: str) -> dict[int, Process]:
    """Everything that still runs of an attempt whose first process was (`pid`, `start`): its tree and its marker.

    While that process lives, all that it started is below it, since it is a subreaper.  Afterwards the marker tells.
    """
    table = {each.pid: each for each in processes().values() if each.state not in "ZX"}
    first = table.get(pid)
    roots = [pid] if first is not None and first.start == start else []
    roots.extend(marked(table, marker))
    found = descendants(table, roots)
    found.pop(os.getpid(), None)
    return found


def private_bytes(pids: Iterable[int]) -> int:
    """The memory that processes have for themselves: anonymous, shared by forks included, and in shared segments."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                for line in file:
                    if line.startswith((b"RssAnon:", b"RssShmem:")):
                        total += int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def has_idle_core() -> bool:
    """Whether fewer processes want to run than there are cores, this one counted; False where that is not told."""
    try:
        with open("/proc/loadavg") as file:
            running, _, _ = file.read().split()[3].partition("/")
    except OSError:
        return False
    return int(running) <= (os.cpu_count() or 1)


def private_areas() -> list[tuple[int, int]]:
    """First and last address of this process' writable memory that is not shared with others by design."""
    areas = []
    with open("/proc/self/maps") as file:
        for line in file:
            fields = line.split(maxsplit=5)
            if fields[1] == "rw-p":
                first, _, last = fields[0].partition("-")
                areas.append((int(first, 16), int(last, 16)))
    return areas


def copied_pages(areas: Iterable[tuple[int, int]], gap_pages: int = 1) -> list[tuple[int, int]]:
    """Start and size of what this process no longer shares with the one that it was forked from.

    Stretches that are at most `gap_pages` apart are taken as one.  Empty where the kernel does not say.  Source:
    Linux, Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bit 61 of a file, bit 56 mapped only here.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    found: list[list[int]] = []
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            for first, last in areas:
                file.seek(first // page * 8)
                for number, (entry,) in enumerate(struct.iter_unpack("Q", file.read((last - first) // page * 8))):
                    if entry >> 63 and entry >> 56 & 1 and not entry >> 61 & 1:
                        start = first + number * page
                        if found and found[-1][0] >= first and start - found[-1][1] <= gap_pages * page:
                            found[-1][1] = start + page
                        else:
                            found.append([start, start + page])
    except (OSError, struct.error):
        return []
    return [(start, end - start) for start, end in found]


def send_signal(pid: int, number: int) -> None:
    """Signal a process; one that is gone, or that became somebody else's, is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def oom_kills() -> int:
    """How many processes the kernel killed for lack of memory since boot; 0 where it does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return 0
    return 0


# -- the files beside an attempt's record ------------------------------------------------------------------------------


def write_json(path: str, value: Mapping[str, Any]) -> None:
    """Write a small file so that a reader finds all of it or none."""
    temporary = path + ".tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def claim(record: str, value: Mapping[str, Any]) -> bool:
    """Create `<record>.pid`; False if the attempt already has one."""
    try:
        descriptor = os.open(record + ".pid", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)
    return True


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a small file; None if there is no such file, and {} if it was never completed."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# -- code distributions ------------------------------------------------------------------------------------------------


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

    def _note(self, reference: str) -> str:
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
        return os.path.join(self._folder, "refs", hashlib.sha256(facts.encode()).hexdigest())

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

    def still(self, reference: str, content: str) -> bool:
        """Whether a reference still names this content."""
        try:
            return self._known(reference) == content
        except DistributionError:
            return False

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


# -- command lines -----------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """A container's command: flytekit's own by `name`, or any other with `name` empty."""

    name: str
    arguments: list[str]
    distribution: str | None
    """Reference of the code to lay into the attempt's folder, as `pyflyte-fast-execute` names it."""


def interpret(argv: list[str], folder: str) -> Command:
    """What a container's command asks for, with `pyflyte-fast-execute` resolved.

    Where fast registration is used, the inner command gets `--dynamic-addl-distro` and `--dynamic-dest-dir` before
    `--resolver`, as flytekit inserts them, with `folder` as the place where the code lies.  Raises ValueError for a
    `pyflyte-fast-execute` without a command.
    """
    distribution: str | None = None
    while argv and os.path.basename(argv[0]) == "pyflyte-fast-execute":
        rest = list(argv[1:])
        while rest and rest[0].startswith("--"):
            option, equals, value = rest.pop(0).partition("=")
            if option == "--":
                break
            if option not in ("--additional-distribution", "--dest-dir"):
                raise ValueError(f"pyflyte-fast-execute has no option {option}")
            if not equals:
                if not rest:
                    raise ValueError(f"the option {option} of pyflyte-fast-execute lacks its value")
                value = rest.pop(0)
            if option == "--additional-distribution":
                distribution = value
        if not rest:
            raise ValueError("pyflyte-fast-execute has no command to execute")
        argv = rest
        if distribution and "--resolver" in argv:
            place = argv.index("--resolver")
            dynamic = ["--dynamic-addl-distro", distribution, "--dynamic-dest-dir", folder]
            argv = argv[:place] + dynamic + argv[place:]
    name = os.path.basename(argv[0]) if argv else ""
    if name in FAMILY:
        return Command(name, argv[1:], distribution)
    return Command("", argv, distribution)


def needs_fresh_process(environment: Mapping[str, str]) -> bool:
    """Whether a variable is only read while a process or its modules start, so that a fork would come too late."""
    late = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    early = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "GRPC_", "FSSPEC_", "LC_", "_F_P_", "_F_TE_")
    return any(name.startswith(early) and name not in late for name in environment)


_READ_ON_CALL = (
    "FLYTE_INTERNAL_", "FLYTE_SDK_LOGGING", "FLYTE_SDK_RICH", "FLYTE_PLATFORM_", "FLYTE_SECRETS_",
    "FLYTE_ATTEMPT_NUMBER", "FLYTE_K8S_ARRAY_INDEX", "FLYTE_FAIL_ON_ERROR",
)  # fmt: skip
"""flytekit's variables that it reads for each task, and not when a task is defined."""


def allows_template(environment: Mapping[str, str]) -> bool:
    """Whether no variable is set that has a say in what an import of tasks makes, or where it finds them."""
    return not needs_fresh_process(environment) and not any(
        name == "PYTHONPATH" or (name.startswith("FLYTE_") and not name.startswith(_READ_ON_CALL))
        for name in environment
    )


def module_of_tasks(arguments: list[str]) -> str | None:
    """The module that flytekit's own resolvers import for these arguments; None where that is not known."""
    try:
        resolver = arguments[arguments.index("--resolver") + 1]
        loader = arguments[arguments.index("--") + 1 :]
        if resolver == "flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver":
            resolver = loader[loader.index("resolver") + 1]
        if resolver != "flytekit.core.python_auto_container.default_task_resolver":
            return None
        return loader[loader.index("task-module") + 1]
    except (ValueError, IndexError):
        return None


# -- the attempt: from here on, what runs in the forked child ----------------------------------------------------------


class Preloaded:
    """What the zygote imported ahead of need; never user code."""

    def __init__(self) -> None:
        self.entrypoint: Any = None
        """flytekit's entry point, if commands can be run in a fork."""
        self.version: str | None = None
        self.problem: str | None = None
        """Why commands cannot be run in a fork, for people."""
        self.is_missing = False
        """Whether there is no flytekit that works, so that its commands cannot be run at all."""
        self.randoms: list[random.Random] = []
        self.path: list[str] = list(sys.path)
        self._touched: list[tuple[int, int]] = []
        """Start and size of the memory that a task touches."""

    def load(self) -> None:
        """Import flytekit's entry point, and warm what each task would otherwise warm for itself."""
        try:
            entrypoint = importlib.import_module("flytekit.bin.entrypoint")
        except ImportError as error:
            self.problem, self.is_missing = f"flytekit cannot be imported: {error}", True
            return
        except Exception as error:  # noqa: BLE001  (a broken package raises anything; whoever uses it is told)
            self.problem, self.is_missing = f"importing flytekit failed: {type(error).__name__}: {error}", True
            traceback.print_exc()
            return
        self.version = str(getattr(_module("flytekit"), "__version__", "unknown"))
        if thread_count() > 1:
            self.problem = "importing flytekit starts threads in this environment"
            return
        parser = _module("docstring_parser")
        if parser is not None:
            parser.parse("Sum.\n\nArgs:\n    a: one\n\nReturns:\n    it\n")  # compiles its many expressions
        connector = _module("flytekit.extend.backend.base_connector")
        if connector is not None and hasattr(connector, "local_connector_loop"):
            connector.local_connector_loop.close()  # a loop must not be shared by forks; each child makes its own
        self.entrypoint = entrypoint

    def skip(self, problem: str) -> None:
        """Import nothing, because of `problem`."""
        self.problem = problem
        self.is_missing = importlib.util.find_spec("flytekit") is None

    def rehearse(self) -> None:
        """Do in a child what each fork will do.

        What goes wrong with this flytekit is why it cannot be forked.  What goes well tells which memory a task
        touches, so that later children can copy it before they have a job instead of page by page while it waits.
        """
        ours, theirs = socket.socketpair()
        folder = tempfile.mkdtemp(prefix="rehearsal-")
        pid = os.fork()
        if pid == 0:
            try:
                send(theirs, self._perform_rehearsal(folder))
            finally:
                os._exit(0)
        theirs.close()
        said = receive(ours) or {"problem": "a rehearsal with this flytekit ended without a word", "touched": []}
        ours.close()
        os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)
        self.problem, self._touched = said["problem"], said["touched"]
        if self.problem is not None:
            self.entrypoint = None

    def practise(self) -> bool:
        """Run tasks of nothing here, so that forks find made what flytekit makes on first use, and code that ran often.

        False if something of it cannot be undone: then this process is of no use any more.
        """
        folder = tempfile.mkdtemp(prefix="practice-")
        before = _surroundings()
        kept = [os.dup(1), os.dup(2)], list(sys.path), set(sys.modules), tempfile.tempdir, list(sys.argv)
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        globals_before = {name: dict(vars(module)) for name, module in _of_flytekit()}
        entities: list[Any] = _module("flytekit.core.context_manager").FlyteEntities.entities
        known = len(entities)
        runners = _module("flytekit.utils.asyn").loop_manager
        try:
            with warnings.catch_warnings():  # and what was warned of is forgotten afterwards
                _redirect(os.path.join(folder, "log"))
                self._practise_in(folder)
        finally:
            for stream, descriptor in enumerate(kept[0], start=1):
                os.dup2(descriptor, stream)
                os.close(descriptor)
            sys.path[:], tempfile.tempdir, sys.argv[:] = kept[1], kept[3], kept[4]
            for name in set(sys.modules) - kept[2]:
                if name.startswith("aerodrome_"):
                    del sys.modules[name]
            sys.path_importer_cache.pop(folder, None)
            del entities[known:]
            for runner in runners._runner_map.values():
                atexit.unregister(runner._close)
                loop, thread = runner._TaskRunner__loop, runner._TaskRunner__runner_thread
                loop.call_soon_threadsafe(loop.stop)
                thread.join(5.0)
            runners._runner_map.clear()
            faulthandler.unregister(signal.SIGUSR1)
            for number, handler in handlers.items():
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
            for name, module in _of_flytekit():
                _restore(vars(module), globals_before.get(name, vars(module)))
            for each in gc.get_objects():
                if type(each) is _CACHED and (each.__module__ or "").startswith("flytekit"):
                    each.cache_clear()
            gc.collect()  # which closes what was left open
            shutil.rmtree(folder, ignore_errors=True)
        give_up = time.monotonic() + 5.0
        while thread_count() > 1 and time.monotonic() < give_up:  # a thread that was joined is yet to leave
            time.sleep(0.001)  # nobody is served before the practice is over
        return all(value == before[what] for what, value in _surroundings().items() if what != _EXIT_HANDLERS)

    def _practise_in(self, folder: str) -> None:
        literals: Any = importlib.import_module("flyteidl.core.literals_pb2")
        with open(os.path.join(folder, "aerodrome_practice.py"), "w") as file:
            file.write("from flytekit import task\n@task\ndef practise(a: int) -> int:\n    return a\n")
        one, many = literals.LiteralMap(), literals.LiteralMap()
        one.literals["a"].scalar.primitive.integer = 1
        many.literals["a"].collection.literals.add().scalar.primitive.integer = 1
        sys.path.insert(0, folder)
        resolver = "flytekit.core.python_auto_container.default_task_resolver"
        loader = ["task-module", "aerodrome_practice", "task-name", "practise"]
        mapper = "flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver"
        ways = (
            (self.entrypoint.execute_task_cmd, one, [resolver, "--", *loader]),
            (self.entrypoint.map_execute_task_cmd, many, [mapper, "--", "vars", "", "resolver", resolver, *loader]),
        )
        index = {"BATCH_JOB_ARRAY_INDEX_VAR_NAME": "FLYTE_K8S_ARRAY_INDEX", "FLYTE_K8S_ARRAY_INDEX": "0"}
        os.environ.update(index)
        try:
            for turn in range(_PRACTICE):
                for number, (command, inputs, rest) in enumerate(ways):
                    place = os.path.join(folder, f"{turn}-{number}")
                    os.mkdir(place)
                    tempfile.tempdir = place
                    self.renew_for_job(dict(os.environ))
                    with open(os.path.join(place, "inputs.pb"), "wb") as file:
                        file.write(inputs.SerializeToString())
                    files = ["--inputs", f"{place}/inputs.pb", "--output-prefix", f"{place}/out"]
                    raw = ["--raw-output-data-prefix", f"{place}/raw", "--checkpoint-path", f"{place}/check"]
                    with contextlib.suppress(SystemExit):
                        command.main(args=[*files, *raw, "--resolver", *rest], prog_name=FAMILY[0])
        finally:
            for name in index:
                del os.environ[name]

    def _perform_rehearsal(self, folder: str) -> dict[str, Any]:
        areas = private_areas()
        tempfile.tempdir = folder
        try:
            self.renew_in_child()
            self.renew_for_job({**os.environ, "FLYTE_SDK_": ""})  # with all that a job's variables may ask for
            commands = (self.entrypoint.execute_task_cmd.main, self.entrypoint.map_execute_task_cmd.main)
        except BaseException as error:  # noqa: BLE001  (it is handed to the zygote)
            return {"problem": f"this flytekit cannot be forked: {type(error).__name__}: {error}", "touched": []}
        _redirect(os.path.join(folder, "log"))
        with open(os.path.join(folder, "aerodrome_rehearsal.py"), "w") as file:
            file.write("from flytekit import task\n@task\ndef rehearse() -> int:\n    return 1\n")
        inputs = os.path.join(folder, "inputs.pb")
        with open(inputs, "wb"):
            pass
        sys.path.insert(0, folder)
        places = ["--inputs", inputs, "--output-prefix", f"{folder}/out", "--raw-output-data-prefix", f"{folder}/raw"]
        resolver = ["--resolver", "flytekit.core.python_auto_container.default_task_resolver"]
        loader = ["--", "task-module", "aerodrome_rehearsal", "task-name", "rehearse"]
        with contextlib.suppress(BaseException):  # a task that fails has touched memory all the same
            commands[0](args=[*places, *resolver, *loader], prog_name=FAMILY[0])
        return {"problem": None, "touched": copied_pages(areas)}

    def copy_ahead(self) -> None:
        """Copy the memory that a task will touch, where the kernel can do it at once (Linux 5.14).

        It costs some CPU more than it saves the task, so it is done only while a core has nothing better to do.
        """
        if not has_idle_core():
            return
        for start, size in self._touched:
            if _libc.madvise(start, size, _MADV_POPULATE_WRITE) != 0:
                return

    def settle(self) -> None:
        """Make what is loaded immovable, so that forks share its memory."""
        gc.collect()
        self.randoms += [each for each in gc.get_objects() if issubclass(type(each), random.Random)]
        gc.freeze()

    def renew_in_child(self) -> None:
        """Whatever must differ from one fork to the next and does not depend on the job."""
        for generator in self.randoms:
            generator.seed()
        numpy_random = _module("numpy.random")
        if numpy_random is not None:
            numpy_random.seed()
        connector = _module("flytekit.extend.backend.base_connector")
        if connector is not None and hasattr(connector, "local_connector_loop"):
            connector.local_connector_loop = _module("asyncio").new_event_loop()

    def renew_for_job(self, environment: Mapping[str, str]) -> None:
        """Repeat what flytekit does at import with the environment and the temporary folder of the job."""
        if self.entrypoint is None:
            return
        if any(
            name.startswith("FLYTE_SDK_") for name in environment
        ):  # without any, the zygote's own loggers are right
            loggers = _module("flytekit.loggers")
            for logger in (loggers.logger, loggers.user_space_logger, loggers.developer_logger):
                logger.handlers.clear()
            loggers.initialize_global_loggers()
            if environment.get("FLYTE_SDK_RICH_TRACEBACKS") == "0":
                sys.excepthook = sys.__excepthook__
        configuration = _module("flytekit.configuration")
        config = configuration.Config
        before = config.local_sandbox_path
        config.local_sandbox_path = tempfile.mkdtemp(prefix="flyte")
        defaults = config.__init__.__defaults__
        config.__init__.__defaults__ = tuple(config.local_sandbox_path if each == before else each for each in defaults)
        persistence = _module("flytekit.core.data_persistence")
        persistence.flyte_tmp_dir = tempfile.mkdtemp(prefix="flyte-")
        access = persistence.FileAccessProvider(
            local_sandbox_dir=os.path.join(persistence.flyte_tmp_dir, "sandbox"),
            raw_output_prefix=os.path.join(persistence.flyte_tmp_dir, "raw"),
            data_config=configuration.DataConfig.auto(),
        )
        context_manager = _module("flytekit.core.context_manager")
        persistence.default_local_file_access_provider = access
        context_manager.default_local_file_access_provider = access
        context_manager.FlyteContextManager.initialize()

    def fetch(self, reference: str, path: str) -> None:
        """Bring a remote file here by flytekit's own storage drivers and their configuration."""
        context_manager: Any = importlib.import_module("flytekit.core.context_manager")
        context_manager.FlyteContextManager.current_context().file_access.get_data(reference, path)


def _module(name: str) -> Any:
    """A module that may have been imported; None if it was not."""
    return sys.modules.get(name)


class NotTemplated(BaseException):
    """Why there is no template for a distribution.  No `except Exception` of what is imported takes it for its own."""


class Template:
    """The code of one distribution, and its module of tasks, imported."""

    LIMIT_BYTES = 16 << 20

    def __init__(self, reference: str, laid: Laid) -> None:
        self._reference = reference
        self._laid = laid
        self._code: dict[str, types.CodeType] = {}
        """The code of each module that was imported from the distribution."""
        self._tracked: list[Any] = []
        """What flytekit notes the file of the module in."""
        self._compiled: list[str] = []

    @classmethod
    def load(cls, reference: str, module: str, distributions: Distributions) -> Template:
        """Import a module of tasks.  Raises NotTemplated if attempts could tell."""
        laid = distributions.read(reference, cls.LIMIT_BYTES)
        if laid is None:
            raise NotTemplated("the distribution was not unpacked here, has changed, or is too large")
        if any(relative == "__init__.py" for relative, _, _, _ in laid.files):
            raise NotTemplated("the distribution is a package, whose name is that of the folder which it lies in")
        template = cls(reference, laid)
        template._import(module)
        return template

    def _import(self, module: str) -> None:
        plain = _beside("plain")
        for name in plain.KNOWN:
            importlib.import_module(name)  # so that a file of this name in the distribution is not taken for it
        before = _surroundings()
        tree = self._laid.tree
        finder = _Finder(tree, plain.objection, self._code)
        sys.path.insert(0, tree)
        sys.meta_path.insert(0, finder)
        try:
            importlib.import_module(module)
        except Exception as error:
            raise NotTemplated(f"the import of {module} fails: {type(error).__name__}: {error}") from error
        finally:
            sys.meta_path.remove(finder)
            sys.path.remove(tree)
        if module not in self._code:
            raise NotTemplated(f"{module} does not come from the distribution")
        for name in self._code:
            imported = sys.modules[name]
            spec: Any = imported.__spec__
            spec.loader = imported.__loader__ = importlib.machinery.SourceFileLoader(name, spec.origin)
            if spec.cached:
                self._compiled.append(os.path.relpath(spec.cached, tree))
        for each in gc.get_objects():  # those of the zygote itself are frozen, and not among them
            attributes = getattr(each, "__dict__", None)
            if isinstance(attributes, dict) and "_module_file" in attributes:
                self._tracked.append(each)
        for place in [each for each in sys.path_importer_cache if each == tree or each.startswith(tree + os.sep)]:
            del sys.path_importer_cache[place]
        changed = [what for what, value in _surroundings().items() if before[what] != value]
        if changed:
            raise NotTemplated(f"the import of {module} changes {', '.join(changed)}")

    def fits(self, command: Command, environment: Mapping[str, str], distributions: Distributions) -> bool:
        """Whether this is what the attempt would import itself."""
        return (
            command.distribution == self._reference
            and allows_template(environment)
            and distributions.still(self._reference, self._laid.content)
        )

    def is_intact(self, folder: str) -> bool:
        """Whether the code in the folder of an attempt that ended is as it was laid."""
        return self._laid.is_in(folder, without=self._compiled)

    def settle_in(self, folder: str, recycled: str | None) -> None:
        """Lay the code into the folder of an attempt, where one works already, and let all imports be from there.

        `recycled` is a folder in which it lies, to be used instead.
        """
        if recycled is None:
            self._laid.lay(folder, without=self._compiled)  # nobody imports these modules again
        else:
            os.rename(recycled, folder)
            os.chdir(folder)
        tree = self._laid.tree
        fix = importlib.import_module("_imp")._fix_co_filename  # as import itself does with code compiled elsewhere
        for name, code in self._code.items():
            module: Any = sys.modules[name]
            spec = module.__spec__
            path = folder + spec.origin[len(tree) :]
            fix(code, path)
            module.__file__ = spec.origin = spec.loader.path = path
            if spec.cached:
                spec.cached = module.__cached__ = importlib.util.cache_from_source(path)
            if spec.submodule_search_locations is not None:
                module.__path__ = spec.submodule_search_locations = [
                    folder + place[len(tree) :] for place in spec.submodule_search_locations
                ]
        for each in self._tracked:
            file = str(each._module_file)
            if file.startswith(tree + os.sep):
                each._module_file = type(each._module_file)(folder + file[len(tree) :]).resolve()


class _Finder:
    """Finds modules as usual, and objects to those that attempts have to import for themselves."""

    _NEVER = frozenset(("antigravity", "this", "readline", "curses", "tkinter", "turtle", "idlelib", "test", "site"))

    def __init__(self, tree: str, objection: Callable[[bytes], str | None], code: dict[str, types.CodeType]) -> None:
        self._tree = tree
        self._objection = objection
        self._code = code
        self._standard: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset()) - self._NEVER

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the other finders find.  Raises NotTemplated."""
        spec: Any = None
        for finder in sys.meta_path:
            if finder is not self and spec is None:
                spec = finder.find_spec(name, path, target)
        if spec is None:
            return None
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
        if any(place.startswith(self._tree + os.sep) for place in places):
            return self._own(name, spec)
        top = name.partition(".")[0]
        if top in self._standard or top == "flytekit":
            return spec
        raise NotTemplated(f"it imports {name}, which may do anything")

    def _own(self, name: str, spec: Any) -> Any:
        if not spec.has_location:
            return spec  # a package without code, whose places follow sys.path by themselves
        if type(spec.loader) is not importlib.machinery.SourceFileLoader:
            raise NotTemplated(f"{name} is no source")
        objection = self._objection(spec.loader.get_data(spec.origin))
        if objection is not None:
            raise NotTemplated(f"{name}, {objection}")
        spec.loader = _Loader(name, spec.origin, self._code)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Keeps the code that it loads."""

    def __init__(self, name: str, path: str, code: dict[str, types.CodeType]) -> None:
        super().__init__(name, path)
        self._kept = code

    def get_code(self, fullname: str) -> types.CodeType | None:
        """The code of the module."""
        code = super().get_code(fullname)
        if code is not None:
            self._kept[fullname] = code
        return code


_EXIT_HANDLERS = "exit handlers"


def _surroundings() -> dict[str, Any]:
    """What an import may have changed around it, by what to call it."""
    return {
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "the search path": list(sys.path),
        "the threads": thread_count(),
        "open files": sorted(os.listdir("/proc/self/fd")),
        "processes": own_children(),
        _EXIT_HANDLERS: getattr(atexit, "_ncallbacks", int)(),
        "signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "standard streams": (sys.stdin, sys.stdout, sys.stderr, sys.excepthook),
    }


def _beside(name: str) -> Any:
    """A file of this folder, which is not on the search path of an environment of tasks."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"aerodrome_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[module.__name__]  # it is none of the tasks' business
    return module


_CACHED = type(functools.lru_cache(int))


def _of_flytekit() -> list[tuple[str, types.ModuleType]]:
    return [(name, module) for name, module in sys.modules.items() if name.partition(".")[0] == "flytekit"]


def _restore(present: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Give the variables of a module their earlier values; modules that were imported into it meanwhile stay."""
    for name, value in list(present.items()):
        if name in before:
            if before[name] is not value:
                present[name] = before[name]
        elif not isinstance(value, types.ModuleType):
            del present[name]


class StartError(Exception):
    """An attempt that cannot start for a reason that a person has to remove."""


class Attempt:
    """The forked child: prepared ahead of need, then one job."""

    def __init__(
        self,
        control: socket.socket,
        preloaded: Preloaded,
        distributions: Distributions,
        template: Template | None = None,
    ) -> None:
        self._template = template
        self._control = control
        self._preloaded = preloaded
        self._distributions = distributions
        self._pid = os.getpid()

    def live(self) -> NoReturn:
        """Prepare, wait for the job, do it, and leave the process."""
        code = 70
        try:
            self._prepare()
            job = receive(self._control)
            if job is None:
                os._exit(0)
            code = 1
            try:
                code = self._perform(job)
            except StartError as error:
                sys.stderr.write(f"{error}\n")
                send(self._control, {"start_error": str(error)})
                code = 128
        except BaseException:  # noqa: BLE001  (nothing may escape into the copy of the zygote's own loop)
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _prepare(self) -> None:
        os.setsid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if signal.getsignal(number) not in (signal.SIG_DFL, None):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        keep = {0, 1, 2, self._control.fileno()}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        os.nice(NICENESS)
        obey_permissions()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(OOM_SCORE))
        if not _is_waiting(self._control):
            self._preloaded.copy_ahead()
        self._preloaded.renew_in_child()

    def _perform(self, job: Mapping[str, Any]) -> int:
        folder: str = job["folder"]
        environment: dict[str, str] = job["environment"]
        _redirect(job["log"])
        lay_secrets(job["secrets"]["folder"], job["secrets"]["files"])
        for needed in (folder, environment["TMPDIR"], *job["volumes"]):
            os.makedirs(needed, mode=0o700, exist_ok=True)
        _mark(environment.get(MARKER, ""))
        _prctl(_PR_SET_NAME, ctypes.c_char_p(job["name"].encode()[:15]))
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        tempfile.tempdir = environment["TMPDIR"]  # as it is found, but for a file that is made to see whether one can
        sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
        os.chdir(folder)
        try:
            command = interpret(job["argv"], folder)
        except ValueError as error:
            raise StartError(str(error)) from error
        script = os.path.join(os.path.dirname(job["python"]), command.name) if command.name else ""
        fork = bool(command.name) and self._preloaded.entrypoint is not None and not needs_fresh_process(environment)
        template = self._template
        if template is not None and not template.fits(command, environment, self._distributions):
            fork, template = False, None  # a new process imports nothing but what it is to import
        if fork or command.distribution:
            self._preloaded.renew_for_job(environment)
        sys.path[:] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p] + self._preloaded.path
        if command.distribution:
            fetch = None if self._preloaded.is_missing else self._preloaded.fetch
            try:
                if template is not None and fork:
                    template.settle_in(folder, job.get("recycled"))
                else:
                    self._distributions.lay(command.distribution, folder, fetch)
            except DistributionError as error:
                raise StartError(str(error)) from error
            given = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = folder if not given else given + os.pathsep + folder
            sys.path.insert(0, folder)
        else:
            sys.path.insert(0, os.path.dirname(script))
        if job["working_dir"] and not command.distribution:
            os.chdir(job["working_dir"])
        if not fork:
            self._execute(command, job)
        self._control.close()
        self._become_main(script, command.arguments)
        point("task.begins")
        code = self._call(command)
        self._finish(code, job["record"])
        return code

    def _execute(self, command: Command, job: Mapping[str, Any]) -> NoReturn:
        if command.name:
            if self._preloaded.is_missing:
                raise StartError(
                    f"the environment of {job['python']} cannot run {command.name}: {self._preloaded.problem}; "
                    "install flytekit there, or let the image name select another environment"
                )
            argv = [job["python"], "-m", "flytekit.bin.entrypoint", command.name, *command.arguments]
        else:
            argv = command.arguments
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(argv[0], argv)
        except FileNotFoundError as error:
            raise StartError(
                f"there is no executable {argv[0]!r} on this machine or in the environment of {job['python']}; "
                "install it, or let the image name select an environment that has it"
            ) from error
        except OSError as error:
            raise StartError(f"{argv[0]!r} cannot be executed: {error.strerror}") from error

    @staticmethod
    def _become_main(script: str, arguments: list[str]) -> None:
        """Give the process the `__main__` that it would have, had it been started by flytekit's script."""
        main = types.ModuleType("__main__")
        main.__file__ = script
        main.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = main
        sys.argv[:] = [script, *arguments]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[:] = [sys.executable, script, *arguments]

    def _call(self, command: Command) -> int:
        entrypoint = self._preloaded.entrypoint
        function = entrypoint.execute_task_cmd if command.name == "pyflyte-execute" else entrypoint.map_execute_task_cmd
        try:
            function.main(args=command.arguments, prog_name=command.name)
        except SystemExit as leave:
            if leave.code is None:
                return 0
            if isinstance(leave.code, int):
                return leave.code & 0xFF
            print(leave.code, file=sys.stderr)  # noqa: T201  (as the interpreter does)
            return 1
        except BaseException:  # noqa: BLE001  (as the interpreter does at its outermost frame)
            sys.excepthook(*sys.exc_info())
            return 1
        return 0

    def _finish(self, code: int, record: str) -> None:
        """What the interpreter does before it ends, then a note of the exit code in case the zygote is gone."""
        for step in (getattr(threading, "_shutdown", None), getattr(atexit, "_run_exitfuncs", None)):
            if step is not None:
                try:
                    step()
                except BaseException:  # noqa: BLE001  (an exit handler's trouble is printed and does not change the code)
                    traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        if os.getpid() == self._pid:  # not in a process that user code forked and that came back here
            point("task.done")
            with contextlib.suppress(OSError):
                write_json(record + ".leaving", {"code": code, "finished": time.time()})
            point("task.leaving")


def _is_waiting(connection: socket.socket) -> bool:
    """Whether something can be read from a connection at once."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def lay_secrets(folder: str, files: Mapping[str, str]) -> None:
    """Write the secrets of an attempt (base 64, by relative path) where nobody else may read them."""
    for relative, content in files.items():
        path = os.path.join(folder, relative)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64decode(content))


def _redirect(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(nothing, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(nothing)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)  # so that a killed attempt leaves all that it said


_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.getenv.restype = ctypes.c_void_p
_libc.getenv.argtypes = [ctypes.c_char_p]


def obey_permissions() -> None:
    """Give up root's right to write what is read-only, here and in whatever is executed from here.

    The outputs of an attempt that succeeded are handed to others as they are, made read-only; without this a task that
    runs as root would change them.  Root goes on reading everything, and writing what is its own.
    """
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # not permitted in some containers: then only what is executed has it again
        _prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: those below 32, then those from 32 on
    if _libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for each in range(3):
        sets[each] &= ~(1 << _CAP_DAC_OVERRIDE)
    if _libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: Any) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _mark(marker: str) -> None:
    """Write the marker where /proc/<pid>/environ shows it: over the room that the zygote was started with."""
    place = _libc.getenv(MARKER.encode())
    if place and len(os.environ.get(MARKER, "")) == MARKER_ROOM:
        text = marker.encode()[:MARKER_ROOM]
        ctypes.memmove(place, text + b"\0" * (MARKER_ROOM - len(text)), MARKER_ROOM)


# -- messages between the zygote and its children ----------------------------------------------------------------------


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send one message over a socket pair."""
    body = json.dumps(message).encode()
    connection.sendall(struct.pack("!I", len(body)) + body)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message of a socket pair; None if the other end closed before one was complete."""
    header = _receive_exactly(connection, 4)
    if header is None:
        return None
    body = _receive_exactly(connection, struct.unpack("!I", header)[0])
    return None if body is None else json.loads(body)


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        try:
            part = connection.recv(min(size, 1 << 20))
        except (ConnectionResetError, BlockingIOError):
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# -- the zygote --------------------------------------------------------------------------------------------------------


class Running:
    """An attempt that the zygote started."""

    def __init__(
        self, job: Mapping[str, Any], pid: int, start: int, control: socket.socket, recycled: str | None
    ) -> None:
        self.key: str = job["key"]
        self.record: str = job["record"]
        self.pid = pid
        self.start = start
        self.started = time.time()
        self.control = control
        self.folder: str = job["folder"]
        self.recycled = recycled
        """A folder with its code that it was given."""
        self.oom_kills = oom_kills()
        self.reason: str | None = None
        """Why it is being ended, if it is."""
        self.deadline: float | None = None
        """Monotonic time of its SIGKILL."""


class Zygote:
    """The process that forks, reaps, and answers the platform."""

    def __init__(
        self, settings: Mapping[str, Any], preloaded: Preloaded | None = None, template: Template | None = None
    ) -> None:
        self._settings = dict(settings)
        self._template = template
        self._folders = 0
        self._recycled: list[str] = []
        """Folders in which the code of the template lies as it was laid, for attempts to come."""
        self._templates: set[int] = set()
        """The templates that were forked from this zygote, by pid."""
        self._name: str = settings["name"]
        self._python: str = settings["python"]
        self._warm_wanted: int = settings["warm"]
        self._outlive: float = settings["outlive"]
        self._grace: float = settings["grace"]
        self._patience_alone = min(self._outlive, UNMET_SECONDS)
        self._preloaded = preloaded or Preloaded()
        self._distributions = Distributions(settings["cache"], settings["cache_limit"])
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._platform: socket.socket | None = None
        self._incoming = b""
        self._outgoing = b""
        self._alone_since: float | None = time.monotonic()
        self._retired = False
        self._stopping = False
        self._fork_again_at = 0.0
        self._warm: dict[int, socket.socket] = {}
        self._running: dict[int, Running] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self, without: str | None, *, cold: bool = False) -> None:
        """Serve until retired, or until left alone for too long.

        `without` preloading for that reason, if given; `cold`, so without practice, if that was found to be harmful.
        """
        self._introduce()
        self._listen()
        if without is None:
            self._preloaded.load()
        else:
            self._preloaded.skip(without)
        if self._preloaded.entrypoint is not None and not cold:
            self._practise()
        self._preloaded.settle()
        if self._preloaded.entrypoint is not None:
            self._preloaded.rehearse()
        if without is None and self._preloaded.problem is not None and not self._preloaded.is_missing:
            self._restart_without(self._preloaded.problem)
        self._serve()

    def _introduce(self) -> None:
        """Take the signals of a zygote, and say under its name which process it is."""
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(_PR_SET_NAME, ctypes.c_char_p(b"aerodrome-zygot"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name + ".sock")
        itself = process(os.getpid())
        write_json(self._name + ".json", {"pid": os.getpid(), "start": itself.start if itself else 0})

    def _listen(self) -> None:
        self._listener.bind(self._name + ".sock")
        self._listener.listen(8)
        self._listener.setblocking(False)

    def _serve(self) -> None:
        self._alone_since = time.monotonic()  # the platform that started this is already in the listener's queue
        try:
            while not (self._finished() or self._alone_too_long()):
                self._turn()
        finally:
            self._dismiss()
            for suffix in (".sock", ".json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name + suffix)

    def _dismiss(self) -> None:
        """End the children that got no job, so that nothing is left when the zygote is gone."""
        while self._warm:
            pid, control = self._warm.popitem()
            control.close()
            send_signal(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _practise(self) -> None:
        try:
            if self._preloaded.practise():
                return
        except Exception:  # noqa: BLE001  (another flytekit, which can be forked all the same)
            traceback.print_exc()
        os.execv(sys.executable, [sys.executable, __file__, "--cold", *sys.argv[-1:]])

    def _restart_without(self, problem: str) -> NoReturn:
        """Start over without preloading: its threads make forks unsafe, or its forks would be of no use."""
        os.execv(sys.executable, [sys.executable, __file__, "--without", problem, *sys.argv[-1:]])

    def _on_terminate(self, number: int, frame: types.FrameType | None) -> None:
        self._stopping = True
        self._retired = True

    def _finished(self) -> bool:
        return self._retired and not self._running

    def _alone_too_long(self) -> bool:
        if self._alone_since is None or time.monotonic() - self._alone_since < self._patience_alone:
            return False
        self._stopping = self._retired = True
        return not self._running

    def _turn(self) -> None:
        """One round: hear, reap, refill, and keep the deadlines."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        if self._platform is not None:
            poll.register(self._platform, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        ready = dict(poll.poll(self._patience() * 1000))
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._platform is not None and self._platform.fileno() in ready:
            self._hear()
        if self._listener.fileno() in ready:
            self._accept()
        self._reap()
        self._keep_deadlines()
        self._flush()
        refill = self._refill_due()
        if refill is not None and refill <= time.monotonic():
            self._fork()

    def _patience(self) -> float:
        """Seconds until something is due without being asked for."""
        now = time.monotonic()
        refill = self._refill_due()
        if refill is not None and refill <= now:
            return 0.0
        due = [] if refill is None else [refill]
        due += [each.deadline for each in self._running.values() if each.deadline is not None]
        if self._alone_since is not None:
            due.append(self._alone_since + self._patience_alone)
        if not due:
            return 60.0
        return min(60.0, max(0.05, min(due) - now))

    # -- the platform --

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._platform is not None:
            # Its lock on the data directory says that the earlier platform is dead; take in what it had still sent.
            self._platform.settimeout(5)
            with contextlib.suppress(OSError):
                while self._platform is not None:
                    self._hear()
            self._forget_platform()
        connection.setblocking(False)
        self._platform = connection
        self._incoming = self._outgoing = b""
        self._alone_since = None
        self._patience_alone = self._outlive
        running = [{"key": each.key, "pid": each.pid, "start": each.start} for each in self._running.values()]
        self._say(
            {
                "op": "hello",
                "protocol": PROTOCOL,
                "python": self._python,
                "flytekit": self._preloaded.version,
                "problem": self._preloaded.problem,
                "stopping": self._retired or self._stopping,
                "running": running,
            }
        )

    def _forget_platform(self) -> None:
        if self._platform is not None:
            self._platform.close()
            self._platform = None
            self._alone_since = time.monotonic()

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._platform is not None:
            self._outgoing += json.dumps(message).encode() + b"\n"
            self._flush()

    def _flush(self) -> None:
        while self._platform is not None and self._outgoing:
            try:
                self._outgoing = self._outgoing[self._platform.send(self._outgoing) :]
            except (BlockingIOError, TimeoutError):
                return
            except OSError:
                self._forget_platform()

    def _hear(self) -> None:
        if self._platform is None:
            return
        try:
            part = self._platform.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._forget_platform()
            return
        *lines, self._incoming = (self._incoming + part).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["op"] == "start":
                self._start(message)
            elif message["op"] == "end":
                self._end(message)
            elif message["op"] == "retire":
                self._retired = True
            elif message["op"] == "template":
                self._fork_template(message)

    # -- attempts --

    def _start(self, job: dict[str, Any]) -> None:
        if self._retired:
            return
        while True:
            if not self._warm and not self._fork():
                self._say(self._refusal(job, "no process could be made for it; the machine has none left"))
                return
            pid, control = self._warm.popitem()
            found = process(pid)
            if found is None or found.state in "ZX":
                control.close()
                continue
            running = Running(job, pid, found.start, control, self._recycled[-1] if self._recycled else None)
            try:
                claimed = claim(running.record, {"pid": pid, "start": found.start, "started": running.started})
            except OSError as error:
                self._warm[pid] = control
                self._say(self._refusal(job, f"its process could not be recorded: {error.strerror}"))
                return
            if not claimed:
                self._warm[pid] = control
                return
            point("process.claimed")
            try:
                send(control, {**job, "recycled": running.recycled})
            except OSError:
                os.unlink(running.record + ".pid")  # it died before it could learn what to do
                control.close()
                continue
            control.setblocking(False)
            self._running[pid] = running
            if running.recycled is not None:
                self._recycled.remove(running.recycled)
            point("process.started")
            self._say(
                {"op": "started", "key": running.key, "pid": pid, "start": found.start, "started": running.started}
            )
            return

    @staticmethod
    def _refusal(job: Mapping[str, Any], message: str) -> dict[str, Any]:
        return {"op": "refused", "key": job["key"], "message": message}

    def _end(self, message: Mapping[str, Any]) -> None:
        for running in self._running.values():
            if running.key == message["key"]:
                self._terminate(running, message["reason"], message["grace"])

    def _terminate(self, running: Running, reason: str | None, grace: float) -> None:
        deadline = time.monotonic() + grace
        if running.deadline is None and grace > 0:  # without grace there is nothing to say first
            for pid in descendants(processes(), [running.pid]):
                send_signal(pid, signal.SIGTERM)
        elif running.deadline is not None and running.deadline <= deadline:
            return
        running.reason = reason
        running.deadline = deadline

    def _keep_deadlines(self) -> None:
        if self._stopping:
            for running in self._running.values():
                if running.deadline is None:
                    self._terminate(running, "Shutdown", self._grace)
        now = time.monotonic()
        for running in self._running.values():
            if running.deadline is not None and running.deadline <= now:
                send_signal(running.pid, signal.SIGKILL)  # the rest comes here, and is killed when this is reaped
                running.deadline = now + 1.0

    def _fork(self) -> bool:
        """Fork one more waiting child; False, and a pause, if the machine does not allow it."""
        if thread_count() > 1:
            raise RuntimeError("the zygote has more than one thread, so it must not fork")
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                Attempt(theirs, self._preloaded, self._distributions, self._template).live()
        except OSError as error:
            sys.stderr.write(f"no child could be forked: {error.strerror}\n")
            ours.close()
            self._fork_again_at = time.monotonic() + 1.0
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            theirs.close()
        ours.settimeout(30)
        self._warm[pid] = ours
        return True

    # -- templates --

    def _fork_template(self, order: Mapping[str, Any]) -> None:
        """Fork a zygote that imports the code of a distribution; that it serves, it says itself."""
        if self._retired:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._become_template(order)
        except OSError as error:
            self._say({"op": "templated", "name": order["name"], "pid": 0, "start": 0, "message": error.strerror})
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._templates.add(pid)
        found = process(pid)
        self._say({"op": "templated", "name": order["name"], "pid": pid, "start": found.start if found else 0})

    def _become_template(self, order: Mapping[str, Any]) -> NoReturn:
        """Be a zygote of its own: nothing of the one that it was forked from stays open."""
        code = 70
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for open_socket in (self._listener, self._platform, *self._warm.values()):
                if open_socket is not None:
                    open_socket.close()
            for running in self._running.values():
                running.control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            name: str = order["name"]
            _redirect(name + ".log")
            os.mkdir(name + ".tmp", 0o700)
            os.environ["TMPDIR"] = tempfile.tempdir = os.path.abspath(name + ".tmp")
            successor = Zygote({**self._settings, "name": name}, self._preloaded)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            successor.run_as_template(order["reference"], order["module"])
            shutil.rmtree(name + ".tmp", ignore_errors=True)
            code = 0
        except NotTemplated as why:
            sys.stderr.write(f"{why}\n")
            code = 3
        except BaseException:  # noqa: BLE001  (nothing may escape into the copy of the other zygote's loop)
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def run_as_template(self, reference: str, module: str) -> None:
        """Import a module of a distribution, then serve like any other zygote.  Raises NotTemplated."""
        self._introduce()
        try:
            self._template = Template.load(reference, module, self._distributions)
            self._preloaded.settle()
            self._listen()
            self._serve()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name + ".json")

    def _refill_due(self) -> float | None:
        """Monotonic time at which one more child should be forked ahead of need; None while there are enough."""
        return None if self._retired or len(self._warm) >= self._warm_wanted else self._fork_again_at

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            running = self._running.get(pid)
            if running is None:
                os.waitpid(pid, 0)
                if pid in self._templates:
                    self._templates.discard(pid)
                    self._kill_strays()
                control = self._warm.pop(pid, None)
                if control is not None:  # a waiting child died by itself, and the next one may too
                    control.close()
                    self._fork_again_at = time.monotonic() + 1.0
                continue
            alone = self._kill_strays()
            _, status = os.waitpid(pid, 0)
            del self._running[pid]
            if alone:
                self._recycle(running)
            self._report(running, status)

    def _recycle(self, running: Running) -> None:
        """Keep the folder of an attempt for the next one, if its code is what it was: making files is dear."""
        if running.recycled is not None and os.path.isdir(running.recycled):
            self._recycled.append(running.recycled)  # it never came so far
        elif (
            self._template is not None
            and len(self._recycled) < self._warm_wanted
            and self._template.is_intact(running.folder)
        ):
            self._folders += 1
            place = os.path.abspath(f"{self._name}.tmp/code-{self._folders}")
            try:
                os.rename(running.folder, place)
            except OSError:  # on another file system; it is removed like any other
                return
            self._recycled.append(place)

    def _kill_strays(self) -> bool:
        """Kill what ended attempts left behind: every child that is neither waiting nor an attempt nor a template.

        What a template left that was killed is among it, and so ends with it.  False if something would not die.
        """
        known = (self._warm, self._running, self._templates)
        give_up = time.monotonic() + 5.0
        while time.monotonic() < give_up:
            strays = [pid for pid in own_children() if not any(pid in each for each in known)]
            if not strays:
                return True
            for pid in strays:
                send_signal(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)  # what was killed is yet to die; the zygote has nothing more urgent to do
        return False

    def _report(self, running: Running, status: int) -> None:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = 128 + number if number is not None else os.WEXITSTATUS(status)
        reason = running.reason if code else None
        message = None
        said = receive(running.control)
        running.control.close()
        if said is not None and "start_error" in said:
            reason, message = "StartError", said["start_error"]
        elif reason is None and code == 128 + signal.SIGKILL and oom_kills() > running.oom_kills:
            reason = "OOMKilled"
        outcome = {"code": code, "signal": number, "reason": reason, "message": message, "finished": time.time()}
        point("process.reaped")
        try:
            write_json(running.record + ".exit", outcome)
            point("process.ended")
        except OSError:  # a full disk: the platform is told all the same, and what cannot be told is a lost attempt
            traceback.print_exc()
        self._say({"op": "exited", "key": running.key, "started": running.started, **outcome})


def _points() -> Callable[[str], None]:
    """`aerodrome.stdlib.faults.point` where a test asks for it, which an environment of tasks does not have."""
    path = os.environ.get(FAULTS)
    if path is None:
        return lambda name: None
    spec = importlib.util.spec_from_file_location("aerodrome_faults", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.point  # type: ignore[no-any-return]  # a module that is loaded by its path has no types


point = _points()


def thread_count() -> int:
    """How many threads this process has, those that Python does not know of included."""
    return len(os.listdir("/proc/self/task"))


def own_children() -> list[int]:
    """The pids of this process' children, zombies included."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
        return [each.pid for each in processes().values() if each.parent == me]


def main(arguments: list[str]) -> None:
    """Run a zygote in the current directory; the last argument is its settings as JSON."""
    settings = json.loads(arguments[-1])
    Zygote(settings).run(without=arguments[1] if arguments[0] == "--without" else None, cold=arguments[0] == "--cold")
    shutil.rmtree(settings["name"] + ".tmp", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
