"""Deliveries as values: what is kept of them, what became of an attempt, and what follows from that."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

MAX_ANSWER_CHARS = 1_000
INTERRUPTIONS = 50
"""An attempt whose process was killed is no failure of the delivery; past so many it may well be the killer."""


class Status(IntEnum):
    """As in aerodrome.notifier.v1.DeliveryStatus."""

    WAITING = 1
    DELIVERED = 2
    FAILED = 3
    NOT_SENT = 4


class Outcome(IntEnum):
    """As in aerodrome.notifier.v1.AttemptOutcome."""

    OPEN = 1
    DELIVERED = 2
    POSTPONED = 3
    REFUSED = 4
    INTERRUPTED = 5
    NOT_SENT = 6


@dataclass(frozen=True, slots=True)
class Planned:
    """A message for one recipient, not kept yet."""

    key: str
    """The idempotency key."""
    project: str
    domain: str
    execution: str
    phase: str
    rule: str
    channel: str
    kind: str
    recipient: str
    subject: str
    content: str
    """JSON, in the form that the sender of its kind understands; it holds no secret."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process tries to send now, under an attempt that is recorded."""

    id: int
    attempt: int
    failures: int
    interrupted: int
    """How many attempts ended with the process that made them."""
    counting_since: datetime
    """Its age counts from here: when it was made, or retried by hand."""
    delivery: Planned
    once: bool = False
    """Whether this is its only attempt: a test."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of a delivery's log."""

    number: int
    outcome: Outcome
    started_at: datetime
    finished_at: datetime | None
    answer: str
    error: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """As it is kept, with its latest attempts."""

    id: int
    planned: Planned
    status: Status
    attempt_count: int
    created_at: datetime
    finished_at: datetime | None
    due_at: datetime
    error: str
    attempts: Sequence[Attempt] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt."""

    outcome: Outcome
    answer: str = ""
    error: str = ""
    not_before: timedelta | None = None
    """How long the other side asked us to wait."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows for the delivery."""

    status: Status
    due_at: datetime
    error: str = ""
    failed: bool = False
    """Whether the attempt counts as a failure."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a delivery is tried."""

    attempts: int
    max_age: timedelta
    first: timedelta
    longest: timedelta


def idempotency_key(*parts: str) -> str:
    """The key of what these parts name: the same at each time, whoever computes it."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:40]


def judge(claimed: Claimed, result: Result, now: datetime, patience: Patience, chance: random.Random) -> Verdict:
    """What follows from an attempt that ended `now`."""
    match result.outcome:
        case Outcome.DELIVERED:
            return Verdict(Status.DELIVERED, now)
        case Outcome.NOT_SENT:
            return Verdict(Status.NOT_SENT, now, result.error)
        case Outcome.REFUSED:
            return Verdict(Status.FAILED, now, result.error, failed=True)
    failures = claimed.failures + 1
    if claimed.once:
        return Verdict(Status.FAILED, now, result.error, failed=True)
    if failures >= patience.attempts:
        return Verdict(Status.FAILED, now, f"given up after {failures} attempts: {result.error}", failed=True)
    pause = _pause(failures, result.not_before, patience, chance)
    if now + pause > claimed.counting_since + patience.max_age:
        age = _hours(patience.max_age)
        return Verdict(Status.FAILED, now, f"given up: not delivered within {age}: {result.error}", failed=True)
    return Verdict(Status.WAITING, now + pause, result.error, failed=True)


def judge_interrupted(claimed: Claimed, now: datetime, patience: Patience) -> str | None:
    """Why a delivery is given up before this attempt, because of the attempts before; None if it is to be made."""
    if not claimed.interrupted:
        return None
    if claimed.once:
        return "the process that made the test ended before its outcome was recorded"
    if claimed.interrupted >= INTERRUPTIONS:
        return f"given up: {claimed.interrupted} attempts ended with the process that made them"
    if now > claimed.counting_since + patience.max_age:
        return f"given up: not delivered within {_hours(patience.max_age)}"
    return None


def _pause(failures: int, not_before: timedelta | None, patience: Patience, chance: random.Random) -> timedelta:
    """Doubling, with half of it left to chance so that those who failed together do not come back together."""
    longest = min(patience.longest.total_seconds(), patience.first.total_seconds() * 2.0 ** min(failures - 1, 60))
    pause = timedelta(seconds=longest * chance.uniform(0.5, 1.0))
    return pause if not_before is None else max(pause, min(not_before, patience.longest))


def _hours(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours:g} h" if hours >= 1 else f"{length.total_seconds():g} s"
