"""The standard streams of a process that has a log of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn


def redirect(log: str) -> None:
    """Read nothing, and append what is said to the file `log`, line by line."""
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


def leave(code: int) -> NoReturn:
    """End at once: what was said is written, and nothing else is done of what belongs to the process forked from."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
