"""Named points at which a test lets a process die, pause or dawdle.

Without the environment variable `AERODROME_FAULTS` a point does nothing.  It names a directory with a file `plan`, of
lines `POINT NTH ACTION`: at the NTH passing of POINT (counted from 1 in each process), `kill` and `stop` send the
process that signal, and `wait=SECONDS` holds it up.  Each line happens once, whichever process comes first: it leaves
`fired-LINE` there before it acts, by which a test sees that the fault was real.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

VARIABLE = "AERODROME_FAULTS"


class Faults:
    """What is planned for this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._passed: dict[str, int] = {}
        self._planned: dict[str, list[tuple[int, int, str]]] = {}
        for line, text in enumerate((directory / "plan").read_text().splitlines()):
            point, nth, action = text.split()
            self._planned.setdefault(point, []).append((line, int(nth), action))

    def passing(self, name: str) -> None:
        """Count the passing of a point, and let happen what is planned for it."""
        planned = self._planned.get(name)
        if planned is None:
            return
        passed = self._passed[name] = self._passed.get(name, 0) + 1
        for line, nth, action in planned:
            if nth == passed and self._is_first(line):
                _act(action)

    def _is_first(self, line: int) -> bool:
        try:
            descriptor = os.open(self._directory / f"fired-{line}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.close(descriptor)
        return True


def _act(action: str) -> None:
    match action.partition("="):
        case ("kill", _, _):
            os.kill(os.getpid(), signal.SIGKILL)
        case ("stop", _, _):
            os.kill(os.getpid(), signal.SIGSTOP)
        case ("wait", _, seconds):
            time.sleep(float(seconds))
        case _:
            raise ValueError(f"{action!r} is no fault: use kill, stop or wait=SECONDS")


_faults = Faults(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None


def point(name: str) -> None:
    """A place where a test may want this process to end."""
    if _faults is not None:
        _faults.passing(name)
