"""The arguments of flytekit's commands, read at the price of a loop.

click makes a parser, and asks every parameter a dozen questions, for each attempt.  What the commands take is plain:
options with one text each, flags, and a rest after `--`.  It is worked out once, and only what click itself was seen to
read in the same way is read here; anything else is left to click, with its errors.
"""

from __future__ import annotations

from typing import Any


class Reader:
    """Reads the arguments of one command."""

    def __init__(self, options: dict[str, str], flags: dict[str, str], required: frozenset[str], rest: str) -> None:
        self._options = options
        """The parameter of each option that takes one text."""
        self._flags = flags
        self._required = required
        self._rest = rest
        """The parameter that takes what comes after `--`."""
        self._missing: dict[str, Any] = {}
        """What click gives to parameters that are not mentioned."""

    @classmethod
    def of(cls, command: Any) -> Reader | None:
        """A reader of a command of click; None if it takes what is not plain, or is not read as click does."""
        try:
            reader = cls._of(command)
            return reader if reader is not None and reader._agrees(command) else None
        except Exception:  # noqa: BLE001  (another click, or none at all, which says itself what is wrong)
            return None

    @classmethod
    def _of(cls, command: Any) -> Reader | None:
        options: dict[str, str] = {}
        flags: dict[str, str] = {}
        required = set()
        rest = None
        for parameter in command.params:
            if parameter.callback is not None or parameter.envvar is not None:
                return None
            if parameter.param_type_name == "argument":
                if rest is not None or parameter.nargs != -1 or parameter.type.name != "text":
                    return None
                rest = parameter.name
            elif parameter.is_flag:
                flags.update(dict.fromkeys(parameter.opts, parameter.name))
            elif parameter.nargs == 1 and not parameter.multiple and parameter.type.name == "text":
                options.update(dict.fromkeys(parameter.opts, parameter.name))
            if parameter.required and parameter.name != rest:
                required.add(parameter.name)
        return None if rest is None else cls(options, flags, frozenset(required), rest)

    def _agrees(self, command: Any) -> bool:
        """Whether all that can be given, and as little as possible, is read as click reads it."""
        most = [part for option, name in self._options.items() for part in (option, f"a {name}")]
        least = [
            part for option, name in self._options.items() if name in self._required for part in (option, f"a {name}")
        ]
        self._missing = _read_by_click(command, least)
        return all(
            self.read(given) == _read_by_click(command, given)
            for given in (
                least,
                [*least, "--", "one", "--two"],
                most,
                [*most, *self._flags, "--", "one", "--two", "--"],
            )
        )

    def read(self, arguments: list[str]) -> dict[str, Any] | None:
        """The value of each parameter; None if that is for click to say."""
        values = dict(self._missing)
        absent = set(self._required)
        place = 0
        while place < len(arguments):
            word = arguments[place]
            place += 1
            if word == "--":
                values[self._rest] = tuple(arguments[place:])
                break
            if word in self._flags:
                values[self._flags[word]] = True
            elif word in self._options and place < len(arguments) and not arguments[place].startswith("-"):
                values[self._options[word]] = arguments[place]
                absent.discard(self._options[word])
                place += 1
            else:
                return None
        return None if absent else values

    def read_for(self, command: Any, arguments: list[str]) -> None:
        """Have a command take these arguments as they are read here, if they can be."""
        values = self.read(arguments)
        if values is not None:

            def take(context: Any, arguments: list[str]) -> list[str]:
                context.params = values
                context.args = []
                return []

            command.parse_args = take


def _read_by_click(command: Any, arguments: list[str]) -> dict[str, Any]:
    context = command.make_context(command.name, list(arguments))
    values: dict[str, Any] = context.params
    return values
