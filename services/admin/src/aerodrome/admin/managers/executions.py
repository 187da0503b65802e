"""Executions: launching them, once and again, and archiving them.  Source: spec/control-plane.md, section 4.

A launch decides everything first, then stores the inputs where only this launch can have stored them, and then makes
the execution exist, ready to be leased, in one statement: of two launches under one name exactly one wins, and the
other takes its own inputs away again.  Launches that come at the same time share their statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flyteidl.admin.common_pb2 import NamedEntityIdentifier, NamedEntityMetadata, NamedEntityState
from flyteidl.admin.execution_pb2 import (
    ExecutionClosure,
    ExecutionCreateRequest,
    ExecutionMetadata,
    ExecutionRecoverRequest,
    ExecutionRelaunchRequest,
    ExecutionSpec,
    ExecutionState,
    ExecutionStateChangeDetails,
    ExecutionUpdateRequest,
)
from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanCreateRequest, LaunchPlanSpec
from flyteidl.admin.matchable_resource_pb2 import MatchableResource, PluginOverrides, WorkflowExecutionConfig
from flyteidl.admin.task_pb2 import TaskClosure
from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier, ResourceType, WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import LiteralMap
from google.protobuf.message import DecodeError

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain import launching
from aerodrome.admin.domain.attributes import most_specific
from aerodrome.admin.domain.concurrency import policy_of
from aerodrome.admin.domain.launching import Caller
from aerodrome.admin.domain.naming import generated_id, namespace, new_execution_name
from aerodrome.admin.domain.projects import check_usable
from aerodrome.admin.domain.queues import choose_queue
from aerodrome.admin.domain.task_resources import platform_resources
from aerodrome.admin.domain.validation import (
    check_execution_id,
    check_node_execution_id,
    check_size,
    check_text,
    invalid_value,
    not_found,
)
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.concurrency import ConcurrencyManager, LimitReached, WorkAnnouncer, name_taken
from aerodrome.admin.managers.counting import SIZE_BUCKETS, Places
from aerodrome.admin.managers.remembering import Remembered
from aerodrome.admin.managers.workflows import WorkflowManager
from aerodrome.admin.repositories.executions import (
    ExecutionRepository,
    NewExecution,
    ParentExecution,
    SourceExecution,
)
from aerodrome.admin.repositories.launch_plans import LaunchPlanRepository, Target
from aerodrome.admin.repositories.named_entities import NamedEntityRepository
from aerodrome.admin.repositories.resources import Situation, Situations
from aerodrome.admin.repositories.tasks import TaskRepository
from aerodrome.admin.repositories.together import SharedStatements
from aerodrome.admin.repositories.workflows import WorkflowRepository, WorkflowRow
from aerodrome.compiler import Key, key_of, single_task_workflow
from aerodrome.idl.journal.v1.journal_pb2 import ResolvedResources
from aerodrome.stdlib import faults
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import (
    AerodromeError,
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.storage import Storage
from aerodrome.stdlib.telemetry import Metrics

log = get_logger(__name__)

REMEMBERED_TARGETS = 1_024
REMEMBERED_TARGET_BYTES = 32 * 2**20

_MODES = frozenset(ExecutionMetadata.ExecutionMode.values())
_TERMINAL = frozenset({"SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"})


@dataclass(frozen=True, slots=True)
class Generated:
    """The workflow and the launch plan that run a single task, before they are registered."""

    task: Identifier
    workflow: WorkflowSpec
    plan: LaunchPlan
    plan_digest: bytes


@dataclass(frozen=True, slots=True)
class Launchable:
    """What a request launches: a launch plan of a workflow, which was generated if a single task is launched."""

    target: Target
    task_id: int | None
    unregistered: Generated | None = None
    """Set for a task that is launched by itself for the first time: the target has no ids yet."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """How an execution is going to run."""

    spec: ExecutionSpec
    closure: ExecutionClosure
    cluster: str
    task_resources: ResolvedResources
    plugin_overrides: PluginOverrides


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an execution comes from."""

    source_execution_id: int | None = None
    recovered_execution_id: int | None = None
    parent: ParentExecution | None = None


