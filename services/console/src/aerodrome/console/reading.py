"""What the pages show, read from the API.

Every list is bounded: a page that lists more says so, and how many it left out is not counted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from flyteidl.admin import (
    common_pb2,
    execution_pb2,
    node_execution_pb2,
    project_pb2,
    task_execution_pb2,
    workflow_pb2,
)
from flyteidl.core import execution_pb2 as execution_core
from flyteidl.core import identifier_pb2
from flyteidl.service import dataproxy_pb2
from flyteidl.service.admin_pb2_grpc import AdminServiceStub
from flyteidl.service.dataproxy_pb2_grpc import DataProxyServiceStub

from aerodrome.console.entities import Kind
from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.rpc.client import aerodrome_error

log = get_logger(__name__)

T = TypeVar("T")

TIMEOUT_SECONDS = 15.0
"""How long a page waits for one answer."""

MAX_NODES = 1_000
"""Nodes on one page, those of sub-workflows included."""

MAX_DEPTH = 8
"""How deep nodes within nodes are shown."""

MAX_ATTEMPTS = 100
"""Attempts of one node."""

ATTEMPTS_OF_NODES = 60
"""For how many nodes the page of an execution reads the attempts, those that did not succeed first; the pages of nodes
read theirs."""

PAGE = 50
"""Executions on one page."""

_AT_ONCE = 8
_REMEMBERED_WORKFLOWS = 64

_NEWEST_FIRST = common_pb2.Sort(key="created_at", direction=common_pb2.Sort.DESCENDING)
_OLDEST_FIRST = common_pb2.Sort(key="created_at", direction=common_pb2.Sort.ASCENDING)


@dataclass(slots=True)
class Node:
    """A node execution, with what is inside of it."""

    execution: Any
    """flyteidl.admin.NodeExecution"""
    name: str = ""
    """What its workflow calls it."""
    attempts: Sequence[Any] = ()
    """flyteidl.admin.TaskExecution, in their order."""
    children: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Tree:
    """The nodes of an execution."""

    nodes: list[Node]
    complete: bool


class Reader:
    """Reads from a channel; every method raises AerodromeError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admin: Any = AdminServiceStub(channel)
        self._dataproxy: Any = DataProxyServiceStub(channel)
        self._names: OrderedDict[bytes, dict[str, str]] = OrderedDict()

    async def projects(self) -> Sequence[Any]:
        """The active projects, with their domains."""
        request = project_pb2.ProjectListRequest(
            limit=100, sort_by=common_pb2.Sort(key="identifier", direction=common_pb2.Sort.ASCENDING)
        )
        answer = await self._call(self._admin.ListProjects, request)
        projects: Sequence[Any] = answer.projects
        return projects

    async def executions(
        self, project: str, domain: str, *, limit: int = PAGE, token: str = "", filters: str = ""
    ) -> Any:
        """Executions, the newest first, as flyteidl.admin.ExecutionList."""
        request = common_pb2.ResourceListRequest(
            id=common_pb2.NamedEntityIdentifier(project=project, domain=domain),
            limit=limit,
            token=token,
            filters=filters,
            sort_by=_NEWEST_FIRST,
        )
        return await self._call(self._admin.ListExecutions, request)

    async def entity(self, kind: Kind, project: str, domain: str, name: str, version: str) -> Any:
        """flyteidl.admin.Workflow, Task or LaunchPlan"""
        request = common_pb2.ObjectGetRequest(
            id=identifier_pb2.Identifier(project=project, domain=domain, name=name, version=version)
        )
        return await self._call(getattr(self._admin, kind.getter), request)

    async def executions_of(self, kind: Kind, project: str, domain: str, name: str, version: str) -> Sequence[Any]:
        """The newest executions of an entity; none where its name cannot stand in a filter."""
        if set("+,") & set(name + version):
            return ()
        filters = f"eq({kind.column}.name,{name})+eq({kind.column}.version,{version})"
        found = await self.executions(project, domain, limit=10, filters=filters)
        executions: Sequence[Any] = found.executions
        return executions

    async def recent(self, places: Sequence[tuple[str, str]], *, limit: int) -> list[Sequence[Any]]:
        """The newest executions of each (project, domain)."""

        async def of(place: tuple[str, str]) -> Sequence[Any]:
            found = await self.executions(*place, limit=limit)
            executions: Sequence[Any] = found.executions
            return executions

        return await _each(places, of)

    async def execution(self, project: str, domain: str, name: str) -> Any:
        """flyteidl.admin.Execution"""
        request = execution_pb2.WorkflowExecutionGetRequest(id=_id(project, domain, name))
        return await self._call(self._admin.GetExecution, request)

    async def execution_data(self, project: str, domain: str, name: str) -> Any:
        """flyteidl.admin.WorkflowExecutionGetDataResponse"""
        request = execution_pb2.WorkflowExecutionGetDataRequest(id=_id(project, domain, name))
        return await self._call(self._admin.GetExecutionData, request)

    async def node(self, project: str, domain: str, name: str, node: str) -> Node:
        """A node with all of its attempts, without what is inside of it."""
        request = node_execution_pb2.NodeExecutionGetRequest(id=_node_id(project, domain, name, node))
        found = Node(await self._call(self._admin.GetNodeExecution, request))
        found.attempts = await self._attempts(found.execution.id)
        return found

    async def node_data(self, project: str, domain: str, name: str, node: str) -> Any:
        """flyteidl.admin.NodeExecutionGetDataResponse"""
        request = node_execution_pb2.NodeExecutionGetDataRequest(id=_node_id(project, domain, name, node))
        return await self._call(self._admin.GetNodeExecutionData, request)

    async def deck(self, project: str, domain: str, name: str, node: str) -> str:
        """A URL of a node's deck.  Raises NotFound if there is none."""
        request = dataproxy_pb2.CreateDownloadLinkRequest(
            artifact_type=dataproxy_pb2.ARTIFACT_TYPE_DECK,
            node_execution_id=_node_id(project, domain, name, node),
        )
        answer = await self._call(self._dataproxy.CreateDownloadLink, request)
        urls = [*answer.pre_signed_urls.signed_url, *answer.signed_url]
        if not urls:
            raise NotFound("this node has no deck")
        return str(urls[0])

    async def tree(self, execution: Any, *, inside: str = "") -> Tree:
        """The nodes of an execution, or those inside of one of its nodes, in the order in which they began."""
        budget = [MAX_NODES]
        names = await self._names_of(execution.closure.workflow_id) if not inside else {}
        nodes = await self._children(execution.id, inside, budget, MAX_DEPTH)
        for node in nodes:
            node.name = names.get(node.execution.metadata.spec_node_id or node.execution.id.node_id, "")
        with_attempts = sorted((node for node in flat(nodes) if not _is_group(node)), key=_has_succeeded)

        async def add(node: Node) -> None:
            node.attempts = await self._attempts(node.execution.id)

        await _each(with_attempts[:ATTEMPTS_OF_NODES], add)
        return Tree(nodes, complete=budget[0] > 0)

    async def _children(self, execution_id: Any, parent: str, budget: list[int], depth: int) -> list[Node]:
        nodes: list[Node] = []
        token = ""
        while budget[0] > 0:
            request = node_execution_pb2.NodeExecutionListRequest(
                workflow_execution_id=execution_id,
                limit=min(500, budget[0]),
                token=token,
                sort_by=_OLDEST_FIRST,
                unique_parent_id=parent,
            )
            page = await self._call(self._admin.ListNodeExecutions, request)
            found = [Node(each) for each in page.node_executions if not _is_end(each)]
            budget[0] -= len(page.node_executions)
            nodes += found
            token = page.token
            if not token or not page.node_executions:
                break
        parents = [node for node in nodes if node.execution.metadata.is_parent_node]
        if depth > 1:

            async def fill(node: Node) -> None:
                node.children = await self._children(execution_id, node.execution.id.node_id, budget, depth - 1)

            await _each(parents, fill)
        return nodes

    async def _attempts(self, node_id: Any) -> Sequence[Any]:
        request = task_execution_pb2.TaskExecutionListRequest(
            node_execution_id=node_id, limit=MAX_ATTEMPTS, sort_by=_OLDEST_FIRST
        )
        page = await self._call(self._admin.ListTaskExecutions, request)
        return sorted(page.task_executions, key=lambda each: int(each.id.retry_attempt))

    async def _names_of(self, workflow: Any) -> dict[str, str]:
        """What a workflow calls its nodes; nothing where it cannot be read, for the page is of use without."""
        key = workflow.SerializeToString()
        known = self._names.get(key)
        if known is not None:
            self._names.move_to_end(key)
            return known
        try:
            answer: workflow_pb2.Workflow = await self._call(
                self._admin.GetWorkflow, common_pb2.ObjectGetRequest(id=workflow)
            )
        except AerodromeError as error:
            log.debug("workflow of an execution cannot be read", error=error.message)
            return {}
        template = answer.closure.compiled_workflow.primary.template
        names = {str(node.id): str(node.metadata.name) for node in template.nodes}
        self._names[key] = names
        if len(self._names) > _REMEMBERED_WORKFLOWS:
            self._names.popitem(last=False)
        return names

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise aerodrome_error(error) from error


