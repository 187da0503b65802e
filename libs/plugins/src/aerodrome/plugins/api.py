"""The task-plugin API: what a plugin is given, what it answers, and the shapes that a plugin can have.

A plugin turns the values of a `TaskContext` into something that runs, and what is observed of it into a `PhaseInfo`.
It keeps no state of its own between calls; who drives it (and persists, retries, times out and aborts) is the engine.
Source: spec/data-plane.md, sections 5.2, 5.3 and 6.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from flyteidl.admin.matchable_resource_pb2 import TaskResourceAttributes
from flyteidl.core import execution_pb2, identifier_pb2, literals_pb2, security_pb2, tasks_pb2, workflow_pb2
from flyteidl.event import event_pb2
from google.protobuf import struct_pb2

from aerodrome.stdlib.errors import AerodromeError, Kind

V1Pod: TypeAlias = dict[str, Any]
"""A Kubernetes pod (or a part of one) as plain JSON in camelCase, as the API server reads and writes it."""

MAX_PHASE_VERSIONS: Final = 100_000
"""Versions that one phase of a task may have before the task counts as broken."""


class ErrorKind(Enum):
    """Who is to blame, which selects the retry budget: SYSTEM has its own, the others share the user's."""

    UNKNOWN = execution_pb2.ExecutionError.UNKNOWN
    USER = execution_pb2.ExecutionError.USER
    SYSTEM = execution_pb2.ExecutionError.SYSTEM


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    `cleanup` asks for the attempt's object to be deleted although the attempt is over.  `timestamp` and `worker` come
    from error documents of distributed tasks.
    """

    code: str
    message: str
    kind: ErrorKind
    retryable: bool
    cleanup: bool = False
    timestamp: datetime | None = None
    worker: str = ""

    def error(self) -> execution_pb2.ExecutionError:
        """The failure as events and the API carry it."""
        error = execution_pb2.ExecutionError(
            code=self.code, message=self.message, kind=self.kind.value, worker=self.worker
        )
        if self.timestamp is not None:
            error.timestamp.FromDatetime(self.timestamp)
        return error


class PluginError(AerodromeError):
    """A plugin cannot do what it was asked for; `failure` is what becomes of the attempt."""

    kind = Kind.FAILED_PRECONDITION

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code}: {failure.message}")
        self.failure = failure


def bad_task(message: str) -> PluginError:
    """The task's own definition is at fault: permanent, USER, `BadTaskSpecification`."""
    return PluginError(Failure("BadTaskSpecification", message, ErrorKind.USER, retryable=False))


def failed_to_build(message: str) -> PluginError:
    """The object cannot be built from the task and its inputs: permanent, USER, `FailedToBuildResource`."""
    return PluginError(Failure("FailedToBuildResource", message, ErrorKind.USER, retryable=False))


class Phase(Enum):
    """Where one attempt of a task stands, in the plugin's words; the values are those of stored reference state."""

    NOT_READY = 1
    WAITING_FOR_RESOURCES = 2
    QUEUED = 3
    INITIALIZING = 4
    RUNNING = 5
    SUCCEEDED = 6
    RETRYABLE_FAILURE = 7
    PERMANENT_FAILURE = 8
    WAITING_FOR_CACHE = 9
    ABORTED = 10

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL: Final = frozenset({Phase.SUCCEEDED, Phase.RETRYABLE_FAILURE, Phase.PERMANENT_FAILURE, Phase.ABORTED})

_EVENT_PHASE: Final[Mapping[Phase, execution_pb2.TaskExecution.Phase]] = {
    Phase.NOT_READY: execution_pb2.TaskExecution.UNDEFINED,
    Phase.WAITING_FOR_CACHE: execution_pb2.TaskExecution.UNDEFINED,
    Phase.WAITING_FOR_RESOURCES: execution_pb2.TaskExecution.WAITING_FOR_RESOURCES,
    Phase.QUEUED: execution_pb2.TaskExecution.QUEUED,
    Phase.INITIALIZING: execution_pb2.TaskExecution.INITIALIZING,
    Phase.RUNNING: execution_pb2.TaskExecution.RUNNING,
    Phase.SUCCEEDED: execution_pb2.TaskExecution.SUCCEEDED,
    Phase.RETRYABLE_FAILURE: execution_pb2.TaskExecution.FAILED,
    Phase.PERMANENT_FAILURE: execution_pb2.TaskExecution.FAILED,
    Phase.ABORTED: execution_pb2.TaskExecution.ABORTED,
}


