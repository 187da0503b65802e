"""A process that may or may not be our child: watched, signalled without mistaking a reused id, and reaped."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from typing import Any


class Process:
    """One operating-system process, held by a descriptor where the system has them (Linux), else by its id."""

    def __init__(self, pid: int, descriptor: int | None, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._child = child

    @classmethod
    def spawn(cls, command: list[str], **popen: Any) -> Process:
        """Start a child in its own session; its end is watched by nobody but the caller."""
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **popen)
        return cls(child.pid, _open(child.pid), child)

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """The running process `pid`, None if there is none."""
        try:
            descriptor = _open(pid)
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return cls(pid, descriptor, None)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        try:
            if self._descriptor is not None and sys.platform == "linux":
                signal.pidfd_send_signal(self._descriptor, number)
            elif not self._is_over():
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    async def ended(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for its end, and say whether it has ended."""
        if self._is_over():
            return True
        if self._descriptor is None:
            return await self._poll(timeout)
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        descriptor = os.dup(self._descriptor)  # several may wait at once, and a loop knows one reader per descriptor
        loop.add_reader(descriptor, over.set)
        try:
            async with asyncio.timeout(timeout):
                await over.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._is_over()

    def close(self) -> None:
        """Let go of the process, whether it runs or not."""
        if self._descriptor is not None:
            self._is_over()
            os.close(self._descriptor)
            self._descriptor = None
        if self._child is not None:
            if self._child.poll() is None:
                self._child.returncode = 0  # it stays on purpose: Popen must neither warn nor wait for it
            self._child = None

    def _is_over(self) -> bool:
        if self._child is not None:
            return self._child.poll() is not None
        if self._descriptor is not None:
            poll = select.poll()  # not select(), which takes no descriptor above 1023
            poll.register(self._descriptor, select.POLLIN)
            over = bool(poll.poll(0))
            if over:
                self._reap()
            return over
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _reap(self) -> None:
        """An adopted process may be a child that an earlier `Process` of ours let go of."""
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass

    async def _poll(self, timeout: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while not self._is_over():  # noqa: ASYNC110 - nothing tells of the end of a stranger here
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True


def _open(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # a kernel or a sandbox without it
        return None
