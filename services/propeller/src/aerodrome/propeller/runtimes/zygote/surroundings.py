"""What surrounds the modules of a process, to tell whether an import changed it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Any

from .proc import own_children, thread_count

EXIT_HANDLERS = "exit handlers"


def surroundings() -> dict[str, Any]:
    """What an import may have changed around it, by what to call it."""
    return {
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "the search path": list(sys.path),
        "the threads": thread_count(),
        "open files": sorted(os.listdir("/proc/self/fd")),
        "processes": own_children(),
        EXIT_HANDLERS: getattr(atexit, "_ncallbacks", int)(),
        "signal handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "standard streams": (sys.stdin, sys.stdout, sys.stderr, sys.excepthook),
    }
