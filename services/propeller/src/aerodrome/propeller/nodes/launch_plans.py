"""Launch-plan nodes: an execution of its own, whose name follows from the node and the attempt.

A launch is repeated until the control plane has answered; that the name is taken means that an earlier try came
through.  What becomes of the child is told by `ChildWatch`.  Source: spec/data-plane.md, 1.13, 1.15, 3.5.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from flyteidl.admin import execution_pb2
from flyteidl.core import execution_pb2 as core_execution_pb2
from flyteidl.core import identifier_pb2, literals_pb2

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.literals import Corrupt
from aerodrome.propeller.nodes.admin_client import AdminClient, may_pass, patiently
from aerodrome.propeller.nodes.children import TERMINAL, ChildWatch
from aerodrome.propeller.nodes.handler import Coordinating, Observation, Run, storage_failure
from aerodrome.propeller.transcript import failure_in
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

_CHILD = "child"
"""Key of a node's memo: the child that this process launched or looks for."""
_AT_ONCE = 32
_ABORT_PATIENCE = 60.0
"""Seconds that an abort waits for the child's end; the control plane sees to it that nothing outlives its parent."""
_SHARD_KEY = "shard-key"
_PHASES = core_execution_pb2.WorkflowExecution


@dataclass(eq=False)
class _Child:
    id: identifier_pb2.WorkflowExecutionIdentifier
    given_up: bool = False
    launched: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing is on its way to the control plane any more."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class LaunchPlanHandler(Coordinating):
    """Launches executions, waits for them, and ends them."""

    def __init__(self, admin: AdminClient, children: ChildWatch) -> None:
        self._admin = admin
        self._children = children
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        inputs = await run.inputs(node)
        await run.literals.write(run.layout.inputs(node), inputs)
        return lambda engine, now: engine.prepared(node, now)

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        child = _Child(run.child_id(node, attempt))
        node.memo[_CHILD] = child

        async def ended(execution: execution_pb2.Execution | None) -> None:
            await child.launched.wait()
            child.over.set()
            observation = await self._judge(run, node, attempt, child, execution)
            run.post(observation)

        self._children.follow(child.id, ended)
        run.at_end(lambda: self._children.forget(child.id))
        try:
            known = await self._launch(run, node, child)
        except AerodromeError as error:
            failure = _launch_failure(node, error)
        else:
            if not child.given_up:
                run.post(lambda engine, now: engine.launched(node, attempt, now))
                self._children.launched(child.id, look=known)
            return
        finally:
            child.launched.set()
        self._children.forget(child.id)
        run.post(lambda engine, now: engine.failed(node, attempt, failure, now))

    async def abort(self, run: Run, node: NodeState, attempt: int, reason: str) -> Observation:
        child: _Child | None = node.memo.get(_CHILD)
        if child is None:
            child = _Child(run.child_id(node, attempt))
            child.launched.set()
        child.given_up = True
        await child.launched.wait()
        cause = f"cascading abort of {run.id.name}, node {node.unique_id}: {reason}"[:4_096]

        async def ended(_: execution_pb2.Execution | None) -> None:
            child.over.set()

        self._children.follow(child.id, ended)
        try:
            await patiently("abort a child", lambda: self._admin.terminate_execution(child.id, cause))
            self._children.launched(child.id, look=True)
            async with asyncio.timeout(_ABORT_PATIENCE):
                await child.over.wait()
        except (NotFound, FailedPrecondition):
            log.debug("the child to abort is not there, or over", child=child.id.name)
        except TimeoutError:
            log.warning("a child does not end", child=child.id.name, seconds=_ABORT_PATIENCE)
        except AerodromeError as error:
            log.error("a child could not be aborted", child=child.id.name, error=error.message)
        finally:
            self._children.forget(child.id)
        return lambda engine, now: engine.aborted(node, attempt, now)

    async def collect(self, run: Run, node: NodeState) -> Observation:
        raise AssertionError("a launch-plan node nests nothing here")

    # --- launching

    async def _launch(self, run: Run, node: NodeState, child: _Child) -> bool:
        """Make the child exist; whether it may have been there before.  Raises what does not pass."""
        inputs = await run.literals.read(run.layout.inputs(node))
        recovered = await self._recovered(run, node, inputs)
        again = False

        async def launch() -> bool:
            nonlocal again
            if child.given_up:
                return False
            before, again = again, True
            async with self._places:
                await run.permit()
                if recovered is not None:
                    try:
                        await self._admin.recover_execution(_recovery(run, node, child.id, recovered))
                        return before
                    except NotFound:
                        log.info("nothing to recover a child from", child=child.id.name, earlier=recovered.name)
                await self._admin.create_execution(_creation(run, node, child.id, inputs))
                return before

        try:
            return await patiently(f"launch {child.id.name}", launch)
        except AlreadyExists as error:
            await self._check_ours(run, node, child, error)
            return True

    async def _check_ours(self, run: Run, node: NodeState, child: _Child, refusal: AlreadyExists) -> None:
        """That the name is taken means an earlier try of ours; but it may be somebody else's, or not be the reason."""
        try:
            execution = await patiently("find a child", lambda: self._admin.get_execution(child.id))
        except NotFound:
            raise refusal from None  # the launch plan's concurrency limit, or a name that was deleted for good
        parent = execution.spec.metadata.parent_node_execution
        if (parent.execution_id.name, parent.node_id) != (run.id.name, node.unique_id):
            raise FailedPrecondition(
                f"an execution {child.id.name} exists that this node has not launched; give one of the two another name"
            )

    async def _recovered(
        self, run: Run, node: NodeState, inputs: literals_pb2.LiteralMap
    ) -> identifier_pb2.WorkflowExecutionIdentifier | None:
        """The child of the execution that this one recovers from, if it was given the same inputs."""
        if run.earlier is None or node.attempts:
            return None
        old = run.earlier.find(node)
        if old is None or not old.closure.HasField("workflow_node_metadata"):
            return None
        if await run.earlier.inputs(run, old) != inputs:
            return None
        return old.closure.workflow_node_metadata.executionId

    # --- the end

    async def _judge(
        self, run: Run, node: NodeState, attempt: int, child: _Child, execution: execution_pb2.Execution | None
    ) -> Observation:
        failure: Failure
        if execution is None:
            failure = Failure(
                "RemoteChildWorkflowExecutionFailed",
                f"the child execution {child.id.name} does not exist any more",
                ErrorKind.SYSTEM,
                retryable=False,
            )
            return lambda engine, now: engine.failed(node, attempt, failure, now)
        closure = execution.closure
        assert closure.phase in TERMINAL
        if closure.phase == _PHASES.SUCCEEDED:
            try:
                await run.literals.write(run.layout.outputs(node, attempt), await self._outputs(run, execution))
            except (NotFound, PermissionDenied, Corrupt) as error:
                failure = storage_failure(error, "OutputsUnreadable")
                return lambda engine, now: engine.failed(node, attempt, failure, now)
            return lambda engine, now: engine.succeeded(node, attempt, now)
        if closure.phase == _PHASES.FAILED:
            failure = failure_in(closure.error)
        else:
            cause = f": {closure.abort_metadata.cause}" if closure.abort_metadata.cause else ""
            failure = Failure(
                "RemoteChildWorkflowExecutionFailed",
                f"the child execution {child.id.name} is {_PHASES.Phase.Name(closure.phase)}{cause}",
                ErrorKind.USER,
                retryable=False,
            )
        return lambda engine, now: engine.failed(node, attempt, failure, now)

    async def _outputs(self, run: Run, execution: execution_pb2.Execution) -> literals_pb2.LiteralMap:
        closure = execution.closure
        match closure.WhichOneof("output_result"):
            case "output_data":
                return closure.output_data
            case "outputs" if closure.outputs.WhichOneof("data") == "values":
                return closure.outputs.values
            case "outputs":
                try:
                    return await run.literals.read(closure.outputs.uri)
                except (NotFound, PermissionDenied):  # another storage than this data plane's
                    data = await self._admin.get_execution_data(execution.id)
                    return data.full_outputs
            case _:
                return literals_pb2.LiteralMap()


