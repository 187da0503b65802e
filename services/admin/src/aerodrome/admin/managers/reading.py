"""What is there: executions, nodes and attempts by their keys, and the lists of everything that is registered or ran.

Lists are bounded by `limit`, which every caller must give, and by the page limits of `repositories.listing`.
Source: spec/control-plane.md, sections 6.1 to 6.7.
"""

from __future__ import annotations

from collections import OrderedDict

from flyteidl.admin.common_pb2 import (
    NamedEntityIdentifierList,
    NamedEntityIdentifierListRequest,
    NamedEntityList,
    NamedEntityListRequest,
    ResourceListRequest,
)
from flyteidl.admin.description_entity_pb2 import (
    DescriptionEntity,
    DescriptionEntityList,
    DescriptionEntityListRequest,
)
from flyteidl.admin.execution_pb2 import Execution, ExecutionList
from flyteidl.admin.launch_plan_pb2 import ActiveLaunchPlanListRequest, LaunchPlanList
from flyteidl.admin.node_execution_pb2 import (
    NodeExecution,
    NodeExecutionForTaskListRequest,
    NodeExecutionList,
    NodeExecutionListRequest,
)
from flyteidl.admin.task_execution_pb2 import TaskExecution, TaskExecutionList, TaskExecutionListRequest
from flyteidl.admin.task_pb2 import TaskList
from flyteidl.admin.workflow_pb2 import WorkflowList
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)

from aerodrome.admin.domain.filters import Entity, Expression, join, parse
from aerodrome.admin.domain.validation import (
    check_execution_id,
    check_identifier,
    check_named_entity_id,
    check_node_execution_id,
    check_task_execution_id,
    check_text,
    invalid_value,
    missing,
    not_found,
)
from aerodrome.admin.repositories.description_entities import DescriptionEntityViews
from aerodrome.admin.repositories.execution_views import ExecutionViews
from aerodrome.admin.repositories.listing import Ask, Scope, Source, check_limit, list_page
from aerodrome.admin.repositories.node_executions import NodeExecutionViews
from aerodrome.admin.repositories.sources import (
    DESCRIPTION_ENTITIES,
    EXECUTIONS,
    IDENTIFIERS,
    LAUNCH_PLANS,
    NODE_EXECUTIONS,
    TASK_EXECUTIONS,
    TASKS,
    WORKFLOWS,
    named_entities,
)
from aerodrome.admin.repositories.task_executions import TaskExecutionViews
from aerodrome.admin.transformers.reading import (
    add_items,
    fill_description_entity,
    fill_execution,
    fill_launch_plan,
    fill_listed_execution,
    fill_listed_node_execution,
    fill_listed_workflow,
    fill_named_entity,
    fill_named_entity_id,
    fill_node_execution,
    fill_task,
    fill_task_execution,
)
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.postgres.database import Database, Record

HIDDEN_NAMES = join([Expression("not_like", "name", ".flytegen%")])
"""What a list of names asks for when nothing is asked for: not the entities that were generated for single tasks."""
STATE_ACTIVE = 0
MAX_SHOWN_ITEMS = 2_000
"""Most items of a map in its task execution: those that failed and those that run are shown first."""
REMEMBERED_KEYS = 4_096
"""How many executions' numbers are remembered; a name never comes to mean another execution."""

_NAMED_SOURCES = {
    kind: named_entities(kind) for kind in (ResourceType.TASK, ResourceType.WORKFLOW, ResourceType.LAUNCH_PLAN)
}


