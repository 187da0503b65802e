"""Tasks: registering and reading them.  Source: spec/control-plane.md, section 1.5."""

from __future__ import annotations

from flyteidl.admin.matchable_resource_pb2 import MatchableResource
from flyteidl.admin.task_pb2 import Task, TaskClosure, TaskCreateRequest
from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.attributes import most_specific
from aerodrome.admin.domain.task_resources import platform_resources
from aerodrome.admin.domain.tasks import check_task
from aerodrome.admin.domain.validation import check_identifier, check_key_texts, check_size, not_found
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.counting import SIZE_BUCKETS
from aerodrome.admin.managers.projects import Place
from aerodrome.admin.repositories.named_entities import NamedEntityRepository
from aerodrome.admin.repositories.resources import ResourceRepository
from aerodrome.admin.repositories.tasks import TaskRepository
from aerodrome.admin.transformers.registration import task_of
from aerodrome.compiler import structural_diff
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AlreadyExists, InvalidArgument
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.telemetry import Metrics


class TaskManager:
    """Registered tasks, which never change."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: AdminConfig,
        compiler: Compiler,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        scope = f"{config.flyteadmin.metrics_scope}admin:task_manager"
        counters = metrics or Metrics()
        self._registered = counters.counter(f"{scope}:num_registered")
        self._closure_bytes = counters.histogram(f"{scope}:closure_size_bytes", buckets=SIZE_BUCKETS)
        self._db = database
        self._clock = clock
        self._config = config
        self._compiler = compiler
        self._place = Place.of(config)

    async def create(self, request: TaskCreateRequest) -> None:
        """Register a task.

        Raises AlreadyExists if it is registered with the same structure, InvalidArgument if with another one, and
        InvalidArgument for everything that is wrong with it.
        """
        check_identifier(request.id, ResourceType.TASK)
        async with self._db.connection() as conn:
            await self._place.check(conn, request.id.project, request.id.domain)
            rows = await ResourceRepository(conn).matching(request.id.project, request.id.domain)
        attributes = most_specific(
            rows, MatchableResource.TASK_RESOURCE, project=request.id.project, domain=request.id.domain
        )
        platform = platform_resources(
            None if attributes is None else attributes.task_resource_attributes, self._config.task_resources
        )
        check_task(request, platform, self._config.task_type_whitelist)
        check_size("task", request.spec.ByteSize(), self._config.registration.max_entity_bytes)
        template = request.spec.template
        template.id.CopyFrom(request.id)
        compiled, digest = await self._compiler.compile_task(template)
        now = self._clock.now()
        closure = TaskClosure(compiled_task=compiled)
        closure.created_at.FromDatetime(now)
        async with self._db.transaction() as conn:
            tasks = TaskRepository(conn)
            description = request.spec.description
            if await tasks.insert(
                request.id, closure, digest=digest, short_description=description.short_description, at=now
            ):
                if request.spec.HasField("description"):
                    await NamedEntityRepository(conn).describe(request.id, description)
                self._registered.add()
                self._closure_bytes.observe(closure.ByteSize())
                return
            existing = await tasks.find(request.id)
        if existing is None or existing["digest"] == digest:
            raise AlreadyExists("task with identical structure already exists")
        old = TaskClosure.FromString(existing["closure"]).compiled_task
        if not (diff := structural_diff(old, compiled)):
            raise AlreadyExists("task with identical structure already exists")
        raise InvalidArgument(
            f"{request.id.name} task with different structure already exists. "
            f"(Please register a new version of the task):\n{diff}"
        )

    async def get(self, identifier: Identifier) -> Task:
        """A task.  Raises NotFound, also for an identifier that is not complete."""
        check_key_texts(identifier)
        async with self._db.connection() as conn:
            row = await TaskRepository(conn).find(identifier)
        if row is None:
            raise not_found("TASK", identifier)
        return task_of(row)
