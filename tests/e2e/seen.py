"""Executions as the API shows them, unabridged: raw messages of every node, nested ones under their parents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyteidl.admin import execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2
from flytekit.remote import FlyteRemote, FlyteWorkflowExecution

from .instance import wait_until

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"})


@dataclass
class SeenNode:
    """A node execution, and what is inside of it by its id in the workflow."""

    message: node_execution_pb2.NodeExecution
    inside: dict[str, SeenNode] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        return str(phases.NodeExecution.Phase.Name(self.message.closure.phase))

    @property
    def id(self) -> str:
        return self.message.id.node_id

    @property
    def error(self) -> phases.ExecutionError:
        return self.message.closure.error

    @property
    def child(self) -> identifier_pb2.WorkflowExecutionIdentifier:
        """What it launched."""
        return self.message.closure.workflow_node_metadata.executionId

    @property
    def flags(self) -> set[str]:
        """Those of parent, dynamic and array that are set."""
        metadata = self.message.metadata
        names = {"parent": metadata.is_parent_node, "dynamic": metadata.is_dynamic, "array": metadata.is_array}
        return {name for name, is_set in names.items() if is_set}

    def phases(self) -> dict[str, Any]:
        """Phases of everything inside, nested as the nodes are; start and end nodes are left out."""
        return phases_of(self.inside)


def phases_of(nodes: dict[str, SeenNode]) -> dict[str, Any]:
    """The same of some nodes: a phase, or a phase and those inside."""
    return {
        name: (node.phase, node.phases()) if node.inside else node.phase
        for name, node in nodes.items()
        if name not in ("start-node", "end-node")
    }


class Seen:
    """Reads through the SDK's own connection, or another one."""

    def __init__(self, remote: FlyteRemote | None = None, *, stub: Any = None) -> None:
        self._stub: Any = stub if remote is None else remote.client._stub

    def execution(self, identifier: Any) -> execution_pb2.Execution:
        request = execution_pb2.WorkflowExecutionGetRequest(id=_raw(identifier))
        found: execution_pb2.Execution = self._stub.GetExecution(request)
        return found

    def phase(self, identifier: Any) -> str:
        return str(phases.WorkflowExecution.Phase.Name(self.execution(identifier).closure.phase))

    def finished(self, identifier: Any, *, seconds: float = 60.0) -> str:
        """The phase that it ends in."""

        def look() -> str | None:
            phase = self.phase(identifier)
            return phase if phase in TERMINAL else None

        return wait_until(f"{_raw(identifier).name} ends", look, seconds=seconds)

    def nodes(self, identifier: Any, parent: str = "") -> dict[str, SeenNode]:
        """Every node, by its id in the workflow."""
        request = node_execution_pb2.NodeExecutionListRequest(
            workflow_execution_id=_raw(identifier), limit=1_000, unique_parent_id=parent
        )
        found: dict[str, SeenNode] = {}
        for message in self._stub.ListNodeExecutions(request).node_executions:
            get = node_execution_pb2.NodeExecutionGetRequest(id=message.id)  # lists shorten errors
            node = SeenNode(self._stub.GetNodeExecution(get))
            node.inside = self.nodes(identifier, message.id.node_id)
            found[message.metadata.spec_node_id or message.id.node_id] = node
        return found

    def attempts(self, node: SeenNode) -> list[str]:
        """Phases of the attempts of a task node."""
        request = task_execution_pb2.TaskExecutionListRequest(node_execution_id=node.message.id, limit=100)
        found = self._stub.ListTaskExecutions(request).task_executions
        ordered = sorted(found, key=lambda each: int(each.id.retry_attempt))
        return [str(phases.TaskExecution.Phase.Name(each.closure.phase)) for each in ordered]

    def recover(self, execution: FlyteWorkflowExecution) -> identifier_pb2.WorkflowExecutionIdentifier:
        """Begin an execution that takes over what succeeded in another."""
        answer = self._stub.RecoverExecution(execution_pb2.ExecutionRecoverRequest(id=_raw(execution.id)))
        identifier: identifier_pb2.WorkflowExecutionIdentifier = answer.id
        return identifier

    def terminate(self, identifier: identifier_pb2.WorkflowExecutionIdentifier, cause: str) -> None:
        """Ask for an execution's end."""
        self._stub.TerminateExecution(execution_pb2.ExecutionTerminateRequest(id=identifier, cause=cause))

    def dynamic_workflow(self, node: SeenNode) -> Any:
        """The compiled workflow that a dynamic node made."""
        request = node_execution_pb2.GetDynamicNodeWorkflowRequest(id=node.message.id)
        return self._stub.GetDynamicNodeWorkflow(request).compiled_workflow


def _raw(identifier: Any) -> identifier_pb2.WorkflowExecutionIdentifier:
    if isinstance(identifier, identifier_pb2.WorkflowExecutionIdentifier):
        return identifier
    raw: identifier_pb2.WorkflowExecutionIdentifier = getattr(identifier, "id", identifier).to_flyte_idl()
    return raw


def runs(folder: Path) -> dict[str, int]:
    """How often each task noted that it ran."""
    return {
        path.name: len(path.read_text().splitlines())
        for path in folder.iterdir()
        if path.name not in ("mended", "cleaned")
    }
