"""What Flyte's dashboards read, at the platform's one port, after workflows of real clients have run."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import requests
from flyteidl.core.execution_pb2 import WorkflowExecution

from .conftest import DOMAIN, PROJECT, Registered
from .instance import Instance, wait_until

ADMIN = "flyte:admin"
PROPELLER = "flyte:propeller:all"
NAMES = (
    "aerodrome:loop_lag_p99_seconds",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
    *(
        f"{ADMIN}:{name}"
        for name in (
            "admin:create_execution:codes:OK", "admin:create_execution:duration_ms", "admin:create_execution:success",
            "admin:get_execution:errors", "admin:handler_panic", "signal:set_signal:success",
            "builder:flytepropeller:build_failures", "builder:flytepropeller:build_successes",
            "database:errors:postgres_error", "database:executions:create_ms", "database:journal:get_ms",
            "database:launch_plans:get_ms", "database:resources:get_ms", "database:workflows:create_ms",
            "execution_manager:acceptance_delay_s", "execution_manager:active_executions",
            "execution_manager:closure_size_bytes_bucket", "execution_manager:concurrency_check_duration_ms",
            "execution_manager:execution_events_created", "execution_manager:execution_termination_failure",
            "execution_manager:executions_created", "execution_manager:executions_terminated",
            f"execution_manager:{PROJECT}:{DOMAIN}:workflow_execution_duration_ns",
            "execution_manager:propeller_failures", "execution_manager:publish_error",
            "execution_manager:publish_event_error", "execution_manager:spec_size_bytes_bucket",
            "launch_plan_manager:closure_size_bytes_bucket", "launch_plan_manager:failed_schedule_updates",
            "launch_plan_manager:spec_size_bytes_bucket", "node_execution_manager:active_node_executions",
            "node_execution_manager:closure_size_bytes_bucket", "node_execution_manager:input_size_bytes_bucket",
            "node_execution_manager:missing_workflow_execution", "node_execution_manager:node_execution_events_created",
            "node_execution_manager:node_executions_created", "node_execution_manager:node_executions_terminated",
            "node_execution_manager:output_size_bytes_bucket", "node_execution_manager:publish_event_error",
            "signal_manager:num_set", "task_execution_manager:active_executions",
            "task_execution_manager:closure_size_bytes_bucket", "task_execution_manager:input_size_bytes_bucket",
            "task_execution_manager:missing_node_execution", "task_execution_manager:output_size_bytes_bucket",
            "task_execution_manager:publish_event_error", "task_execution_manager:task_execution_events_created",
            "task_execution_manager:task_executions_created", "task_execution_manager:task_executions_terminated",
            "task_manager:closure_size_bytes_bucket", "task_manager:num_registered",
            "user_execution_metrics:input_size_bytes_bucket", "user_execution_metrics:output_size_bytes_bucket",
            "workflow_manager:compilation_failures", "workflow_manager:typed_interface_size_bytes_bucket",
        )
    ),
    *(
        f"{PROPELLER}:{name}"
        for name in (
            "collector:flyteworkflow", "execstats:active_node_executions", "execstats:active_task_executions",
            "execstats:active_workflow_executions", "free_workers_count", "k8s_resources", "main_depth",
            "node:array:items", "node:discovery_hit_count", "node:discovery_miss_count",
            "node:discovery_put_success_count", "node:queueing_latency_ms", "node:success_duration_ms",
            "node:system_error_duration_unlabeled_ms_count", "node:task:attempts", "node:task:plugin_exec_latency_ms",
            "node:task:plugin_queue_latency_ms", "node:transition_latency_ms",
            "node:user_error_duration_unlabeled_ms_count", "round:panic", "round:round_time_ms", "round:round_total",
            "round:system_error", "storage:read_failure_unrelated_to_cache", "storage:read_open_ms",
            "storage:write_failure", "storage:write_ms", "sub_depth", "wf_enqueue", "wf_redundant", "wf_stale",
            "workflow:acceptance_latency_ms", "workflow:accepted", "workflow:completion_latency_ms",
            "workflow:event_recording:success_duration_ms", "workflow:success_duration_ms",
            "workflow:workflow_aborted",
        )
    ),
    *(
        f"flyte:flytescheduler:{name}"
        for name in (
            "active_schedules", "catchup_error_counter", "checkpoint_save_error_counter", "failed_execution_counter",
            "job_func_panic_counter", "job_schedule_failed_counter", "lag_seconds", "successful_execution_counter",
        )
    ),
    *(
        f"flyte:notifier:{name}"
        for name in ("message_decoding_error", "message_ok", "message_processing_error", "message_total")
    ),
)  # fmt: skip


def scraped(instance: Instance) -> Mapping[str, float]:
    """Values by name and labels."""
    answer = requests.get(f"{instance.url}/metrics", timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    samples = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r'[a-zA-Z_:][\w:]*(\{(\w+="[^"]*",?)+\})? (-?[\d.e+-]+|NaN|[+-]Inf)', line), line
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


def total(samples: Mapping[str, float], name: str, *labels: str) -> float:
    """The sum of a metric over all its labels but those that are given (`code="OK"`)."""
    return sum(
        value for key, value in samples.items() if key.partition("{")[0] == name and all(each in key for each in labels)
    )


@pytest.fixture(scope="module")
def samples(instance: Instance, registered: Registered) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What is shown before and after a map that is cached runs twice."""
    before = scraped(instance)
    for _ in range(2):
        execution = registered.run("maps.squares", {"numbers": [5, 6]})
        assert execution.closure.phase == WorkflowExecution.SUCCEEDED, execution.error
        registered.remote.sync_execution(execution, sync_nodes=True)

    def ended(samples: Mapping[str, float]) -> float:
        return total(samples, f"{PROPELLER}:workflow:success_duration_ms_count", 'wf="maps.squares"')

    def told() -> Mapping[str, float] | None:
        found = scraped(instance)
        return found if ended(found) == ended(before) + 2 else None

    return before, wait_until("what ran is counted", told)


