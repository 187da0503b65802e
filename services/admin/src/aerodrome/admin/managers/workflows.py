"""Workflows: registering and reading them.  Source: spec/control-plane.md, sections 1.6 and 13.

A closure is stored before its row is written, at a place that only its content can have: whoever loses the race for a
key never touches what the winner stored.
"""

from __future__ import annotations

from decimal import Decimal

from flyteidl.admin.workflow_pb2 import (
    CreateWorkflowFailureReason,
    Workflow,
    WorkflowClosure,
    WorkflowCreateRequest,
    WorkflowErrorExistsDifferentStructure,
    WorkflowErrorExistsIdenticalStructure,
    WorkflowSpec,
)
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.core.interface_pb2 import TypedInterface
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.compilation import Compiled
from aerodrome.admin.domain.naming import path_segment
from aerodrome.admin.domain.tasks import check_description
from aerodrome.admin.domain.validation import check_identifier, missing, not_found, proto_text, resource_type_name
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.counting import SIZE_BUCKETS
from aerodrome.admin.managers.projects import Place
from aerodrome.admin.repositories.launch_plans import LaunchPlanRepository
from aerodrome.admin.repositories.named_entities import NamedEntityRepository
from aerodrome.admin.repositories.tasks import TaskRepository
from aerodrome.admin.repositories.workflows import WorkflowRepository, WorkflowRow
from aerodrome.compiler import key_of
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.config import parse_quantity
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, Internal, InvalidArgument
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.storage import Storage
from aerodrome.stdlib.telemetry import Metrics

log = get_logger(__name__)


