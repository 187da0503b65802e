"""What nodes of executions are, as the control plane says.

A node's own settings (a cache version of its own, which inputs of a map are given whole) are in the workflow's compiled
closure; a dynamic node's children are not, and are read by what their tasks say.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import grpc
from flyteidl.admin import common_pb2, execution_pb2, node_execution_pb2, task_execution_pb2
from flyteidl.core import identifier_pb2, interface_pb2, literals_pb2, workflow_pb2
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from google.protobuf.message import DecodeError

from aerodrome.datacatalog.domain.explaining import version_parts
from aerodrome.datacatalog.managers.understanding import Subject
from aerodrome.idl.catalog.v1 import catalog_pb2 as messages
from aerodrome.stdlib.errors import DataLoss, InvalidArgument, NotFound
from aerodrome.stdlib.rpc.status import aerodrome_error
from aerodrome.stdlib.storage import Storage

T = TypeVar("T")

_CALL_SECONDS = 20.0
_ITEM = re.compile("n[0-9]+")
"""Ids of items within their map; those of other nodes may look the same."""


class ControlPlane:
    """AdminService behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, storage: Storage) -> None:
        self._admin: Any = AdminServiceStub(channel)
        self._storage = storage

    async def subject(self, node: messages.NodeOfExecution) -> Subject:
        """The task that a node runs, and its inputs.  Raises NotFound, InvalidArgument for what is no task."""
        execution = identifier_pb2.WorkflowExecutionIdentifier(
            project=node.project, domain=node.domain, name=node.execution
        )
        identity = identifier_pb2.NodeExecutionIdentifier(node_id=node.node_id, execution_id=execution)
        found: node_execution_pb2.NodeExecution = await _call(
            self._admin.GetNodeExecution, node_execution_pb2.NodeExecutionGetRequest(id=identity)
        )
        if not node.HasField("item") and (whole := await self._map_of(found)):
            item = messages.NodeOfExecution()
            item.CopyFrom(node)
            item.node_id, item.item = whole, int(found.metadata.spec_node_id[1:])
            return await self.subject(item)
        reported = found.closure.task_node_metadata
        task_id = await self._task_of(identity, reported)
        if task_id is None:
            raise InvalidArgument(
                f"node {node.node_id} of {node.execution} has run no task: only tasks are cached, and a node that has "
                "not begun has no inputs yet"
            )
        template = (
            await _call(self._admin.GetTask, common_pb2.ObjectGetRequest(id=task_id))
        ).closure.compiled_task.template
        if not template.id.name:
            template.id.CopyFrom(task_id)
        inputs = await self._inputs(found.input_uri)
        spec = await self._spec(execution, found.metadata.spec_node_id)
        metadata = spec.metadata if spec is not None else workflow_pb2.NodeMetadata()
        interface = None
        if node.HasField("item"):
            if spec is None or spec.WhichOneof("target") != "array_node":
                raise InvalidArgument(f"node {node.node_id} of {node.execution} is no map task, so it has no items")
            inputs = _element(inputs, node.item, set(spec.array_node.bound_inputs))
            own = spec.array_node.is_original_sub_node_interface.value
            interface = template.interface if own else item_interface(template.interface)
            metadata = spec.array_node.node.metadata
        version: str | None = None
        if reported.HasField("catalog_key") and reported.catalog_key.dataset_id.version:
            version = version_parts(reported.catalog_key.dataset_id.version).cache_version
        elif metadata.WhichOneof("cache_version_value"):
            version = metadata.cache_version
        cacheable = template.metadata.discoverable
        if metadata.WhichOneof("cacheable_value"):
            cacheable = metadata.cacheable
        return Subject(template, inputs, cacheable, version, interface)

    async def _map_of(self, node: node_execution_pb2.NodeExecution) -> str:
        """The map that a node is an item of, where items are shown as nodes; empty if it is none.

        The API does not say what a node is inside of, but its id does, unless that was too long.
        """
        metadata = node.metadata
        around, separator, rest = node.id.node_id.rpartition(f"-{metadata.retry_group}-{metadata.spec_node_id}")
        if not separator or rest or not _ITEM.fullmatch(metadata.spec_node_id):
            return ""
        identity = identifier_pb2.NodeExecutionIdentifier(node_id=around, execution_id=node.id.execution_id)
        try:
            whole = await _call(self._admin.GetNodeExecution, node_execution_pb2.NodeExecutionGetRequest(id=identity))
        except NotFound:
            return ""
        return around if whole.metadata.is_array else ""

    async def _task_of(
        self, node: identifier_pb2.NodeExecutionIdentifier, reported: node_execution_pb2.TaskNodeMetadata
    ) -> identifier_pb2.Identifier | None:
        request = task_execution_pb2.TaskExecutionListRequest(node_execution_id=node, limit=1)
        listed = await _call(self._admin.ListTaskExecutions, request)
        for each in listed.task_executions:
            task: identifier_pb2.Identifier = each.id.task_id
            return task
        source = reported.catalog_key.source_task_execution.task_id
        return source if source.name else None

    async def _inputs(self, reference: str) -> literals_pb2.LiteralMap:
        if not reference:
            return literals_pb2.LiteralMap()
        try:
            data = await self._storage.read(reference, limit_bytes=0)
        except NotFound as error:
            raise NotFound(f"the node's inputs are gone, so its key cannot be told: {error.message}") from error
        try:
            return literals_pb2.LiteralMap.FromString(data)
        except DecodeError as error:
            raise DataLoss(f"what is stored at {reference} is not a literal map") from error

    async def _spec(
        self, execution: identifier_pb2.WorkflowExecutionIdentifier, spec_node_id: str
    ) -> workflow_pb2.Node | None:
        """A node as its workflow has it, if it is the only one of its id."""
        run = await _call(self._admin.GetExecution, execution_pb2.WorkflowExecutionGetRequest(id=execution))
        workflow = await _call(self._admin.GetWorkflow, common_pb2.ObjectGetRequest(id=run.closure.workflow_id))
        compiled = workflow.closure.compiled_workflow
        named = [
            node
            for each in (compiled.primary, *compiled.sub_workflows)
            for node in _nodes(each.template)
            if node.id == spec_node_id
        ]
        return named[0] if len(named) == 1 else None


