"""Launch plans: registering, activating and reading them.  Source: spec/control-plane.md, section 3.

At most one version under a name is active; whoever changes that holds the name's lock, and the schedule of the version
changes in the same transaction.
"""

from __future__ import annotations

from flyteidl.admin.common_pb2 import NamedEntityIdentifier
from flyteidl.admin.launch_plan_pb2 import (
    LaunchPlan,
    LaunchPlanCreateRequest,
    LaunchPlanState,
    LaunchPlanUpdateRequest,
)
from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.schedules import schedule_type
from aerodrome.admin.domain.validation import (
    check_identifier,
    check_named_entity_id,
    check_size,
    missing,
    not_found,
    proto_text,
)
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.counting import SIZE_BUCKETS
from aerodrome.admin.managers.projects import Place
from aerodrome.admin.repositories.launch_plans import LaunchPlanRepository
from aerodrome.admin.repositories.workflows import WorkflowRepository
from aerodrome.compiler import structural_diff
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, AlreadyExists, InvalidArgument, NotFound
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.outbox import Outbox
from aerodrome.stdlib.telemetry import Metrics

TOPIC = "launch_plans.changed"
"""Where changes of state are announced: key `project:domain:name`, body flyteidl.admin.LaunchPlanUpdateRequest."""


class LaunchPlanManager:
    """Launch plans, of which only the state ever changes."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        config: AdminConfig,
        compiler: Compiler,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        scope = f"{config.flyteadmin.metrics_scope}admin:launch_plan_manager"
        counters = metrics or Metrics()
        self._spec_bytes = counters.histogram(f"{scope}:spec_size_bytes", buckets=SIZE_BUCKETS)
        self._closure_bytes = counters.histogram(f"{scope}:closure_size_bytes", buckets=SIZE_BUCKETS)
        self._db = database
        self._clock = clock
        self._config = config
        self._compiler = compiler
        self._place = Place.of(config)

    async def create(self, request: LaunchPlanCreateRequest) -> None:
        """Register a launch plan; it is inactive.

        Raises NotFound without its workflow, AlreadyExists if it is registered with the same structure,
        InvalidArgument if with another one, and InvalidArgument for everything that is wrong with it.
        """
        workflow_key = request.spec.workflow_id
        check_identifier(workflow_key, ResourceType.WORKFLOW)
        async with self._db.connection() as conn:
            workflow = await WorkflowRepository(conn).find(workflow_key)
            if workflow is None:
                raise not_found("WORKFLOW", workflow_key)
            check_identifier(request.id, ResourceType.LAUNCH_PLAN)
            await self._place.check(conn, request.id.project, request.id.domain)
        if not request.HasField("spec"):
            raise missing("spec")
        launch_plan, digest = await self._compiler.launch_plan(
            request, workflow.interface, artifacts_enabled=self._config.flyteadmin.feature_gates.enable_artifacts
        )
        spec_bytes, closure_bytes = launch_plan.spec.ByteSize(), launch_plan.closure.ByteSize()
        self._spec_bytes.observe(spec_bytes)
        self._closure_bytes.observe(closure_bytes)
        check_size(
            "launch plan",
            spec_bytes + closure_bytes,
            self._config.registration.max_entity_bytes,
        )
        async with self._db.transaction() as conn:
            launch_plans = LaunchPlanRepository(conn)
            existing = await launch_plans.find(request.id)
            if existing is None:
                if await launch_plans.insert(
                    launch_plan,
                    workflow_id=workflow.id,
                    digest=digest,
                    schedule_type=schedule_type(launch_plan.spec.entity_metadata.schedule),
                    at=self._clock.now(),
                ):
                    return
                existing = await launch_plans.find(request.id)
        if existing is None or existing.digest == digest:
            raise AlreadyExists("launch plan with identical structure already exists")
        raise _different(existing.message, launch_plan)

    async def get(self, identifier: Identifier) -> LaunchPlan:
        """A launch plan.  Raises InvalidArgument, NotFound."""
        check_identifier(identifier, ResourceType.LAUNCH_PLAN)
        async with self._db.connection() as conn:
            found = await LaunchPlanRepository(conn).find(identifier)
        if found is None:
            raise not_found("LAUNCH_PLAN", identifier)
        return found.message

    async def get_active(self, name: NamedEntityIdentifier) -> LaunchPlan:
        """The active version under a name.  Raises InvalidArgument, NotFound."""
        check_named_entity_id(name)
        async with self._db.connection() as conn:
            found = await LaunchPlanRepository(conn).find_active(name)
        if found is None:
            raise NotFound(f"No active launch plan could be found: {name.project}:{name.domain}:{name.name}")
        return found.message

    async def update(self, request: LaunchPlanUpdateRequest) -> None:
        """Activate a version, which deactivates the one that was active, or deactivate it; repeating it is fine.

        Raises InvalidArgument, NotFound.
        """
        check_identifier(request.id, ResourceType.LAUNCH_PLAN)
        if request.state not in LaunchPlanState.values():
            raise InvalidArgument(
                f"Unrecognized launch plan state {request.state} for update for launch plan [{proto_text(request.id)}]"
            )
        activate = request.state == LaunchPlanState.ACTIVE
        now = self._clock.now()
        async with self._db.transaction() as conn:
            launch_plans = LaunchPlanRepository(conn)
            await launch_plans.lock_name(request.id)
            found = await launch_plans.find(request.id)
            if found is None:
                raise not_found("LAUNCH_PLAN", request.id)
            former = await launch_plans.find_active(request.id) if activate else None
            if former is not None and former.id != found.id:
                await launch_plans.disable_schedule(former.message.id)
                await launch_plans.set_state(former.message.id, LaunchPlanState.INACTIVE, now)
                await _announce(Outbox(conn), former.message.id, LaunchPlanState.INACTIVE)
            schedule = found.message.spec.entity_metadata.schedule
            if not activate:
                await launch_plans.disable_schedule(request.id)
            elif schedule_type(schedule) != "NONE":
                await launch_plans.enable_schedule(request.id, schedule)
            await launch_plans.set_state(request.id, request.state, now)
            await _announce(Outbox(conn), request.id, request.state)


async def _announce(outbox: Outbox, identifier: Identifier, state: LaunchPlanState) -> None:
    await outbox.add(
        TOPIC,
        f"{identifier.project}:{identifier.domain}:{identifier.name}",
        LaunchPlanUpdateRequest(id=identifier, state=state).SerializeToString(),
    )


def _different(old: LaunchPlan, new: LaunchPlan) -> AerodromeError:
    before = LaunchPlan(id=old.id, spec=old.spec)
    after = LaunchPlan(id=new.id, spec=new.spec)
    for target, source in ((before, old), (after, new)):
        target.closure.expected_inputs.CopyFrom(source.closure.expected_inputs)
        target.closure.expected_outputs.CopyFrom(source.closure.expected_outputs)
    diff = structural_diff(before, after)
    if not diff:
        return AlreadyExists("launch plan with identical structure already exists")
    return InvalidArgument(
        f"{new.id.name} launch plan with different structure already exists. "
        f"(Please register a new version of the launch plan):\n{diff}"
    )