def task_event_phase(phase: Phase) -> execution_pb2.TaskExecution.Phase:
    """The phase that a task event reports for `phase`."""
    return _EVENT_PHASE[phase]


@dataclass(frozen=True, slots=True)
class Reason:
    """One more thing that happened, such as an event of the pod."""

    text: str
    occurred_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PhaseInfo:
    """What a plugin says about an attempt.

    `version` orders repeated reports of one phase; `failure` is there if and only if the phase is a failure.
    """

    phase: Phase
    version: int = 0
    reason: str = ""
    logs: tuple[execution_pb2.TaskLog, ...] = ()
    occurred_at: datetime | None = None
    failure: Failure | None = None
    custom_info: struct_pb2.Struct | None = None
    external_resources: tuple[event_pb2.ExternalResourceInfo, ...] = ()
    additional_reasons: tuple[Reason, ...] = ()
    log_context: execution_pb2.LogContext | None = None

    def __post_init__(self) -> None:
        if (self.failure is not None) != (self.phase in (Phase.RETRYABLE_FAILURE, Phase.PERMANENT_FAILURE)):
            raise ValueError(f"{self.phase.name} and failure {self.failure} do not go together")


def failed(failure: Failure, **more: Any) -> PhaseInfo:
    """The phase of an attempt that ended by `failure`; `more` are further fields of PhaseInfo."""
    phase = Phase.RETRYABLE_FAILURE if failure.retryable else Phase.PERMANENT_FAILURE
    return PhaseInfo(phase, reason=more.pop("reason", failure.message), failure=failure, **more)


def advance(previous: PhaseInfo | None, seen: PhaseInfo, limit: int = MAX_PHASE_VERSIONS) -> PhaseInfo | None:
    """What to record after `seen` was observed, or None if it adds nothing to `previous`.

    Versions grow within a phase, and a changed reason makes a new version.  Nothing follows a terminal phase.  More
    than `limit` versions of one phase are a permanent failure.
    """
    if previous is None:
        return seen
    if previous.phase.terminal:
        return None
    if previous.phase is seen.phase:
        if seen.version <= previous.version:
            if seen.reason == previous.reason:
                return None
            seen = replace(seen, version=previous.version + 1)
        if seen.version > limit:
            return failed(
                Failure(
                    "TooManyPluginPhaseVersions",
                    f"the task reported {seen.version} versions of phase {seen.phase.name}; {limit} are permitted "
                    "(tasks.max-plugin-phase-versions)",
                    ErrorKind.SYSTEM,
                    retryable=False,
                )
            )
    return seen


def _no_inputs() -> literals_pb2.LiteralMap:
    return literals_pb2.LiteralMap()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """Everything about one attempt of a task that a plugin may need, as values."""

    execution_id: identifier_pb2.WorkflowExecutionIdentifier
    workflow_id: identifier_pb2.Identifier
    """The workflow of the execution; its name is a label and part of the environment."""
    node_id: str
    """Unique within the execution (`names.unique_node_id`)."""
    template_node_id: str = ""
    """As the workflow's author wrote it."""
    attempt: int = 0
    max_attempts: int = 1
    generated_name: str
    """`names.generated_name` of this attempt."""
    task: tasks_pb2.TaskTemplate
    overrides: workflow_pb2.TaskNodeOverrides | None = None

    namespace: str
    inputs_path: str
    """Reference of `inputs.pb`."""
    input_prefix: str
    output_prefix: str
    raw_output_prefix: str
    checkpoint_prefix: str
    prev_checkpoint_prefix: str = ""
    task_template_path: str = ""
    """Reference of `task.pb`; the engine writes it first if `templating.uses_task_template(task)`."""
    inputs: Callable[[], literals_pb2.LiteralMap] = _no_inputs
    """Called only if the task refers to its inputs' values; must not block (see `templating.uses_inputs`)."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """The execution's own environment variables."""
    extra_environment: Mapping[str, str] = field(default_factory=dict)
    """What the engine adds, such as the index of a map item; wins over `environment`."""
    offload_mb: tuple[int, int] | None = None
    """Smallest and largest literal that tasks may offload, in MiB; None switches offloading off."""
    resources: TaskResourceAttributes = field(default_factory=TaskResourceAttributes)
    """Defaults and limits that the platform sets for this execution."""
    service_account: str = ""
    security_context: security_pb2.SecurityContext = field(default_factory=security_pb2.SecurityContext)
    """The execution's."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The execution's user labels."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    interruptible: bool = False
    console_url: str = ""
    owner: Mapping[str, Any] | None = None
    """Kubernetes owner reference of the execution's handle, where there is one."""

    def describe(self) -> str:
        """The task in words, for messages: its name, version and node."""
        version = f" version {self.task.id.version}" if self.task.id.version else ""
        return (
            f"task {self.task.id.name or '(without a name)'}{version} of node {self.template_node_id or self.node_id}"
        )


