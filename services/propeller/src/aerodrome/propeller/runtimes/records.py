"""The durable side of the local runtime: one directory, one owner, one record for each attempt.

    lock                     held by the runtime that owns the directory
    state.json               the directory's identity, the boot that last used it, and whether it was closed properly
    pods/<ns>/<name>.json    the attempt as it was asked for; exists from `start` to `delete`
    pods/<ns>/<name>.pid     its process: written, exclusively, before the process knows what to do
    pods/<ns>/<name>.exit    how it ended: written by whoever reaps it, or finds that nobody did
    pods/<ns>/<name>.leaving what a forked attempt says of itself right before it leaves
    logs/<ns>/<name>.log     what it printed; stays when the attempt is deleted
    work/<ns>/<name>/        its own directory; goes when it ends
    volumes/<ns>/<name>/     its volumes that begin empty; go when it is deleted
    cache/                   code distributions
    zygotes/                 their sockets and logs

Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aerodrome.propeller.runtimes import zygote
from aerodrome.propeller.runtimes.pods import Key, Pod, key_of
from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.rpc.runtime_dir import runtime_dir

log = get_logger(__name__)

_BESIDE = (".pid", ".exit", ".leaving")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FEW = 64
"""Entries of a little directory, and of those below it."""
_LITTLE_BYTES = 1 << 20
"""A little directory has no file above this size."""
_PLAIN_PATH = re.compile(r"[\w./+:@%-]+", re.ASCII)
"""A path that no shell takes apart."""


@dataclass(frozen=True, slots=True)
class Found:
    """All that the directory says of one attempt."""

    key: Key
    record: Record
    outcome: dict[str, Any] | None
    """How it ended; None if that is not written."""
    process: dict[str, Any] | None
    """`pid`, `start` and `started` of its process; {} if it was never completed, None if there is none."""


@dataclass(frozen=True, slots=True)
class Record:
    """An attempt as it was asked for."""

    pod: Pod
    created: float
    """Seconds since the epoch; its place in the queue."""
    boot: str
    """The boot (and pid namespace) under which it was asked for."""


def boot_id() -> str:
    """What a pid is good for: it differs after a restart of the machine, and in another container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")


