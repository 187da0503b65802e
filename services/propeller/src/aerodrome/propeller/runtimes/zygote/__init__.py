"""The zygote: a warm Python that forks tasks, so that a task need not spend a second on importing flytekit.

The Python of the chosen environment (any Python from 3.9 on) executes `__main__.py` of this folder by its path, which
loads the other files.  So they need nothing but the standard library, import nothing of ours but each other, and do
that relatively and when they are loaded: in that process they have another name, under which no task finds them.  The
local runtime imports some of them too, for what both sides share: how processes are found in /proc, the small files
that say that an attempt has a process or has ended, what a command line asks for.

What it does: it listens on a Unix socket in its working directory, preloads flytekit's entry point where there is one,
and keeps a few children forked ahead of need (`server`).  A child waits on a socket pair for its job; then it becomes
the attempt, either by calling flytekit's command in the fork, or by `exec` (`attempt`).  It never runs user code
itself, and has one thread.

A zygote can be a *template*: forked from another one by order of the platform, with the code of one distribution read
and its module of tasks imported, if that module and all that it imports of the distribution is plain (`template`,
`plain`).  Everything below holds for it as for any other: it has its own socket and promises the same.

What each attempt would do alike is done before the fork where no attempt can tell: the context of a task is made and
only moved afterwards (`addresses`), the arguments of commands are not parsed by click (`reading`), a template has the
map task of its items (`mapped`).

What it promises:

* `<record>.pid` exists before a child learns its job, and is created exclusively: no attempt starts twice.
* `<record>.exit` is written when the attempt is reaped, whether or not the platform is there to be told.
* An attempt is a subreaper: what it starts stays below it, whatever it does with sessions.  When it ends, the rest
  comes to the zygote as children that it does not know, which it kills before it reports the end.
* Without the platform it lives on for `outlive` seconds; then it ends its attempts, reason `Shutdown`, and leaves.

The protocol is one JSON object a line, each with an `op`.  In: `start`, `end`, `retire`, `template`.  Out: `hello`,
`started`, `refused`, `exited`, `templated`.
"""

from __future__ import annotations

import os

from .commands import Command, allows_template, interpret, module_of_tasks, needs_fresh_process
from .distributions import DistributionError, Distributions
from .faults import FAULTS
from .messages import PROTOCOL
from .notes import claim, read_json, write_json
from .proc import (
    MARKER,
    MARKER_ROOM,
    Process,
    descendants,
    is_alive,
    members,
    private_bytes,
    process,
    processes,
    send_signal,
    waited_seconds,
)

__all__ = [
    "FAULTS",
    "MARKER",
    "MARKER_ROOM",
    "PROGRAM",
    "PROTOCOL",
    "Command",
    "DistributionError",
    "Distributions",
    "Process",
    "allows_template",
    "claim",
    "descendants",
    "interpret",
    "is_alive",
    "members",
    "module_of_tasks",
    "needs_fresh_process",
    "private_bytes",
    "process",
    "processes",
    "read_json",
    "send_signal",
    "waited_seconds",
    "write_json",
]

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
"""What a Python executes to be a zygote."""
