"""Array nodes (map tasks): one sub-node, run once for each element of the node's list inputs.

An item is run by the handler of the sub-node's kind, which sees it as a node of its own inside the array; what it posts
is told to the engine as the item's.  An item reads its own element, or the block of the lists that holds it, so that a
map reads in all as much as its lists have.  Source: spec/data-plane.md, 2.1, 3.7, 4.6; flytekit's `ArrayNodeMapTask`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, cast

from flyteidl.core import interface_pb2, literals_pb2, tasks_pb2, workflow_pb2
from google.protobuf.message import DecodeError

from aerodrome.plugins.api import ErrorKind, Failure, PhaseInfo
from aerodrome.propeller.config import ArrayNodeConfig
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import NodeKind, NodeSpec, edgeless
from aerodrome.propeller.engine.items import ItemInfo, ItemPlan
from aerodrome.propeller.engine.phases import NodePhase, TaskPhase
from aerodrome.propeller.engine.state import NodeState, Scope
from aerodrome.propeller.layout import INPUTS, OUTPUTS, Layout
from aerodrome.propeller.nodes.admin_client import AdminClient
from aerodrome.propeller.nodes.bindings import Unresolvable
from aerodrome.propeller.nodes.handler import Handler, Observation, Run, storage_failure
from aerodrome.propeller.nodes.tasks import TaskHandler
from aerodrome.stdlib.errors import AerodromeError, NotFound
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

BLOCK_BYTES = 4 * 2**10
"""Bytes of lists that an item may have to read beside its own element, all of which flytekit makes objects of."""
BLOCK_ITEMS = 16
"""Items that share a file of inputs at most, unless what is not mapped over is larger: objects of a thousand numbers
cost each item some 10 ms of CPU, and a file that sixteen items read costs each of them next to nothing."""
INDEX_NAME = "BATCH_JOB_ARRAY_INDEX_VAR_NAME"
INDEX = "FLYTE_K8S_ARRAY_INDEX"
INDEX_OFFSET = "BATCH_JOB_ARRAY_INDEX_OFFSET"
_AT_A_TIME = 32
"""Items that are started, ended or collected before others get a turn."""
_IN_PROCESS_AT_ONCE = 2_000
"""Items at once where nothing but this process has to take them."""
_ARRAY = "array"
"""Key of an array node's memo."""
_INDIVIDUAL = workflow_pb2.ArrayNode.INDIVIDUAL_INPUT_FILES


