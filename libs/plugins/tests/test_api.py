"""The plugin API: event phases, and what is worth recording."""

from __future__ import annotations

import pytest
from flyteidl.core import execution_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo, advance, failed, task_event_phase

TASK = execution_pb2.TaskExecution


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.NOT_READY, TASK.UNDEFINED),
        (Phase.WAITING_FOR_CACHE, TASK.UNDEFINED),
        (Phase.WAITING_FOR_RESOURCES, TASK.WAITING_FOR_RESOURCES),
        (Phase.QUEUED, TASK.QUEUED),
        (Phase.INITIALIZING, TASK.INITIALIZING),
        (Phase.RUNNING, TASK.RUNNING),
        (Phase.SUCCEEDED, TASK.SUCCEEDED),
        (Phase.RETRYABLE_FAILURE, TASK.FAILED),
        (Phase.PERMANENT_FAILURE, TASK.FAILED),
        (Phase.ABORTED, TASK.ABORTED),
    ],
)
def test_phases_have_their_event_phase(phase: Phase, event: int) -> None:
    assert task_event_phase(phase) == event


def test_every_phase_has_an_event_phase() -> None:
    assert all(task_event_phase(phase) is not None for phase in Phase)


def test_a_failure_and_a_failed_phase_go_together() -> None:
    failure = Failure("C", "m", ErrorKind.USER, retryable=True)
    assert failed(failure).phase is Phase.RETRYABLE_FAILURE
    with pytest.raises(ValueError, match="do not go together"):
        PhaseInfo(Phase.RUNNING, failure=failure)
    with pytest.raises(ValueError, match="do not go together"):
        PhaseInfo(Phase.PERMANENT_FAILURE)


def test_what_adds_nothing_is_not_recorded() -> None:
    running = PhaseInfo(Phase.RUNNING, version=1, reason="r")
    assert advance(None, running) == running
    assert advance(running, running) is None
    assert advance(running, PhaseInfo(Phase.RUNNING, version=0, reason="r")) is None


def test_a_new_reason_is_a_new_version() -> None:
    queued = PhaseInfo(Phase.QUEUED, version=4, reason="a")
    assert advance(queued, PhaseInfo(Phase.QUEUED, reason="b")) == PhaseInfo(Phase.QUEUED, version=5, reason="b")


def test_a_new_phase_starts_with_its_own_version() -> None:
    queued = PhaseInfo(Phase.QUEUED, version=4, reason="a")
    assert advance(queued, PhaseInfo(Phase.RUNNING)) == PhaseInfo(Phase.RUNNING)


def test_too_many_versions_of_a_phase_fail_for_good() -> None:
    queued = PhaseInfo(Phase.QUEUED, version=3, reason="a")
    info = advance(queued, PhaseInfo(Phase.QUEUED, reason="b"), limit=3)
    assert info is not None
    assert info.failure is not None
    assert (info.failure.code, info.failure.retryable) == ("TooManyPluginPhaseVersions", False)


infos = st.builds(
    PhaseInfo,
    st.sampled_from([phase for phase in Phase if "FAILURE" not in phase.name]),
    st.integers(0, 3),
    st.sampled_from(["", "a", "b"]),
)


@given(st.lists(infos, max_size=20))
def test_versions_grow_within_a_phase_and_nothing_follows_the_end(seen: list[PhaseInfo]) -> None:
    recorded: PhaseInfo | None = None
    for info in seen:
        step = advance(recorded, info)
        if step is None:
            continue
        if recorded is not None:
            assert not recorded.phase.terminal
            assert step.phase is not recorded.phase or step.version > recorded.version
        recorded = step
