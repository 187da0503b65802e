"""A bounded memory of things that never change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """The values that were asked for most recently: at most `max_entries`, of at most `max_bytes` together."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def find(self, key: K) -> V | None:
        """The value, if it is still remembered."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def keep(self, key: K, value: V, *, size_bytes: int) -> None:
        """Remember a value; one that would take more than an eighth of the room is not kept."""
        if size_bytes > self._max_bytes // 8 or key in self._values:
            return
        self._values[key] = (value, size_bytes)
        self._bytes += size_bytes
        while len(self._values) > self._max_entries or self._bytes > self._max_bytes:
            _, (_, dropped) = self._values.popitem(last=False)
            self._bytes -= dropped

    def __len__(self) -> int:
        return len(self._values)