def flat(nodes: Sequence[Node]) -> list[Node]:
    """`nodes` and all inside of them."""
    found: list[Node] = []
    for node in nodes:
        found.append(node)
        found += flat(node.children)
    return found


async def _each(items: Sequence[Any], work: Callable[[Any], Awaitable[T]]) -> list[T]:
    """What `work` gives for each of `items`, a few at a time; the first error is raised as it is."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(item: Any) -> T:
        async with slots:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _is_group(node: Node) -> bool:
    """Whether a node only holds others, and so has no attempts of its own."""
    metadata = node.execution.metadata
    return bool(metadata.is_parent_node and not metadata.is_dynamic and not metadata.is_array)


def _has_succeeded(node: Node) -> bool:
    return bool(node.execution.closure.phase == execution_core.NodeExecution.SUCCEEDED)


def _is_end(execution: Any) -> bool:
    return (execution.metadata.spec_node_id or execution.id.node_id) in ("start-node", "end-node")


def _id(project: str, domain: str, name: str) -> Any:
    return identifier_pb2.WorkflowExecutionIdentifier(project=project, domain=domain, name=name)


def _node_id(project: str, domain: str, name: str, node: str) -> Any:
    return identifier_pb2.NodeExecutionIdentifier(node_id=node, execution_id=_id(project, domain, name))