class Directory:
    """The directory of one local runtime."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = ""
        self.boot = ""
        self.closed_properly = False
        """Whether its last owner closed it, so that nothing written then can be missing now."""
        self._lock: int | None = None
        self._pods, self._logs, self._work = (str(root / folder) for folder in ("pods", "logs", "work"))
        self._volumes = root / "volumes"

    def open(self) -> None:
        """Become its owner.  Raises FailedPrecondition if another runtime is."""
        for folder in ("pods", "logs", "work", "volumes", "cache", "zygotes"):
            (self.root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise FailedPrecondition(
                f"the data directory {self.root} is in use by another platform (process {owner or 'unknown'}): "
                "stop that one, or choose another directory"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        self.boot = boot_id()
        self._open_volumes()
        state = zygote.read_json(str(self.root / "state.json")) or {}
        self.identity = state.get("identity") or uuid.uuid4().hex
        self.closed_properly = bool(state.get("closed"))
        self._write_state(closed=False)

    def close(self, *, properly: bool) -> None:
        """Stop being its owner; `properly` if nothing was left running."""
        if self._lock is not None:
            if properly:
                self._write_state(closed=True)
                if self._volumes.is_symlink():
                    _unlink(str(self._volumes))
                    with contextlib.suppress(OSError):
                        self._volumes.parent.rmdir()
            os.close(self._lock)
            self._lock = None

    def _write_state(self, *, closed: bool) -> None:
        zygote.write_json(str(self.root / "state.json"), {"identity": self.identity, "closed": closed})

    def record(self, key: Key) -> str:
        """The path of an attempt's files without their suffix."""
        return f"{self._pods}/{key.namespace}/{key.name}"  # asked for many times an attempt, and joining paths is dear

    def log(self, key: Key) -> str:
        """The path of what an attempt printed."""
        return f"{self._logs}/{key.namespace}/{key.name}.log"

    def work(self, key: Key) -> str:
        """The path of an attempt's own directory."""
        return f"{self._work}/{key.namespace}/{key.name}"

    def volumes(self, key: Key) -> Path:
        """Where an attempt's volumes are, by a path that needs no quotes in a shell."""
        return self._volumes / key.namespace / key.name

    def _open_volumes(self) -> None:
        """Paths of volumes stand in the commands of tasks, so a path with a space in it gets a short name."""
        self._volumes = self.root / "volumes"
        if _PLAIN_PATH.fullmatch(str(self._volumes)):
            return
        link = runtime_dir(self.root) / "volumes"
        _unlink(str(link))
        link.symlink_to(self._volumes)
        self._volumes = link

    def marker(self, key: Key) -> str:
        """What the environment of an attempt's processes says they belong to."""
        return f"{key}@{self.identity}"

    def write(self, key: Key, record: Record) -> None:
        """Make a new attempt durable.  Raises OSError."""
        path = self.record(key)
        for folder in (os.path.dirname(path), os.path.dirname(self.log(key))):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        for suffix in _BESIDE:  # of an earlier attempt of this name, whose deletion was cut short
            _unlink(path + suffix)
        text = json.dumps({"pod": record.pod, "created": record.created, "boot": record.boot})
        descriptor = os.open(path + ".json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            _unlink(path + ".json")
            raise

    def records(self) -> Iterator[tuple[Key, Record]]:
        """Every attempt there is; what was never completed was never acknowledged, and is removed."""
        for path in sorted((self.root / "pods").glob("*/*.json")):
            value = zygote.read_json(str(path))
            try:
                record = Record(value["pod"], value["created"], value["boot"]) if value else None
                key = key_of(record.pod) if record else None
            except (KeyError, AerodromeError):
                record = key = None
            if record is None or key is None or self.record(key) + ".json" != str(path):
                log.warning("an incomplete pod record was removed", path=str(path))
                _unlink(str(path))
                continue
            yield key, record

    def found(self) -> list[Found]:
        """Every attempt there is and what became of it, in the order in which they were asked for."""
        everything = [Found(key, record, self.outcome(key), self.process(key)) for key, record in self.records()]
        return sorted(everything, key=lambda each: each.record.created)

    def outcome(self, key: Key) -> dict[str, Any] | None:
        """How an attempt ended; None if that is not written."""
        return zygote.read_json(self.record(key) + ".exit") or None

    def process(self, key: Key) -> dict[str, Any] | None:
        """An attempt's process, as `Found` has it."""
        return zygote.read_json(self.record(key) + ".pid")

    def leaving(self, key: Key) -> dict[str, Any] | None:
        """What an attempt said of itself before it left; None if it did not."""
        return zygote.read_json(self.record(key) + ".leaving") or None

    def end(self, key: Key, outcome: dict[str, Any]) -> None:
        """Write how an attempt ended."""
        zygote.write_json(self.record(key) + ".exit", outcome)

    def remove(self, key: Key) -> None:
        """Forget an attempt; its log stays."""
        self._remove_record(key)
        remove_tree(self.volumes(key))

    def _remove_record(self, key: Key) -> None:
        path = self.record(key)
        _unlink(path + ".json")  # first: without it the rest means nothing, the other way round it would start again
        for suffix in _BESIDE:
            _unlink(path + suffix)

    def remove_small(self, key: Key) -> bool:
        """As `remove`; False if that would take long, and `remove` has to do the rest."""
        self._remove_record(key)
        return remove_small_tree(str(self.volumes(key)))

    def forget(self, key: Key) -> None:
        """Remove the log of an attempt that was removed."""
        _unlink(self.log(key))

    def forget_logs(self, before: float) -> int:
        """Remove logs of attempts that are gone, last written before that instant (since the epoch); how many."""
        removed = 0
        for path in (self.root / "logs").glob("*/*.log"):
            record = self.record(Key(path.parent.name, path.stem)) + ".json"
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                if path.stat().st_mtime < before and not os.path.exists(record):
                    path.unlink()
                    removed += 1
        return removed

    def clean(self, key: Key) -> None:
        """Remove an attempt's own directory."""
        if not remove_small_tree(self.work(key)):
            remove_tree(Path(self.work(key)))

    def clean_others(self, live: set[Key]) -> None:
        """Remove what earlier owners left: directories of attempts that are not live, and files without a record."""
        for folder in (self.root / "work").glob("*/*"):
            if Key(folder.parent.name, folder.name) not in live:
                remove_tree(folder)
        for folder in (self.root / "volumes").glob("*/*"):
            if not os.path.exists(self.record(Key(folder.parent.name, folder.name)) + ".json"):
                remove_tree(folder)
        for suffix in _BESIDE:
            for path in (self.root / "pods").glob(f"*/*{suffix}"):
                if not path.with_name(path.name.removesuffix(suffix) + ".json").exists():
                    _unlink(str(path))

    def tail(self, key: Key, lines: int, limit_bytes: int = 65_536) -> str:
        """The last lines of an attempt's log; empty if it printed nothing."""
        try:
            with open(self.log(key), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit_bytes))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""


def remove_tree(folder: Path) -> None:
    """Remove a directory, what its owner made unwritable included."""
    try:
        shutil.rmtree(folder)
        return
    except FileNotFoundError:
        if not folder.exists():
            return
    except OSError:
        log.debug("a directory has parts that its owner made unwritable", path=str(folder))
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(path, stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def remove_small_tree(folder: str) -> bool:
    """Remove a directory that holds little; False if it holds more, or resists, and some of it may be gone by then."""
    try:
        descriptor = os.open(folder, _DIRECTORY)
        try:
            emptied = _emptied(descriptor, _FEW) >= 0
        finally:
            os.close(descriptor)
        if emptied:
            os.rmdir(folder)
    except FileNotFoundError:
        return not os.path.lexists(folder)
    except OSError:
        return False
    return emptied


def _emptied(directory: int, room: int) -> int:
    """Remove what a directory holds; how many more entries may come, negative if these were too many already."""
    with os.scandir(directory) as found:
        entries = list(islice(found, room + 1))
    room -= len(entries)
    for entry in entries:
        if room < 0:
            break
        if entry.is_dir(follow_symlinks=False):
            below = os.open(entry.name, _DIRECTORY, dir_fd=directory)
            try:
                room = _emptied(below, room)
            finally:
                os.close(below)
            if room >= 0:
                os.rmdir(entry.name, dir_fd=directory)
        elif entry.stat(follow_symlinks=False).st_size > _LITTLE_BYTES:
            return -1  # it takes a while to give its blocks back
        else:
            os.unlink(entry.name, dir_fd=directory)
    return room


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
