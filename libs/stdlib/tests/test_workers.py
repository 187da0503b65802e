"""Worker processes do not outlive what they work for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

SERVICE = """
import asyncio, os
from aerodrome.stdlib.errors import Internal
from aerodrome.stdlib.workers import Workers

async def main():
    workers = Workers(1, ended=lambda: Internal("it ended"))
    print(await workers.run(os.getpid), flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_worker_ends_when_its_parent_is_killed() -> None:
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        worker = int(service.stdout.readline())
        assert is_alive(worker)
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
    deadline = time.monotonic() + 20
    while is_alive(worker):
        assert time.monotonic() < deadline, "it goes on without anybody"
        time.sleep(0.01)
