"""What becomes of a reported change: accepted, a repeat of what is known, or refused."""

from __future__ import annotations

from dataclasses import dataclass

from flyteidl.admin.event_pb2 import EventErrorAlreadyInTerminalState, EventErrorIncompatibleCluster, EventFailureReason

from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition


@dataclass(frozen=True, slots=True)
class Accepted:
    """It changed the rows."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """It was recorded before; nothing changed."""

    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It is no legal successor of what is recorded; nothing changed.

    `aborting` tells that it would have started something in an execution that is being aborted.
    """

    error: AerodromeError
    aborting: bool = False


Verdict = Accepted | Repeated | Refused

ACCEPTED = Accepted()


def refuse(message: str) -> Refused:
    """A refusal without details."""
    return Refused(FailedPrecondition(message))


def already_terminal(message: str, phase_name: str) -> FailedPrecondition:
    """The error for what is over, with the detail by which an engine knows to stop."""
    reason = EventFailureReason(already_in_terminal_state=EventErrorAlreadyInTerminalState(current_phase=phase_name))
    return FailedPrecondition(message, [reason])


def incompatible_cluster(producer: str, recorded: str) -> FailedPrecondition:
    """The error for an engine that reports what another one drives."""
    return FailedPrecondition(
        f"Cluster/producer from event [{producer}] does not match existing workflow execution clusterInDB: "
        f"[{recorded}]",
        [EventFailureReason(incompatible_cluster=EventErrorIncompatibleCluster(cluster=producer))],
    )
