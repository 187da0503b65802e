"""One instance per data directory: its lock, and what others may know of it (port, process) while it runs."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from aerodrome.stdlib.errors import FailedPrecondition

_LOCK = "sandbox.lock"
_STATE = "sandbox.json"


@dataclass(frozen=True, slots=True)
class Instance:
    """A running platform, as its data directory describes it."""

    pid: int
    process_started: int
    """Start time of the process in clock ticks since boot, so that a reused process id is not mistaken for it."""
    host: str
    port: int
    ready: bool
    started_at: float
    """Seconds since 1970."""

    @property
    def endpoint(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def default_data_dir() -> Path:
    """Where an instance lives that was told nothing: below XDG_DATA_HOME, or ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "aerodrome"


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory.  Raises FailedPrecondition, naming who has it, if another instance does."""
    path = data_dir / _LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            running = find(data_dir)
            who = f"process {running.pid}, at {running.endpoint}" if running else "another process"
            raise FailedPrecondition(
                f"{data_dir} belongs to a running instance ({who}). Use it, stop it with "
                f"`aerodrome down --data-dir '{data_dir}'`, or choose another --data-dir"
            ) from error
        yield
    finally:
        os.close(descriptor)


def announce(data_dir: Path, *, host: str, port: int, ready: bool) -> Instance:
    """Say that this process is the instance of `data_dir`."""
    instance = Instance(os.getpid(), _started(os.getpid()) or 0, host, port, ready, time.time())
    path = data_dir / _STATE
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(instance)))
    temporary.replace(path)
    return instance


def withdraw(data_dir: Path) -> None:
    """The instance of `data_dir` is over."""
    (data_dir / _STATE).unlink(missing_ok=True)


def find(data_dir: Path) -> Instance | None:
    """The instance that runs on `data_dir`; None if there is none."""
    try:
        instance = Instance(**json.loads((data_dir / _STATE).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    return instance if is_alive(instance) else None


def is_alive(instance: Instance) -> bool:
    """Whether the process of an instance has not ended yet."""
    return _started(instance.pid) == instance.process_started


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
