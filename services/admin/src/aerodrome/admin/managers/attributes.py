"""Matchable attributes: what is configured for a project, a domain of it, or a workflow, at runtime.

A row holds the attributes of one kind at one level.  Whoever asks for a level gets the most specific row that covers
it, whole; a project is the exception, which shows its own row.  Source: spec/control-plane.md, sections 8.2 and 8.3.
"""

from __future__ import annotations

from flyteidl.admin.matchable_resource_pb2 import (
    ListMatchableAttributesRequest,
    ListMatchableAttributesResponse,
    MatchableResource,
    MatchingAttributes,
)
from flyteidl.admin.project_attributes_pb2 import (
    ProjectAttributes,
    ProjectAttributesDeleteRequest,
    ProjectAttributesGetRequest,
    ProjectAttributesGetResponse,
    ProjectAttributesUpdateRequest,
)
from flyteidl.admin.project_domain_attributes_pb2 import (
    ProjectDomainAttributes,
    ProjectDomainAttributesDeleteRequest,
    ProjectDomainAttributesGetRequest,
    ProjectDomainAttributesGetResponse,
    ProjectDomainAttributesUpdateRequest,
)
from flyteidl.admin.workflow_attributes_pb2 import (
    WorkflowAttributes,
    WorkflowAttributesDeleteRequest,
    WorkflowAttributesGetRequest,
    WorkflowAttributesGetResponse,
    WorkflowAttributesUpdateRequest,
)

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.attributes import (
    AttributeRow,
    Level,
    attributes_kind,
    check_attributes,
    check_kind,
    merge_plugin_overrides,
)
from aerodrome.admin.domain.launching import application_config, merge_configs
from aerodrome.admin.domain.projects import ACTIVE
from aerodrome.admin.domain.validation import check_text, missing, shown
from aerodrome.admin.managers.projects import Place
from aerodrome.admin.repositories.projects import ProjectRepository
from aerodrome.admin.repositories.resources import ResourceRepository
from aerodrome.stdlib.errors import InvalidArgument, NotFound
from aerodrome.stdlib.postgres.database import Connection, Database

_CONFIG = MatchableResource.WORKFLOW_EXECUTION_CONFIG


class AttributeManager:
    """Attributes at their three levels.

    Every call raises InvalidArgument for what cannot be meant, an unregistered or inactive project among it; reading a
    level raises NotFound where neither it nor one above it has a row.
    """

    def __init__(self, database: Database, config: AdminConfig) -> None:
        self._db = database
        self._place = Place.of(config)
        self._defaults = application_config(config.flyteadmin)

    # --- a project

    async def update_project(self, request: ProjectAttributesUpdateRequest) -> None:
        """Replace the attributes of one kind of a project; plugin overrides are merged."""
        if not request.HasField("attributes"):
            raise missing("attributes")
        level = Level(request.attributes.project)
        async with self._db.transaction() as conn:
            await _check_project(conn, level.project)
            await _update(conn, level, request.attributes)

    async def get_project(self, request: ProjectAttributesGetRequest) -> ProjectAttributesGetResponse:
        """The project's own attributes; its execution configuration with the service's defaults filled in."""
        level = Level(request.project)
        async with self._db.connection() as conn:
            check_text("project", level.project)
            if await ProjectRepository(conn).find_facts(level.project) is None:
                raise InvalidArgument(
                    f"failed to validate that project [{shown(level.project)}] exists, "
                    f"err: [project [{shown(level.project)}] not found]"
                )
            kind = check_kind(request.resource_type)
            row = await ResourceRepository(conn).find(level, kind)
        attributes = None if row is None else MatchingAttributes.FromString(row.attributes)
        if request.resource_type == _CONFIG:
            own = [] if attributes is None else [attributes.workflow_execution_config]
            attributes = MatchingAttributes(
                workflow_execution_config=merge_configs([*own, self._defaults], fallback_identity=None)
            )
        if attributes is None:
            raise _not_found(level, kind)
        return ProjectAttributesGetResponse(
            attributes=ProjectAttributes(project=level.project, matching_attributes=attributes)
        )

    async def delete_project(self, request: ProjectAttributesDeleteRequest) -> None:
        """Forget the project's own attributes of one kind; those of its domains and workflows stay."""
        level = Level(request.project)
        async with self._db.transaction() as conn:
            await _check_project(conn, level.project)
            await ResourceRepository(conn).delete(level, check_kind(request.resource_type))

    # --- a domain of a project

    async def update_project_domain(self, request: ProjectDomainAttributesUpdateRequest) -> None:
        """Replace the attributes of one kind of a project's domain; plugin overrides are merged."""
        if not request.HasField("attributes"):
            raise missing("attributes")
        level = Level(request.attributes.project, request.attributes.domain)
        async with self._db.transaction() as conn:
            await self._place.check(conn, level.project, level.domain)
            await _update(conn, level, request.attributes)

    async def get_project_domain(
        self, request: ProjectDomainAttributesGetRequest
    ) -> ProjectDomainAttributesGetResponse:
        """The attributes that cover the domain; the answer names the level at which they are stored."""
        row = await self._find(Level(request.project, request.domain), request.resource_type)
        return ProjectDomainAttributesGetResponse(
            attributes=ProjectDomainAttributes(
                project=row.project,
                domain=row.domain,
                matching_attributes=MatchingAttributes.FromString(row.attributes),
            )
        )

    async def delete_project_domain(self, request: ProjectDomainAttributesDeleteRequest) -> None:
        """Forget the domain's own attributes of one kind; those of its workflows stay."""
        level = Level(request.project, request.domain)
        async with self._db.transaction() as conn:
            await self._place.check(conn, level.project, level.domain)
            await ResourceRepository(conn).delete(level, check_kind(request.resource_type))

    # --- a workflow

    async def update_workflow(self, request: WorkflowAttributesUpdateRequest) -> None:
        """Replace the attributes of one kind of a workflow, which need not be registered; overrides are merged."""
        if not request.HasField("attributes"):
            raise missing("attributes")
        given = request.attributes
        level = Level(given.project, given.domain, given.workflow)
        async with self._db.transaction() as conn:
            await self._check_workflow(conn, level)
            await _update(conn, level, given)

    async def get_workflow(self, request: WorkflowAttributesGetRequest) -> WorkflowAttributesGetResponse:
        """The attributes that cover the workflow; the answer names the level at which they are stored."""
        level = Level(request.project, request.domain, request.workflow)
        row = await self._find(level, request.resource_type, of_workflow=True)
        return WorkflowAttributesGetResponse(
            attributes=WorkflowAttributes(
                project=row.project,
                domain=row.domain,
                workflow=row.workflow,
                matching_attributes=MatchingAttributes.FromString(row.attributes),
            )
        )

    async def delete_workflow(self, request: WorkflowAttributesDeleteRequest) -> None:
        """Forget the workflow's own attributes of one kind."""
        level = Level(request.project, request.domain, request.workflow)
        async with self._db.transaction() as conn:
            await self._check_workflow(conn, level)
            await ResourceRepository(conn).delete(level, check_kind(request.resource_type))

    # --- all of them

    async def list(self, request: ListMatchableAttributesRequest) -> ListMatchableAttributesResponse:
        """All attributes of one kind, the most specific first."""
        kind = check_kind(request.resource_type)
        async with self._db.connection() as conn:
            rows = await ResourceRepository(conn).list_kind(kind)
        answer = ListMatchableAttributesResponse()
        for row in rows:
            answer.configurations.add(
                attributes=MatchingAttributes.FromString(row.attributes),
                project=row.project,
                domain=row.domain,
                workflow=row.workflow,
                launch_plan=row.launch_plan,
            )
        return answer

    async def _check_workflow(self, conn: Connection, level: Level) -> None:
        await self._place.check(conn, level.project, level.domain)
        if not level.workflow:
            raise missing("name")
        check_text("name", level.workflow)

    async def _find(self, level: Level, resource_type: int, *, of_workflow: bool = False) -> AttributeRow:
        async with self._db.connection() as conn:
            if of_workflow:
                await self._check_workflow(conn, level)
            else:
                await self._place.check(conn, level.project, level.domain)
            kind = check_kind(resource_type)
            row = await ResourceRepository(conn).find(level, kind)
        if row is None:
            raise _not_found(level, kind)
        return row


async def _check_project(conn: Connection, project: str) -> None:
    """The project is registered and active."""
    check_text("project", project)
    facts = await ProjectRepository(conn).find_facts(project)
    if facts is None:
        raise InvalidArgument(
            f"failed to validate that project [{shown(project)}] is registered, "
            f"err: [project [{shown(project)}] not found]"
        )
    if facts.state != ACTIVE:
        raise InvalidArgument(f"project [{project}] is not active")


async def _update(
    conn: Connection, level: Level, given: ProjectAttributes | ProjectDomainAttributes | WorkflowAttributes
) -> None:
    if not given.HasField("matching_attributes"):
        raise missing("matching_attributes")
    attributes = given.matching_attributes
    number = attributes_kind(attributes)
    if number is None:
        raise InvalidArgument(f"Unrecognized matching attributes type for request {level}")
    check_attributes(attributes)
    kind = MatchableResource.Name(number)
    resources = ResourceRepository(conn)
    if number == MatchableResource.PLUGIN_OVERRIDE:
        stored = MatchingAttributes.FromString(
            await resources.put_and_lock(level, kind, attributes.SerializeToString())
        )
        attributes = merge_plugin_overrides(stored, attributes)
        check_attributes(attributes)  # together they may be too large
    await resources.put(level, kind, attributes.SerializeToString())


def _not_found(level: Level, kind: str) -> NotFound:
    return NotFound(
        f"Resource [{{Project:{shown(level.project)} Domain:{shown(level.domain)} Workflow:{shown(level.workflow)} "
        f"LaunchPlan: ResourceType:{kind}}}] not found"
    )
