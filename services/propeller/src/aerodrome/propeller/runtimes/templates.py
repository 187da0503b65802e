"""Which code is worth a template: a zygote that has a distribution's module of tasks imported already.

Pure but for the links that it keeps.  What is asked for often within a short time gets one; there are only a few at a
time, and those that nobody asks for any more are let go.  Whether a module may be imported ahead is the zygote's
business (`zygote.template`); what it objected to is not asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aerodrome.propeller.runtimes import zygote, zygotes

OFTEN = 3
"""Attempts of the same code, within `RECENTLY_SECONDS`, from which on it is worth a template."""
RECENTLY_SECONDS = 30.0
IDLE_SECONDS = 45.0
"""A template that had nothing to do for this long is let go."""
LIMIT = 4
"""Templates at most, each of which holds some 60 MB of its own, and as many children ahead of need as a zygote."""
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Code:
    """What a template has imported."""

    python: Path
    reference: str
    """The distribution, as the command names it."""
    module: str
    arguments: tuple[str, ...] = field(default=(), compare=False)
    """Of one of the commands that run it."""


@dataclass(slots=True)
class _Entry:
    asked: list[float] = field(default_factory=list)
    """When it was asked for, the last `OFTEN` times."""
    is_coming: bool = False
    objection: str | None = None
    link: zygotes.Link | None = None


def code_of(python: Path, argv: tuple[str, ...], environment: Mapping[str, str]) -> Code | None:
    """The code that a command runs; None if it is none that a template could have."""
    if not zygote.allows_template(environment):
        return None
    try:
        command = zygote.interpret(list(argv), "")
    except ValueError:
        return None
    if not command.name or not command.distribution:
        return None
    module = zygote.module_of_tasks(command.arguments)
    if module is None:
        return None
    return Code(python, command.distribution, module, tuple(command.arguments))


class Templates:
    """The templates of one runtime; times are seconds of one clock."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Code, _Entry] = OrderedDict()

    def ask(self, code: Code, now: float) -> zygotes.Link | None:
        """The template of `code`, if there is one that can be used."""
        entry = self._entries.setdefault(code, _Entry())
        self._entries.move_to_end(code)
        entry.asked = [*entry.asked[1 - OFTEN :], now]
        self._forget()
        link = entry.link
        return link if link is not None and not link.lost and not link.stopping else None

    def is_worth(self, code: Code, now: float) -> bool:
        """Whether a template of `code`, which has none, should be made now."""
        entry = self._entries[code]
        return (
            not entry.is_coming
            and entry.objection is None
            and len(entry.asked) >= OFTEN
            and now - entry.asked[0] <= RECENTLY_SECONDS
            and sum(each.is_coming or each.link is not None for each in self._entries.values()) < LIMIT
        )

    def comes(self, code: Code) -> None:
        """Note that a template is being made."""
        self._entries[code].is_coming = True

    def came(self, code: Code, link: zygotes.Link | None, objection: str | None = None) -> None:
        """Note how that went: with a link; with an objection, which holds for good; or with neither, for now."""
        entry = self._entries[code]
        entry.is_coming, entry.link, entry.objection = False, link, objection
        entry.asked.clear() if link is None else None

    def ended(self, link: zygotes.Link) -> None:
        """Note that a zygote, which may have been a template, is gone."""
        for entry in self._entries.values():
            if entry.link is link:
                entry.link = None

    def __iter__(self) -> Iterator[zygotes.Link]:
        """Those that there are."""
        return (entry.link for entry in self._entries.values() if entry.link is not None)

    def idle(self, now: float) -> list[zygotes.Link]:
        """Those that were not asked for lately."""
        return [
            entry.link
            for entry in self._entries.values()
            if entry.link is not None and now - entry.asked[-1] > IDLE_SECONDS
        ]

    def _forget(self) -> None:
        for code, entry in list(self._entries.items()):
            if len(self._entries) <= _REMEMBERED:
                return
            if entry.link is None and not entry.is_coming:
                del self._entries[code]
