"""An instance of the platform as its users have it: started and stopped by the `aerodrome` command, with a data
directory and clients of its own.  The chaos tests use it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

DEFAULT_PORT = 30080
"""Where flytekit looks when nobody told it anything."""
COMMAND_SECONDS = 110.0
"""Longest that a command of a client or of the platform may take."""

T = TypeVar("T")

_BIN = Path(sys.executable).parent


def wait_until(what: str, look: Callable[[], T | None], *, seconds: float = 60.0, every: float = 0.02) -> T:
    """The first value of `look` that counts as true.  Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)


def clean_environment(home: Path) -> dict[str, str]:
    """What a user's shell has: nothing that configures flytekit or us, and a home of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLYTE", "AERODROME", "PYTEST", "COV_", "XDG_")) and name != "PYTHONPATH"
    }
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PATH": f"{_BIN}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "COLUMNS": "400",
    }


class Instance:
    """One data directory, and the platform that runs on it from time to time."""

    def __init__(self, data_dir: Path, home: Path, *, port: int = 0, arguments: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self.home = home
        self.port = port
        self._arguments = list(arguments)
        self._sessions: set[int] = set()
        """Sessions of the processes that `up` started: what these spawned shows the data directory nowhere."""

    @property
    def endpoint(self) -> str:
        """As clients are given it."""
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.endpoint}"

    @property
    def environment(self) -> dict[str, str]:
        """For clients: it says where the platform is only if it is not where they look anyway."""
        where: Mapping[str, str] = {}
        if self.port != DEFAULT_PORT:
            where = {"FLYTE_PLATFORM_URL": self.endpoint, "FLYTE_PLATFORM_INSECURE": "true"}
        return {**clean_environment(self.home), **where}

    def up(self) -> str:
        """Start it in the background, and return what it said once it was ready.

        The port is chosen once: clients expect it at the same place after a restart.
        """
        self.port = self.port or free_port()
        done = self._up()
        if done.returncode != 0 and not self._sessions and not is_free(self.port):  # somebody was quicker
            self.port = free_port()
            done = self._up()
        assert done.returncode == 0, done.stdout + done.stderr
        self._sessions.add(os.getsid(self.pid))
        return done.stdout

    def _up(self) -> subprocess.CompletedProcess[str]:
        return self.aerodrome("up", "--detach", "--port", str(self.port), *self._arguments)

    def down(self) -> None:
        """Stop it, and everything that it started."""
        done = self.aerodrome("down")
        assert done.returncode == 0, done.stdout + done.stderr

    def aerodrome(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the platform on the data directory."""
        return run([str(_BIN / "aerodrome"), command, "--data-dir", str(self.data_dir), *arguments], self.environment)

    def pyflyte(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run flytekit's command as it comes."""
        return run([str(_BIN / "pyflyte"), *arguments], self.environment, cwd=cwd)

    @property
    def pid(self) -> int:
        """The platform's own process."""
        return int(json.loads((self.data_dir / "sandbox.json").read_text())["pid"])

    @property
    def postgres(self) -> int:
        """The database server's first process."""
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])

    @property
    def zygotes(self) -> list[int]:
        """The processes from which tasks are forked."""
        files = (self.data_dir / "runtime" / "zygotes").glob("*.json")
        pids = [int(json.loads(file.read_text())["pid"]) for file in files]
        return [pid for pid in pids if is_alive(pid) and b"/zygote/" in _read(pid, "cmdline")]

    def processes(self) -> list[int]:
        """Every living process that the platform started, by whatever says so: see `belonging`."""
        return list(belonging(self.data_dir, self._sessions))

    def socket_directories(self) -> list[Path]:
        """What `runtime_dir` made for it and nobody has removed."""
        places = (self.data_dir, self.data_dir / "postgres", self.data_dir / "runtime")
        digests = [hashlib.sha256(os.fsencode(os.path.realpath(place))).hexdigest()[:12] for place in places]
        return [found for digest in digests for found in Path("/tmp").glob(f"aerodrome-*{digest}*")]

    @property
    def log(self) -> str:
        """What the platform said."""
        return (self.data_dir / "aerodrome.log").read_text(errors="replace")

    def kill_all(self) -> None:
        """Leave nothing running, however it is."""
        while found := self.processes():
            for pid in found:
                kill(pid)
            # One that is being torn down mentions nothing any more, so each is waited for by its number.
            wait_until_dead(found)


def wait_until_dead(pids: Sequence[int]) -> None:
    """Wait for the end of processes that were killed."""
    wait_until("the killed are dead", lambda: not [pid for pid in pids if is_alive(pid)])


@contextmanager
def running(instance: Instance) -> Iterator[Instance]:
    """Run the platform for as long as the block lasts; afterwards nothing of it may be left."""
    try:
        instance.up()
        yield instance
        instance.down()
        wait_until("no process of the instance is left", lambda: not instance.processes(), seconds=20)
        assert not instance.socket_directories()
    finally:
        instance.kill_all()


def run(
    command: Sequence[str], environment: Mapping[str, str], *, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without standard input; one that hangs is killed and fails the test."""
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(pid: int) -> bool:
    """SIGKILL; whether there was such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def belonging(directory: Path, sessions: Collection[int] = ()) -> Iterator[int]:
    """Living processes that are in one of `sessions`, or have `directory` in their command line, their environment or
    as their place."""
    needle = str(directory).encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid() or not is_alive(int(name)):
            continue
        pid = int(name)
        mentions = (_read(pid, "cmdline"), _read(pid, "environ"), _place(pid))
        if _session(pid) in sessions or any(needle in each for each in mentions):
            yield pid


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:  # it has ended, or is somebody else's
        return b""


def _place(pid: int) -> bytes:
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return b""
