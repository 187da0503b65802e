"""Taking over what an earlier execution has done already.

What succeeded then is copied and not run again; a dynamic node that did not goes on with what its task made; anything
else runs.  What cannot be read any more runs too.  Source: spec/data-plane.md, 1.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyteidl.admin import node_execution_pb2
from flyteidl.core import compiler_pb2, dynamic_job_pb2
from flyteidl.event import event_pb2
from google.protobuf.message import DecodeError

from aerodrome.propeller.engine.graph import NodeKind
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.layout import FUTURES
from aerodrome.propeller.nodes.bindings import Unresolvable
from aerodrome.propeller.nodes.earlier import EarlierNode
from aerodrome.propeller.nodes.handler import Observation, Run
from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

_DONE = frozenset({"SUCCEEDED", "RECOVERED"})


async def take_over(run: Run, node: NodeState) -> Observation | None:
    """What follows for a node from what it was in the earlier execution; None if it has to run.

    Raises storage errors that may pass.
    """
    earlier = run.earlier
    old = None if earlier is None else earlier.find(node)
    if earlier is None or old is None:
        return None
    try:
        if old.phase in _DONE:
            return await _done(run, node, old)
        if node.spec.kind is NodeKind.TASK and old.closure.dynamic_job_spec_uri:
            return await _dynamic(run, node, old)
    except (NotFound, DecodeError) as error:
        log.warning("nothing is left to recover from", node=node.unique_id, reason=str(error))
    return None


def checkpoint(run: Run, node: NodeState) -> str:
    """Where a task's first attempt finds what its last attempt in the earlier execution has kept, or empty."""
    old = None if run.earlier is None else run.earlier.find(node)
    if old is None or old.phase in _DONE:
        return ""
    return old.closure.task_node_metadata.checkpoint_uri


async def _done(run: Run, node: NodeState, old: EarlierNode) -> Observation:
    if node.spec.kind is not NodeKind.TASK or not await _share(run, node, old):
        await _copy(run, node, old)
    detail = await _detail(run, old, old.closure)
    return lambda engine, now: engine.already_done(node, now, recovered=True, detail=detail)


async def _share(run: Run, node: NodeState, old: EarlierNode) -> bool:
    """Keep what a task was given and gave among the shared values; whether that is small enough."""
    values, closure = run.values, old.closure
    inputs = await values.take(old.known.input_uri) if old.known.input_uri else None
    if inputs is None and old.known.input_uri:
        return False
    match closure.WhichOneof("output_result"):
        case "output_data":
            outputs = await values.put(closure.output_data)
        case "output_uri" if closure.output_uri:
            outputs = await values.take(closure.output_uri)
        case _:
            outputs = await values.put_data(b"")
    if outputs is None:
        return False
    run.layout.share(node.unique_id, inputs=inputs, outputs=outputs)
    return True


async def _copy(run: Run, node: NodeState, old: EarlierNode) -> None:
    """Copy what a node was given and gave into its own directory."""
    storage, layout, closure = run.literals.storage, run.layout, old.closure
    if old.known.input_uri:
        await storage.write(layout.inputs(node), await run.literals.read_data(old.known.input_uri))
    match closure.WhichOneof("output_result"):
        case "output_data":
            outputs = closure.output_data.SerializeToString()
        case "output_uri" if closure.output_uri:
            outputs = await run.literals.read_data(closure.output_uri)
        case _:
            outputs = b""
    await storage.write(layout.outputs(node), outputs)


async def _dynamic(run: Run, node: NodeState, old: EarlierNode) -> Observation | None:
    """The task need not run again, if it would be given the same."""
    assert run.earlier is not None
    try:
        inputs = await run.inputs(node)
    except Unresolvable:
        return None  # it is said where the node is prepared
    if await run.earlier.inputs(run, old) != inputs:
        return None
    storage, layout = run.literals.storage, run.layout
    futures = await run.literals.read_data(old.closure.dynamic_job_spec_uri, dynamic_job_pb2.DynamicJobSpec)
    await run.literals.write(layout.inputs(node), inputs)
    await storage.write(f"{layout.output_dir(node)}/{FUTURES}", futures)
    return lambda engine, now: engine.prepared(node, now, ran_elsewhere=True)


async def _detail(
    run: Run, old: EarlierNode, closure: node_execution_pb2.NodeExecutionClosure
) -> Mapping[str, Any] | None:
    """What the event repeats: deck, cache, dynamic workflow, launched execution."""
    detail: dict[str, Any] = {}
    storage = run.literals.storage
    if closure.deck_uri and await storage.head(closure.deck_uri) is not None:
        detail["deck_uri"] = closure.deck_uri
    if closure.HasField("workflow_node_metadata"):
        detail["workflow_node_metadata"] = event_pb2.WorkflowNodeMetadata(
            execution_id=closure.workflow_node_metadata.executionId
        )
    elif closure.HasField("task_node_metadata"):
        known = closure.task_node_metadata
        metadata = event_pb2.TaskNodeMetadata(cache_status=known.cache_status, checkpoint_uri=known.checkpoint_uri)
        if known.HasField("catalog_key"):
            metadata.catalog_key.CopyFrom(known.catalog_key)
        reference = old.known.dynamic_workflow_reference
        if reference:
            metadata.dynamic_workflow.dynamic_job_spec_uri = closure.dynamic_job_spec_uri
            try:
                parse = compiler_pb2.CompiledWorkflowClosure.FromString
                compiled = await run.literals.read_as(reference, parse, limit_bytes=0)
            except (AerodromeError, DecodeError) as error:
                log.warning("a dynamic workflow cannot be shown again", reference=reference, reason=str(error))
                metadata.ClearField("dynamic_workflow")
            else:
                metadata.dynamic_workflow.id.CopyFrom(compiled.primary.template.id)
                metadata.dynamic_workflow.compiled_workflow.CopyFrom(compiled)
        detail["task_node_metadata"] = metadata
    return detail or None