class ArrayHandler:
    """Runs the items of arrays by the handlers of what they are."""

    def __init__(self, config: ArrayNodeConfig, handlers: Mapping[NodeKind, Handler], admin: AdminClient) -> None:
        """`handlers` are those that items may have, by the kind of the sub-node."""
        self._config = config
        self._handlers = handlers
        self._admin = admin

    # The node as a whole

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        inputs = await run.inputs(node)
        await run.literals.write(run.layout.inputs(node), inputs)
        kind = _item_spec(node).kind
        if kind not in self._handlers:
            return _refused(
                node,
                "UnsupportedNodeKind",
                f"nodes of kind {kind.value} cannot be mapped over: map over a task, or over a launch plan of a "
                "workflow that has the node in it",
            )
        lists = await _loaded(run, node, inputs)
        try:
            size = _size(node, lists)
        except ValueError as error:
            return _refused(node, "InvalidArrayLength", str(error))
        if size > self._config.max_items:
            return _refused(
                node,
                "InvalidArrayLength",
                f"its lists have {size} elements, and a map may have {self._config.max_items} at most "
                "(propeller.array-node-config.max-items): split the lists",
            )
        node.memo[_ARRAY] = _Array(run.layout, node, lists)
        array = node.spec.template.array_node
        successes = array.WhichOneof("success_criteria")
        plan = ItemPlan(
            size=size,
            concurrency=self._concurrency(run, node, size),
            min_successes=array.min_successes if successes == "min_successes" else None,
            min_success_ratio=array.min_success_ratio if successes == "min_success_ratio" else None,
        )
        done = await self._take_over(run, node, inputs, size)
        return lambda engine, now: engine.prepared(node, now, plan=plan, done=done)

    async def _take_over(self, run: Run, node: NodeState, inputs: literals_pb2.LiteralMap, size: int) -> Sequence[int]:
        """The items that succeeded in the execution that this one recovers from; their outputs are in place."""
        old = None if run.earlier is None else run.earlier.find(node)
        if run.earlier is None or old is None or not old.known.input_uri:
            return ()
        storage, layout = run.literals.storage, run.layout
        earlier = old.known.input_uri.removesuffix(f"/{INPUTS}")
        done: list[int] = []
        try:
            given = await run.literals.read_as(old.known.input_uri, literals_pb2.LiteralMap.FromString, limit_bytes=0)
            if given != inputs:
                return ()
            succeeded = self._admin.list_items(run.earlier.execution, old.known.node_id, "SUCCEEDED")
            async for item in succeeded:
                if item.index >= size:
                    continue
                own = f"{layout.item_dir(node, item.index)}/0"
                try:
                    if await storage.head(f"{own}/{OUTPUTS}") is None:
                        place = f"{earlier}/{old.attempts}/{item.index}/{item.attempt}/{OUTPUTS}"
                        await storage.write(f"{own}/{OUTPUTS}", await run.literals.read_data(place))
                        await storage.freeze(own)
                except NotFound:
                    continue  # it runs again
                done.append(item.index)
        except (NotFound, DecodeError) as error:
            log.warning("no items are left to recover", node=node.unique_id, reason=str(error))
        return done

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        raise AssertionError("an array node has items and no attempts of its own")

    async def abort(self, run: Run, node: NodeState, attempt: int, reason: str) -> Observation:
        """End all items that may run."""
        array: _Array | None = node.memo.get(_ARRAY)
        assert node.items is not None
        if array is None:
            array = node.memo[_ARRAY] = _Array(run.layout, node, {})
        array.ending = True
        while array.starting:
            await asyncio.wait(array.starting)
        live = list(node.items.live())
        handler = self._handler(node)
        for begin in range(0, len(live), _AT_A_TIME):
            async with asyncio.TaskGroup() as group:
                for index in live[begin : begin + _AT_A_TIME]:
                    one = array.item(index, node.items.attempts[index])
                    group.create_task(handler.abort(array.run_of(run, index), one, one.attempts, reason))
        array.items.clear()
        return lambda engine, now: engine.aborted(node, attempt, now)

    async def collect(self, run: Run, node: NodeState) -> Observation:
        """Gather the outputs of the items into lists, in their order."""
        items = node.items
        assert items is not None
        array = _Array.of(run.layout, node)
        await array.settle()
        variables = _output_names(node)
        gathered = literals_pb2.LiteralMap()
        room = self._config.max_output_mbs * 2**20
        for name in variables:
            gathered.literals[name].collection.SetInParent()
        for begin in range(0, items.plan.size, _AT_A_TIME):
            indexes = range(begin, min(begin + _AT_A_TIME, items.plan.size))
            read = [
                _item_outputs(run, array.outputs(index, items.attempts[index]))
                for index in indexes
                if items.phases[index] == TaskPhase.SUCCEEDED
            ]
            found = await asyncio.gather(*read)
            room -= sum(each.ByteSize() for each in found)
            if room < 0:
                return _too_large(node, self._config.max_output_mbs)
            outputs = iter(found)
            for index in indexes:
                known = next(outputs) if items.phases[index] == TaskPhase.SUCCEEDED else None
                _gather(node, gathered, index, known)
            await asyncio.sleep(0)
        await run.literals.write(run.layout.outputs(node), gathered)
        node.memo.pop(_ARRAY, None)
        return lambda engine, now: engine.collected(node, now)

    async def finalize(self, run: Run, node: NodeState, attempt: int) -> None:
        """Nothing is held; items give back what they hold by themselves."""

    # Items

    async def start_items(
        self,
        run: Run,
        node: NodeState,
        items: Sequence[tuple[int, int]],
        permit: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        array = _Array.of(run.layout, node)
        await array.load(run)
        handler = self._handler(node)
        assert node.items is not None
        for begin in range(0, len(items), _AT_A_TIME):
            await permit()
            for index, attempt in items[begin : begin + _AT_A_TIME]:
                if array.ending or node.abort_sent:
                    return
                if node.items.current(index, attempt):
                    array.spawn(self._start_item(run, node, array, handler, index, attempt))
            await asyncio.sleep(0)

    async def abort_item(self, run: Run, node: NodeState, index: int, attempt: int, reason: str) -> Observation:
        array = _Array.of(run.layout, node)
        one = array.item(index, attempt)
        await self._handler(node).abort(array.run_of(run, index), one, attempt, reason)
        array.items.pop(index, None)
        return lambda engine, now: engine.item_aborted(node, index, attempt, now)

    async def finalize_items(self, run: Run, node: NodeState, items: Sequence[tuple[int, int]]) -> None:
        array = _Array.of(run.layout, node)
        handler = self._handler(node)
        if isinstance(handler, TaskHandler) and handler.in_process(run, array.task):
            for index, attempt in items:
                array.forget(index, attempt)
            return
        for begin in range(0, len(items), _AT_A_TIME):
            async with asyncio.TaskGroup() as group:
                for index, attempt in items[begin : begin + _AT_A_TIME]:
                    one = array.forget(index, attempt)
                    group.create_task(handler.finalize(array.run_of(run, index), one, attempt))

    async def _start_item(
        self, run: Run, node: NodeState, array: _Array, handler: Handler, index: int, attempt: int
    ) -> None:
        assert node.items is not None
        one = array.item(index, attempt)
        one.system_failures = node.items.systems[index]
        one.task_phase = TaskPhase(node.items.phases[index])
        try:
            if not (isinstance(handler, TaskHandler) and handler.in_process(run, array.task)):
                await array.write_inputs(run, one, index)
            await handler.start(array.run_of(run, index), one, attempt)
        except AerodromeError as error:
            failure = storage_failure(error, "ItemNotStarted")
        except Exception as error:  # one item's trouble must end as that item's failure
            log.exception("an item could not be started", node=node.unique_id, index=index)
            failure = Failure("InternalError", repr(error), ErrorKind.SYSTEM, retryable=True)
        else:
            return
        run.post(lambda engine, now: engine.item_failed(node, index, attempt, failure, now))

    def _handler(self, node: NodeState) -> Handler:
        return self._handlers[_item_spec(node).kind]

    def _concurrency(self, run: Run, node: NodeState, size: int) -> int:
        array, behavior = node.spec.template.array_node, self._config.default_parallelism_behavior
        wanted = array.parallelism
        if not wanted and (
            behavior == "workflow" or (behavior == "hybrid" and array.WhichOneof("parallelism_option") != "parallelism")
        ):
            wanted = run.spec.max_parallelism
        handler, task = self._handler(node), _item_spec(node).task
        here = isinstance(handler, TaskHandler) and task is not None and handler.in_process(run, task)
        most = _IN_PROCESS_AT_ONCE if here else self._config.max_items_at_once
        return max(1, min(wanted or size, most))


class _Array:
    """What this process knows of one array node while it runs."""

    def __init__(self, layout: Layout, node: NodeState, inputs: Mapping[str, literals_pb2.Literal]) -> None:
        self._node = node
        self._inputs = inputs
        self._layout = layout
        self._data = layout.node_data(node)
        self._spec = _element_spec(node)
        self._scope = Scope(edgeless(node.scope.graph.id, ()), node)
        self._mapped = _mapped(node, inputs)
        self._block, self._written = 0, dict[int, asyncio.Future[str]]()
        self.items: dict[int, NodeState] = {}
        """Those that may run, as nodes, by index."""
        self.starting: set[asyncio.Task[None]] = set()
        self.ending = False

    @classmethod
    def of(cls, layout: Layout, node: NodeState) -> _Array:
        """The node's; a fresh one after a restart."""
        known: _Array | None = node.memo.get(_ARRAY)
        if known is None:
            known = node.memo[_ARRAY] = cls(layout, node, {})
        return known

    @property
    def task(self) -> tasks_pb2.TaskTemplate:
        """The task that items run, with an interface of elements."""
        assert self._spec.task is not None
        return self._spec.task

    async def load(self, run: Run) -> None:
        """Have the inputs at hand; they are known already unless the process is a new one."""
        if self._inputs or not self._node.spec.template.inputs:
            return
        reference = run.layout.inputs(self._node)
        try:
            inputs = await run.literals.read_as(reference, literals_pb2.LiteralMap.FromString, limit_bytes=0)
        except DecodeError as error:
            raise NotFound(f"the inputs of node {self._node.unique_id} cannot be read: {error}") from error
        self._inputs = await _loaded(run, self._node, inputs)
        self._mapped = _mapped(self._node, self._inputs)

    def item(self, index: int, attempt: int) -> NodeState:
        """The item as a node, in that attempt."""
        one = self.items.get(index)
        if one is None or one.attempts != attempt:
            one = self.items[index] = self._make(index, attempt)
        return one

    def forget(self, index: int, attempt: int) -> NodeState:
        """The item as a node, in that attempt, which is over."""
        one = self.items.get(index)
        if one is None or one.attempts != attempt:
            return self._make(index, attempt)
        return self.items.pop(index)

    def _make(self, index: int, attempt: int) -> NodeState:
        node = self._node
        one = NodeState(replace(self._spec, id=f"n{index}"), self._scope, index, 0)
        one.unique_id = self._layout.item_id(node, index)
        one.attempts = attempt
        one.phase = NodePhase.RUNNING
        one.memo["data_dir"] = self._layout.item_dir(node, index)
        one.memo["element"] = lambda: self.element(index)
        one.memo["environment"] = {INDEX_NAME: INDEX, INDEX: str(index)}
        one.memo["inputs"] = f"{self._data}/{INPUTS}"
        return one

    def run_of(self, run: Run, index: int) -> Run:
        """The execution as an item's handler sees it: what it posts is the item's."""
        node = self._node

        def post(observation: Observation) -> None:
            run.post(lambda engine, now: observation(cast(Engine, _ItemEngine(engine, node, index)), now))

        view = copy(run)
        view.post = post
        return view

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside whatever else is being started."""
        task = asyncio.create_task(work, name=f"start an item of {self._node.unique_id}")
        self.starting.add(task)
        task.add_done_callback(self.starting.discard)

    async def settle(self) -> None:
        """Wait until no item is being started."""
        while self.starting:
            await asyncio.wait(self.starting)

    def outputs(self, index: int, attempt: int) -> str:
        """Where an attempt of an item leaves its outputs."""
        return f"{self._layout.item_dir(self._node, index)}/{attempt}/{OUTPUTS}"

    def element(self, index: int) -> literals_pb2.LiteralMap:
        """The inputs of one item: its elements of the lists, and all else whole."""
        inputs = literals_pb2.LiteralMap()
        for name, literal in self._inputs.items():
            known = literal.collection.literals[index] if name in self._mapped else literal
            inputs.literals[name].CopyFrom(known)
        return inputs

    async def write_inputs(self, run: Run, one: NodeState, index: int) -> None:
        """Put what the item reads where it reads it."""
        node = self._node
        if _takes_elements(node):
            reference = f"{self._data}/{index}/{INPUTS}"
            await run.literals.storage.write(reference, self.element(index).SerializeToString())
            one.memo["inputs"] = reference
            return
        block = self._items_per_block()
        if block >= _length(self._inputs, self._mapped):
            return
        begin = index - index % block
        # flytekit adds the offset to the index, and so finds the element in the block.
        one.memo["environment"][INDEX_OFFSET] = str(-begin)
        one.memo["inputs"] = await self._block_inputs(run, begin, begin + block)

    def _items_per_block(self) -> int:
        """How many items share a file of inputs: few, unless the lists are short beside what each item reads anyway."""
        if not self._block:
            lists = max(sum(self._inputs[name].ByteSize() for name in self._mapped), 1)
            whole = sum(literal.ByteSize() for name, literal in self._inputs.items() if name not in self._mapped)
            size = max(_length(self._inputs, self._mapped), 1)
            few = min(BLOCK_ITEMS, max(1, size * BLOCK_BYTES // lists))
            self._block = min(size, max(few, size * whole // lists))
        return self._block

    async def _block_inputs(self, run: Run, begin: int, end: int) -> str:
        """Where the inputs of the items `begin` to `end` (exclusive) are; the first who asks writes them."""
        known = self._written.get(begin)
        if known is not None:
            return await asyncio.shield(known)
        future = self._written[begin] = asyncio.get_running_loop().create_future()
        reference = f"{self._data}/blocks/{begin}-{end}/{INPUTS}"
        inputs = literals_pb2.LiteralMap()
        for name, literal in self._inputs.items():
            if name in self._mapped:
                inputs.literals[name].collection.literals.extend(literal.collection.literals[begin:end])
            else:
                inputs.literals[name].CopyFrom(literal)
        try:
            await run.literals.storage.write(reference, inputs.SerializeToString())
        except BaseException as error:
            del self._written[begin]
            future.set_exception(error if isinstance(error, AerodromeError) else NotFound("the block was not written"))
            future.exception()  # there may be nobody else who asked
            raise
        future.set_result(reference)
        return reference


class _ItemEngine:
    """The engine as an item's handler tells it things: each is one about the item."""

    def __init__(self, engine: Engine, node: NodeState, index: int) -> None:
        self._engine = engine
        self._node = node
        self._index = index

    def task_phase(
        self, node: NodeState, attempt: int, phase: TaskPhase, version: int, now: float, info: Any = None
    ) -> None:
        node.task_phase = phase
        if phase is not TaskPhase.UNDEFINED:
            self._engine.item_phase(self._node, self._index, attempt, phase, now, _item_info(info))

    def launched(self, node: NodeState, attempt: int, now: float) -> None:
        self.task_phase(node, attempt, TaskPhase.RUNNING, 0, now)

    def succeeded(self, node: NodeState, attempt: int, now: float, info: Any = None, detail: Any = None) -> None:
        self._engine.item_succeeded(self._node, self._index, attempt, now, _item_info(info, detail))

    def failed(self, node: NodeState, attempt: int, failure: Failure, now: float, info: Any = None) -> None:
        self._engine.item_failed(self._node, self._index, attempt, failure, now, _item_info(info))

    def expanded(
        self, node: NodeState, attempt: int, graph: object, now: float, *, expansion: str, info: Any, detail: Any
    ) -> None:
        failure = Failure(
            "UnsupportedNodeKind",
            "a dynamic task cannot be mapped over: call the map from a dynamic workflow instead",
            ErrorKind.USER,
            retryable=False,
        )
        self._engine.item_failed(self._node, self._index, attempt, failure, now)

    def aborted(self, node: NodeState, attempt: int, now: float, info: Any = None) -> None:
        self._engine.item_aborted(self._node, self._index, attempt, now)


def _item_info(info: Any, detail: Any = None) -> ItemInfo | None:
    metadata = (detail or {}).get("task_node_metadata")
    status = metadata.cache_status if metadata is not None else 0
    key = metadata.catalog_key if metadata is not None and metadata.HasField("catalog_key") else None
    deck = (detail or {}).get("deck_uri", "")
    said = info if isinstance(info, PhaseInfo) else None
    uri = said.logs[0].uri if said is not None and said.logs else ""
    if not status and not deck and said is None:
        return None
    return ItemInfo(status, catalog_key=key, deck_uri=deck, log_uri=uri, said=said)


def _item_spec(node: NodeState) -> NodeSpec:
    assert node.spec.item is not None
    return node.spec.item


def _takes_elements(node: NodeState) -> bool:
    """Whether items are given their elements alone; else lists, in which they find their elements by their index."""
    array = node.spec.template.array_node
    original = array.HasField("is_original_sub_node_interface") and array.is_original_sub_node_interface.value
    return original or array.data_mode == _INDIVIDUAL or _item_spec(node).kind is not NodeKind.TASK


def _element_spec(node: NodeState) -> NodeSpec:
    """What an item is: the sub-node, its task with elements in place of lists."""
    spec = _item_spec(node)
    array = node.spec.template.array_node
    if spec.task is None or (
        array.HasField("is_original_sub_node_interface") and array.is_original_sub_node_interface.value
    ):
        return spec
    task = tasks_pb2.TaskTemplate()
    task.CopyFrom(spec.task)
    for variables, but in ((task.interface.inputs, frozenset(array.bound_inputs)), (task.interface.outputs, ())):
        _unwrap(variables, but)
    return replace(spec, task=task)


def _unwrap(variables: interface_pb2.VariableMap, but: frozenset[str] | tuple[str, ...]) -> None:
    for name, variable in variables.variables.items():
        if name not in but and variable.type.HasField("collection_type"):
            element = type(variable.type)()
            element.CopyFrom(variable.type.collection_type)
            variable.type.CopyFrom(element)


def _output_names(node: NodeState) -> list[str]:
    task = _item_spec(node).task
    return sorted(task.interface.outputs.variables) if task is not None else []


def _mapped(node: NodeState, inputs: Mapping[str, literals_pb2.Literal]) -> frozenset[str]:
    """The inputs of which each item gets an element."""
    bound = set(node.spec.template.array_node.bound_inputs)
    return frozenset(
        name for name, literal in inputs.items() if name not in bound and literal.WhichOneof("value") == "collection"
    )


def _length(inputs: Mapping[str, literals_pb2.Literal], mapped: frozenset[str]) -> int:
    return max((len(inputs[name].collection.literals) for name in mapped), default=1)


def _size(node: NodeState, inputs: Mapping[str, literals_pb2.Literal]) -> int:
    """How many items there are.  Raises ValueError that says why that cannot be told."""
    mapped = _mapped(node, inputs)
    lengths = {name: len(inputs[name].collection.literals) for name in sorted(mapped)}
    if not lengths:
        if inputs and set(inputs) <= set(node.spec.template.array_node.bound_inputs):
            return 1
        raise ValueError("none of its inputs is a list: give it at least one list to map over")
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"its lists are not equally long: {each}")
    return next(iter(lengths.values()))