class ExecutionManager:
    """Launches and archives executions; what happens to them in between is written by the journal."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        clock: Clock,
        config: AdminConfig,
        *,
        workflows: WorkflowManager,
        compiler: Compiler,
        announcer: WorkAnnouncer,
        concurrency: ConcurrencyManager,
        metrics: Metrics | None = None,
    ) -> None:
        self._db = database
        self._storage = storage
        self._clock = clock
        self._config = config
        self._workflows = workflows
        self._compiler = compiler
        self._announcer = announcer
        self._concurrency = concurrency
        self._domains = frozenset(domain.id for domain in config.domains)
        self._configured_resources = platform_resources(None, config.task_resources)
        self._application = launching.application_config(config.flyteadmin)
        self._max_input_bytes = config.storage.limits.max_download_mbs * 2**20
        scope = f"{config.flyteadmin.metrics_scope}admin:execution_manager"
        counters = metrics or Metrics()
        self._created = counters.counter(f"{scope}:executions_created")
        self._failed = counters.counter(f"{scope}:propeller_failures")
        self._limited = counters.counter(f"{scope}:concurrency_limit_hits", ("project", "domain", "name"))
        self._spec_bytes = counters.histogram(f"{scope}:spec_size_bytes", buckets=SIZE_BUCKETS)
        self._closure_bytes = counters.histogram(f"{scope}:closure_size_bytes", buckets=SIZE_BUCKETS)
        user_scope = f"{config.flyteadmin.metrics_scope}admin:user_execution_metrics"
        self._input_bytes = counters.histogram(f"{user_scope}:input_size_bytes", buckets=SIZE_BUCKETS)
        self._acceptance = counters.stopwatch(f"{scope}:acceptance_delay", unit="s")
        self._places = Places(counters, scope=config.flyteadmin.metrics_scope)
        self._situations = Situations(database)
        self._new: SharedStatements[NewExecution, bool] = SharedStatements(
            self._insert_many, size_bytes=lambda new: new.spec.ByteSize() + new.closure.ByteSize()
        )
        self._targets: Remembered[Key, Launchable] = Remembered(
            max_entries=REMEMBERED_TARGETS, max_bytes=REMEMBERED_TARGET_BYTES
        )

    async def create(self, request: ExecutionCreateRequest, caller: Caller) -> WorkflowExecutionIdentifier:
        """Launch a launch plan or a task.

        The execution exists when this returns, also one that could not be launched: it is FAILED then and says why.
        Raises InvalidArgument, NotFound, AlreadyExists if the name is taken or the launch plan's limit is reached.
        Passing trouble is Internal: for a parent workflow's node anything else would be the user's fault.
        """
        return await self._passing_trouble_is_internal(request, caller)

    async def relaunch(self, request: ExecutionRelaunchRequest, caller: Caller) -> WorkflowExecutionIdentifier:
        """Launch what an execution launched, with the same inputs.  Raises as `create`, and NotFound."""
        source, again = await self._again(request.id, request.name)
        again.spec.metadata.mode = ExecutionMetadata.RELAUNCH
        again.spec.metadata.reference_execution.CopyFrom(request.id)
        again.spec.overwrite_cache = request.overwrite_cache
        return await self._passing_trouble_is_internal(again, caller, source)

    async def recover(self, request: ExecutionRecoverRequest, caller: Caller) -> WorkflowExecutionIdentifier:
        """Launch what an execution launched, taking over what succeeded in it.  Raises as `create`, and NotFound."""
        source, again = await self._again(request.id, request.name)
        again.spec.metadata.mode = ExecutionMetadata.RECOVERED
        again.spec.metadata.reference_execution.CopyFrom(request.id)
        if request.HasField("metadata"):
            again.spec.metadata.ClearField("parent_node_execution")
            if request.metadata.HasField("parent_node_execution"):
                again.spec.metadata.parent_node_execution.CopyFrom(request.metadata.parent_node_execution)
        return await self._passing_trouble_is_internal(again, caller, source)

    async def update(self, request: ExecutionUpdateRequest, caller: Caller) -> None:
        """Archive an execution or show it again.  Raises InvalidArgument, NotFound."""
        now = self._clock.now()
        check_execution_id(request.id)
        if request.state not in ExecutionState.values():
            raise invalid_value("state")
        change = ExecutionStateChangeDetails(state=request.state, principal=caller.user_id)
        change.occurred_at.FromDatetime(now)
        async with self._db.connection() as conn:
            if not await ExecutionRepository(conn).set_state(request.id, change):
                raise not_found("execution", request.id)

    # Launching

    async def _passing_trouble_is_internal(
        self, request: ExecutionCreateRequest, caller: Caller, source: SourceExecution | None = None
    ) -> WorkflowExecutionIdentifier:
        try:
            return await self._launch(request, caller, source)
        except (Unavailable, Conflict, ResourceExhausted) as error:
            raise Internal(error.message, error.details) from error

    async def _launch(
        self, request: ExecutionCreateRequest, caller: Caller, source: SourceExecution | None
    ) -> WorkflowExecutionIdentifier:
        now = self._clock.now()
        supplied = request.inputs if request.inputs.literals else request.spec.inputs
        launching.check_address(request)
        launchable, situation = await self._look_around(request, supplied, again=source is not None)
        key = WorkflowExecutionIdentifier(
            project=request.project, domain=request.domain, name=request.name or new_execution_name()
        )
        inputs = await self._inputs(launchable.target, supplied)
        origin = await self._origin(request.spec, source)
        resolved = self._resolve(key, request.spec, launchable, situation, origin, caller, now)
        if launchable.unregistered is not None:  # not before now: a request that is refused registers nothing
            launchable = await self._register(launchable.unregistered)
        inputs_uri = self._storage.join(
            "metadata", key.project, key.domain, key.name, str(situation.execution_id), "inputs"
        )
        user_inputs_uri = inputs_uri
        await self._write(inputs_uri, inputs)
        if supplied != inputs:
            user_inputs_uri = self._storage.join(
                "metadata", key.project, key.domain, key.name, str(situation.execution_id), "user_inputs"
            )
            await self._write(user_inputs_uri, supplied)
        state_change = ExecutionStateChangeDetails(
            state=ExecutionState.EXECUTION_ACTIVE, principal=resolved.spec.metadata.principal
        )
        state_change.occurred_at.CopyFrom(resolved.closure.created_at)
        new = NewExecution(
            execution_id=situation.execution_id,
            key=key,
            spec=resolved.spec,
            closure=resolved.closure,
            at=now,
            workflow_id=launchable.target.workflow_id,
            launch_plan_id=launchable.target.launch_plan_id if launchable.task_id is None else None,
            task_id=launchable.task_id,
            source_execution_id=origin.source_execution_id,
            parent_execution_id=None if origin.parent is None else origin.parent.execution_id,
            parent_node_id=(None if origin.parent is None else resolved.spec.metadata.parent_node_execution.node_id),
            recovered_execution_id=origin.recovered_execution_id,
            cluster=resolved.cluster,
            inputs_uri=inputs_uri,
            user_inputs_uri=user_inputs_uri,
            task_resources=resolved.task_resources.SerializeToString(),
            plugin_overrides=resolved.plugin_overrides.SerializeToString(),
            tags=launching.tags_of(request.spec) if launchable.task_id is None else [],
            state_change=state_change,
        )
        try:
            ready = await self._insert(new, launchable, caller)
        except AlreadyExists:
            for reference in {inputs_uri, user_inputs_uri}:
                await self._take_away(reference)
            raise
        faults.point("execution.committed")
        self._created.add()
        self._spec_bytes.observe(resolved.spec.ByteSize())
        self._closure_bytes.observe(resolved.closure.ByteSize())
        self._input_bytes.observe(inputs.ByteSize())
        self._acceptance.observe((self._clock.now() - now).total_seconds())
        if resolved.spec.metadata.HasField("scheduled_at"):
            wanted_at = resolved.spec.metadata.scheduled_at  # as a caller gave it, so perhaps no time that there is
            self._places.scheduled(key.project, key.domain, now.timestamp() - wanted_at.seconds)
        if resolved.closure.HasField("error"):
            self._failed.add()
            log.warning("launch failed", execution=_text(key), error=resolved.closure.error.message)
        elif ready:
            self._announcer.work_available(resolved.cluster)
        return key

    async def _write(self, reference: str, literals: LiteralMap) -> None:
        try:
            await self._storage.write(reference, literals.SerializeToString())
        except AerodromeError as error:
            raise Internal(f"failed to write inputs to [{reference}]: {error.message}") from error

    async def _take_away(self, reference: str) -> None:
        try:
            await self._storage.delete(reference)
        except AerodromeError as error:  # it is only litter, and the caller has to hear something else
            log.warning("inputs of a refused launch remain", reference=reference, error=error.message)

    async def _look_around(
        self, request: ExecutionCreateRequest, supplied: LiteralMap, *, again: bool
    ) -> tuple[Launchable, Situation]:
        """What is launched, and what surrounds it.

        The project is judged before the specification, as clients expect it, although what to ask for about the
        project's attributes follows from the specification.
        """
        late: AerodromeError | None = None
        launchable: Launchable | None = None
        try:
            check_size("inputs", supplied.ByteSize(), self._max_input_bytes)
            small = self._compiler.is_small(supplied)  # large ones are looked at where they are resolved
            launching.check_spec(request, supplied if small else LiteralMap(), again=again)
            registration = self._config.registration
            spec_bytes = request.spec.ByteSize() - request.spec.inputs.ByteSize()
            check_size("specification", spec_bytes, registration.max_execution_spec_bytes)
            launchable = await self._find_launchable(request.spec.launch_plan)
        except (InvalidArgument, NotFound) as error:
            late = error
        if launchable is not None:
            workflow = launchable.target.workflow
        else:
            workflow = generated_id(request.spec.launch_plan, ResourceType.WORKFLOW)
        situation = await self._situations.find(
            request.project,
            request.domain,
            workflow_project="" if late is not None else workflow.project,
            workflow_domain="" if late is not None else workflow.domain,
            workflow="" if late is not None else workflow.name,
            launch_plan="" if launchable is None else launchable.target.launch_plan.name,
        )
        check_usable(request.project, situation.project, request.domain, self._domains)
        if late is not None:
            raise late
        if launchable is None:
            launchable = await self._generate(request.spec.launch_plan)
        return launchable, situation

    async def _inputs(self, target: Target, supplied: LiteralMap) -> LiteralMap:
        inputs = await self._compiler.resolve_inputs(target.closure.expected_inputs, target.spec.fixed_inputs, supplied)
        check_size("inputs", inputs.ByteSize(), self._max_input_bytes)
        return inputs

    async def _origin(self, spec: ExecutionSpec, source: SourceExecution | None) -> Origin:
        """The execution that this one comes from, and the one that it is a part of.  Raises NotFound."""
        metadata = spec.metadata
        recovered: int | None = None
        parent: ParentExecution | None = None
        if metadata.mode not in _MODES:
            raise invalid_value("mode")
        recovers = metadata.mode == ExecutionMetadata.RECOVERED
        if recovers and source is not None:
            recovered = source.execution_id
        look_up = recovers and source is None and metadata.HasField("reference_execution")
        if look_up or metadata.HasField("parent_node_execution"):
            async with self._db.connection() as conn:
                executions = ExecutionRepository(conn)
                if look_up:
                    check_execution_id(metadata.reference_execution)
                    reference = await executions.find_source(metadata.reference_execution)
                    recovered = None if reference is None else reference.execution_id
                if metadata.HasField("parent_node_execution"):
                    check_node_execution_id(metadata.parent_node_execution)
                    parent = await executions.find_parent(metadata.parent_node_execution)
                    if parent is None:
                        raise not_found("node execution", metadata.parent_node_execution)
        if parent is not None and metadata.mode == ExecutionMetadata.CHILD_WORKFLOW and parent.phase in _TERMINAL:
            raise FailedPrecondition(
                f"the execution {_text(metadata.parent_node_execution.execution_id)} is {parent.phase} "
                "and launches no more children"
            )
        source_id = None if source is None else source.execution_id
        if source_id is None and parent is not None:
            source_id = parent.execution_id
        return Origin(source_execution_id=source_id, recovered_execution_id=recovered, parent=parent)

    def _resolve(
        self,
        key: WorkflowExecutionIdentifier,
        requested: ExecutionSpec,
        launchable: Launchable,
        situation: Situation,
        origin: Origin,
        caller: Caller,
        now: datetime,
    ) -> Resolved:
        """The specification that the execution runs with, and how it starts out."""
        target = launchable.target
        plan = target.spec if launchable.task_id is None else None
        spec = ExecutionSpec()
        spec.CopyFrom(requested)
        spec.metadata.SetInParent()
        spec.metadata.principal = caller.user_id
        spec.metadata.ClearField("artifact_ids")
        if origin.parent is not None:
            spec.metadata.principal = origin.parent.user
            spec.metadata.nesting = origin.parent.spec.metadata.nesting + 1
            if origin.parent.spec.execution_cluster_label.value:
                spec.execution_cluster_label.CopyFrom(origin.parent.spec.execution_cluster_label)
        self._configure(key, spec, plan, target, situation, caller)
        attributes = situation.attributes
        pool = most_specific(attributes, MatchableResource.CLUSTER_ASSIGNMENT, project=key.project, domain=key.domain)
        configured = self._config.cluster_pools.cluster_pool_assignments.get(key.domain)
        pool_name = pool.cluster_assignment.cluster_pool_name if pool is not None else ""
        launching.check_pool(
            spec.cluster_assignment,
            pool_name or (configured.pool if configured is not None else ""),
            key.project,
            key.domain,
        )
        workflow = target.workflow
        overrides = most_specific(
            attributes,
            MatchableResource.PLUGIN_OVERRIDE,
            project=key.project,
            domain=key.domain,
            workflow=workflow.name,
            launch_plan=target.launch_plan.name,
        )
        resources = most_specific(
            attributes,
            MatchableResource.TASK_RESOURCE,
            project=workflow.project,
            domain=workflow.domain,
            workflow=workflow.name,
        )
        given = self._configured_resources
        if resources is not None:
            given = platform_resources(resources.task_resource_attributes, self._config.task_resources)
        queue = choose_queue(
            self._config.queues,
            attributes,
            project=workflow.project,
            domain=workflow.domain,
            workflow=workflow.name,
            execution_name=key.name,
        )
        if queue:
            given = ResolvedResources(defaults=given.defaults, limits=given.limits, child_queue=queue)
        closure = ExecutionClosure(
            phase=WorkflowExecution.UNDEFINED,
            workflow_id=workflow,
            notifications=launching.resolve_notifications(spec, plan),
        )
        closure.created_at.FromDatetime(now)
        closure.updated_at.CopyFrom(closure.created_at)
        cluster = ""
        try:
            cluster = launching.choose_cluster(
                self._config.clusters, self._label(key, spec, target, situation), key.name
            )
        except (InvalidArgument, FailedPrecondition) as error:
            if plan is None:
                raise
            closure.phase = WorkflowExecution.FAILED
            closure.error.CopyFrom(launching.launch_error(error))
        spec.metadata.system_metadata.execution_cluster = cluster
        spec.metadata.system_metadata.namespace = namespace(
            self._config.namespace_mapping.template, key.project, key.domain
        )
        return Resolved(
            spec=spec,
            closure=closure,
            cluster=cluster,
            task_resources=given,
            plugin_overrides=PluginOverrides() if overrides is None else overrides.plugin_overrides,
        )

    def _configure(
        self,
        key: WorkflowExecutionIdentifier,
        spec: ExecutionSpec,
        plan: LaunchPlanSpec | None,
        target: Target,
        situation: Situation,
        caller: Caller,
    ) -> None:
        """Write into `spec` what request, launch plan, attributes and settings say together."""
        sources: list[launching.ConfigSource] = [spec]
        if plan is not None:
            sources.append(plan)
        for workflow in (target.workflow.name, ""):
            domain = key.domain if workflow else ""
            found = most_specific(
                situation.attributes,
                MatchableResource.WORKFLOW_EXECUTION_CONFIG,
                project=key.project,
                domain=domain,
                workflow=workflow,
            )
            if found is not None:
                sources.append(found.workflow_execution_config)
        sources.append(self._application)
        merged: WorkflowExecutionConfig = launching.merge_configs(sources, launching.fallback_identity(spec, plan))
        limits = self._config.registration
        if plan is not None:
            launching.check_entries("labels", len(merged.labels.values), limits.max_label_entries)
            launching.check_entries("annotations", len(merged.annotations.values), limits.max_annotation_entries)
        if situation.project is not None:
            launching.add_missing(situation.project.label_values(), merged.labels.values)
        identity = launching.identity_annotations(self._config.flyteadmin, caller)
        launching.add_missing(identity, merged.annotations.values)
        launching.resolve_spec(spec, merged, caller)
        spec.max_parallelism = merged.max_parallelism

    def _label(
        self, key: WorkflowExecutionIdentifier, spec: ExecutionSpec, target: Target, situation: Situation
    ) -> str:
        if spec.execution_cluster_label.value:
            return spec.execution_cluster_label.value
        found = most_specific(
            situation.attributes,
            MatchableResource.EXECUTION_CLUSTER_LABEL,
            project=key.project,
            domain=key.domain,
            workflow=target.workflow.name,
            launch_plan=target.launch_plan.name,
        )
        return "" if found is None else found.execution_cluster_label.value

    async def _insert(self, new: NewExecution, launchable: Launchable, caller: Caller) -> bool:
        """Make the execution exist; returns whether it may be leased at once.  Raises AlreadyExists."""
        policy = None
        if launchable.task_id is None:
            try:
                policy = policy_of(launchable.target.spec)
            except InvalidArgument as error:  # it was registered before this was looked at
                raise Internal(error.message) from error
        if policy is None:
            if not await self._new.add(new, new.key.project):
                raise name_taken(new.key)
            return True
        plan = launchable.target.launch_plan
        try:
            return await self._concurrency.insert(new, plan, policy, caller.user_id)
        except LimitReached:
            self._limited.add(project=plan.project, domain=plan.domain, name=plan.name)
            raise

    async def _insert_many(self, new: Sequence[NewExecution]) -> list[bool]:
        async with self._db.connection() as conn:
            added = await ExecutionRepository(conn).insert_many(new)
        return [each.execution_id in added for each in new]

    # What is launched

    async def _find_launchable(self, identifier: Identifier) -> Launchable | None:
        """What `identifier` stands for; None for a task that was never launched by itself.  Raises NotFound."""
        key = key_of(identifier)
        found = self._targets.find(key)
        if found is not None:
            return found
        is_task = identifier.resource_type == ResourceType.TASK
        plan = generated_id(identifier, ResourceType.LAUNCH_PLAN) if is_task else identifier
        async with self._db.connection() as conn:
            task = await TaskRepository(conn).find(identifier) if is_task else None
            if is_task and task is None:
                raise not_found("TASK", identifier)
            target = await LaunchPlanRepository(conn).find_target(plan)
        if target is None:
            if is_task:
                return None
            raise not_found("LAUNCH_PLAN", identifier)
        launchable = Launchable(target, None if task is None else int(task["id"]))
        self._targets.keep(key, launchable, size_bytes=2 * (target.spec.ByteSize() + target.closure.ByteSize()) + 2_048)
        return launchable

    async def _generate(self, task_key: Identifier) -> Launchable:
        """The workflow and the launch plan that run a single task.  Raises NotFound."""
        async with self._db.connection() as conn:
            task = await TaskRepository(conn).find(task_key)
        if task is None:
            raise not_found("TASK", task_key)
        workflow_key, spec = single_task_workflow(TaskClosure.FromString(task["closure"]).compiled_task)
        plan, digest = await self._compiler.launch_plan(
            LaunchPlanCreateRequest(
                id=generated_id(task_key, ResourceType.LAUNCH_PLAN), spec=LaunchPlanSpec(workflow_id=workflow_key)
            ),
            spec.template.interface,
            artifacts_enabled=False,
        )
        target = Target(
            launch_plan_id=0, launch_plan=plan.id, spec=plan.spec, closure=plan.closure, workflow_id=0,
            workflow=workflow_key, closure_reference="",
        )  # fmt: skip
        return Launchable(target, int(task["id"]), Generated(task_key, spec, plan, digest))

    async def _register(self, generated: Generated) -> Launchable:
        """Register what was generated; others may be doing the same right now."""
        plan, workflow_key = generated.plan, generated.workflow.template.id
        workflow = await self._find_workflow(workflow_key)
        if workflow is None:
            try:
                await self._workflows.register(workflow_key, generated.workflow)
            except AlreadyExists:
                log.debug("workflow generated by another launch", workflow=workflow_key.name)
            workflow = await self._find_workflow(workflow_key)
        if workflow is None:
            raise not_found("WORKFLOW", workflow_key)
        name = NamedEntityIdentifier(project=plan.id.project, domain=plan.id.domain, name=plan.id.name)
        async with self._db.transaction() as conn:
            await LaunchPlanRepository(conn).insert(
                plan, workflow_id=workflow.id, digest=generated.plan_digest, schedule_type="NONE", at=self._clock.now()
            )
            for resource_type in (ResourceType.WORKFLOW, ResourceType.LAUNCH_PLAN):
                await NamedEntityRepository(conn).put_if_absent(
                    resource_type, name, NamedEntityMetadata(state=NamedEntityState.SYSTEM_GENERATED)
                )
        launchable = await self._find_launchable(generated.task)
        if launchable is None:
            raise Internal(f"the launch plan {plan.id.name} was made and cannot be found")
        return launchable

    async def _find_workflow(self, identifier: Identifier) -> WorkflowRow | None:
        async with self._db.connection() as conn:
            return await WorkflowRepository(conn).find(identifier)

    async def _again(
        self, key: WorkflowExecutionIdentifier, name: str
    ) -> tuple[SourceExecution, ExecutionCreateRequest]:
        """The request that launches an execution again.  Raises NotFound."""
        for field in ("project", "domain", "name"):
            check_text(field, getattr(key, field))
        async with self._db.connection() as conn:
            source = await ExecutionRepository(conn).find_source(key)
        if source is None:
            raise not_found("execution", key)
        request = ExecutionCreateRequest(project=key.project, domain=key.domain, name=name, spec=source.spec)
        if source.user_inputs_uri:
            try:
                request.inputs.ParseFromString(await self._storage.read(source.user_inputs_uri, limit_bytes=0))
            except NotFound:
                request.inputs.CopyFrom(source.spec.inputs)
            except (AerodromeError, DecodeError) as error:
                raise Internal(
                    f"Unable to read the inputs of {_text(key)} from location {source.user_inputs_uri} : {error}"
                ) from error
        return source, request


def _text(key: WorkflowExecutionIdentifier) -> str:
    return f"{key.project}:{key.domain}:{key.name}"
