"""Where Unix sockets of one data directory live: a short path that only its owner may enter.

A socket's path is limited to 107 bytes, so it cannot lie in the data directory, which may be anywhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from aerodrome.stdlib.errors import FailedPrecondition

SOCKET_PATH_LIMIT_BYTES = 107
"""Longest path of a Unix socket on Linux, without the closing zero byte."""

_ROOM_FOR_NAMES = 40
"""Bytes kept free below the directory for a suffix and the name of the socket itself."""


def runtime_dir(data_dir: Path) -> Path:
    """The directory for sockets that serve `data_dir`, created with mode 0700 if it is missing.

    The same data directory always gives the same path for the same user.  It lies in `$XDG_RUNTIME_DIR` where that is
    a directory of ours with a short enough path, otherwise in `/tmp`.  Root always uses `/tmp`, because the database
    runs as somebody else then.  Raises FailedPrecondition when somebody else holds the path.
    """
    uid = os.geteuid()
    digest = hashlib.sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:12]
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and uid != 0 and _is_own_directory(Path(base), uid):
        inside = Path(base) / f"aerodrome-{digest}"
        if len(os.fsencode(inside)) + _ROOM_FOR_NAMES <= SOCKET_PATH_LIMIT_BYTES:
            return private_directory(inside, uid)
    return private_directory(
        Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()) / f"aerodrome-{uid}-{digest}"
    )


def private_directory(path: Path, uid: int | None = None) -> Path:
    """`path` as a directory that belongs to `uid` (default: us) with mode 0700, created if it is missing.

    Raises FailedPrecondition if the path is something else or somebody else's: a stranger could then pose as the
    server.
    """
    owner = os.geteuid() if uid is None else uid
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        if owner != os.geteuid():
            os.chown(path, owner, -1)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner:
        raise FailedPrecondition(
            f"{path} must be a directory of user id {owner}, but it is not; remove it, or set XDG_RUNTIME_DIR to "
            "a directory "
            "of your own"
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def _is_own_directory(path: Path, uid: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid
