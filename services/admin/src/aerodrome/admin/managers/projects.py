"""Projects: registering, changing and listing them.  Source: spec/control-plane.md, section 8.1."""

from __future__ import annotations

from dataclasses import dataclass

from flyteidl.admin.project_pb2 import (
    GetDomainsResponse,
    Project,
    ProjectGetRequest,
    ProjectListRequest,
    ProjectRegisterRequest,
    Projects,
)

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.filters import Entity
from aerodrome.admin.domain.projects import ARCHIVED, check_project, check_usable
from aerodrome.admin.domain.validation import check_text, missing
from aerodrome.admin.repositories.listing import MAX_PAGE_ROWS, Ask, Scope, Source, list_page
from aerodrome.admin.repositories.projects import ProjectRepository
from aerodrome.admin.transformers.projects import domains_of, project_of
from aerodrome.stdlib.errors import AlreadyExists
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database

log = get_logger(__name__)

PROJECTS = Source(
    entity=Entity.PROJECT,
    select="p.identifier, p.name, p.description, p.labels, p.state",
    table="projects p",
    tie=("identifier",),
    default_sort="identifier",
    nullable=frozenset({"deleted_at"}),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A project and a domain that may be written to were asked for."""

    domains: frozenset[str]

    @classmethod
    def of(cls, config: AdminConfig) -> Place:
        return cls(frozenset(domain.id for domain in config.domains))

    async def check(self, conn: Connection, project: str, domain: str) -> None:
        """The project exists and is active and the domain is known.  Raises InvalidArgument."""
        check_text("project", project)
        check_text("domain", domain)
        check_usable(project, await ProjectRepository(conn).find_facts(project), domain, self.domains)


class ProjectManager:
    """Projects."""

    def __init__(self, database: Database, config: AdminConfig) -> None:
        self._db = database
        self._config = config

    async def seed(self) -> None:
        """Register the configured projects that do not exist yet."""
        admin = self._config.flyte.admin
        projects = [Project(id=name, name=name, description=f"{name} description") for name in admin.seed_projects]
        projects += [
            Project(id=each.name, name=each.name, description=each.description or f"{each.name} description")
            for each in admin.seed_projects_with_details
        ]
        for project in projects:
            check_project(project, name_required=True)
            async with self._db.transaction() as conn:
                if await ProjectRepository(conn).insert(project):
                    log.info("project seeded", project=project.id)

    async def register(self, request: ProjectRegisterRequest) -> None:
        """Add a project.  Raises InvalidArgument, AlreadyExists."""
        check_project(request.project, name_required=True)
        async with self._db.transaction() as conn:
            if not await ProjectRepository(conn).insert(request.project):
                raise AlreadyExists(
                    f"value with matching already exists (project [{request.project.id}] is registered)"
                )

    async def update(self, project: Project) -> None:
        """Change a project; its state always becomes the given one.  Raises NotFound, then InvalidArgument."""
        if not project.id:
            raise missing("project_id")
        check_text("project_id", project.id)
        async with self._db.transaction() as conn:
            projects = ProjectRepository(conn)
            await projects.get(project.id)
            check_project(project, name_required=False)
            await projects.update(project)

    async def get(self, request: ProjectGetRequest) -> Project:
        """A project in whatever state.  Raises NotFound."""
        check_text("id", request.id)
        async with self._db.connection() as conn:
            project = await ProjectRepository(conn).get(request.id)
        project.domains.extend(domains_of(self._config.domains))
        return project

    async def list(self, request: ProjectListRequest) -> Projects:
        """Projects by their identifiers; archived ones only to those who filter for themselves."""
        scope = Scope()
        if not request.filters:
            scope.where(f"p.state <> {ARCHIVED:d}")
        page = await list_page(
            self._db,
            PROJECTS,
            scope,
            Ask(
                "ListProjects",
                limit=request.limit or MAX_PAGE_ROWS,
                token=request.token,
                filters=request.filters,
                sort_by=request.sort_by if request.HasField("sort_by") else None,
            ),
        )
        domains = domains_of(self._config.domains)
        answer = Projects(token=page.token)
        for row in page.rows:
            project = project_of(row)
            project.domains.extend(domains)
            answer.projects.append(project)
        return answer

    def domains(self) -> GetDomainsResponse:
        """The domains, which are the same for every project."""
        return GetDomainsResponse(domains=domains_of(self._config.domains))
