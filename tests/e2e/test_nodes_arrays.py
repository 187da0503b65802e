"""Map tasks as users see them: their outputs, their items, and what becomes of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from flyteidl.admin import execution_pb2
from flyteidl.admin.node_execution_pb2 import NodeExecutionGetRequest
from flyteidl.admin.task_execution_pb2 import TaskExecutionGetRequest
from flyteidl.core import catalog_pb2, identifier_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from flytekit.remote import FlyteNodeExecution, FlyteWorkflowExecution

from .conftest import DOMAIN, PROJECT, WORKFLOWS, Registered
from .instance import Instance, is_alive, kill, running, wait_until, wait_until_dead

SUCCEEDED = phases.WorkflowExecution.SUCCEEDED
FAILED = phases.WorkflowExecution.FAILED
T = phases.TaskExecution


def array_of(execution: FlyteWorkflowExecution) -> FlyteNodeExecution:
    (node,) = [each for name, each in execution.node_executions.items() if name == "n0"]
    return node


def attempt_of(registered: Registered, execution: FlyteWorkflowExecution) -> Any:
    """The one attempt of the map, as the API has it."""
    client = registered.remote.client
    (attempt,) = client.list_task_executions_paginated(array_of(execution).id)[0]
    return client._stub.GetTaskExecution(TaskExecutionGetRequest(id=attempt.id.to_flyte_idl()))


def node_of(registered: Registered, execution: FlyteWorkflowExecution) -> Any:
    """The map's node, as the API has it."""
    request = NodeExecutionGetRequest(id=array_of(execution).id.to_flyte_idl())
    return registered.remote.client._stub.GetNodeExecution(request)


def resources(attempt: Any) -> dict[int, Any]:
    """The items in it, by index."""
    return {item.index: item for item in attempt.closure.metadata.external_resources}


def listed(instance: Instance, execution: FlyteWorkflowExecution, **more: Any) -> dict[str, Any]:
    """Our own list of items, over HTTP."""
    wanted = {"project": PROJECT, "domain": DOMAIN, "name": execution.id.name, "node_id": "n0"}
    body = json.dumps({"node_execution_id": wanted, **more}).encode()
    request = Request(
        f"{instance.url}/api/v1/aerodrome/items/ListItems",
        data=body,
        headers={"Content-Type": "application/json", "Accept": "application/json"},
    )
    with urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def noted(folder: Path, count: int) -> list[int] | None:
    """The processes of items that run, once there are `count` of them."""
    pids = [int(text) for note in folder.glob("*.pid") if (text := note.read_text())]
    return pids if len(pids) >= count else None


def test_a_map_gives_a_list_in_its_order_and_shows_one_attempt_with_its_items(
    instance: Instance, registered: Registered
) -> None:
    execution = registered.run("maps.squares", {"numbers": [3, 1, 2]})

    assert execution.closure.phase == SUCCEEDED
    assert execution.outputs.get("o0", list[int]) == [9, 1, 4]
    node = node_of(registered, execution)
    assert node.metadata.is_array
    assert not node.metadata.is_parent_node
    assert node.closure.phase == phases.NodeExecution.SUCCEEDED
    attempt = attempt_of(registered, execution)
    assert attempt.closure.phase == T.SUCCEEDED
    assert attempt.closure.task_type == "container_array"
    assert attempt.closure.event_version == 1
    assert attempt.id.retry_attempt == 0
    assert attempt.id.task_id.name.startswith("maps.map_square_")
    assert {index: item.phase for index, item in resources(attempt).items()} == dict.fromkeys(range(3), T.SUCCEEDED)
    answer = listed(instance, execution)
    assert answer["total_by_phase"] == {"SUCCEEDED": 3}
    assert [item["phase"] for item in answer["items"]] == ["SUCCEEDED"] * 3


def test_items_share_what_is_bound_and_run_no_more_at_once_than_permitted(registered: Registered) -> None:
    execution = registered.run("maps.all_scaled", {"numbers": [1, 2, 3, 4], "factor": 5})

    assert execution.outputs.get("o0", list[int]) == [5, 10, 15, 20]


def test_an_item_of_large_lists_reads_its_own_element_and_still_knows_its_index(
    instance: Instance, registered: Registered
) -> None:
    texts = [letter * 20_000 for letter in "abcd"]
    execution = registered.run("maps.all_measured", {"texts": texts})

    assert execution.outputs.get("o0", list[str]) == [f"{at}: 20000 of {one}" for at, one in enumerate("abcd")]
    node = node_of(registered, execution)
    blocks = sorted(Path(node.input_uri).parent.glob("blocks/*/inputs.pb"))
    assert len(blocks) == 4
    assert all(20_000 < block.stat().st_size < 21_000 for block in blocks)


