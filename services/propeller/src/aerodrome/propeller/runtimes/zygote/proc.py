"""Processes, as /proc shows them: found, told apart, summed up, and signalled.

What both sides of a zygote need: the runtime looks at attempts with it, and the zygote at its children.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

MARKER = "AERODROME_POD"
"""Variable that every process of an attempt inherits: `<namespace>/<name>@<runtime>`."""
MARKER_ROOM = 480

_TICKS = os.sysconf("SC_CLK_TCK")


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


def waited_seconds(pids: Iterable[int]) -> float:
    """How long their living threads were able to run and had no processor; 0 where nobody counts it."""
    waited = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended, or the kernel keeps no such account
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                    waited += int(file.read().split()[1])
    return waited / 1e9


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
