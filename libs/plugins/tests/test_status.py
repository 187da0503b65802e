"""From the status of a pod to the phase of its task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Phase, PhaseInfo
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.status import deleted_externally, judge

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
USER, SYSTEM = ErrorKind.USER, ErrorKind.SYSTEM


def pod(phase: str | None, *statuses: dict[str, Any], primary: str | None = "main", **status: Any) -> dict[str, Any]:
    """A pod with the containers `main` and `side`."""
    return {
        "metadata": {"name": "p", "annotations": {"primary_container_name": primary} if primary else {}},
        "spec": {"containers": [{"name": "main"}, {"name": "side"}]},
        "status": {**({"phase": phase} if phase else {}), "containerStatuses": list(statuses), **status},
    }


def ended(name: str, code: int, reason: str = "", message: str = "", **more: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message, **more}
    return {"name": name, "state": {"terminated": terminated}}


def running(name: str) -> dict[str, Any]:
    return {"name": name, "ready": True, "state": {"running": {"startedAt": "2026-01-01T11:00:00Z"}}}


def waiting(name: str, reason: str, message: str = "why") -> dict[str, Any]:
    return {"name": name, "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}


def of(document: dict[str, Any], **config: Any) -> PhaseInfo:
    return judge(document, K8sPluginConfig(**config), NOW)


def failure_of(document: dict[str, Any], **config: Any) -> tuple[str, ErrorKind, bool]:
    info = of(document, **config)
    assert info.failure is not None, info
    assert info.phase is (Phase.RETRYABLE_FAILURE if info.failure.retryable else Phase.PERMANENT_FAILURE)
    return info.failure.code, info.failure.kind, info.failure.retryable


class TestSucceeded:
    def test_a_pod_that_succeeded_is_a_task_that_did(self) -> None:
        assert of(pod("Succeeded", ended("main", 0, "Completed"))).phase is Phase.SUCCEEDED

    def test_a_container_that_ran_out_of_memory_spoils_it(self) -> None:
        document = pod("Succeeded", ended("main", 0, "Completed"), ended("side", 137, "OOMKilled"))
        assert failure_of(document) == ("OOMKilled", USER, True)
        document = pod("Succeeded", initContainerStatuses=[ended("init", 137, "OOMKilled")])
        assert failure_of(document) == ("OOMKilled", USER, True)


class TestRunning:
    def test_a_running_primary_container_is_a_running_task(self) -> None:
        assert of(pod("Running", running("main"), ended("side", 1, "Error"))).phase is Phase.RUNNING
        assert of(pod("Unknown", running("main"))).phase is Phase.RUNNING

    def test_known_logs_make_another_version(self) -> None:
        document = pod("Running", running("main"))
        assert judge(document, K8sPluginConfig(), NOW).version == 0
        assert judge(document, K8sPluginConfig(), NOW, has_logs=True).version == 1

    def test_the_end_of_the_primary_container_is_the_end_of_the_task(self) -> None:
        assert of(pod("Running", ended("main", 0, "Completed"), running("side"))).phase is Phase.SUCCEEDED

    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            (ended("main", 1, "Error"), ("Error", USER, True)),
            (ended("main", 1), ("Error", USER, True)),
            (ended("main", 137, "OOMKilled"), ("OOMKilled", USER, True)),
            (ended("main", 137, "Error"), ("Error", SYSTEM, True)),
            (ended("main", 247, "Error"), ("Error", SYSTEM, True)),
            (ended("main", 139, "Error"), ("Error", USER, True)),
            (ended("main", 128, "StartError", "no such file"), ("StartError", USER, False)),
            (ended("main", 143, "Shutdown"), ("Interrupted", SYSTEM, True)),
            ({"name": "main", "state": {"terminated": {"reason": "Error"}}}, ("Interrupted", SYSTEM, True)),
        ],
    )
    def test_a_primary_container_that_failed_is_a_task_that_did(
        self, end: dict[str, Any], expected: tuple[str, ErrorKind, bool]
    ) -> None:
        assert failure_of(pod("Running", end, running("side"))) == expected

    def test_the_message_tells_the_container_its_exit_code_and_its_last_words(self) -> None:
        info = of(pod("Running", ended("main", 3, "Error", "last words\n")))
        assert info.failure is not None
        assert info.failure.message == "container main exited with code 3\nlast words"
        assert info.reason == info.failure.message

    def test_a_signal_is_called_by_its_name(self) -> None:
        info = of(pod("Running", ended("main", 139, "Error")))
        assert info.failure is not None
        assert info.failure.message == "container main was ended by SIGSEGV (exit code 139)"

    def test_a_primary_container_without_status_is_awaited_if_the_pod_has_it(self) -> None:
        assert of(pod("Running", running("side"))).phase is Phase.RUNNING
        assert failure_of(pod("Running", running("side"), primary="other")) == (
            "PrimaryContainerNotFound",
            USER,
            False,
        )

    def test_without_a_primary_container_all_must_end_well(self) -> None:
        done, going = ended("main", 0), running("side")
        assert of(pod("Running", done, going, primary=None)).phase is Phase.RUNNING
        assert of(pod("Running", done, ended("side", 1, "Error"), primary=None)).phase is Phase.RUNNING
        assert of(pod("Running", done, ended("side", 0), primary=None)).phase is Phase.SUCCEEDED
        assert of(pod("Running", primary=None)).phase is Phase.RUNNING
        init = {"initContainerStatuses": [running("uploader")]}
        assert of(pod("Running", done, ended("side", 0), primary=None, **init)).phase is Phase.RUNNING

    def test_outputs_that_are_uploaded_afterwards_are_awaited(self) -> None:
        document = pod("Running", ended("main", 0))
        document["spec"]["initContainers"] = [{"name": "flyte-copilot-uploader"}]
        assert of(document).phase is Phase.RUNNING


class TestFailed:
    @pytest.mark.parametrize(
        ("statuses", "reason", "expected"),
        [
            ((), "Shutdown", ("Interrupted", SYSTEM, True)),
            ((), "Terminated", ("Interrupted", SYSTEM, True)),
            ((), "NodeShutdown", ("Interrupted", SYSTEM, True)),
            ((), "NodeAffinity", ("Interrupted", SYSTEM, True)),
            ((), "Lost", ("Interrupted", SYSTEM, True)),
            ((), "Evicted", ("Evicted", USER, True)),
            ((), "DeadlineExceeded", ("DeadlineExceeded", USER, True)),
            ((), "StartError", ("StartError", USER, False)),
            ((), "UnsatisfiableResources", ("UnsatisfiableResources", USER, False)),
            ((), "", ("Interrupted", SYSTEM, True)),
            ((ended("main", 137, "OOMKilled"),), "", ("OOMKilled", USER, True)),
            ((ended("side", 137, "OOMKilled"),), "Evicted", ("OOMKilled", USER, True)),
            ((ended("main", 137, "Error"),), "", ("Interrupted", SYSTEM, True)),
            ((ended("main", 247, "Error"),), "Evicted", ("Interrupted", SYSTEM, True)),
            ((ended("side", 137, "Error"),), "", ("Interrupted", USER, True)),
            ((ended("main", 1, "Error"),), "", ("Error", USER, True)),
            ((ended("main", 2, "ContainerCannotRun"),), "", ("ContainerCannotRun", USER, True)),
            ((ended("main", 139, "Error"),), "", ("Error", USER, True)),
            ((ended("main", 143, "Shutdown"),), "", ("Interrupted", SYSTEM, True)),
            ((ended("main", 127, "StartError"),), "", ("StartError", USER, False)),
            ((ended("main", 1, "Error"), ended("side", 0)), "", ("Error", USER, True)),
            ((waiting("main", "PodInitializing"), ended("side", 4, "Error")), "", ("Error", USER, True)),
        ],
    )
    def test_a_failed_pod_is_judged_by_its_primary_container(
        self, statuses: tuple[dict[str, Any], ...], reason: str, expected: tuple[str, ErrorKind, bool]
    ) -> None:
        assert failure_of(pod("Failed", *statuses, reason=reason)) == expected

    def test_a_failed_init_container_is_the_users_failure(self) -> None:
        document = pod("Failed", waiting("main", "PodInitializing"), initContainerStatuses=[ended("init", 5, "Error")])
        assert failure_of(document) == ("Error", USER, True)

    def test_a_failed_sidecar_does_not_spoil_a_primary_container_that_ended_well(self) -> None:
        document = pod("Failed", ended("main", 0, "Completed"), ended("side", 1, "Error"))
        assert of(document).phase is Phase.SUCCEEDED

    def test_an_end_without_exit_code_is_no_success(self) -> None:
        unseen = {"name": "main", "state": {"terminated": {"reason": "Error"}}}
        document = pod("Failed", unseen, ended("side", 1, "Error"))
        assert failure_of(document) == ("Interrupted", SYSTEM, True)

    def test_members_that_are_null_count_as_absent(self) -> None:
        nothing = {"name": "main", "state": {"waiting": None, "running": None, "terminated": None}, "lastState": None}
        document = pod("Failed", nothing, reason=None, initContainerStatuses=None, conditions=None)
        assert failure_of(document) == ("Interrupted", SYSTEM, True)
        assert of({**document, "status": {**document["status"], "phase": "Running"}}).phase is Phase.RUNNING
        assert of({"metadata": None, "spec": None, "status": None}).phase is Phase.QUEUED

    def test_the_only_container_is_the_primary_one(self) -> None:
        document = pod("Failed", ended("main", 137, "Error"), primary=None)
        document["spec"]["containers"] = [{"name": "main"}]
        assert failure_of(document) == ("Interrupted", SYSTEM, True)

    def test_the_last_end_counts_more_than_the_current_state(self) -> None:
        status = {**running("main"), "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
        assert failure_of(pod("Failed", status)) == ("OOMKilled", USER, True)

    def test_the_message_joins_what_the_pod_and_its_containers_say(self) -> None:
        document = pod("Failed", ended("main", 1, "Error", "boom"), ended("side", 0), message="the node went away")
        info = of(document)
        assert info.failure is not None
        assert info.failure.message == (
            "the node went away\ncontainer main exited with code 1\nboom\ncontainer side exited with code 0"
        )

    def test_an_unsatisfiable_pod_says_what_the_runtime_says(self) -> None:
        info = of(pod("Failed", reason="UnsatisfiableResources", message="this machine has no GPU"))
        assert info.failure is not None
        assert info.failure.message == "this machine has no GPU"

    @pytest.mark.parametrize(
        ("statuses", "reason", "expected"),
        [
            ((ended("main", 1, "Error"),), "", ("Interrupted", SYSTEM, True)),
            ((ended("main", 0), ended("side", 1, "Error")), "", ("Interrupted", SYSTEM, True)),
            ((ended("main", 1, "Error"),), "Evicted", ("Evicted", USER, True)),
            ((ended("main", 137, "OOMKilled"),), "", ("OOMKilled", USER, True)),
            ((ended("side", 137, "Error"),), "", ("Interrupted", USER, True)),
        ],
    )
    def test_the_references_judgement_can_be_configured(
        self, statuses: tuple[dict[str, Any], ...], reason: str, expected: tuple[str, ErrorKind, bool]
    ) -> None:
        assert failure_of(pod("Failed", *statuses, reason=reason), plain_failures_as_system=True) == expected


class TestPending:
    @staticmethod
    def not_ready(reason: str, seconds_ago: float, **config: Any) -> PhaseInfo:
        since = (NOW - timedelta(seconds=seconds_ago)).isoformat()
        ready = {
            "type": "Ready",
            "status": "False",
            "reason": "ContainersNotReady",
            "message": "not ready",
            "lastTransitionTime": since,
        }
        conditions = [{"type": "PodScheduled", "status": "True"}, ready]
        return of(pod("Pending", running("side"), waiting("main", reason), conditions=conditions), **config)

    @pytest.mark.parametrize("phase", ["Pending", None])
    def test_a_new_pod_is_queued(self, phase: str | None) -> None:
        assert of(pod(phase)).phase is Phase.QUEUED
        assert of({"metadata": {}, "spec": {}}).phase is Phase.QUEUED

    def test_an_unschedulable_pod_is_queued_and_says_why(self) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        info = of(pod("Pending", conditions=[condition]))
        assert (info.phase, info.reason) == (Phase.QUEUED, "Unschedulable:0/3 nodes")

    @pytest.mark.parametrize("reason", ["ErrImagePull", "ContainerCreating", "PodInitializing"])
    def test_a_starting_container_is_initializing(self, reason: str) -> None:
        info = self.not_ready(reason, 10_000)
        assert info.phase is Phase.INITIALIZING
        assert reason in info.reason

    @pytest.mark.parametrize(
        ("reason", "grace", "retryable"),
        [
            ("ImagePullBackOff", 180, True),
            ("CreateContainerError", 180, False),
            ("CreateContainerConfigError", 0, False),
            ("InvalidImageName", 0, False),
        ],
    )
    def test_a_container_that_cannot_start_fails_after_its_grace_period(
        self, reason: str, grace: float, retryable: bool
    ) -> None:
        if grace:
            assert self.not_ready(reason, grace - 1).phase is Phase.INITIALIZING
        info = self.not_ready(reason, grace)
        assert info.failure is not None
        assert info.failure.code == f"ContainersNotReady|{reason}"
        assert info.failure.message == "not ready|why"
        assert (info.failure.kind, info.failure.retryable, info.failure.cleanup) == (USER, retryable, True)

    def test_grace_periods_are_configured(self) -> None:
        info = self.not_ready("ImagePullBackOff", 10, image_pull_backoff_grace_period=5)
        assert info.phase is Phase.RETRYABLE_FAILURE

    def test_any_other_reason_is_the_systems_fault(self) -> None:
        info = self.not_ready("RunContainerError", 0)
        assert info.failure is not None
        assert (info.failure.kind, info.failure.retryable, info.failure.cleanup) == (SYSTEM, True, True)

    def test_a_pod_that_is_pending_for_too_long_fails_where_that_is_configured(self) -> None:
        assert self.not_ready("ContainerCreating", 59, pod_pending_timeout=60).phase is Phase.INITIALIZING
        info = self.not_ready("ContainerCreating", 60, pod_pending_timeout=60)
        assert info.failure is not None
        assert (info.failure.code, info.failure.kind, info.failure.cleanup) == ("PodPendingTimeout", USER, True)
        young = pod("Pending")
        young["metadata"]["creationTimestamp"] = "2026-01-01T11:58:00Z"
        assert of(young, pod_pending_timeout=60).phase is Phase.RETRYABLE_FAILURE


class TestObjects:
    def test_a_deletion_by_others_is_the_systems_fault_unless_the_task_is_over(self) -> None:
        document = pod("Running", running("main"))
        document["metadata"]["deletionTimestamp"] = "2026-01-01T11:00:00Z"
        assert failure_of(document) == ("UnexpectedObjectDeletion", SYSTEM, True)
        document["status"]["phase"] = "Succeeded"
        assert of(document).phase is Phase.SUCCEEDED

    def test_a_vanished_pod_is_the_systems_fault(self) -> None:
        failure = deleted_externally("p").failure
        assert failure is not None
        assert (failure.code, failure.kind, failure.retryable) == ("ResourceDeletedExternally", SYSTEM, True)

    def test_it_happened_when_a_container_last_started_or_ended(self) -> None:
        document = pod(
            "Succeeded",
            ended("main", 0, finishedAt="2026-01-01T11:30:00Z", startedAt="2026-01-01T11:00:00Z"),
            running("side"),
        )
        assert of(document).occurred_at == datetime(2026, 1, 1, 11, 30, tzinfo=UTC)
        assert of(pod("Pending")).occurred_at is None


reasons = st.sampled_from(["", "Error", "OOMKilled", "Completed", "Lost", "Evicted", "StartError"])
states = st.one_of(
    st.builds(lambda reason: {"waiting": {"reason": reason}}, reasons),
    st.just({"running": {"startedAt": "2026-01-01T11:00:00Z"}}),
    st.builds(lambda code, reason: {"terminated": {"exitCode": code, "reason": reason}}, st.integers(0, 255), reasons),
    st.just({}),
)


@given(
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", "", "Odd"]),
    st.lists(st.builds(lambda name, state: {"name": name, "state": state}, st.sampled_from(["main", "side"]), states)),
    reasons,
    st.none() | st.sampled_from(["main", "gone"]),
    st.booleans(),
)
def test_every_status_has_a_phase_and_failed_pods_have_a_terminal_one(
    phase: str, statuses: list[dict[str, Any]], reason: str, primary: str | None, parity: bool
) -> None:
    info = of(pod(phase, *statuses, primary=primary, reason=reason), plain_failures_as_system=parity)
    if phase in ("Succeeded", "Failed"):
        assert info.phase.terminal
    if phase == "Pending":
        assert info.phase is Phase.QUEUED
    if info.failure is not None:
        assert info.failure.code
        assert info.failure.message