async def _loaded(run: Run, node: NodeState, inputs: literals_pb2.LiteralMap) -> Mapping[str, literals_pb2.Literal]:
    """The inputs, with lists that are stored elsewhere read."""
    known = dict(inputs.literals)
    for name, literal in known.items():
        if literal.HasField("offloaded_metadata"):
            known[name] = await run.load(literal)
    return known


async def _item_outputs(run: Run, reference: str) -> literals_pb2.LiteralMap:
    try:
        return await run.literals.read_as(reference, literals_pb2.LiteralMap.FromString)
    except NotFound as error:
        raise Unresolvable(f"the outputs of an item are gone: {error.message}", "OutputsNotFound") from error
    except DecodeError as error:
        raise Unresolvable(f"{reference} is not a literal map: {error}", "OutputsCorrupt") from error


def _gather(
    node: NodeState, gathered: literals_pb2.LiteralMap, index: int, outputs: literals_pb2.LiteralMap | None
) -> None:
    if outputs is not None and not gathered.literals:
        # Nothing but the outputs themselves says what a launch plan gives.
        for name in outputs.literals:
            collection = gathered.literals[name].collection
            collection.SetInParent()
            for _ in range(index):
                collection.literals.add().scalar.none_type.SetInParent()
    for name, literal in gathered.literals.items():
        if outputs is None:
            literal.collection.literals.add().scalar.none_type.SetInParent()
        elif name in outputs.literals:
            literal.collection.literals.add().CopyFrom(outputs.literals[name])
        else:
            raise Unresolvable(f"item {index} of node {node.spec.id} gave no output {name}", "OutputsNotFound")


def _too_large(node: NodeState, most_mbs: int) -> Observation:
    failure = Failure(
        "OutputsTooLarge",
        f"the outputs of the items of node {node.spec.id} come to more than {most_mbs} MiB "
        "(propeller.array-node-config.max-output-mbs): return files or references instead of large values",
        ErrorKind.USER,
        retryable=False,
    )
    return lambda engine, now: engine.collect_failed(node, failure, now)


def _refused(node: NodeState, code: str, message: str) -> Observation:
    failure = Failure(code, f"node {node.spec.id}: {message}", ErrorKind.USER, retryable=False)
    return lambda engine, now: engine.prepare_failed(node, failure, now)
