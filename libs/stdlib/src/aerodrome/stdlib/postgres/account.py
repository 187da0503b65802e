"""As whom the embedded server runs, and how it reaches its files: PostgreSQL refuses to run as root."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerodrome.stdlib.errors import FailedPrecondition

_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


@dataclass(frozen=True)
class Account:
    """The user that owns a database's files and runs its server."""

    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()


def server_account(data_dir: Path) -> Account:
    """The user for the server of `data_dir`: ourselves, or, as root, the owner of existing data, else `nobody`.

    Raises FailedPrecondition if existing data belongs to somebody whom we may not become, or if the user is unknown to
    the system (initdb insists on a name).
    """
    us = os.geteuid()
    try:
        found = (data_dir / "PG_VERSION").stat()
    except FileNotFoundError:
        found = None
    except PermissionError:
        found = data_dir.stat()
    if us != 0:
        if found is not None and found.st_uid != us:
            raise FailedPrecondition(
                f"the database in {data_dir} belongs to user id {found.st_uid}, and this is user id {us}: run as "
                "that user "
                "or as root, or choose another data directory"
            )
        if found is None:
            _require_name(us)
        return Account(us, os.getegid())
    if found is not None and found.st_uid != 0:
        return Account(found.st_uid, found.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise FailedPrecondition(
            "PostgreSQL refuses to run as root and this system has no user named nobody: add one, or run as "
            "another user"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


@dataclass(frozen=True)
class Launch:
    """How to start a program as an account: words before its own command line, and arguments for Popen."""

    prefix: tuple[str, ...]
    popen: dict[str, Any]


def launch_as(account: Account, needed: Iterable[Path]) -> Launch:
    """How to start a program as `account` that must be able to enter the `needed` directories.

    Permissions on disk are never changed.  Where a directory above one of them keeps the account out, the program
    starts with the one capability that lets it pass.  Raises FailedPrecondition if we do not have that to give.
    """
    if account.is_us:
        return Launch((), {})
    closed = [above for path in needed for above in _not_traversable(path, account)]
    if not closed:
        return Launch((), {"user": account.uid, "group": account.gid, "extra_groups": []})
    ours = _permitted_capabilities()
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if ours & (1 << capability):
            script = str(Path(__file__).with_name("launch.py"))
            words = (sys.executable, "-I", "-S", script, str(account.uid), str(account.gid), str(capability))
            return Launch(words, {})
    raise FailedPrecondition(
        f"PostgreSQL runs as user id {account.uid} here, which may not enter {closed[0]}: choose a data directory "
        "below one "
        f"that everybody may enter (chmod o+x {closed[0]} would do it too)"
    )


def _require_name(uid: int) -> None:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise FailedPrecondition(
            f"user id {uid} has no entry in /etc/passwd, which PostgreSQL needs to create a database: add one, or "
            "run as a "
            "user that has one"
        ) from None


def _not_traversable(path: Path, account: Account) -> list[Path]:
    real = Path(os.path.realpath(path))
    directories = [real, *real.parents, *Path(os.path.abspath(path)).parents]
    return [each for each in dict.fromkeys(directories) if each.is_dir() and not _may_enter(each.stat(), account)]


def _may_enter(found: os.stat_result, account: Account) -> bool:
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _permitted_capabilities() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:")), 0)