def test_every_name_is_there(samples: tuple[Mapping[str, float], Mapping[str, float]]) -> None:
    shown = {name.partition("{")[0] for name in samples[1]}
    assert sorted(set(NAMES) - shown) == []


def test_what_has_run_is_counted_by_all_who_saw_it(samples: tuple[Mapping[str, float], Mapping[str, float]]) -> None:
    def more(name: str, *labels: str) -> float:
        return total(samples[1], name, *labels) - total(samples[0], name, *labels)

    create = ('grpc_method="CreateExecution"', 'grpc_service="flyteidl.service.AdminService"')
    for name, labels in (
        ("grpc_server_started_total", create),
        ("grpc_server_handled_total", (*create, 'grpc_code="OK"')),
        ("grpc_server_handling_seconds_count", create),
        (f"{ADMIN}:admin:create_execution:codes:OK", ()),
        (f"{ADMIN}:execution_manager:executions_created", ()),
        (f"{ADMIN}:execution_manager:executions_terminated", ('phase="SUCCEEDED"',)),
        (f"{ADMIN}:execution_manager:{PROJECT}:{DOMAIN}:workflow_execution_duration_ns_count", ()),
        (f"{PROPELLER}:workflow:accepted", ()),
        (f"{PROPELLER}:workflow:acceptance_latency_ms_count", (f'project="{PROJECT}"', 'wf="maps.squares"')),
        (f"{PROPELLER}:workflow:completion_latency_ms_count", ('wf="maps.squares"',)),
    ):
        assert more(name, *labels) >= 2, name
    assert more(f"{PROPELLER}:node:array:items", 'phase="SUCCEEDED"') >= 4
    assert more(f"{ADMIN}:node_execution_manager:node_executions_terminated", 'phase="SUCCEEDED"') >= 4
    assert more(f"{ADMIN}:database:executions:create_ms_count") >= 1
