"""Task nodes: build a pod with the task's plugin, have the runtime run it, judge what it left.

Source: spec/data-plane.md, 2.1 to 2.9, 5.2, 5.3.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any, cast

from flyteidl.core import errors_pb2, literals_pb2, tasks_pb2
from google.protobuf.message import DecodeError

from aerodrome.plugins import outcome
from aerodrome.plugins.api import (
    AtOncePlugin,
    ErrorKind,
    Failure,
    ImmediatePlugin,
    InProcessPlugin,
    Outcome,
    Phase,
    PhaseInfo,
    Plugin,
    PluginError,
    PodPlugin,
    RemotePlugin,
    TaskContext,
    V1Pod,
    advance,
    task_event_phase,
)
from aerodrome.plugins.config import TaskPluginsConfig
from aerodrome.plugins.names import pod_name
from aerodrome.plugins.registry import Registry
from aerodrome.plugins.status import deleted_externally
from aerodrome.plugins.templating import uses_inputs, uses_task_template
from aerodrome.propeller.engine.budget import Limits, interruptible_now
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.layout import DECK, ERROR, FUTURES, OUTPUTS, TASK
from aerodrome.propeller.literals import Corrupt
from aerodrome.propeller.nodes import copilot
from aerodrome.propeller.nodes.cached import NodeCache
from aerodrome.propeller.nodes.copilot import CoPilotError
from aerodrome.propeller.nodes.dynamic import Expander, outputs_of
from aerodrome.propeller.nodes.handler import Observation, Run, storage_failure
from aerodrome.propeller.nodes.recovery import checkpoint
from aerodrome.propeller.nodes.remote import RemoteAttempts
from aerodrome.propeller.nodes.retry import OOM_KILLED, policy_for, with_more_memory
from aerodrome.propeller.pods import PodHub
from aerodrome.stdlib import faults
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.errors import AerodromeError, NotFound, PermissionDenied, ResourceExhausted
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

_CHILD_QUEUE = "child_queue"
"""Entry of a container's config that names the queue of the task; batch services and connectors read it."""
_NO_POD = "no pod"
"""Key of a node's memo: its attempts are done by this process alone."""
_IN_PROCESS = "in process"
"""Key of what a run knows, with the identity of a task's template, which is kept beside for that: whether attempts of
the task are done by this process alone."""
_AT_ONCE = "at once"
"""The same: the plugin that does its attempts at once."""
_READS = "reads"
"""The same: what its attempts read."""
_WORK = "work"
"""Key of a node's memo: the task of this process that does the attempt, while it does."""
_KILLED = "oom-killed"
"""Object beside the results of an attempt that was ended for lack of memory."""
_MAX_ERROR_BYTES = 16 << 20
"""Largest error document that is read."""
_JUST_BEFORE = 1.0
"""Seconds within which the same status of a pod says nothing new."""
_TAIL_LINES = 30
_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which of the shapes of plugins one has."""

    in_process: bool
    at_once: bool
    remote: bool
    pod: bool


class TaskHandler:
    """Runs tasks as pods."""

    def __init__(
        self,
        registry: Registry,
        plugins: TaskPluginsConfig,
        hub: PodHub,
        expander: Expander,
        *,
        limits: Limits,
        max_output_bytes: int,
        clock: Clock | None = None,
        keep_pods: bool = False,
        cached: NodeCache | None = None,
    ) -> None:
        self._registry = registry
        self._plugins = plugins
        self._hub = hub
        self._expander = expander
        self._limits = limits
        self._max_output_bytes = max_output_bytes
        self._remote = RemoteAttempts(clock or SystemClock())
        self._keep_pods = keep_pods
        self._cached = cached
        self._shapes: dict[str, _Shape] = {}
        """By plugin."""

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        inputs = await run.inputs(node)
        if self._shares(run, node):
            digest = await run.values.put(inputs)
            if digest is not None:
                run.layout.share(node.unique_id, inputs=digest)
                return lambda engine, now: engine.prepared(node, now)
        await run.literals.write(run.layout.inputs(node), inputs)
        if self._cached is not None and self._cached.concerns(run, node):
            return await self._cached.prepare(run, node, inputs)
        return lambda engine, now: engine.prepared(node, now)

    def prepare_at_hand(self, run: Run, node: NodeState) -> Observation | None:
        inputs = run.inputs_at_hand(node) if self._shares(run, node) else None
        digest = None if inputs is None else run.values.known(inputs)
        if digest is None:
            return None
        run.layout.share(node.unique_id, inputs=digest)
        return lambda engine, now: engine.prepared(node, now)

    def start_at_hand(self, run: Run, node: NodeState, attempt: int) -> Observation | None:
        shared, _ = run.layout.shares(node.unique_id)
        known: tuple[tasks_pb2.TaskTemplate, AtOncePlugin] | None = run.known.get((_AT_ONCE, id(node.spec.task)))
        inputs = run.literals.remembered(run.layout.inputs(node)) if shared and known is not None else None
        if known is None or inputs is None:
            return None
        task, plugin = known
        ended = plugin.at_once(task, inputs)
        if ended is None or ended.outputs is None or ended.info.failure is not None:
            return None
        digest = shared if ended.outputs is inputs else run.values.known(ended.outputs)
        if digest is None or self._measured(node, run.layout.output_dir(node, attempt), ended.outputs) is not None:
            return None
        node.memo[_NO_POD] = True
        run.layout.share(node.unique_id, outputs=digest)
        info = ended.info
        return lambda engine, now: engine.succeeded(node, attempt, now, info, None)

    def holds_nothing(self, run: Run, node: NodeState) -> bool:
        return _NO_POD in node.memo and (self._cached is None or not self._cached.concerns(run, node))

    def _shares(self, run: Run, node: NodeState) -> bool:
        """Whether inputs and outputs of the node are read by nobody who has to find them in its directories."""
        task = node.spec.task
        assert task is not None
        known: tuple[tasks_pb2.TaskTemplate, bool] | None = run.known.get((_IN_PROCESS, id(task)))
        if known is None:
            known = run.known[_IN_PROCESS, id(task)] = (task, self.in_process(run, task))
        return known[1] and (self._cached is None or not self._cached.concerns(run, node))

    def in_process(self, run: Run, task: tasks_pb2.TaskTemplate) -> bool:
        """Whether attempts of the task are done by this process alone."""
        try:
            plugin = self._registry.resolve(task.type, run.plugin_overrides, self._plugins)
        except PluginError:
            return False
        return self._shape(plugin).in_process

    def _shape(self, plugin: Plugin) -> _Shape:
        """Asked for each attempt, and looking through a protocol's members takes longer than to run an echo."""
        known = self._shapes.get(plugin.id)
        if known is None:
            known = self._shapes[plugin.id] = _Shape(
                in_process=isinstance(plugin, InProcessPlugin),
                at_once=isinstance(plugin, AtOncePlugin),
                remote=isinstance(plugin, RemotePlugin),
                pod=isinstance(plugin, PodPlugin),
            )
        return known

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        if self._cached is not None and self._cached.concerns(run, node):
            await self._cached.start(run, node, attempt, self._begin)
        else:
            await self._begin(run, node, attempt)

    async def _begin(self, run: Run, node: NodeState, attempt: int) -> None:
        """Start the attempt for good, or find it again."""
        try:
            task = node.spec.task
            assert task is not None
            if node.task_phase is TaskPhase.SUCCEEDED:  # in the execution that this one recovers from
                run.post(await self._expanded(run, node, attempt, None))
                return
            await self._registry.discover(task.type)
            plugin = self._registry.resolve(task.type, run.plugin_overrides, self._plugins)
            run.layout.begin(node.unique_id)
            shape = self._shape(plugin)
            if shape.in_process:
                if shape.at_once:
                    run.known[_AT_ONCE, id(task)] = (task, plugin)
                await self._do(run, node, attempt, cast(InProcessPlugin, plugin))
                return
            if run.layout.shares(node.unique_id)[0]:  # prepared while another plugin was configured
                inputs = await run.literals.read(run.layout.inputs(node))
                run.layout.keep_apart(node.unique_id)
                await run.literals.write(run.layout.inputs(node), inputs)
            if shape.remote:
                await self._do_elsewhere(run, node, attempt, cast(RemotePlugin, plugin))
                return
            if not shape.pod:
                raise PluginError(_no_pod(task.type, plugin.id))
            context = await self._context(run, node, attempt)
            policy = policy_for(context, self._limits.retry)
            plugin = cast(PodPlugin, plugin)
            pod = plugin.build(context)
            if attempt and policy.memory_factor > 1:
                pod = with_more_memory(pod, policy, await self._memory_kills(run, node, attempt))
            name = pod["metadata"]["name"]
            if node.task_phase is TaskPhase.RUNNING and await self._hub.runtime.get(run.namespace, name) is None:
                # It ran, as the journal says, and may have written something: it is lost, and not to be made anew.
                info = deleted_externally(name)
                assert info.failure is not None
                failure = info.failure
                run.post(lambda engine, now: engine.failed(node, attempt, failure, now, info))
                return
            watch = _Attempt(self, run, node, attempt, plugin, context)
            node.memo["pod"] = name
            self._hub.listen(run.namespace, name, watch.seen)
            await self._lay_inputs(run, pod)
            await self._hub.runtime.start(pod)
            faults.point("attempt.started")
            known = await self._hub.runtime.get(run.namespace, name)
            if known is not None:
                watch.seen(known)
        except (PluginError, CoPilotError) as error:
            failure = error.failure
            run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
        except AerodromeError as error:
            failed = Failure("StartFailed", error.message, ErrorKind.SYSTEM, retryable=True)
            run.post(lambda engine, now: engine.failed(node, attempt, failed, now))
        except Exception as error:  # a plugin's fault must end as its task's failure
            log.exception("an attempt could not be started", node=node.unique_id)
            broken = Failure("InternalError", repr(error), ErrorKind.SYSTEM, retryable=False)
            run.post(lambda engine, now: engine.failed(node, attempt, broken, now))

    async def _memory_kills(self, run: Run, node: NodeState, attempt: int) -> int:
        """How many attempts before this one needed more memory than they had."""
        prefixes = [run.layout.output_dir(node, earlier) for earlier in range(attempt)]
        found = [await run.literals.storage.head(f"{prefix}/{_KILLED}") for prefix in prefixes]
        return sum(metadata is not None for metadata in found)

    async def _do_elsewhere(self, run: Run, node: NodeState, attempt: int, plugin: RemotePlugin) -> None:
        """Have a service elsewhere do the attempt; `abort` cancels the following of it, and ends it there."""
        node.memo[_WORK] = asyncio.current_task()
        node.memo[_NO_POD] = True

        async def conclude(ended: Outcome) -> Observation:
            return await self._conclude(run, node, attempt, ended)

        try:
            context = await self._context(run, node, attempt, with_inputs=True)
            if isinstance(plugin, ImmediatePlugin) and plugin.is_immediate(context):
                run.post(await conclude(await plugin.execute(context)))
            else:
                await self._remote.follow(run, node, attempt, plugin, context, conclude)
        finally:
            node.memo.pop(_WORK, None)

    async def _end_elsewhere(self, run: Run, node: NodeState, attempt: int) -> bool:
        """End the attempt's job, if a service elsewhere does the attempt; whether one does."""
        task = node.spec.task
        assert task is not None
        try:
            await self._registry.discover(task.type)
            plugin = self._registry.resolve(task.type, run.plugin_overrides, self._plugins)
            if not isinstance(plugin, RemotePlugin):
                return False
            context = await self._context(run, node, attempt)
        except PluginError:
            return False
        await self._remote.end(run, node, attempt, plugin, context)
        return True

    async def _lay_inputs(self, run: Run, pod: V1Pod) -> None:
        """What the downloading helper of a raw container does, where the runtime has no helpers.

        Raises CoPilotError.
        """
        order, name = copilot.download_of(pod), pod["metadata"]["name"]
        if order is None or await self._hub.runtime.get(run.namespace, name) is not None:
            return
        folder = self._hub.runtime.volume(run.namespace, name, order.volume)
        if folder is not None:
            await copilot.download(run.literals.storage, order, folder)

    async def _take_files(
        self, run: Run, node: NodeState, prefix: str, pod: V1Pod, *, ended_well: bool
    ) -> Failure | None:
        """What the uploading helper of a raw container does; why its results cannot be used, or what it says itself."""
        order = copilot.upload_of(pod)
        if order is None:
            return None
        folder = self._hub.runtime.volume(run.namespace, pod["metadata"]["name"], order.volume)
        if folder is None:
            return None
        said = await asyncio.to_thread(copilot.own_error, folder)
        if said is not None or not ended_well:
            return said
        try:
            outputs = await copilot.upload(run.literals.storage, order, folder)
        except CoPilotError as error:
            return error.failure
        return await self._write_outputs(run, node, prefix, outputs)

    async def _do(self, run: Run, node: NodeState, attempt: int, plugin: InProcessPlugin) -> None:
        """Have a plugin do the whole attempt here; `abort` cancels it."""
        node.memo[_WORK] = asyncio.current_task()
        node.memo[_NO_POD] = True
        try:
            context = await self._context(run, node, attempt, with_inputs=True)
            run.post(await self._conclude(run, node, attempt, await plugin.run(context)))
        finally:
            node.memo.pop(_WORK, None)

    async def _conclude(self, run: Run, node: NodeState, attempt: int, ended: Outcome) -> Observation:
        """What an attempt came to of which nothing runs any more, and whose outputs its plugin may have in hand."""
        info, prefix = ended.info, run.layout.output_dir(node, attempt)
        failure = info.failure
        if failure is None and ended.outputs is not None:
            if await self._share(run, node, prefix, ended.outputs):
                return lambda engine, now: engine.succeeded(node, attempt, now, info, None)
            failure = await self._write_outputs(run, node, prefix, ended.outputs)
        elif failure is None:
            document, bad = await self._error_document(run, f"{prefix}/{ERROR}")
            verdict = await self._outputs(run, node, prefix, document, bad)
            failure = verdict if isinstance(verdict, Failure) else None
        if failure is not None:
            final = failure
            await self._give_back(run, node, attempt)
            return lambda engine, now: engine.failed(node, attempt, final, now, info)
        await run.literals.storage.freeze(prefix)
        detail = await self._stored(run, node, attempt)
        return lambda engine, now: engine.succeeded(node, attempt, now, info, detail)

    async def _share(self, run: Run, node: NodeState, prefix: str, outputs: literals_pb2.LiteralMap) -> bool:
        """Put outputs among the shared values, where the inputs are; False if they are elsewhere, or cannot be."""
        if not run.layout.shares(node.unique_id)[0] or self._measured(node, prefix, outputs) is not None:
            return False
        digest = await run.values.put(outputs)
        if digest is not None:
            run.layout.share(node.unique_id, outputs=digest)
        return digest is not None

    async def _stored(self, run: Run, node: NodeState, attempt: int) -> dict[str, Any] | None:
        """Cache the outputs of an attempt; what its last event says of that."""
        if self._cached is None or not self._cached.concerns(run, node):
            return None
        metadata = await self._cached.succeeded(run, node, attempt)
        return None if metadata is None else {"task_node_metadata": metadata}

    async def _give_back(self, run: Run, node: NodeState, attempt: int) -> None:
        """Release what the attempt has reserved of the cache."""
        if self._cached is not None and self._cached.concerns(run, node):
            await self._cached.ended(run, node, attempt)

    async def _write_outputs(
        self, run: Run, node: NodeState, prefix: str, outputs: literals_pb2.LiteralMap
    ) -> Failure | None:
        """Store outputs that a plugin has in hand; why they cannot be used, if so."""
        failure = self._measured(node, prefix, outputs)
        if failure is not None:
            return failure
        reference = f"{prefix}/{OUTPUTS}"
        try:
            await run.literals.write(reference, outputs)
        except PermissionDenied:
            # An earlier holder froze them, and the journal has not heard of it: nobody has read them.
            await run.literals.storage.delete(reference)
            await run.literals.write(reference, outputs)
        return None

    def _measured(self, node: NodeState, prefix: str, outputs: literals_pb2.LiteralMap) -> Failure | None:
        """Why outputs cannot be used that a plugin has in hand, if so."""
        size = outputs.ByteSize()
        verdict = outcome.decide(None, False, size, node.spec.has_outputs, self._max_output_bytes, output_prefix=prefix)
        return verdict if isinstance(verdict, Failure) else None

    async def abort(self, run: Run, node: NodeState, attempt: int, reason: str) -> Observation:
        await self._give_back(run, node, attempt)
        work: asyncio.Task[None] | None = node.memo.get(_WORK)
        if work is not None:
            work.cancel()
            await asyncio.wait([work])
        faults.point("attempt.aborting")
        if not await self._end_elsewhere(run, node, attempt) and work is None:
            await self._delete(run, node, attempt)
        faults.point("attempt.aborted")
        return lambda engine, now: engine.aborted(node, attempt, now)

    async def finalize(self, run: Run, node: NodeState, attempt: int) -> None:
        faults.point("attempt.finalizing")
        if node.phase is not NodePhase.DYNAMIC_RUNNING:  # its result is what its graph comes to
            await self._give_back(run, node, attempt)
        if _NO_POD in node.memo:
            return
        if self._keep_pods:
            self._hub.forget(run.namespace, self._pod_name(run, node, attempt))
        else:
            await self._delete(run, node, attempt)

    async def collect(self, run: Run, node: NodeState) -> Observation:
        """The outputs of what a dynamic task made are the task's own, and judged like those."""
        prefix = run.layout.output_dir(node)
        outputs = await run.literals.read(outputs_of(run, node))
        failure = await self._write_outputs(run, node, prefix, outputs)
        if failure is not None:
            final = failure
            return lambda engine, now: engine.collect_failed(node, final, now)
        await run.literals.storage.freeze(f"{prefix}/{OUTPUTS}")
        detail = {**(await self._stored(run, node, node.attempts) or {}), **await self._deck(run, prefix)}
        return lambda engine, now: engine.collected(node, now, detail=detail)

    async def _expanded(self, run: Run, node: NodeState, attempt: int, info: PhaseInfo | None) -> Observation:
        """A dynamic task is done, and its node goes on with what it made."""
        expanded = await self._expander.expand(run, node, attempt)
        if isinstance(expanded, Failure):
            failure = expanded
            return lambda engine, now: engine.failed(node, attempt, failure, now, info)
        made = expanded
        detail = {"task_node_metadata": made.metadata, **await self._deck(run, run.layout.output_dir(node, attempt))}
        return lambda engine, now: engine.expanded(
            node, attempt, made.graph, now, expansion=made.reference, info=info, detail=detail
        )

    async def _deck(self, run: Run, prefix: str) -> dict[str, Any]:
        deck = f"{prefix}/{DECK}"
        return {} if await run.literals.storage.head(deck) is None else {"deck_uri": deck}

    async def _delete(self, run: Run, node: NodeState, attempt: int) -> None:
        name = self._pod_name(run, node, attempt)
        self._hub.forget(run.namespace, name)
        await self._hub.runtime.delete(run.namespace, name)

    def _pod_name(self, run: Run, node: NodeState, attempt: int) -> str:
        return pod_name(run.layout.generated_name(node, attempt))

    async def _context(self, run: Run, node: NodeState, attempt: int, *, with_inputs: bool = False) -> TaskContext:
        layout, spec, task = run.layout, node.spec, node.spec.task
        assert task is not None
        reads_inputs, reads_template = self._reads(run, task)
        if run.child_queue and task.HasField("container"):
            task = _queued(task, run.child_queue)
        template_path = f"{layout.node_data(node)}/{TASK}"
        if reads_template:
            await run.literals.storage.write(template_path, task.SerializeToString())
        known = literals_pb2.LiteralMap()
        if with_inputs or reads_inputs:
            element = node.memo.get("element")  # of an item: what the item is given of the array's inputs
            known = element() if element is not None else await run.literals.read(layout.inputs(node))
        wanted = spec.interruptible
        if wanted is None:
            wanted = run.spec.interruptible.value if run.spec.HasField("interruptible") else False
        return TaskContext(
            execution_id=run.id,
            workflow_id=run.workflow_id,
            node_id=node.unique_id,
            template_node_id=spec.id,
            attempt=attempt,
            max_attempts=spec.max_attempts,
            generated_name=layout.generated_name(node, attempt),
            task=task,
            overrides=spec.template.task_node.overrides if spec.template.task_node.HasField("overrides") else None,
            namespace=run.namespace,
            inputs_path=layout.inputs(node),
            input_prefix=layout.node_data(node),
            output_prefix=layout.output_dir(node, attempt),
            raw_output_prefix=layout.raw_prefix(node, attempt),
            checkpoint_prefix=layout.checkpoints(node, attempt),
            prev_checkpoint_prefix=layout.checkpoints(node, attempt - 1) if attempt else checkpoint(run, node),
            task_template_path=template_path,
            inputs=lambda: known,
            environment={pair.key: pair.value for pair in run.spec.envs.values},
            extra_environment=node.memo.get("environment", {}),
            resources=run.resources,
            service_account=run.spec.security_context.run_as.k8s_service_account,
            security_context=run.spec.security_context,
            labels=dict(run.spec.labels.values),
            annotations=dict(run.spec.annotations.values),
            interruptible=interruptible_now(
                wanted,
                attempts=attempt,
                system_failures=node.system_failures,
                max_attempts=spec.max_attempts,
                limits=self._limits,
            ),
        )

    @staticmethod
    def _reads(run: Run, task: tasks_pb2.TaskTemplate) -> tuple[bool, bool]:
        """Whether the values of inputs are needed to make the task's pods, and whether its pods read its template."""
        known: tuple[tasks_pb2.TaskTemplate, tuple[bool, bool]] | None = run.known.get((_READS, id(task)))
        if known is None:
            known = run.known[_READS, id(task)] = (task, (uses_inputs(task), uses_task_template(task)))
        return known[1]

    async def judge(
        self, run: Run, node: NodeState, attempt: int, plugin: PodPlugin, info: PhaseInfo, pod: V1Pod
    ) -> Observation:
        """What an attempt came to whose pod is done."""
        prefix = run.layout.output_dir(node, attempt)
        failure = info.failure
        document, bad = await self._error_document(run, f"{prefix}/{ERROR}")
        said = await self._take_files(run, node, prefix, pod, ended_well=failure is None)
        if said is not None:
            failure = said
        elif failure is None:
            if await run.literals.storage.head(f"{prefix}/{FUTURES}") is not None:
                await run.literals.storage.freeze(run.layout.raw_prefix(node, attempt))
                return await self._expanded(run, node, attempt, info)
            verdict = await self._outputs(run, node, prefix, document, bad)
            failure = verdict if isinstance(verdict, Failure) else None
        else:
            failure = outcome.explained(failure, document)
        if failure is not None:
            if failure.code == OOM_KILLED:
                await run.literals.storage.write(f"{prefix}/{_KILLED}", b"")
            tail = await self._hub.runtime.tail(run.namespace, pod["metadata"]["name"], _TAIL_LINES)
            final = outcome.error_with_log_tail(failure, _own_words(tail))
            final = replace(final, message=self._hub.runtime.mask(final.message))
            return lambda engine, now: engine.failed(node, attempt, final, now, info)
        await run.literals.storage.freeze(prefix)
        await run.literals.storage.freeze(run.layout.raw_prefix(node, attempt))
        faults.point("attempt.judged")
        detail = {**(await self._stored(run, node, attempt) or {}), **await self._deck(run, prefix)}
        return lambda engine, now: engine.succeeded(node, attempt, now, info, detail)

    async def _outputs(
        self, run: Run, node: NodeState, prefix: str, document: errors_pb2.ErrorDocument | None, bad: bool
    ) -> outcome.Success | Failure:
        reference = f"{prefix}/{OUTPUTS}"
        declared = node.spec.has_outputs
        size: int | None = None
        data: bytes | None = None
        if document is None and not bad:
            try:
                data = await run.literals.storage.read(reference, limit_bytes=self._max_output_bytes)
                size = len(data)
            except NotFound:
                size = None
            except ResourceExhausted:
                metadata = await run.literals.storage.head(reference)
                size = metadata.size_bytes if metadata is not None else None
        verdict = outcome.decide(document, bad, size, declared, self._max_output_bytes, output_prefix=prefix)
        if isinstance(verdict, Failure):
            return verdict
        if data is None:
            # Nothing was declared and nothing written: consumers and the API still find a map, an empty one.
            await run.literals.write(reference, literals_pb2.LiteralMap())
            return verdict
        try:
            run.literals.keep(reference, data)
        except Corrupt as error:
            return Failure("OutputsCorrupt", error.message, ErrorKind.SYSTEM, retryable=True)
        return verdict

    async def _error_document(self, run: Run, reference: str) -> tuple[errors_pb2.ErrorDocument | None, bool]:
        try:
            data = await run.literals.storage.read(reference, limit_bytes=_MAX_ERROR_BYTES)
        except NotFound:
            return None, False
        except ResourceExhausted as error:
            return outcome.error_file_too_large(error.message), False
        try:
            return errors_pb2.ErrorDocument.FromString(data), False
        except DecodeError:
            return None, True