def item_interface(interface: interface_pb2.TypedInterface) -> interface_pb2.TypedInterface:
    """What an item of a map is keyed by: the map's inputs, one item's outputs.  Source: spec/data-plane.md, 4.6."""
    item = interface_pb2.TypedInterface()
    item.CopyFrom(interface)
    for variable in item.outputs.variables.values():
        if variable.type.WhichOneof("type") == "collection_type":
            element = type(variable.type)()
            element.CopyFrom(variable.type.collection_type)
            variable.type.CopyFrom(element)
    return item


def _element(inputs: literals_pb2.LiteralMap, item: int, bound: set[str]) -> literals_pb2.LiteralMap:
    """What one item of a map is given of the map's inputs."""
    own = literals_pb2.LiteralMap()
    for name, literal in inputs.literals.items():
        if name in bound or literal.WhichOneof("value") != "collection":
            own.literals[name].CopyFrom(literal)
            continue
        members = literal.collection.literals
        if item >= len(members):
            raise InvalidArgument(f"invalid value for item: there are {len(members)}, and they count from 0")
        own.literals[name].CopyFrom(members[item])
    return own


def _nodes(template: workflow_pb2.WorkflowTemplate) -> Iterator[workflow_pb2.Node]:
    """A workflow's nodes, with those inside its branches."""
    stack = list(template.nodes)
    while stack:
        node = stack.pop()
        yield node
        if node.WhichOneof("target") == "branch_node":
            block = node.branch_node.if_else
            stack.append(block.case.then_node)
            stack.extend(case.then_node for case in block.other)
            if block.WhichOneof("default") == "else_node":
                stack.append(block.else_node)


async def _call(method: Callable[..., Awaitable[T]], request: object) -> T:
    try:
        return await method(request, timeout=_CALL_SECONDS)
    except grpc.RpcError as error:
        raise aerodrome_error(error) from error
