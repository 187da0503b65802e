"""What the execution of a slot is called: computed exactly as the reference computes it, so that two schedulers, a
restart, and a change from one to the other meet in the same names.

Source: spec/datacatalog-scheduler-notifier.md, section B.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

_OFFSET = 14695981039346656037
_PRIME = 1099511628211
_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One version of a launch plan."""

    project: str
    domain: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.project}:{self.domain}:{self.name}:{self.version}"


def fnv1_64(text: str) -> int:
    """The FNV-1 hash (multiply, then xor) of the text's UTF-8 bytes."""
    value = _OFFSET
    for byte in text.encode():
        value = (value * _PRIME & _MASK) ^ byte
    return value


def schedule_key(key: Key) -> str:
    """What the reference calls a schedule: a number in decimal."""
    return str(fnv1_64(str(key)))


def execution_hash(key: Key, slot: datetime) -> int:
    """The hash behind the name of a slot's execution; fractions of a second do not count."""
    return fnv1_64(f"{key}:{int(slot.timestamp())}")


def execution_name(key: Key, slot: datetime) -> str:
    """The name of a slot's execution: 20 characters that begin with `f` and end in `000`."""
    buffer = execution_hash(key, slot).to_bytes(8, "little") + bytes(8)
    return "f" + buffer.hex()[:19]
