"""A platform with planned faults, and somebody who brings it back: what stands still goes on or is killed, what died is
started again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aerodrome.propeller.runtimes import zygote
from aerodrome.stdlib import faults
from tests.e2e.instance import Instance, is_alive, kill


class FaultedInstance(Instance):
    """An instance that looks for plans of faults in a directory of its own."""

    def __init__(self, data_dir: Path, home: Path, plans: Path, *, arguments: Sequence[str] = ()) -> None:
        super().__init__(data_dir, home, arguments=arguments)
        plans.mkdir()
        self._plans = plans

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, faults.VARIABLE: str(self._plans)}

    def plan(self, lines: Sequence[str]) -> None:
        """Replace what is planned."""
        for mark in self._plans.glob("fired-*"):
            mark.unlink()
        following = self._plans / "next"
        following.write_text("".join(f"{line}\n" for line in lines))
        following.rename(self._plans / "plan")

    def fired(self, line: int) -> int:
        """How often a line of the plan has happened."""
        try:
            return len((self._plans / f"fired-{line}").read_text().splitlines())
        except FileNotFoundError:
            return 0

    @property
    def platform(self) -> int | None:
        """The platform's own process, if it lives."""
        try:
            pid = self.pid
        except (FileNotFoundError, ValueError):
            return None
        return pid if is_alive(pid) else None

    def tasks(self) -> list[int]:
        """The processes that carry out attempts, and what these have started."""
        return [pid for pid in self.processes() if _is_task(pid)]


def _is_task(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended
        return False
    _, _, rest = environment.partition(f"{zygote.MARKER}=".encode())
    return bool(rest.partition(b"\0")[0].strip(b"."))


def is_stopped(pid: int) -> bool:
    """Whether a process stands still because of SIGSTOP."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


class Supervisor:
    """Looks after an instance in a thread of its own, until `close`."""

    def __init__(self, instance: FaultedInstance, *, patience: float, kills: bool) -> None:
        self._instance = instance
        self._patience = patience
        """Seconds that a process stands still."""
        self._kills = kills
        """Whether one that stood still is killed, and not continued."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self.restarts = 0
        self.trouble: BaseException | None = None
        self._thread.start()

    def close(self) -> None:
        """Stop looking after it.  Raises what went wrong meanwhile."""
        self._over.set()
        self._thread.join()
        if self.trouble is not None:
            raise self.trouble

    def _run(self) -> None:
        since: dict[int, float] = {}
        try:
            while not self._over.is_set():
                since = self._move_on(since)
                # What stands still holds on to what a new platform needs, as the database's memory.
                if self._instance.platform is None and not since:
                    self._instance.up()
                    self.restarts += 1
                self._over.wait(0.03)
        except BaseException as error:  # noqa: BLE001  (the test raises it)
            self.trouble = error

    def _move_on(self, since: Mapping[int, float]) -> dict[int, float]:
        now = time.monotonic()
        standing = {pid: since.get(pid, now) for pid in self._instance.processes() if is_stopped(pid)}
        for pid, begin in standing.items():
            if now - begin >= self._patience:
                if self._kills:
                    kill(pid)
                else:
                    _go_on(pid)
        return standing


def _go_on(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
