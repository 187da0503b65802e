"""How long a reservation lasts.  Source: spec/datacatalog-scheduler-notifier.md, A.6."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration

_MOST_SECONDS = 315_576_000_000
"""What google.protobuf.Duration permits: about ten thousand years."""


@dataclass(frozen=True, slots=True)
class Held:
    """Who has a reservation, and until when."""

    owner_id: str
    heartbeat: timedelta
    expires_at: datetime


def check_interval(given: bool, asked: Duration) -> Iterator[str]:
    """What is wrong with a heartbeat interval that a caller asks for."""
    if given and (asked.seconds < 0 or asked.nanos < 0 or asked.seconds > _MOST_SECONDS or asked.nanos > 999_999_999):
        yield "invalid value for heartbeat interval: it is not a duration from zero up"


def interval(given: bool, asked: Duration, most: timedelta) -> timedelta:
    """The interval that is granted: what is asked for up to `most`; that too if nothing is."""
    if not given or asked.seconds >= most.total_seconds():
        return most
    wanted = timedelta(seconds=asked.seconds, microseconds=asked.nanos // 1000)
    return min(wanted, most)


def expiry(now: datetime, heartbeat: timedelta, grace_multiplier: int) -> datetime:
    """When a reservation made or extended now ends by itself."""
    return now + heartbeat * grace_multiplier