class WorkflowManager:
    """Registered workflows, which never change."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        clock: Clock,
        config: AdminConfig,
        compiler: Compiler,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        scope = f"{config.flyteadmin.metrics_scope}admin:workflow_manager"
        counters = metrics or Metrics()
        self._refused = counters.counter(f"{scope}:compilation_failures")
        self._interface_bytes = counters.histogram(f"{scope}:typed_interface_size_bytes", buckets=SIZE_BUCKETS)
        self._db = database
        self._storage = storage
        self._clock = clock
        self._config = config
        self._compiler = compiler
        self._place = Place.of(config)
        limit = config.registration.workflow_size_limit
        self._size_limit = parse_quantity(limit) if limit else Decimal(0)

    async def create(self, request: WorkflowCreateRequest) -> None:
        """Register a workflow.

        Raises AlreadyExists if it is registered with the same structure, InvalidArgument if with another one (both say
        so in a CreateWorkflowFailureReason), and InvalidArgument for everything that is wrong with it.
        """
        check_identifier(request.id, ResourceType.WORKFLOW)
        async with self._db.connection() as conn:
            await self._place.check(conn, request.id.project, request.id.domain)
        if not request.spec.HasField("template"):
            raise missing("spec")
        check_description(request.spec.description)
        await self.register(request.id, request.spec)

    async def register(self, identifier: Identifier, spec: WorkflowSpec) -> None:
        """What `create` does once the place was found good; also for workflows that are generated."""
        spec.template.id.CopyFrom(identifier)
        now = self._clock.now()
        created_at = Timestamp()
        created_at.FromDatetime(now)
        compiled = await self._compiled(identifier, spec, created_at)
        self._interface_bytes.observe(len(compiled.interface))
        self._check_limits(identifier, compiled)
        async with self._db.connection() as conn:
            existing = await WorkflowRepository(conn).find(identifier)
        if existing is not None:
            raise await self._exists(identifier, existing, compiled)
        reference = self._reference(identifier, compiled.digest)
        await self._write(reference, compiled.closure)
        async with self._db.transaction() as conn:
            workflow_id = await WorkflowRepository(conn).insert(
                identifier,
                interface=TypedInterface.FromString(compiled.interface),
                closure_reference=reference,
                digest=compiled.digest,
                short_description=spec.description.short_description,
                at=now,
            )
            if workflow_id is not None and spec.HasField("description"):
                await NamedEntityRepository(conn).describe(identifier, spec.description)
            existing = None if workflow_id is not None else await WorkflowRepository(conn).find(identifier)
        if existing is not None:
            if existing.closure_reference != reference:
                await self._take_away(reference)
            raise await self._exists(identifier, existing, compiled)

    async def get(self, identifier: Identifier) -> Workflow:
        """A workflow with its closure.  Raises InvalidArgument, NotFound, Internal if the closure cannot be read."""
        check_identifier(identifier, ResourceType.WORKFLOW)
        async with self._db.connection() as conn:
            row = await WorkflowRepository(conn).find(identifier)
        if row is None:
            raise not_found("WORKFLOW", identifier)
        workflow = Workflow(
            id=Identifier(
                resource_type=ResourceType.WORKFLOW,
                project=identifier.project,
                domain=identifier.domain,
                name=identifier.name,
                version=identifier.version,
            ),
            closure=await self._read(row.closure_reference),
            short_description=row.short_description,
        )
        workflow.closure.created_at.FromDatetime(row.created_at)
        return workflow

    async def _compiled(self, identifier: Identifier, spec: WorkflowSpec, created_at: Timestamp) -> Compiled:
        try:
            needs = await self._compiler.needs_of(spec)
            task_ids, launch_plan_ids = needs.task_ids(), needs.launch_plan_ids()
            async with self._db.connection() as conn:
                tasks = await TaskRepository(conn).compiled(task_ids)
                launch_plans = await LaunchPlanRepository(conn).interfaces(launch_plan_ids)
            found = {*(key_of(task.template.id) for task in tasks), *launch_plans}
            for wanted in (*task_ids, *launch_plan_ids):
                if key_of(wanted) not in found:
                    kind = resource_type_name(wanted.resource_type)
                    raise InvalidArgument(f"missing entity of type {kind} with identifier {proto_text(wanted)}")
            return await self._compiler.compile(spec, tasks, launch_plans, created_at)
        except InvalidArgument as error:
            self._refused.add()
            raise InvalidArgument(
                f"failed to compile workflow for [{proto_text(identifier)}] with err: {error.message}"
            ) from error

    def _check_limits(self, identifier: Identifier, compiled: Compiled) -> None:
        limits = self._config.registration
        if self._size_limit and len(compiled.closure) > self._size_limit:
            raise InvalidArgument(f"Workflow closure size exceeds max limit [{limits.workflow_size_limit}]")
        if 0 < limits.max_workflow_nodes < compiled.node_count:
            raise InvalidArgument(
                f"number of nodes in workflow [{proto_text(identifier)}] exceeds limit "
                f"({compiled.node_count} > {limits.max_workflow_nodes})"
            )

    async def _exists(self, identifier: Identifier, existing: WorkflowRow, compiled: Compiled) -> AerodromeError:
        """The error that says how what is registered compares to what was to be."""
        if existing.digest == compiled.digest:
            return _identical(identifier)
        try:
            old = await self._storage.read(existing.closure_reference, limit_bytes=0)
            diff = await self._compiler.diff(old, compiled.closure)
            if not diff:
                return _identical(identifier)
        except AerodromeError as error:
            log.warning("closure unreadable", reference=existing.closure_reference, error=error.message)
            diff = ""
        return InvalidArgument(
            f"{identifier.name} workflow with different structure already exists. "
            f"(Please register a new version of the workflow):\n{diff}",
            details=(
                CreateWorkflowFailureReason(
                    exists_different_structure=WorkflowErrorExistsDifferentStructure(id=identifier)
                ),
            ),
        )

    def _reference(self, identifier: Identifier, digest: bytes) -> str:
        return self._storage.join(
            *self._config.flyteadmin.metadata_storage_prefix,
            path_segment(identifier.project),
            path_segment(identifier.domain),
            path_segment(identifier.name),
            path_segment(identifier.version),
            digest.hex()[:16],
        )

    async def _write(self, reference: str, closure: bytes) -> None:
        try:
            await self._storage.write(reference, closure)
        except AerodromeError as error:
            raise Internal(f"failed to write workflow closure to [{reference}]: {error.message}") from error

    async def _take_away(self, reference: str) -> None:
        try:
            await self._storage.delete(reference)
        except AerodromeError as error:  # it is only litter, and the caller has to hear something else
            log.warning("closure of a refused workflow remains", reference=reference, error=error.message)

    async def _read(self, reference: str) -> WorkflowClosure:
        try:
            return WorkflowClosure.FromString(await self._storage.read(reference, limit_bytes=0))
        except (AerodromeError, DecodeError) as error:
            raise Internal(f"Unable to read WorkflowClosure from location {reference} : {error}") from error


def _identical(identifier: Identifier) -> AlreadyExists:
    return AlreadyExists(
        "workflow with identical structure already exists",
        details=(
            CreateWorkflowFailureReason(
                exists_identical_structure=WorkflowErrorExistsIdenticalStructure(id=identifier)
            ),
        ),
    )
