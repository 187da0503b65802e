"""Becomes another program as another user while keeping the right to enter directories that only root may enter.

Run as a script by the embedded server, as root, when the data directory or the server's own files lie below a
directory (such as `/root`) that the server's user cannot traverse: `launch.py UID GID CAPABILITY PROGRAM ARGUMENT...`.
The capability (a number of linux/capability.h) becomes ambient, so it outlives the exec; everything else of root is
dropped.  Permissions on disk stay as they are.  It uses the standard library alone and never imports ours.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2
_KEEP_CAPS = 1 << 4
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(arguments: list[str]) -> None:
    """Replace this process; returns only by raising OSError."""
    uid, gid, capability = (int(word) for word in arguments[:3])
    libc = ctypes.CDLL(None, use_errno=True)
    # Without the fixup access(2) honours the capability too, with which PostgreSQL looks for its own files.
    _check(libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP | _KEEP_CAPS, 0, 0, 0))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    mask = 1 << capability  # both that we use are below 32, the first of the two words
    data = (_Data * 2)(_Data(mask, mask, mask), _Data(0, 0, 0))
    _check(libc.capset(ctypes.byref(header), data))
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))
    os.execv(arguments[3], arguments[3:])


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
