"""The plugin that has connectors run tasks: asynchronous jobs that are followed, or whole tasks in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2, identifier_pb2, tasks_pb2
from google.protobuf import struct_pb2

from aerodrome.plugins import names
from aerodrome.plugins.api import ErrorKind, Failure, Outcome, Phase, PhaseInfo, PluginError, TaskContext, failed
from aerodrome.plugins.connectors.config import ConnectorServiceConfig
from aerodrome.plugins.connectors.directory import ConnectorDirectory, Offer
from aerodrome.plugins.templating import render
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, DeadlineExceeded, Unavailable

FAILED_WITH_ERROR: Final = "TaskFailedWithError"
UNAVAILABLE: Final = "ConnectorUnavailable"

_T = execution_pb2.TaskExecution
_GOING: Final[Mapping[int, Phase]] = {
    _T.QUEUED: Phase.QUEUED,
    _T.WAITING_FOR_RESOURCES: Phase.WAITING_FOR_RESOURCES,
    _T.INITIALIZING: Phase.INITIALIZING,
    _T.RUNNING: Phase.RUNNING,
    _T.SUCCEEDED: Phase.SUCCEEDED,
}
_FAILED: Final = frozenset({_T.FAILED, _T.ABORTED, _T.RETRYABLE_FAILED})
_BY_STATE: Final[Mapping[int, int]] = {
    agent_pb2.PENDING: _T.INITIALIZING,
    agent_pb2.RUNNING: _T.RUNNING,
    agent_pb2.SUCCEEDED: _T.SUCCEEDED,
    agent_pb2.RETRYABLE_FAILURE: _T.RETRYABLE_FAILED,
    agent_pb2.PERMANENT_FAILURE: _T.FAILED,
}
"""What older connectors say instead of a phase."""


class ConnectorPlugin:
    """Runs tasks on connectors; its task types are what these offer at the time."""

    max_generated_name: int = names.MAX_GENERATED_NAME

    def __init__(self, config: ConnectorServiceConfig, clock: Clock, plugin_id: str = "connector-service") -> None:
        """Raises FailedPrecondition if `config` contradicts itself."""
        self.id = plugin_id
        self._directory = ConnectorDirectory(config, clock)

    @property
    def task_types(self) -> frozenset[str]:
        """What the connectors offer now."""
        return self._directory.task_types

    async def serve(self) -> None:
        """Ask the connectors what they offer, again and again, until cancelled."""
        await self._directory.serve()

    async def discover(self, task_type: str) -> None:
        """Make sure that a connector which offers `task_type` is known, if there is one."""
        await self._directory.learn(task_type)

    def problems(self) -> list[str]:
        """Connectors that do not answer, and why."""
        return sorted(self._directory.problems.values())

    def is_immediate(self, context: TaskContext) -> bool:
        """Whether the task is done in one call."""
        return self._offer(context).is_sync

    async def execute(self, context: TaskContext) -> Outcome:
        """Do the whole task in one call.  Raises PluginError."""
        client = self._offer(context).client
        header = agent_pb2.CreateRequestHeader(
            template=_rendered(context), output_prefix=context.output_prefix, task_execution_metadata=_metadata(context)
        )
        requests = [
            agent_pb2.ExecuteTaskSyncRequest(header=header),
            agent_pb2.ExecuteTaskSyncRequest(inputs=context.inputs()),
        ]
        try:
            resource = await client.execute(requests)
        except AerodromeError as error:
            raise _refused(context, client.name, error) from error
        outcome = _outcome(resource)
        if not outcome.info.phase.terminal:
            message = f"connector {client.name} left {context.describe()} in phase {outcome.info.phase.name}"
            return Outcome(failed(Failure(FAILED_WITH_ERROR, message, ErrorKind.SYSTEM, retryable=True)))
        return outcome

    async def create(self, context: TaskContext) -> bytes:
        """Start a job; the connector's own bytes that identify it.  Raises PluginError."""
        client = self._offer(context).client
        request = agent_pb2.CreateTaskRequest(
            inputs=context.inputs(),
            template=_rendered(context),
            output_prefix=context.output_prefix,
            task_execution_metadata=_metadata(context),
        )
        try:
            return await client.create(request)
        except AerodromeError as error:
            raise _refused(context, client.name, error) from error

    async def get(self, context: TaskContext, resource: bytes) -> Outcome:
        """How a job stands.  Raises AerodromeError, also if the connector cannot be reached for the moment."""
        request = agent_pb2.GetTaskRequest(
            task_type=context.task.type,
            resource_meta=resource,
            task_category=_category(context),
            output_prefix=context.output_prefix,
        )
        return _outcome(await self._offer(context).client.get(request))

    async def delete(self, context: TaskContext, resource: bytes) -> None:
        """End a job.  Raises AerodromeError."""
        request = agent_pb2.DeleteTaskRequest(
            task_type=context.task.type, resource_meta=resource, task_category=_category(context)
        )
        await self._offer(context).client.delete(request)

    def _offer(self, context: TaskContext) -> Offer:
        offer = self._directory.find(context.task.type, context.task.task_type_version)
        if offer is None:
            problems = "; ".join(self.problems())
            message = (
                f"no connector offers tasks of type {context.task.type!r} any more{f' ({problems})' * bool(problems)}"
            )
            raise PluginError(Failure(UNAVAILABLE, message, ErrorKind.SYSTEM, retryable=True))
        return offer


