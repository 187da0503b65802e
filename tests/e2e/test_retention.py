"""Deleting executions for good, with everything that a real data plane and real tasks left of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.admin.execution_pb2 import WorkflowExecutionGetRequest
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from flytekit.remote import FlyteWorkflowExecution

from aerodrome.idl.retention.v1.retention_pb2 import DeleteExecutionRequest, ExecutionKey
from aerodrome.idl.retention.v1.retention_pb2_grpc import RetentionServiceStub

from .conftest import DOMAIN, PROJECT, Registered
from .instance import Instance, wait_until


@pytest.fixture(scope="module")
def channel(instance: Instance) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(instance.endpoint) as channel:
        yield channel


def delete(channel: grpc.Channel, execution: FlyteWorkflowExecution) -> Any:
    """Delete an execution once its data plane has let go of it."""
    request = DeleteExecutionRequest(execution=ExecutionKey(project=PROJECT, domain=DOMAIN, name=execution.id.name))

    def let_go() -> Any:
        try:
            return RetentionServiceStub(channel).DeleteExecution(request, timeout=60)
        except grpc.RpcError as error:
            if "has not let go" in (error.details() or ""):
                return None
            raise

    return wait_until("the execution can be deleted", let_go)


def objects_of(instance: Instance, name: str) -> list[Path]:
    """What lies in the store under paths that name the execution."""
    store = instance.data_dir / "store"
    assert store.is_dir()
    return [path for path in store.rglob("*") if name in str(path.relative_to(store)) and path.is_file()]


def logs_of(instance: Instance, name: str) -> list[Path]:
    """What the local runtime keeps of the execution: logs, and records of its pods."""
    return list((instance.data_dir / "runtime").glob(f"*/*/{name}*"))


@pytest.mark.parametrize(
    ("workflow", "inputs"),
    [
        ("files.make", {"text": "to be deleted"}),
        ("maps.squares", {"numbers": [1, 2, 3]}),
        ("nodes.parent", {"value": 3}),
        ("nodes.dynamic_simple", {"count": 2}),
    ],
)
def test_no_object_of_a_deleted_execution_is_left(
    instance: Instance, registered: Registered, channel: grpc.Channel, workflow: str, inputs: dict[str, Any]
) -> None:
    execution = registered.run(workflow, inputs)
    assert execution.closure.phase == WorkflowExecution.SUCCEEDED, execution.error
    name = execution.id.name
    found = len(objects_of(instance, name))
    assert found
    assert logs_of(instance, name) or workflow == "nodes.parent"
    answer = delete(channel, execution)
    assert all(each.HasField("finished_at") for each in answer.deletions), answer
    assert answer.deletions[0].blobs >= found
    assert answer.deletions[0].rows > 5
    left = [path for each in answer.deletions for path in objects_of(instance, each.execution.name)]
    assert not left
    assert not [path for each in answer.deletions for path in logs_of(instance, each.execution.name)]
    admin = AdminServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        admin.GetExecution(WorkflowExecutionGetRequest(id=execution.id.to_flyte_idl()))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_what_a_deleted_execution_cached_is_computed_again(
    instance: Instance, registered: Registered, channel: grpc.Channel, tmp_path: Path
) -> None:
    inputs = {"text": "kept by nobody", "marker": str(tmp_path / "marker")}
    first = registered.run("caching.written", inputs)
    assert first.closure.phase == WorkflowExecution.SUCCEEDED, first.error
    second = registered.run("caching.written", inputs)
    with pytest.raises(grpc.RpcError) as caught:
        delete(channel, first)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert second.id.name in (caught.value.details() or "")
    delete(channel, second)
    delete(channel, first)
    third = registered.run("caching.written", inputs)
    assert third.closure.phase == WorkflowExecution.SUCCEEDED, third.error
    assert Path(third.outputs["o0"].download()).read_text()