class _Attempt:
    """Follows one attempt's pod until it is over."""

    def __init__(
        self, handler: TaskHandler, run: Run, node: NodeState, attempt: int, plugin: PodPlugin, context: TaskContext
    ) -> None:
        self._handler = handler
        self._run = run
        self._node = node
        self._attempt = attempt
        self._plugin = plugin
        self._context = context
        self._last: PhaseInfo | None = None
        self._status: tuple[Any, Any] | None = None
        self._seen_at = 0.0
        self._judging: asyncio.Task[None] | None = None

    def seen(self, pod: V1Pod) -> None:
        """The pod stands like this now."""
        if self._judging is not None or self._is_known(pod):
            return
        info = advance(self._last, self._plugin.phase(self._context, pod))
        if info is None:
            return
        self._last = info
        if info.phase.terminal and info.phase is not Phase.ABORTED:
            self._judging = asyncio.create_task(self._judge(info, pod), name=f"judge {self._context.generated_name}")
            return
        node, attempt, phase = self._node, self._attempt, TaskPhase(task_event_phase(info.phase))
        self._run.post(lambda engine, now: engine.task_phase(node, attempt, phase, info.version, now, info))

    def _is_known(self, pod: V1Pod) -> bool:
        """Whether the pod was seen like this just before; later on it may have been like this for too long."""
        status, now = (pod.get("status"), pod["metadata"].get("deletionTimestamp")), time.monotonic()
        known = self._status == status and now - self._seen_at < _JUST_BEFORE
        self._status, self._seen_at = status, now
        return known

    async def _judge(self, info: PhaseInfo, pod: V1Pod) -> None:
        node, attempt = self._node, self._attempt
        for tries in range(_TRIES):
            try:
                observation = await self._handler.judge(self._run, node, attempt, self._plugin, info, pod)
                break
            except AerodromeError as error:
                log.warning("results cannot be read", pod=pod["metadata"]["name"], reason=error.message)
                failure = storage_failure(error, "ResultsUnreadable")
                observation = lambda engine, now: engine.failed(node, attempt, failure, now, info)  # noqa: B023, E731 - the last one is used
                await asyncio.sleep(0.05 * 4**tries)
            except Exception as error:  # the node must end, whatever its results look like
                log.exception("an attempt could not be judged", pod=pod["metadata"]["name"])
                broken = Failure("ResultsUnreadable", repr(error), ErrorKind.SYSTEM, retryable=True)
                observation = lambda engine, now: engine.failed(node, attempt, broken, now, info)  # noqa: B023, E731 - the last one is used
                break
        self._run.post(observation)


def _own_words(tail: str) -> str:
    """What the task itself printed: flytekit logs the exception once more, as JSON, and the error has it already."""
    return "\n".join(line for line in tail.splitlines() if not ('"name": "flytekit"' in line and line.startswith("{")))


def _queued(task: tasks_pb2.TaskTemplate, queue: str) -> tasks_pb2.TaskTemplate:
    """The task with the queue that it runs in, told as the reference tells it.

    Source: spec/control-plane.md, sections 4.3 (step 8) and 8.4.
    """
    told = tasks_pb2.TaskTemplate()
    told.CopyFrom(task)
    told.container.config.add(key=_CHILD_QUEUE, value=queue)
    return told


def _no_pod(task_type: str, plugin: str) -> Failure:
    return Failure(
        "UnsupportedPlugin",
        f"task type {task_type} is run by plugin {plugin}, which does not run as a pod on this data plane",
        ErrorKind.USER,
        retryable=False,
    )
