"""Inputs and outputs of executions, nodes and attempts; dynamic workflows."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core.compiler_pb2 import CompiledWorkflowClosure
from flyteidl.core.literals_pb2 import LiteralMap

from aerodrome.admin.config import AdminConfig

BIG = 3 * 2**20


def literals(**values: int) -> LiteralMap:
    made = LiteralMap()
    for name, value in values.items():
        made.literals[name].scalar.primitive.integer = value
    return made


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


async def execution_data(admin: Any, ids: Any, name: str = "e1") -> Any:
    return await admin.GetExecutionData(execution_pb2.WorkflowExecutionGetDataRequest(id=ids.execution(name)))


async def node_data(admin: Any, ids: Any, node_id: str = "n0") -> Any:
    return await admin.GetNodeExecutionData(node_execution_pb2.NodeExecutionGetDataRequest(id=ids.node("e1", node_id)))


async def test_inputs_and_outputs_are_read_from_where_they_are(admin: Any, rows: Any, ids: Any, storage: Any) -> None:
    await storage.write("mem://s/in", literals(a=1).SerializeToString())
    await storage.write("mem://s/out", literals(b=2).SerializeToString())
    closure = execution_pb2.ExecutionClosure(outputs=execution_pb2.LiteralMapBlob(uri="mem://s/out"))
    await rows.execution("e1", closure=closure, inputs_uri="mem://s/in")
    found = await execution_data(admin, ids)
    assert (found.full_inputs, found.full_outputs) == (literals(a=1), literals(b=2))
    assert found.HasField("inputs")
    assert found.HasField("outputs")
    assert (found.inputs, found.outputs) == (common_pb2.UrlBlob(), common_pb2.UrlBlob())


async def test_an_execution_that_still_runs_has_empty_outputs(admin: Any, rows: Any, ids: Any) -> None:
    await rows.execution("e1", inputs_uri="mem://s/gone")
    found = await execution_data(admin, ids)
    assert found.HasField("full_inputs")
    assert found.HasField("full_outputs")
    assert (found.full_inputs, found.full_outputs) == (LiteralMap(), LiteralMap())


@pytest.mark.parametrize("content", [b"\xff\xff", b"x" * BIG, None])
async def test_what_cannot_be_read_is_shown_as_empty(
    admin: Any, rows: Any, ids: Any, storage: Any, content: bytes | None
) -> None:
    reference = "mem://s/in" if content else "/somewhere/else"
    if content:
        await storage.write(reference, content)
    await rows.execution("e1", inputs_uri=reference)
    assert (await execution_data(admin, ids)).full_inputs == LiteralMap()


async def test_values_kept_in_the_closure_are_shown_unless_they_are_large(admin: Any, rows: Any, ids: Any) -> None:
    closure = execution_pb2.ExecutionClosure(output_data=literals(b=2), computed_inputs=literals(a=1))
    await rows.execution("e1", closure=closure)
    found = await execution_data(admin, ids)
    assert (found.full_inputs, found.full_outputs) == (literals(a=1), literals(b=2))
    large = LiteralMap()
    large.literals["a"].scalar.primitive.string_value = "x" * BIG
    await rows.execution("e2", closure=execution_pb2.ExecutionClosure(output_data=large))
    assert (await execution_data(admin, ids, "e2")).full_outputs == LiteralMap()


class TestWithSignedLinks:
    @pytest.fixture
    def config(self) -> AdminConfig:
        return AdminConfig.model_validate(
            {
                "remote_data": {
                    "scheme": "s3",
                    "max_size_in_bytes": 100,
                    "signed_urls": {"enabled": True, "duration_minutes": 5},
                }
            }
        )

    async def test_links_come_with_sizes_and_small_maps_in_full(
        self, admin: Any, rows: Any, ids: Any, storage: Any
    ) -> None:
        small, large = literals(a=1), literals(**{f"name{number}": number for number in range(50)})
        await storage.write("mem://s/in", small.SerializeToString())
        await storage.write("mem://s/out", large.SerializeToString())
        closure = execution_pb2.ExecutionClosure(outputs=execution_pb2.LiteralMapBlob(uri="mem://s/out"))
        await rows.execution("e1", closure=closure, inputs_uri="mem://s/in")
        found = await execution_data(admin, ids)
        assert (found.inputs.bytes, found.outputs.bytes) == (small.ByteSize(), large.ByteSize())
        assert found.inputs.url.startswith("http://localhost:30080/data/v1/mem")
        assert (found.full_inputs, found.full_outputs) == (small, LiteralMap())

    async def test_an_object_that_is_not_there_has_no_link(self, admin: Any, rows: Any, ids: Any) -> None:
        await rows.execution("e1", inputs_uri="mem://s/gone")
        assert (await execution_data(admin, ids)).inputs == common_pb2.UrlBlob()

    async def test_a_link_that_cannot_be_signed_is_an_error(self, admin: Any, rows: Any, ids: Any) -> None:
        await rows.execution("e1", inputs_uri="s3://elsewhere/in")
        assert (await refusal(execution_data(admin, ids)))[0] == "PERMISSION_DENIED"


async def test_nodes_tell_where_their_data_is(admin: Any, rows: Any, ids: Any, storage: Any) -> None:
    await storage.write("mem://s/in", literals(a=1).SerializeToString())
    await storage.write("mem://s/out", literals(b=2).SerializeToString())
    execution = await rows.execution("e1")
    closure = node_execution_pb2.NodeExecutionClosure(output_uri="mem://s/out", deck_uri="mem://s/deck.html")
    await rows.node(execution, "n0", closure=closure, input_uri="mem://s/in")
    await rows.node(execution, "n1")
    found = await node_data(admin, ids)
    assert (found.full_inputs, found.full_outputs) == (literals(a=1), literals(b=2))
    assert found.flyte_urls == common_pb2.FlyteURLs(
        inputs="flyte://v1/p/d/e1/n0/i", outputs="flyte://v1/p/d/e1/n0/o", deck="flyte://v1/p/d/e1/n0/d"
    )
    assert not found.HasField("dynamic_workflow")
    assert (await node_data(admin, ids, "n1")).flyte_urls.deck == ""
    assert (await refusal(node_data(admin, ids, "nope")))[0] == "NOT_FOUND"


async def test_attempts_tell_where_their_data_is(admin: Any, rows: Any, ids: Any, storage: Any) -> None:
    execution = await rows.execution("e1")
    await rows.task_execution(
        execution, "n0", 1, closure=task_execution_pb2.TaskExecutionClosure(output_data=literals(b=2))
    )
    found = await admin.GetTaskExecutionData(
        task_execution_pb2.TaskExecutionGetDataRequest(id=ids.task_execution("e1", "n0", 1))
    )
    assert found.full_outputs == literals(b=2)
    assert found.flyte_urls == common_pb2.FlyteURLs(
        inputs="flyte://v1/p/d/e1/n0/1/i", outputs="flyte://v1/p/d/e1/n0/1/o"
    )


async def test_a_dynamic_node_shows_the_workflow_that_it_made(admin: Any, rows: Any, ids: Any, storage: Any) -> None:
    compiled = CompiledWorkflowClosure()
    compiled.primary.template.id.name = "made"
    compiled.primary.template.metadata.tags["x"] = "y" * BIG  # our own objects are read whatever their size
    await storage.write("mem://s/dyn", compiled.SerializeToString())
    execution = await rows.execution("e1")
    closure = node_execution_pb2.NodeExecutionClosure(dynamic_job_spec_uri="mem://s/spec")
    await rows.node(execution, "n0", closure=closure, dynamic_workflow_remote_closure_reference="mem://s/dyn")
    await rows.node(execution, "n1")
    await rows.node(execution, "n2", dynamic_workflow_remote_closure_reference="mem://s/gone")
    dynamic = (await node_data(admin, ids)).dynamic_workflow
    assert (dynamic.id.name, dynamic.dynamic_job_spec_uri) == ("made", "mem://s/spec")
    assert dynamic.compiled_workflow == compiled

    async def workflow(node_id: str) -> Any:
        return await admin.GetDynamicNodeWorkflow(
            node_execution_pb2.GetDynamicNodeWorkflowRequest(id=ids.node("e1", node_id))
        )

    assert (await workflow("n0")).compiled_workflow == compiled
    assert await refusal(workflow("n1")) == ("NOT_FOUND", "node does not contain dynamic workflow")
    assert (await refusal(workflow("n2")))[0] == "INTERNAL"
    assert (await refusal(workflow("n3")))[0] == "NOT_FOUND"
    assert (await refusal(node_data(admin, ids, "n2")))[0] == "INTERNAL"
