"""Forks without what Python does, after each, for the other threads of a process: a zygote has none.

`os.fork` makes anew the locks of the interpreter, of threading, logging and others, in case a thread held them, and
seeds `random`.  In a process with one thread nobody holds them, and an attempt seeds by itself what is random; to do it
all the same takes each attempt 2 ms.  So the C library is asked to fork, where that is known to be enough: by a CPython
of which it was read what it does after forks, and while nobody has registered more than is known here.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

_READ = ((3, 9), (3, 12))
"""First and last CPython of which it was read what `PyOS_AfterFork_Child` does."""
_KNOWN = frozenset(
    ("threading", "random", "logging", "concurrent.futures.thread", "fsspec.spec", "fsspec.asyn", "importlib_metadata")
)
"""Modules that register what is needed by a process with threads only: locks, loops of other threads, caches."""

_libc = ctypes.PyDLL(None, use_errno=True)  # which keeps the interpreter's lock, as a fork has to
_libc.fork.restype = ctypes.c_int
_libc.fork.argtypes = []


class Forks:
    """Forks of this process, and of those that are forked from it and become zygotes too."""

    def __init__(self) -> None:
        self._register: Any = os.register_at_fork
        self.is_quick = (
            sys.implementation.name == "cpython" and _READ[0] <= sys.version_info[:2] <= _READ[1]
        )  # until somebody registers something else

    def watch(self) -> None:
        """Notice who registers something to be done when this process forks, until `unwatch`."""
        os.register_at_fork = self._note

    def unwatch(self) -> None:
        """Leave no trace of that."""
        os.register_at_fork = self._register

    def _note(self, **hooks: Any) -> None:
        if sys._getframe(1).f_globals.get("__name__") not in _KNOWN:
            self.is_quick = False
        self._register(**hooks)

    def fork(self) -> int:
        """The pid of the child, and 0 in the child; this process has one thread.  Raises OSError."""
        if not self.is_quick:
            return os.fork()
        pid: int = _libc.fork()
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        if pid == 0:
            renew: Any = getattr(threading.main_thread(), "_set_native_id", None)
            if renew is not None:
                renew()
        return pid
