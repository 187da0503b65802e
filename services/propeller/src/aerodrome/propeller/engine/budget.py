"""Retry budgets: whether a failed attempt is followed by another.  Pure.

Three budgets exist; two are decided here, per node.  The user's counts failures of kind USER and UNKNOWN, the system's
those of kind SYSTEM; neither is spent by the other.  Source: spec/data-plane.md, 1.7, 1.9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aerodrome.plugins.api import ErrorKind, Failure


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets and defaults of a data plane (`propeller.node-config`)."""

    max_system_failures: int = 3
    ignore_retry_cause: bool = False
    interruptible_failure_threshold: int = -1
    default_execution_deadline: float = 0.0
    default_active_deadline: float = 0.0


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
