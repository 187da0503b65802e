"""The signals of one execution that have a value, and who waits for others."""

from __future__ import annotations

from collections.abc import Callable

from flyteidl.core import literals_pb2
from google.protobuf.message import DecodeError

from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)


class Signals:
    """Values come with the lease, from the control plane's answers, and as its decisions; repeats are fine."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[int, literals_pb2.Literal]] = {}
        """By signal: the sequence of the decision that set it (0 if that is not known), and its value."""
        self._waiting: dict[str, list[Callable[[literals_pb2.Literal], None]]] = {}

    def set(self, signal_id: str, value: bytes, sequence: int = 0) -> None:
        """A signal has this value, a serialized literal; of several decisions the last counts.

        Decisions come again, in any order: `sequence` tells them apart.  Source: spec/control-plane.md, 9.6.
        """
        known = self._values.get(signal_id)
        if known is not None and known[0] >= sequence:
            return
        try:
            literal = literals_pb2.Literal.FromString(value)
        except DecodeError as error:
            log.error("the value of a signal cannot be read", signal=signal_id, error=str(error))
            return
        self._values[signal_id] = (sequence, literal)
        for listener in self._waiting.pop(signal_id, ()):
            listener(literal)

    def when_set(self, signal_id: str, listener: Callable[[literals_pb2.Literal], None]) -> None:
        """Call `listener` once the signal has a value, which may be at once."""
        known = self._values.get(signal_id)
        if known is not None:
            listener(known[1])
        else:
            self._waiting.setdefault(signal_id, []).append(listener)