def test_an_empty_list_gives_an_empty_list(registered: Registered) -> None:
    execution = registered.run("maps.squares", {"numbers": []})

    assert execution.closure.phase == SUCCEEDED
    assert execution.outputs.get("o0", list[int]) == []


def test_lists_of_different_lengths_fail_with_what_they_are(registered: Registered) -> None:
    execution = registered.run("maps.sums", {"lefts": [1, 2], "rights": [1, 2, 3]})

    assert execution.closure.phase == FAILED
    error = array_of(execution).closure.error
    assert error.code == "InvalidArrayLength"
    assert error.kind == phases.ExecutionError.USER
    assert "left has 2, right has 3" in error.message


def test_failures_within_the_ratio_leave_none_in_the_list(
    instance: Instance, registered: Registered, tmp_path: Path
) -> None:
    execution = registered.run("maps.tolerant", {"numbers": [1, 2, 3], "folder": str(tmp_path)})

    assert execution.closure.phase == SUCCEEDED
    assert execution.outputs.get("o0", list[int | None]) == [1, None, 3]
    attempt = attempt_of(registered, execution)
    assert attempt.closure.phase == T.SUCCEEDED
    assert {index: item.phase for index, item in resources(attempt).items()} == {
        0: T.SUCCEEDED,
        1: T.FAILED,
        2: T.SUCCEEDED,
    }
    (failed,) = listed(instance, execution, phases=["FAILED"])["items"]
    assert failed["index"] == 1
    assert "2 is even" in failed["error"]["message"]


def test_too_many_failures_fail_the_map_with_the_errors_of_its_items_and_recovery_runs_only_those(
    instance: Instance, registered: Registered, tmp_path: Path
) -> None:
    def runs() -> Counter[str]:
        return Counter({note.stem: note.read_text().count("ran") for note in tmp_path.glob("*.runs")})

    numbers = [1, 2, 3, 5, 7]
    execution = registered.run("maps.strict", {"numbers": numbers, "folder": str(tmp_path)})

    assert execution.closure.phase == FAILED
    error = node_of(registered, execution).closure.error
    assert "1 of 5 items of n0 failed" in error.message
    assert "[1]:" in error.message
    assert "2 is even" in error.message
    assert attempt_of(registered, execution).closure.phase == T.FAILED
    succeeded = [item["index"] for item in listed(instance, execution, phases=["SUCCEEDED"])["items"]]
    before = runs()

    (tmp_path / "allowed").touch()
    request = execution_pb2.ExecutionRecoverRequest(id=execution.id.to_flyte_idl(), name=f"r{execution.id.name[:-1]}")
    recovered_id = registered.remote.client._stub.RecoverExecution(request).id
    recovered = registered.finish(
        registered.remote.fetch_execution(project=PROJECT, domain=DOMAIN, name=recovered_id.name)
    )
    assert recovered.closure.phase == SUCCEEDED
    assert recovered.outputs.get("o0", list[int]) == numbers
    again = {numbers.index(int(name)) for name, count in (runs() - before).items() if count}
    assert again == set(range(5)) - set(succeeded)


def test_items_retry_by_themselves(instance: Instance, registered: Registered, tmp_path: Path) -> None:
    execution = registered.run("maps.patient", {"numbers": [0, 2, 1], "folder": str(tmp_path)})

    assert execution.closure.phase == SUCCEEDED
    assert execution.outputs.get("o0", list[int]) == [0, 2, 1]
    assert [item.get("attempt", 0) for item in listed(instance, execution)["items"]] == [0, 2, 1]
    attempt = attempt_of(registered, execution)
    assert {index: item.retry_attempt for index, item in resources(attempt).items()} == {0: 0, 1: 2, 2: 1}


def test_an_item_that_takes_too_long_is_ended(registered: Registered) -> None:
    execution = registered.run("maps.timed", {"seconds": [0.0, 600.0]})

    assert execution.closure.phase == FAILED
    error = node_of(registered, execution).closure.error
    assert "[1]:" in error.message
    assert "took longer than 1 s" in error.message


def test_an_abort_ends_all_items(instance: Instance, registered: Registered, tmp_path: Path) -> None:
    execution = registered.launch("maps.endless", {"numbers": [1, 2, 3, 4], "folder": str(tmp_path)})
    pids = wait_until("two items run", lambda: noted(tmp_path, 2))
    registered.remote.terminate(execution, "enough")
    ended = registered.finish(execution)

    assert ended.closure.phase == phases.WorkflowExecution.ABORTED
    assert not any(is_alive(pid) for pid in pids)
    assert array_of(ended).closure.phase == phases.NodeExecution.ABORTED
    attempt = attempt_of(registered, ended)
    assert attempt.closure.phase == T.ABORTED
    assert set(listed(instance, ended)["total_by_phase"]) == {"ABORTED"}