@runtime_checkable
class Plugin(Protocol):
    """What all plugins have.  Besides, each is one of the three shapes below."""

    @property
    def id(self) -> str:
        """What configuration and task events call the plugin."""
        ...

    @property
    def task_types(self) -> frozenset[str]: ...

    @property
    def max_generated_name(self) -> int:
        """Longest generated name that the plugin's objects can have, in characters."""
        ...


@runtime_checkable
class PodPlugin(Plugin, Protocol):
    """Runs a task as one pod, on any runtime."""

    def build(self, context: TaskContext) -> V1Pod:
        """The pod, complete.  Raises PluginError."""
        ...

    def phase(self, context: TaskContext, pod: V1Pod) -> PhaseInfo:
        """What the pod's `status` means."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished in-process or remote task: its phase, and its outputs where it has them in hand."""

    info: PhaseInfo
    outputs: literals_pb2.LiteralMap | None = None


@runtime_checkable
class InProcessPlugin(Plugin, Protocol):
    """Does the whole task inside the engine's process; has to be quick, and may be called again after a crash."""

    async def run(self, context: TaskContext) -> Outcome:
        """Do it.  Raises PluginError; is cancelled on abort and on timeouts."""
        ...


@runtime_checkable
class AtOncePlugin(InProcessPlugin, Protocol):
    """Knows of tasks what they come to without any waiting: a great many of them then need no task of the loop each."""

    def at_once(self, task: tasks_pb2.TaskTemplate, inputs: literals_pb2.LiteralMap) -> Outcome | None:
        """What `run` would give, from template and inputs alone; None where that is for `run` to say.

        Outputs may be the inputs themselves, which nobody changes.
        """
        ...


@runtime_checkable
class RemotePlugin(Plugin, Protocol):
    """Runs a task in a service elsewhere."""

    async def create(self, context: TaskContext) -> bytes:
        """Start it and return what identifies it; the engine stores these bytes before it does anything else.

        May be called again for the same `generated_name` after a crash, so it should pass that name as the service's
        idempotency token.  Raises PluginError.
        """
        ...

    async def get(self, context: TaskContext, resource: bytes) -> Outcome:
        """How it stands.  Raises PluginError, and AerodromeError where it cannot be told for the moment."""
        ...

    async def delete(self, context: TaskContext, resource: bytes) -> None:
        """End it; ending what is over or gone is fine.  Raises AerodromeError if it may still run."""
        ...


@runtime_checkable
class ImmediatePlugin(RemotePlugin, Protocol):
    """A remote plugin some of whose tasks are done in one call."""

    def is_immediate(self, context: TaskContext) -> bool:
        """Whether this task is one of them.  Raises PluginError."""
        ...

    async def execute(self, context: TaskContext) -> Outcome:
        """Do the whole task; may be called again after a crash.  Raises PluginError."""
        ...


@runtime_checkable
class DiscoveringPlugin(Plugin, Protocol):
    """A plugin that learns from others which task types it runs; it is asked before those that claim a type."""

    async def serve(self) -> None:
        """Keep learning, until cancelled."""
        ...

    async def discover(self, task_type: str) -> None:
        """Learn now whether `task_type` is one of them, unless that is known."""
        ...

    def problems(self) -> list[str]:
        """What keeps it from learning, for messages."""
        ...


PodTemplates: TypeAlias = Callable[[str, str], Mapping[str, Any] | None]
"""Finds a Kubernetes PodTemplate object (its JSON) by namespace and name, or None."""

LogUri: TypeAlias = Callable[[TaskContext, str], str]
"""Where people read the log file at the given path of the local runtime."""


def no_pod_templates(namespace: str, name: str) -> Mapping[str, Any] | None:
    """For runtimes without Kubernetes: there are no pod templates."""
    return None


def all_of(plugins: Sequence[Plugin]) -> dict[str, Plugin]:
    """`plugins` by id.  Raises ValueError if two share one."""
    by_id: dict[str, Plugin] = {}
    for plugin in plugins:
        if by_id.setdefault(plugin.id, plugin) is not plugin:
            raise ValueError(f"two plugins are called {plugin.id}: {by_id[plugin.id]!r} and {plugin!r}")
    return by_id
