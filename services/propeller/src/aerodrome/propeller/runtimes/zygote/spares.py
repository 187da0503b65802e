"""Spares: folders that an attempt left as it got them, for the attempts to come.

Making and removing a folder or a file costs a file system far more than moving one, above all while many are removed.
What is handed on has been looked at when nothing of the attempt was left to change it, and is of this user.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from .template import Template

_SURE_SECONDS = 0.1
"""What changed longer ago has another time of change than what changes now: a file system's clock ticks this often."""
SCRATCH = ("", "user_space", "sandbox", "sandbox/local_flytekit", "sandbox/local_flytekit/engine_dir")
"""What flytekit makes when it is imported, in the folder in which it works."""
_ROOM = "sandbox/local_flytekit"
"""Where flytekit makes a folder for the task, of a name that is drawn."""


class _Code(NamedTuple):
    place: str
    stamps: Any
    """Of all that lies in it; None if it is to be read again, to know whether it changed."""


class Lent(NamedTuple):
    """What an attempt gets, for the zygote to know; either may be None."""

    code: _Code | None
    scratch: str | None

    def written(self) -> dict[str, str | None]:
        """What the attempt is told, and under which name flytekit's folder is to be in its temporary one."""
        return {
            "spare_code": None if self.code is None else self.code.place,
            "spare_scratch": self.scratch,
            "scratch": f"flyte-{os.urandom(6).hex()}",
        }


class Spares:
    """Those of one zygote, in a folder of its own."""

    def __init__(self, folder: str, limit: int, template: Template | None) -> None:
        self._folder = os.path.abspath(folder)
        self._limit = limit
        self._template = template
        self._number = 0
        self._codes: list[_Code] = []
        self._scratches: list[str] = []

    def lend(self) -> Lent:
        """What the next attempt gets."""
        return Lent(self._codes.pop() if self._codes else None, self._scratches.pop() if self._scratches else None)

    def give_back(self, lent: Lent) -> None:
        """What was lent and never used."""
        if lent.code is not None and os.path.isdir(lent.code.place):
            self._codes.append(lent.code)
        if lent.scratch is not None and os.path.isdir(lent.scratch):
            self._scratches.append(lent.scratch)

    def keep(self, job: Mapping[str, Any], lent: Lent) -> None:
        """Take what an attempt, of which no process is left, has left as it got it."""
        self.give_back(lent)
        if self._template is not None and len(self._codes) < self._limit:
            stamps = lent.code.stamps if lent.code is not None else None
            found = self._template.stamps(job["folder"])
            if found is not None and (found == stamps or self._template.is_intact(job["folder"])):
                place = self._move(job["folder"])
                if place is not None:
                    self._codes.append(_Code(place, found if _newest(found) < time.time() - _SURE_SECONDS else None))
        temporary = job["environment"]["TMPDIR"]
        scratch = os.path.join(temporary, job["scratch"])
        if len(self._scratches) < self._limit and _emptied(scratch, temporary):
            place = self._move(scratch)
            if place is not None:
                self._scratches.append(place)

    def _move(self, folder: str) -> str | None:
        self._number += 1
        place = os.path.join(self._folder, f"spare-{self._number}")
        try:
            os.rename(folder, place)
        except OSError:  # on another file system; it is removed like any other
            return None
        return place


def make_scratch(place: str, spare: str | None) -> None:
    """Give an attempt the folder in which flytekit works."""
    if spare is None:
        os.mkdir(place, 0o700)
    else:
        os.rename(spare, place)


def _newest(stamps: list[tuple[int, ...]]) -> float:
    return max((each[-1] for each in stamps), default=0) / 1e9


def _emptied(scratch: str, aside: str) -> bool:
    """Whether flytekit's folder holds what it makes for each attempt, and nothing that a task made.

    The folder that flytekit makes for the task is put `aside` with all that is in it, to go as the attempt's others do.
    """
    places = [os.path.join(scratch, each) if each else scratch for each in SCRATCH]
    room = os.path.join(scratch, _ROOM)
    try:
        if not all(_is_own_folder(each) for each in places):
            return False
        for name in os.listdir(room):
            if name != "engine_dir":
                os.rename(os.path.join(room, name), os.path.join(aside, name))
        return sum(len(os.listdir(each)) for each in places) == len(places) - 1
    except OSError:
        return False


def _is_own_folder(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & stat.S_IRWXU == stat.S_IRWXU
