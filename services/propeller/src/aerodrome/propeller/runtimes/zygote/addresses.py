"""Where the objects of flytekit name a folder, to let them name another one in place of being made anew."""

from __future__ import annotations

import os
import pathlib
from datetime import datetime, timezone
from typing import Any


class Addresses:
    """The places in a graph of objects that name a folder, or the time at which they were made."""

    def __init__(self, roots: list[Any], folder: str) -> None:
        self._strings: list[tuple[dict[str, Any], str, str]] = []
        self._paths: list[tuple[dict[str, Any], str, str]] = []
        self._times: list[tuple[dict[str, Any], str]] = []
        self.is_complete = True
        """Whether each place can be changed."""
        seen = set()
        waiting = list(roots)
        while waiting:
            each = waiting.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            if isinstance(each, (tuple, list, set, frozenset)):
                self._note_fixed(each, folder)
                waiting.extend(each)
            elif isinstance(each, dict):
                self._note_fixed((*each, *each.values()), folder)
                waiting.extend(each.values())
            elif type(each).__module__.partition(".")[0] == "flytekit" and not isinstance(each, type):
                values: dict[str, Any] = getattr(each, "__dict__", {})
                for name, value in values.items():
                    self._note(values, name, value, folder)
                waiting.extend(values.values())

    def _note_fixed(self, values: Any, folder: str) -> None:
        if any(isinstance(each, (str, os.PathLike)) and folder in str(each) for each in values):
            self.is_complete = False

    def _note(self, values: dict[str, Any], name: str, value: Any, folder: str) -> None:
        if isinstance(value, datetime):
            self._times.append((values, name))
        elif isinstance(value, (str, os.PathLike)) and folder in str(value):
            kinds = {str: self._strings, type(pathlib.Path()): self._paths}
            noted = kinds.get(type(value))
            if noted is None or not str(value).startswith(folder):
                self.is_complete = False
            else:
                noted.append((values, name, str(value)[len(folder) :]))

    def move(self, folder: str) -> None:
        """Let all of them name `folder`, and the present time."""
        for values, name, rest in self._strings:
            values[name] = folder + rest
        for values, name, rest in self._paths:
            values[name] = pathlib.Path(folder + rest)
        now = datetime.now(timezone.utc)  # noqa: UP017  (a zygote may have Python 3.9)
        for values, name in self._times:
            values[name] = now