def _refused(context: TaskContext, connector: str, error: AerodromeError) -> PluginError:
    """The failure of a task that a connector did not take."""
    message = f"connector {connector}, for {context.describe()}: {error.message}"
    if isinstance(error, Unavailable | DeadlineExceeded):
        return PluginError(Failure(UNAVAILABLE, message, ErrorKind.SYSTEM, retryable=True))
    return PluginError(Failure(FAILED_WITH_ERROR, message, ErrorKind.USER, retryable=True))


def _category(context: TaskContext) -> agent_pb2.TaskCategory:
    return agent_pb2.TaskCategory(name=context.task.type, version=context.task.task_type_version)


def _outcome(resource: agent_pb2.Resource) -> Outcome:
    """What a connector says of a job."""
    phase: int = resource.phase
    if phase == _T.UNDEFINED:
        phase = _BY_STATE.get(resource.state, _T.UNDEFINED)
    custom_info = resource.custom_info if resource.HasField("custom_info") else None
    logs, message = tuple(resource.log_links), resource.message
    if phase in _GOING:
        info = PhaseInfo(_GOING[phase], reason=message, logs=logs, custom_info=custom_info)
        outputs = resource.outputs if resource.HasField("outputs") else None
        return Outcome(info, outputs if info.phase is Phase.SUCCEEDED else None)
    if phase not in _FAILED:
        why = f"the connector gave a phase without meaning ({resource.phase}, state {resource.state}): {message}"
        return Outcome(failed(Failure(FAILED_WITH_ERROR, why, ErrorKind.SYSTEM, retryable=True)))
    failure = Failure(
        resource.agent_error.code or FAILED_WITH_ERROR,
        message or f"the connector reports that the job is {_T.Phase.Name(phase)}",
        ErrorKind.USER,
        retryable=phase == _T.RETRYABLE_FAILED,
    )
    return Outcome(failed(failure, logs=logs, custom_info=custom_info))


def _rendered(context: TaskContext) -> tasks_pb2.TaskTemplate:
    """The task with the templates of its command lines filled in."""
    template = tasks_pb2.TaskTemplate()
    template.CopyFrom(context.task)
    match template.WhichOneof("target"):
        case "container":
            for texts in (template.container.command, template.container.args):
                texts[:] = render(list(texts), context)
        case "k8s_pod":
            containers = template.k8s_pod.pod_spec.fields.get("containers")
            for container in containers.list_value.values if containers is not None else ():
                for member in ("command", "args"):
                    _render_list(container.struct_value, member, context)
    return template


def _render_list(container: struct_pb2.Struct, member: str, context: TaskContext) -> None:
    if member in container.fields:
        for value in container.fields[member].list_value.values:
            if value.WhichOneof("kind") == "string_value":
                (value.string_value,) = render([value.string_value], context)


def _metadata(context: TaskContext) -> agent_pb2.TaskExecutionMetadata:
    node = identifier_pb2.NodeExecutionIdentifier(node_id=context.node_id, execution_id=context.execution_id)
    task = identifier_pb2.TaskExecutionIdentifier(
        task_id=context.task.id, node_execution_id=node, retry_attempt=context.attempt
    )
    return agent_pb2.TaskExecutionMetadata(
        task_execution_id=task,
        namespace=context.namespace,
        labels=context.labels,
        annotations=context.annotations,
        k8s_service_account=context.service_account,
        environment_variables={**context.environment, **context.extra_environment},
        max_attempts=context.max_attempts,
        interruptible=context.interruptible,
        overrides=context.overrides,
        identity=context.security_context.run_as if context.security_context.HasField("run_as") else None,
    )