class ReadingManager:
    """Gets and lists."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._executions = ExecutionViews(database)
        self._nodes = NodeExecutionViews(database)
        self._tasks = TaskExecutionViews(database)
        self._descriptions = DescriptionEntityViews(database)
        self._execution_ids: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    async def get_execution(self, key: WorkflowExecutionIdentifier) -> Execution:
        """An execution in full.  Raises InvalidArgument for an incomplete key, NotFound."""
        check_execution_id(key)
        return fill_execution(Execution(), await self._executions.get(key))

    async def get_node_execution(self, key: NodeExecutionIdentifier) -> NodeExecution:
        """A node execution in full.  Raises InvalidArgument for an incomplete key, NotFound."""
        check_node_execution_id(key)
        return fill_node_execution(NodeExecution(), key.execution_id, await self._nodes.get(key))

    async def get_task_execution(self, key: TaskExecutionIdentifier) -> TaskExecution:
        """An attempt in full.  Raises InvalidArgument for an incomplete key, NotFound."""
        check_task_execution_id(key)
        row = await self._tasks.get(key)
        found = fill_task_execution(TaskExecution(), key.node_execution_id.execution_id, row)
        return await self._with_items(found, row) if row["has_items"] else found

    async def list_executions(self, request: ResourceListRequest) -> ExecutionList:
        """Executions of a project and domain; archived ones only when the filters speak of an execution's state."""
        scope = _resource_scope(request, prefix="execution_")
        filters = parse(request.filters, Entity.EXECUTION)
        if not any(each.entity is Entity.EXECUTION and each.column == "state" for each in filters):
            scope.equal["state"] = STATE_ACTIVE
        page = await list_page(self._db, EXECUTIONS, scope, _ask("ListExecutions", request), filters=filters)
        answer = ExecutionList(token=page.token)
        for row in page.rows:
            fill_listed_execution(answer.executions.add(), row)
        return answer

    async def list_node_executions(self, request: NodeExecutionListRequest) -> NodeExecutionList:
        """The nodes of an execution at its top level, or below `unique_parent_id`, which must exist."""
        execution = request.workflow_execution_id
        try:
            check_execution_id(execution)
        except InvalidArgument:
            raise missing("execution_id") from None
        check_limit(request.limit)
        parent = request.unique_parent_id
        check_text("unique_parent_id", parent)
        execution_id = await self._find_execution_id(execution)
        if parent and (execution_id is None or not await self._nodes.exists(execution_id, parent)):
            raise not_found("node execution", NodeExecutionIdentifier(execution_id=execution, node_id=parent))
        # an unknown execution has no nodes, but a request for them that makes no sense is told so all the same
        scope = Scope(execution_id=execution_id or 0).where("ne.phase <> ''")
        if parent:
            scope.equal["parent_node_id"] = parent
        else:
            scope.where_null("parent_node_id").where("ne.parent_task_execution_id IS NULL")
        return await self._node_page(execution, scope, request)

    async def list_node_executions_for_task(self, request: NodeExecutionForTaskListRequest) -> NodeExecutionList:
        """The nodes that an attempt of a task brought forth.  Raises NotFound for an unknown attempt."""
        check_task_execution_id(request.task_execution_id)
        check_limit(request.limit)
        task = await self._tasks.get(request.task_execution_id)
        scope = Scope(execution_id=task["execution_id"], parent_task_execution_id=task["id"]).where("ne.phase <> ''")
        return await self._node_page(request.task_execution_id.node_execution_id.execution_id, scope, request)

    async def list_task_executions(self, request: TaskExecutionListRequest) -> TaskExecutionList:
        """The attempts of a node; none for an unknown node."""
        node = request.node_execution_id
        check_node_execution_id(node)
        check_limit(request.limit)
        execution_id = await self._find_execution_id(node.execution_id) or 0
        scope = Scope(execution_id=execution_id, node_id=node.node_id).where("te.phase <> ''")
        page = await list_page(self._db, TASK_EXECUTIONS, scope, _ask("ListTaskExecutions", request))
        answer = TaskExecutionList(token=page.token)
        for row in page.rows:
            found = fill_task_execution(answer.task_executions.add(), node.execution_id, row)
            if row["has_items"]:
                await self._with_items(found, row)
        return answer

    async def _with_items(self, attempt: TaskExecution, row: Record) -> TaskExecution:
        """The newest attempt of a map with its items, as far as they are shown there; a paged rpc has all of them."""
        counts = await self._tasks.count_items(row["execution_id"], row["node_id"])
        items = await self._tasks.list_items(row["execution_id"], row["node_id"], MAX_SHOWN_ITEMS)
        return add_items(attempt, counts, items)

    async def list_tasks(self, request: ResourceListRequest) -> TaskList:
        """Registered tasks, all versions."""
        page = await list_page(self._db, TASKS, _resource_scope(request), _ask("ListTasks", request))
        answer = TaskList(token=page.token)
        for row in page.rows:
            fill_task(answer.tasks.add(), row)
        return answer

    async def list_workflows(self, request: ResourceListRequest) -> WorkflowList:
        """Registered workflows, all versions; only their interfaces."""
        page = await list_page(self._db, WORKFLOWS, _resource_scope(request), _ask("ListWorkflows", request))
        answer = WorkflowList(token=page.token)
        for row in page.rows:
            fill_listed_workflow(answer.workflows.add(), row)
        return answer

    async def list_launch_plans(self, request: ResourceListRequest) -> LaunchPlanList:
        """Launch plans, all versions."""
        return await self._launch_plan_page(_resource_scope(request), _ask("ListLaunchPlans", request))

    async def list_active_launch_plans(self, request: ActiveLaunchPlanListRequest) -> LaunchPlanList:
        """The active version of each launch plan that has one."""
        scope = _place_scope(request.project, request.domain)
        check_limit(request.limit)
        scope.where("l.state = 1")
        return await self._launch_plan_page(
            scope,
            Ask("ListActiveLaunchPlans", limit=request.limit, token=request.token, sort_by=request.sort_by),
        )

    async def list_task_ids(self, request: NamedEntityIdentifierListRequest) -> NamedEntityIdentifierList:
        """The names of tasks."""
        return await self._identifier_page("tasks", "ListUniqueTaskIdentifiers", request)

    async def list_workflow_ids(self, request: NamedEntityIdentifierListRequest) -> NamedEntityIdentifierList:
        """The names of workflows."""
        return await self._identifier_page("workflows", "ListWorkflowIdentifiers", request)

    async def list_launch_plan_ids(self, request: NamedEntityIdentifierListRequest) -> NamedEntityIdentifierList:
        """The names of launch plans; of all projects and domains unless they are given."""
        if request.limit <= 0:
            raise InvalidArgument("missing and/or invalid parameters: limit")
        scope = Scope()
        for field in ("project", "domain"):
            check_text(field, getattr(request, field))
            if value := getattr(request, field):
                scope.equal[field] = value
        return await self._identifiers(IDENTIFIERS["launch_plans"], scope, "", request)

    async def list_named_entities(self, request: NamedEntityListRequest) -> NamedEntityList:
        """Names with their description and state; generated ones only to those who filter for themselves."""
        source = _NAMED_SOURCES.get(request.resource_type)
        if source is None:
            raise invalid_value("resource_type")
        scope = _place_scope(request.project, request.domain)
        check_limit(request.limit)
        ask = Ask(
            "ListNamedEntities",
            limit=request.limit,
            token=request.token,
            filters=request.filters or HIDDEN_NAMES,
            sort_by=request.sort_by,
        )
        page = await list_page(self._db, source, scope, ask)
        answer = NamedEntityList(token=page.token)
        for row in page.rows:
            fill_named_entity(answer.entities.add(), request.resource_type, row)
        return answer

    async def get_description_entity(self, key: Identifier) -> DescriptionEntity:
        """What was written about a version of a task or workflow.  Raises InvalidArgument, NotFound."""
        if key.resource_type == ResourceType.UNSPECIFIED:
            raise invalid_value("resource_type")
        check_identifier(key, key.resource_type)
        return fill_description_entity(DescriptionEntity(), await self._descriptions.get(key))

    async def list_description_entities(self, request: DescriptionEntityListRequest) -> DescriptionEntityList:
        """What was written about the versions of one task or workflow."""
        if request.resource_type == ResourceType.UNSPECIFIED:
            raise invalid_value("resource_type")
        if not request.HasField("id"):
            raise missing("id")
        check_named_entity_id(request.id)
        check_limit(request.limit)
        scope = Scope(
            resource_type=request.resource_type,
            project=request.id.project,
            domain=request.id.domain,
            name=request.id.name,
        )
        page = await list_page(self._db, DESCRIPTION_ENTITIES, scope, _ask("ListWorkflows", request))
        answer = DescriptionEntityList(token=page.token)
        for row in page.rows:
            fill_description_entity(answer.descriptionEntities.add(), row)
        return answer

    async def _node_page(
        self,
        execution: WorkflowExecutionIdentifier,
        scope: Scope,
        request: NodeExecutionListRequest | NodeExecutionForTaskListRequest,
    ) -> NodeExecutionList:
        page = await list_page(self._db, NODE_EXECUTIONS, scope, _ask("ListNodeExecutions", request))
        answer = NodeExecutionList(token=page.token)
        for row in page.rows:
            fill_listed_node_execution(answer.node_executions.add(), execution, row)
        return answer

    async def _launch_plan_page(self, scope: Scope, ask: Ask) -> LaunchPlanList:
        page = await list_page(self._db, LAUNCH_PLANS, scope, ask)
        answer = LaunchPlanList(token=page.token)
        for row in page.rows:
            fill_launch_plan(answer.launch_plans.add(), row)
        return answer

    async def _identifier_page(
        self, table: str, rpc: str, request: NamedEntityIdentifierListRequest
    ) -> NamedEntityIdentifierList:
        scope = _place_scope(request.project, request.domain)
        check_limit(request.limit)
        return await self._identifiers(IDENTIFIERS[table], scope, rpc, request)

    async def _identifiers(
        self, source: Source, scope: Scope, rpc: str, request: NamedEntityIdentifierListRequest
    ) -> NamedEntityIdentifierList:
        ask = Ask(rpc, limit=request.limit, token=request.token, sort_by=request.sort_by)  # filters are ignored here
        page = await list_page(self._db, source, scope, ask)
        answer = NamedEntityIdentifierList(token=page.token)
        for row in page.rows:
            fill_named_entity_id(answer.entities.add(), row)
        return answer

    async def _find_execution_id(self, key: WorkflowExecutionIdentifier) -> int | None:
        """The number of an execution, remembered because it never changes; None if there is no such execution."""
        name = (key.project, key.domain, key.name)
        found = self._execution_ids.get(name)
        if found is not None:
            self._execution_ids.move_to_end(name)
            return found
        found = await self._executions.find_key(key)
        if found is not None:
            self._execution_ids[name] = found
            if len(self._execution_ids) > REMEMBERED_KEYS:
                self._execution_ids.popitem(last=False)
        return found


def _ask(
    rpc: str,
    request: ResourceListRequest
    | NodeExecutionListRequest
    | NodeExecutionForTaskListRequest
    | TaskExecutionListRequest
    | DescriptionEntityListRequest,
) -> Ask:
    return Ask(rpc, limit=request.limit, token=request.token, filters=request.filters, sort_by=request.sort_by)


def _place_scope(project: str, domain: str, *, prefix: str = "") -> Scope:
    for field, value in (("project", project), ("domain", domain)):
        if not value:
            raise missing(field)
        check_text(field, value)
    return Scope(**{f"{prefix}project": project, f"{prefix}domain": domain})


def _resource_scope(request: ResourceListRequest, *, prefix: str = "") -> Scope:
    if not request.HasField("id"):
        raise missing("id")
    scope = _place_scope(request.id.project, request.id.domain, prefix=prefix)
    check_limit(request.limit)
    if request.id.name:
        check_text("name", request.id.name)
        scope.equal[f"{prefix}name"] = request.id.name
    return scope