def test_what_items_computed_before_comes_from_the_cache(registered: Registered, tmp_path: Path) -> None:
    inputs = {"numbers": [1, 2], "folder": str(tmp_path)}
    registered.run("maps.all_remembered", inputs)
    execution = registered.run("maps.all_remembered", {**inputs, "numbers": [2, 3, 1]})

    assert execution.outputs.get("o0", list[int]) == [2, 3, 1]
    assert {note.stem: note.read_text() for note in tmp_path.glob("*.runs")} == dict.fromkeys("123", "ran\n")
    statuses = {index: item.cache_status for index, item in resources(attempt_of(registered, execution)).items()}
    assert statuses == {0: catalog_pb2.CACHE_HIT, 1: catalog_pb2.CACHE_POPULATED, 2: catalog_pb2.CACHE_HIT}


def test_a_launch_plan_is_launched_for_each_element_and_its_items_are_nodes(registered: Registered) -> None:
    execution = registered.run("maps.launched", {"numbers": [2, 3]})

    assert execution.closure.phase == SUCCEEDED
    assert execution.outputs.get("o0", list[int]) == [4, 9]
    node = node_of(registered, execution)
    assert node.metadata.is_array
    children, _ = registered.remote.client.list_node_executions(
        execution.id, limit=10, unique_parent_id=array_of(execution).id.node_id
    )
    assert sorted(child.metadata.spec_node_id for child in children) == ["n0", "n1"]
    assert {child.closure.phase for child in children} == {phases.NodeExecution.SUCCEEDED}
    for child in children:
        launched = child.closure.workflow_node_metadata.execution_id
        assert registered.remote.client.get_execution(launched).closure.phase == SUCCEEDED


def test_listing_the_items_of_nothing_is_refused(instance: Instance, registered: Registered) -> None:
    execution = registered.run("maps.squares", {"numbers": []})
    with pytest.raises(HTTPError) as refused:
        listed(instance, execution, limit=100_000)
    assert refused.value.code == 400


@pytest.fixture
def own_instance(tmp_path: Path) -> Iterator[Instance]:
    with running(Instance(tmp_path / "data", tmp_path / "home")) as instance:
        folder = tmp_path / "project"
        folder.mkdir()
        shutil.copy(WORKFLOWS / "maps.py", folder)
        done = instance.pyflyte("register", "--version", "v1", "maps.py", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield instance


def test_after_a_crash_a_map_goes_on_with_its_items_and_runs_none_twice(own_instance: Instance, tmp_path: Path) -> None:
    request = execution_pb2.ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name="crashed")
    plan = request.spec.launch_plan
    plan.resource_type, plan.project, plan.domain = identifier_pb2.LAUNCH_PLAN, PROJECT, DOMAIN
    plan.name, plan.version = "maps.endless", "v1"
    numbers = request.inputs.literals["numbers"].collection.literals
    for number in range(6):
        numbers.add().scalar.primitive.integer = number
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "0.go").touch()  # this one ends at once
    request.inputs.literals["folder"].scalar.primitive.string_value = str(notes)
    with grpc.insecure_channel(own_instance.endpoint) as channel:
        execution = AdminServiceStub(channel).CreateExecution(request).id
        wait_until("one has run, and others do", lambda: (notes / "0.runs").exists() and noted(notes, 3))
    pid = own_instance.pid
    kill(pid)
    wait_until_dead([pid])
    (notes / "go").touch()
    own_instance.up()
    with grpc.insecure_channel(own_instance.endpoint) as channel:
        admin = AdminServiceStub(channel)
        wanted = execution_pb2.WorkflowExecutionGetRequest(id=execution)
        ended = wait_until("it is over", lambda: (e := admin.GetExecution(wanted)).closure.phase >= SUCCEEDED and e)
        assert ended.closure.phase == SUCCEEDED, ended.closure.error
        data = admin.GetExecutionData(execution_pb2.WorkflowExecutionGetDataRequest(id=execution))
    outputs = data.full_outputs.literals["o0"].collection.literals
    assert [member.scalar.primitive.integer for member in outputs] == list(range(6))
    assert {note.stem: note.read_text() for note in notes.glob("*.runs")} == dict.fromkeys("012345", "ran\n")
