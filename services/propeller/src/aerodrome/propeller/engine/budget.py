"""Retries: whether a failed attempt is followed by another, and when.  Pure.

Three budgets exist; two are decided here, per node.  The user's counts failures of kind USER and UNKNOWN, the system's
those of kind SYSTEM; neither is spent by the other.  Source: spec/data-plane.md, 1.7, 1.9.  When the next attempt
begins is Aerodrome's own: a pause that grows from attempt to attempt (`RetryPolicy`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from flyteidl.core import tasks_pb2

from aerodrome.plugins import quantity
from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.plugins.names import fnv1a
from aerodrome.stdlib.config import parse_duration

RETRY_KEYS: Final = "aerodrome.retry."
"""What the keys of a retry policy begin with, in a task's config, in annotations of its pod or of the execution."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When the next attempt begins, and with how much memory."""

    backoff: float = 0.0
    """Seconds before the first retry; 0 lets all begin at once."""
    factor: float = 2.0
    """By how much the pause grows from retry to retry."""
    max_backoff: float = 300.0
    """Longest pause, in seconds."""
    jitter: float = 0.2
    """Up to which part of itself a pause is shortened, so that what failed together does not come back together."""
    memory_factor: float = 1.0
    """By how much the memory grows after each out-of-memory kill; 1 leaves it."""
    memory_limit: str = ""
    """Most memory that retries may ask for, as a Kubernetes quantity; no limit of its own if empty."""

    def pause(self, attempt: int, key: str) -> float:
        """Seconds between the failure of attempt `attempt` (from 0) and the next one; the same for the same `key`."""
        if self.backoff <= 0:
            return 0.0
        try:
            longest = min(self.backoff * self.factor**attempt, self.max_backoff)
        except OverflowError:
            longest = self.max_backoff
        return longest * (1.0 - self.jitter * fnv1a(key.encode(), 64) / 2**64)

    def with_settings(self, settings: Mapping[str, str]) -> RetryPolicy:
        """This policy changed by those of `settings` whose keys are ours.

        Keys: `aerodrome.retry.` and `backoff`, `factor`, `max-backoff`, `jitter`, `memory-factor`, `memory-limit`.
        Raises ValueError naming key and value.
        """
        policy = self
        for key, text in settings.items():
            if key.startswith(RETRY_KEYS):
                policy = _changed(policy, key, text)
        return policy


def _changed(policy: RetryPolicy, key: str, text: str) -> RetryPolicy:
    try:
        match key.removeprefix(RETRY_KEYS):
            case "backoff":
                return replace(policy, backoff=_seconds(text))
            case "max-backoff":
                return replace(policy, max_backoff=_seconds(text))
            case "factor":
                return replace(policy, factor=_number(text, 1.0, 1_000.0))
            case "jitter":
                return replace(policy, jitter=_number(text, 0.0, 1.0))
            case "memory-factor":
                return replace(policy, memory_factor=_number(text, 1.0, 100.0))
            case "memory-limit":
                quantity.parse(text)
                return replace(policy, memory_limit=text)
    except ValueError as error:
        raise ValueError(f"{key}: {text!r}: {error}") from error
    known = ", ".join(("backoff", "factor", "max-backoff", "jitter", "memory-factor", "memory-limit"))
    raise ValueError(f"{key} is not a setting of retries; there are {RETRY_KEYS}* with {known}")


def _seconds(text: str) -> float:
    seconds = parse_duration(text).total_seconds()
    if not 0 <= seconds <= 7 * 86_400:
        raise ValueError("it has to be between 0 and 168h")
    return seconds


def _number(text: str, least: float, most: float) -> float:
    number = float(text)
    if math.isnan(number) or not least <= number <= most:
        raise ValueError(f"it has to be between {least:g} and {most:g}")
    return number


def policy_of(task: tasks_pb2.TaskTemplate | None, default: RetryPolicy) -> RetryPolicy:
    """The retry policy of a task: `default`, changed by the annotations of its pod, changed by its config.

    Raises ValueError naming what cannot be read.
    """
    if task is None:
        return default
    policy = default
    if task.WhichOneof("target") == "k8s_pod":
        policy = policy.with_settings(task.k8s_pod.metadata.annotations)
    return policy.with_settings(task.config) if task.config else policy


def pause_after(task: tasks_pb2.TaskTemplate | None, attempt: int, key: str, limits: Limits) -> float:
    """Seconds between the failure of attempt `attempt` of a task and the next one; `key` names what failed.

    A policy that cannot be read was refused when the task started, so what counts here is the default.
    """
    try:
        policy = policy_of(task, limits.retry)
    except ValueError:
        policy = limits.retry
    return policy.pause(attempt, f"{limits.jitter_seed}/{key}/{attempt}")


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets and defaults of a data plane (`propeller.node-config`)."""

    max_system_failures: int = 3
    ignore_retry_cause: bool = False
    interruptible_failure_threshold: int = -1
    default_execution_deadline: float = 0.0
    default_active_deadline: float = 0.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    jitter_seed: str = ""
    """What tells the pauses of one execution from those of another."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt follows; `spends_system` says which budget pays for it."""

    spends_system: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt; `failure` is what the node fails with."""

    failure: Failure


def decide(
    failure: Failure, *, attempts: int, system_failures: int, max_attempts: int, limits: Limits
) -> Retry | GiveUp:
    """What follows the failure of attempt `attempts` (from 0), after `system_failures` earlier system failures."""
    if not failure.retryable:
        return GiveUp(failure)
    system = failure.kind is ErrorKind.SYSTEM
    if limits.ignore_retry_cause:
        current, most = attempts + 1, max_attempts
    elif system:
        current, most = system_failures, limits.max_system_failures
    else:
        current, most = attempts + 1 - system_failures, max_attempts
    if current < most:
        return Retry(spends_system=system)
    exhausted = replace(
        failure,
        code=f"RetriesExhausted|{failure.code}",
        message=f"[{current}/{most}] attempts done. Last error: {failure.kind.name}::{failure.message}",
        kind=ErrorKind.USER,
        retryable=False,
    )
    return GiveUp(exhausted)


def interruptible_now(wanted: bool, *, attempts: int, system_failures: int, max_attempts: int, limits: Limits) -> bool:
    """Whether the next attempt may run on capacity that can be taken away; the last permitted try may not."""
    if not wanted:
        return False
    threshold = limits.interruptible_failure_threshold
    if limits.ignore_retry_cause:
        if attempts == 0:
            return True
        spent, most = attempts, max_attempts
    else:
        spent, most = system_failures, limits.max_system_failures + 1
    return spent < (threshold if threshold > 0 else most - abs(threshold))
