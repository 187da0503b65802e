"""Six light tasks, three of them side by side, that note when they start and when they end."""

import os
import time
from pathlib import Path

from flytekit import task, workflow


@task
def chore(name: str, after: list[str], side: str, seconds: float) -> str:
    note(side, "start", name)
    time.sleep(seconds)
    note(side, "end", name)
    return f"{name}({'+'.join(after)})"


def note(side: str, what: str, name: str) -> None:
    """Append a line in one write: what happened, to whom, in which attempt, where."""
    line = f"{what} {name} {os.environ['FLYTE_ATTEMPT_NUMBER']} {os.getpid()} {Path.cwd()}\n"
    descriptor = os.open(side, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@workflow
def chores(side: str, seconds: float) -> str:
    a = chore(name="a", after=[], side=side, seconds=seconds)
    b = chore(name="b", after=[a], side=side, seconds=seconds)
    c = chore(name="c", after=[a], side=side, seconds=seconds)
    d = chore(name="d", after=[a], side=side, seconds=seconds)
    e = chore(name="e", after=[b, c, d], side=side, seconds=seconds)
    return chore(name="f", after=[e], side=side, seconds=seconds)