def _creation(
    run: Run,
    node: NodeState,
    child: identifier_pb2.WorkflowExecutionIdentifier,
    inputs: literals_pb2.LiteralMap,
) -> execution_pb2.ExecutionCreateRequest:
    """The child has everything from its parent that it does not say itself."""
    parent = run.spec
    spec = execution_pb2.ExecutionSpec(
        launch_plan=node.spec.template.workflow_node.launchplan_ref,
        metadata=_metadata(run, node),
        max_parallelism=parent.max_parallelism,
        overwrite_cache=parent.overwrite_cache,
    )
    spec.labels.values.update({key: value for key, value in parent.labels.values.items() if key != _SHARD_KEY})
    spec.annotations.values.update(parent.annotations.values)
    for name in ("security_context", "raw_output_data_config", "interruptible", "envs"):
        if parent.HasField(name):
            getattr(spec, name).CopyFrom(getattr(parent, name))
    return execution_pb2.ExecutionCreateRequest(
        project=child.project, domain=child.domain, name=child.name, spec=spec, inputs=inputs
    )


def _recovery(
    run: Run,
    node: NodeState,
    child: identifier_pb2.WorkflowExecutionIdentifier,
    earlier: identifier_pb2.WorkflowExecutionIdentifier,
) -> execution_pb2.ExecutionRecoverRequest:
    return execution_pb2.ExecutionRecoverRequest(id=earlier, name=child.name, metadata=_metadata(run, node))


def _metadata(run: Run, node: NodeState) -> execution_pb2.ExecutionMetadata:
    return execution_pb2.ExecutionMetadata(
        mode=execution_pb2.ExecutionMetadata.CHILD_WORKFLOW,
        principal=run.spec.metadata.principal,
        nesting=run.spec.metadata.nesting + 1,
        parent_node_execution=identifier_pb2.NodeExecutionIdentifier(node_id=node.unique_id, execution_id=run.id),
    )


def _launch_failure(node: NodeState, error: AerodromeError) -> Failure:
    plan = node.spec.template.workflow_node.launchplan_ref
    return Failure(
        "RuntimeExecutionError",
        f"launch plan {plan.name} (version {plan.version}) could not be launched: {error.message}",
        ErrorKind.SYSTEM if may_pass(error) else ErrorKind.USER,
        retryable=False,
    )
