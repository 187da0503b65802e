"""What executions, nodes and attempts were given and what they made: literals, links to them, and dynamic workflows.

Inputs and outputs are best effort: what cannot be read is shown as empty and logged, so that looking at an execution
never fails for the sake of one object.  A dynamic workflow that is recorded but cannot be read is an error, because its
nodes mean nothing without it.  Source: spec/control-plane.md, sections 6.6 and 6.8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta

from flyteidl.admin.common_pb2 import FlyteURLs, UrlBlob
from flyteidl.admin.execution_pb2 import ExecutionClosure, WorkflowExecutionGetDataResponse
from flyteidl.admin.node_execution_pb2 import (
    DynamicNodeWorkflowResponse,
    NodeExecutionClosure,
    NodeExecutionGetDataResponse,
)
from flyteidl.admin.task_execution_pb2 import TaskExecutionClosure, TaskExecutionGetDataResponse
from flyteidl.core.compiler_pb2 import CompiledWorkflowClosure
from flyteidl.core.identifier_pb2 import (
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from flyteidl.core.literals_pb2 import LiteralMap
from google.protobuf.message import DecodeError

from aerodrome.admin.config import RemoteDataConfig
from aerodrome.admin.domain.validation import check_execution_id, check_node_execution_id, check_task_execution_id
from aerodrome.admin.managers.counting import Sizes
from aerodrome.admin.repositories.execution_views import ExecutionViews
from aerodrome.admin.repositories.node_executions import NodeExecutionViews
from aerodrome.admin.repositories.task_executions import TaskExecutionViews
from aerodrome.stdlib.errors import AerodromeError, Internal, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.storage import Storage
from aerodrome.stdlib.telemetry import Metrics

log = get_logger(__name__)

DEFAULT_LINK_MINUTES = 60
"""How long links are good for where signing is on and no duration is set."""


@dataclass(frozen=True, slots=True)
class _Literals:
    """A literal map and the link to it."""

    link: UrlBlob
    literals: LiteralMap


class DataManager:
    """Reads literals from where rows say they are."""

    def __init__(
        self, database: Database, storage: Storage, config: RemoteDataConfig, *, sizes: Sizes | None = None
    ) -> None:
        self._storage = storage
        self._sizes = sizes or Sizes(Metrics(), scope="")
        self._config = config
        self._executions = ExecutionViews(database)
        self._nodes = NodeExecutionViews(database)
        self._tasks = TaskExecutionViews(database)

    async def execution_data(self, key: WorkflowExecutionIdentifier) -> WorkflowExecutionGetDataResponse:
        """Inputs and outputs of an execution.  Raises InvalidArgument, NotFound."""
        check_execution_id(key)
        row = await self._executions.get_data(key)
        closure = ExecutionClosure.FromString(row["closure"])
        inputs, outputs = await self._both(
            self._literals(row["inputs_uri"], closure.computed_inputs),
            self._literals(
                closure.outputs.uri,
                closure.outputs.values if closure.outputs.HasField("values") else closure.output_data,
            ),
        )
        self._sizes.execution.shown(outputs.literals.ByteSize())
        return WorkflowExecutionGetDataResponse(
            inputs=inputs.link, outputs=outputs.link, full_inputs=inputs.literals, full_outputs=outputs.literals
        )

    async def node_execution_data(self, key: NodeExecutionIdentifier) -> NodeExecutionGetDataResponse:
        """Inputs and outputs of a node, and the workflow that it made if it is dynamic.

        Raises InvalidArgument, NotFound, and Internal if the dynamic workflow cannot be read.
        """
        check_node_execution_id(key)
        row = await self._nodes.get(key)
        closure = NodeExecutionClosure.FromString(row["closure"])
        inputs, outputs = await self._both(
            self._literals(row["input_uri"], None), self._literals(closure.output_uri, closure.output_data)
        )
        self._sizes.node.shown(outputs.literals.ByteSize(), inputs.literals.ByteSize())
        execution = key.execution_id
        prefix = f"flyte://v1/{execution.project}/{execution.domain}/{execution.name}/{key.node_id}"
        answer = NodeExecutionGetDataResponse(
            inputs=inputs.link,
            outputs=outputs.link,
            full_inputs=inputs.literals,
            full_outputs=outputs.literals,
            flyte_urls=FlyteURLs(
                inputs=f"{prefix}/i", outputs=f"{prefix}/o", deck=f"{prefix}/d" if closure.deck_uri else ""
            ),
        )
        if reference := row["dynamic_workflow_remote_closure_reference"]:
            dynamic = answer.dynamic_workflow
            await self._read_closure(reference, dynamic.compiled_workflow)
            dynamic.id.CopyFrom(dynamic.compiled_workflow.primary.template.id)
            dynamic.dynamic_job_spec_uri = closure.dynamic_job_spec_uri
        return answer

    async def task_execution_data(self, key: TaskExecutionIdentifier) -> TaskExecutionGetDataResponse:
        """Inputs and outputs of an attempt.  Raises InvalidArgument, NotFound."""
        check_task_execution_id(key)
        row = await self._tasks.get(key)
        closure = TaskExecutionClosure.FromString(row["closure"])
        inputs, outputs = await self._both(
            self._literals(row["input_uri"], None), self._literals(closure.output_uri, closure.output_data)
        )
        self._sizes.task.shown(outputs.literals.ByteSize(), inputs.literals.ByteSize())
        node = key.node_execution_id
        execution = node.execution_id
        prefix = (
            f"flyte://v1/{execution.project}/{execution.domain}/{execution.name}/{node.node_id}/{key.retry_attempt}"
        )
        return TaskExecutionGetDataResponse(
            inputs=inputs.link,
            outputs=outputs.link,
            full_inputs=inputs.literals,
            full_outputs=outputs.literals,
            flyte_urls=FlyteURLs(inputs=f"{prefix}/i", outputs=f"{prefix}/o"),
        )

    async def dynamic_node_workflow(self, key: NodeExecutionIdentifier) -> DynamicNodeWorkflowResponse:
        """The workflow that a dynamic node made.

        Raises NotFound if the node does not exist or is not dynamic, Internal if the workflow cannot be read.
        """
        check_node_execution_id(key)
        row = await self._nodes.get(key)
        reference = row["dynamic_workflow_remote_closure_reference"]
        if not reference:
            raise NotFound("node does not contain dynamic workflow")
        answer = DynamicNodeWorkflowResponse()
        await self._read_closure(reference, answer.compiled_workflow)
        return answer

    async def _both(
        self, inputs: Coroutine[None, None, _Literals], outputs: Coroutine[None, None, _Literals]
    ) -> tuple[_Literals, _Literals]:
        """Both at once; the first error of either, as it was raised."""
        try:
            async with asyncio.TaskGroup() as group:
                first, second = group.create_task(inputs), group.create_task(outputs)
        except* AerodromeError as errors:
            raise errors.exceptions[0] from None
        return first.result(), second.result()

    async def _literals(self, reference: str, inline: LiteralMap | None) -> _Literals:
        """The literals at `reference`, or those kept in the closure itself where there is no reference."""
        if not reference:
            if inline is not None and inline.ByteSize() < self._config.max_size_in_bytes:
                return _Literals(UrlBlob(), inline)
            return _Literals(UrlBlob(), LiteralMap())
        link = await self._link(reference)
        if self._is_shown_in_full(link):
            return _Literals(link, await self._read_literals(reference))
        return _Literals(link, LiteralMap())

    def _is_shown_in_full(self, link: UrlBlob) -> bool:
        return (
            self._config.scheme in ("local", "none", "")
            or self._config.max_size_in_bytes == 0
            or link.bytes < self._config.max_size_in_bytes
        )

    async def _link(self, reference: str) -> UrlBlob:
        """A signed link and the object's size; empty where signing is off or there is no object yet."""
        if not self._config.signed_urls.enabled:
            return UrlBlob()
        found = await self._storage.head(reference)
        if found is None:
            return UrlBlob()
        minutes = self._config.signed_urls.duration_minutes or DEFAULT_LINK_MINUTES
        signed = await self._storage.sign_download(reference, expires_in=timedelta(minutes=minutes))
        return UrlBlob(url=signed.url, bytes=found.size_bytes)

    async def _read_literals(self, reference: str) -> LiteralMap:
        try:
            return LiteralMap.FromString(await self._storage.read(reference))
        except NotFound:
            return LiteralMap()  # not written yet, or not any more
        except (AerodromeError, DecodeError) as error:
            log.warning("literals cannot be shown", reference=reference, error=str(error))
            return LiteralMap()

    async def _read_closure(self, reference: str, target: CompiledWorkflowClosure) -> None:
        """Our own object, of whatever size it was when it was written."""
        try:
            target.MergeFromString(await self._storage.read(reference, limit_bytes=0))
        except (AerodromeError, DecodeError) as error:
            raise Internal(f"Unable to read WorkflowClosure from location {reference} : {error}") from error
        target.SetInParent()
