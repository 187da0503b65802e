"""Named points at which a test lets a process die, pause, dawdle or fail.

Without the environment variable `AERODROME_FAULTS` a point does nothing.  It names a directory with a file `plan`, of
lines `POINT WHEN ACTION`.  WHEN is the number of a passing of POINT, counted from 1 in each process: the line happens
once, whichever process comes first.  Or it is `PROBABILITY:SEED`: each passing may be one at which it happens.

`kill` and `stop` send the process that signal, `wait=SECONDS` holds all of it up, `fail` raises `Injected`; what other
actions mean is the caller's business (`due`).  A line that happens appends the pid to the file `fired-LINE` before it
acts, by which a test sees that the fault was real.  A plan that is replaced (by a rename) counts anew; a plan that is
gone plans nothing.

This is one file of standard library, because processes read it that have nothing else of ours.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

VARIABLE = "AERODROME_FAULTS"


class Injected(Exception):
    """A failure that nobody expects, as defects are."""


class _Line:
    """One line of a plan."""

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        self.point, when, self.action = text.split()
        chance, colon, seed = when.partition(":")
        self._random = random.Random(seed) if colon else None
        self._chance = float(chance) if colon else 0.0
        self._nth = 0 if colon else int(chance)
        self._passed = 0

    def is_due(self, directory: Path) -> bool:
        """Whether it happens at this passing; leaves its mark if so."""
        self._passed += 1
        mark = directory / f"fired-{self.number}"
        if self._random is not None:
            return self._random.random() < self._chance and _leave(mark, os.O_APPEND)
        return self._passed == self._nth and _leave(mark, os.O_EXCL)


def _leave(mark: Path, how: int) -> bool:
    try:
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | how, 0o644)
    except FileExistsError:
        return False
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.close(descriptor)
    return True


class Faults:
    """What is planned for this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._version: tuple[int, int] | None = None
        self._planned: dict[str, list[_Line]] = {}
        self._read()

    def due(self, name: str) -> list[str]:
        """Count the passing of a point; what happens now."""
        self._read()
        return [line.action for line in self._planned.get(name, ()) if line.is_due(self._directory)]

    def _read(self) -> None:
        path = self._directory / "plan"
        try:
            found = path.stat()
            version = (found.st_ino, found.st_mtime_ns)
            if version == self._version:
                return
            text = path.read_text()
        except FileNotFoundError:
            version, text = (0, 0), ""
        self._version = version
        self._planned = {}
        for number, line in enumerate(text.splitlines()):
            planned = _Line(number, line)
            self._planned.setdefault(planned.point, []).append(planned)


_faults = Faults(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None

enabled = _faults is not None
"""Whether a test may have planned something for this process."""


def due(name: str) -> list[str]:
    """As `point`, for callers with actions of their own: those are returned, the others have been done."""
    return [] if _faults is None else [action for action in _faults.due(name) if not _act(action)]


def point(name: str) -> None:
    """A place where a test may want this process to end.

    Raises Injected where it is planned, and ValueError for an action that is not known here.
    """
    if _faults is not None:
        for action in due(name):
            if action == "fail":
                raise Injected(f"a test wants a failure at {name}")
            raise ValueError(f"{action!r} is no fault of the point {name}: use kill, stop, wait=SECONDS or fail")


def _act(action: str) -> bool:
    """Whether the action was one that every point has; it is done by now."""
    match action.partition("="):
        case ("kill", _, _):
            os.kill(os.getpid(), signal.SIGKILL)
        case ("stop", _, _):
            os.kill(os.getpid(), signal.SIGSTOP)
        case ("wait", _, seconds):
            time.sleep(float(seconds))  # the whole process is to stand still, its loop included
        case _:
            return False
    return True
