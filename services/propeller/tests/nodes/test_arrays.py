"""Array nodes: how large they are, what each item is given, and what becomes of its results."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest
from flyteidl.admin import execution_pb2, matchable_resource_pb2
from flyteidl.core import compiler_pb2, identifier_pb2, literals_pb2, tasks_pb2, types_pb2, workflow_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.config import ArrayNodeConfig
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.graph import END, START, Closure, NodeKind
from aerodrome.propeller.engine.phases import TaskPhase, WorkflowPhase
from aerodrome.propeller.engine.state import (
    Abort,
    AbortItem,
    Collect,
    FinalizeItem,
    NodeState,
    NodeTransition,
    Prepare,
    StartItem,
)
from aerodrome.propeller.layout import OUTPUTS, Layout
from aerodrome.propeller.literals import Literals
from aerodrome.propeller.nodes import arrays
from aerodrome.propeller.nodes.admin_client import AdminClient
from aerodrome.propeller.nodes.arrays import INDEX, INDEX_NAME, INDEX_OFFSET, ArrayHandler
from aerodrome.propeller.nodes.bindings import Unresolvable
from aerodrome.propeller.nodes.handler import Coordinating, Observation, Run
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.storage.memory import MemStorage

EXECUTION = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="e0")
INTEGER = types_pb2.LiteralType(simple=types_pb2.INTEGER)


def identifier(name: str, kind: int) -> identifier_pb2.Identifier:
    return identifier_pb2.Identifier(resource_type=kind, project="p", domain="d", name=name, version="v")  # type: ignore[arg-type]


def number(value: int) -> literals_pb2.Literal:
    literal = literals_pb2.Literal()
    literal.scalar.primitive.integer = value
    return literal


def text(value: str) -> literals_pb2.Literal:
    literal = literals_pb2.Literal()
    literal.scalar.primitive.string_value = value
    return literal


def a_list(*members: literals_pb2.Literal) -> literals_pb2.Literal:
    literal = literals_pb2.Literal()
    literal.collection.SetInParent()
    literal.collection.literals.extend(members)
    return literal


def closure(inputs: dict[str, literals_pb2.Literal], change: Callable[[workflow_pb2.ArrayNode], None]) -> Closure:
    """A workflow whose node `m` maps a task over inputs that it is bound to as they are."""
    compiled = compiler_pb2.CompiledWorkflowClosure()
    task: tasks_pb2.TaskTemplate = compiled.tasks.add().template
    task.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    task.type = "python-task"
    for name in inputs:
        task.interface.inputs.variables[name].type.collection_type.CopyFrom(INTEGER)
    task.interface.outputs.variables["o0"].type.collection_type.CopyFrom(INTEGER)
    template = compiled.primary.template
    template.id.CopyFrom(identifier("w", identifier_pb2.WORKFLOW))
    template.nodes.add(id=START)
    node = template.nodes.add(id="m")
    node.array_node.node.id = "item"
    node.array_node.node.task_node.reference_id.CopyFrom(task.id)
    change(node.array_node)
    for name in inputs:
        promise = node.inputs.add(var=name).binding.promise
        promise.node_id, promise.var = START, name
    template.nodes.add(id=END)
    compiled.primary.connections.downstream[START].ids.append("m")
    compiled.primary.connections.downstream["m"].ids.append(END)
    return Closure(compiled)


@dataclass
class Items(Coordinating):
    """Runs items in no time: the sum of what an item is given, as the test wants it."""

    outcome: Callable[[int, int], Failure | None] = lambda index, attempt: None
    started: list[tuple[int, int]] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    finalized: list[tuple[int, int]] = field(default_factory=list)
    seen: dict[int, tuple[dict[str, str], literals_pb2.LiteralMap]] = field(default_factory=dict)
    hang: bool = False

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        index = node.number
        self.started.append((index, attempt))
        read = await run.literals.storage.read(run.layout.inputs(node), limit_bytes=0)
        self.seen[index] = node.memo["environment"], literals_pb2.LiteralMap.FromString(read)
        if self.hang:
            return
        failure = self.outcome(index, attempt)
        if failure is not None:
            run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
            return
        given = node.memo["element"]().literals.values()
        total = sum(literal.scalar.primitive.integer for literal in given)
        outputs = literals_pb2.LiteralMap(literals={"o0": number(total)})
        await run.literals.write(run.layout.outputs(node, attempt), outputs)
        run.post(lambda engine, now: engine.succeeded(node, attempt, now))

    async def abort(self, run: Run, node: NodeState, attempt: int, reason: str) -> Observation:
        self.aborted.append(node.number)
        return lambda engine, now: engine.aborted(node, attempt, now)

    async def finalize(self, run: Run, node: NodeState, attempt: int) -> None:
        self.finalized.append((node.number, attempt))

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        raise AssertionError("items are not prepared")

    async def collect(self, run: Run, node: NodeState) -> Observation:
        raise AssertionError("items are not collected")


async def permitted() -> None:
    """Always."""


@dataclass
class World:
    """One execution of the workflow, driven to its end without a journal."""

    engine: Engine
    run: Run
    handler: ArrayHandler
    items: Items
    inbox: list[Observation] = field(default_factory=list)
    transitions: list[Any] = field(default_factory=list)

    @property
    def node(self) -> NodeState:
        return self.engine.root.node("m")

    async def settle(self) -> None:
        """Until nothing more follows."""
        for _ in range(10_000):
            step = self.engine.take()
            self.transitions += step.transitions
            for wish in step.free:
                await self._free(wish)
            starts = [(each.index, each.attempt) for each in step.permitted if isinstance(each, StartItem)]
            if starts:
                await self.handler.start_items(self.run, self.node, starts, permitted)
            ends = [(each.index, each.attempt) for each in step.permitted if isinstance(each, FinalizeItem)]
            if ends:
                await self.handler.finalize_items(self.run, self.node, ends)
            for command in step.permitted:
                if isinstance(command, Abort):
                    self.inbox.append(await self.handler.abort(self.run, self.node, command.attempt, command.reason))
                elif isinstance(command, AbortItem):
                    index, attempt = command.index, command.attempt
                    self.inbox.append(await self.handler.abort_item(self.run, self.node, index, attempt, "late"))
            await asyncio.sleep(0)
            inbox, self.inbox[:] = list(self.inbox), []
            for observation in inbox:
                observation(self.engine, 1_000.0)
            if not (inbox or step.transitions or step.permitted or step.free) and not self._starting():
                return
        raise AssertionError("it does not settle")

    def _starting(self) -> bool:
        array = self.node.memo.get("array")
        return array is not None and bool(array.starting)

    async def _free(self, wish: Prepare | Collect) -> None:
        node = wish.node
        if node.spec.kind is not NodeKind.ARRAY:
            self.inbox.append(lambda engine, now: engine.prepared(node, now))
            return
        try:
            work = self.handler.prepare if isinstance(wish, Prepare) else self.handler.collect
            self.inbox.append(await work(self.run, node))
        except Unresolvable as error:
            failure = error.failure
            self.inbox.append(lambda engine, now: engine.collect_failed(node, failure, now))

    async def outputs(self) -> list[int | None]:
        """What the map gave."""
        known = await self.run.literals.read(self.run.layout.outputs(self.node))
        members = known.literals["o0"].collection.literals
        return [None if member.scalar.HasField("none_type") else member.scalar.primitive.integer for member in members]


async def build(
    storage: MemStorage,
    inputs: dict[str, literals_pb2.Literal],
    *,
    config: ArrayNodeConfig | None = None,
    items: Items | None = None,
    change: Callable[[workflow_pb2.ArrayNode], None] = lambda array: None,
) -> World:
    """A world that has begun."""
    compiled = closure(inputs, change)
    literals = Literals(storage)
    layout = Layout(execution="e0", data_dir=storage.join("meta", "p-d-e0"), raw_base=storage.join("raw"))
    await literals.write(f"{layout.data_dir}/{START}/data/0/{OUTPUTS}", literals_pb2.LiteralMap(literals=inputs))
    inbox: list[Observation] = []
    run = Run(
        id=EXECUTION,
        workflow_id=compiled.primary.template.id,
        namespace="p-d",
        spec=execution_pb2.ExecutionSpec(),
        closure=compiled,
        layout=layout,
        literals=literals,
        resources=matchable_resource_pb2.TaskResourceAttributes(),
        plugin_overrides=(),
        post=inbox.append,
        permit=permitted,
        spawn=asyncio.create_task,
    )
    runs = items or Items()
    handler = ArrayHandler(config or ArrayNodeConfig(), {NodeKind.TASK: runs}, cast(AdminClient, None))
    world = World(Engine(compiled), run, handler, runs, inbox)
    world.engine.begin(0.0)
    return world


Make: TypeAlias = Callable[..., Awaitable[World]]


@pytest.fixture
def make() -> Make:
    return partial(build, MemStorage("bucket", clock=ManualClock()))


async def test_each_item_gets_its_elements_and_the_outputs_are_a_list(make: Make) -> None:
    world = await make({"a": a_list(number(1), number(2)), "b": a_list(number(10), number(20))})
    await world.settle()
    assert world.engine.phase is WorkflowPhase.SUCCEEDED
    assert await world.outputs() == [11, 22]
    assert sorted(world.items.finalized) == [(0, 0), (1, 0)]
    environments = {index: environment for index, (environment, _) in world.items.seen.items()}
    assert environments == {n: {INDEX_NAME: INDEX, INDEX: str(n)} for n in (0, 1)}


class Cut(MemStorage):
    """Hands out all but the last byte of each object at first."""

    def __init__(self) -> None:
        super().__init__("bucket", clock=ManualClock())
        self._cut: set[str] = set()

    async def read(self, reference: str, *, limit_bytes: int | None = None) -> bytes:
        data = await super().read(reference, limit_bytes=limit_bytes)
        if reference in self._cut:
            return data
        self._cut.add(reference)
        return data[:-1]


async def test_outputs_that_a_storage_cut_short_are_read_again() -> None:
    world = await build(Cut(), {"a": a_list(number(1), number(2)), "b": a_list(number(10), number(20))})
    await world.settle()
    assert world.engine.phase is WorkflowPhase.SUCCEEDED
    assert await world.outputs() == [11, 22]


async def test_what_is_bound_is_given_whole_to_every_item(make: Make) -> None:
    world = await make({"a": a_list(number(1), number(2)), "b": number(5)})
    await world.settle()
    assert await world.outputs() == [6, 7]

    def bind(array: workflow_pb2.ArrayNode) -> None:
        array.bound_inputs.extend(["a", "b"])

    world = await make({"a": a_list(number(1), number(2)), "b": number(5)}, change=bind)
    await world.settle()
    assert await world.outputs() == [5]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"a": a_list(number(1)), "b": a_list(number(1), number(2))}, "a has 1, b has 2"),
        ({"a": number(1)}, "none of its inputs is a list"),
        ({}, "none of its inputs is a list"),
    ],
)
async def test_what_has_no_size_is_refused(make: Make, inputs: dict[str, literals_pb2.Literal], says: str) -> None:
    world = await make(inputs)
    await world.settle()
    failure = world.node.failure
    assert failure is not None
    assert (failure.code, failure.kind) == ("InvalidArrayLength", ErrorKind.USER)
    assert says in failure.message


async def test_a_map_with_too_many_items_is_refused_with_what_to_do(make: Make) -> None:
    world = await make({"a": a_list(*[number(1)] * 11)}, config=ArrayNodeConfig(max_items=10))
    await world.settle()
    assert world.node.failure is not None
    assert "split the lists" in world.node.failure.message


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_items_of_large_lists_find_their_element_in_a_block_and_all_of_them_read_little(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    length = data.draw(st.sampled_from([10, 2_000, 40_000]))
    values = [f"{at:05}" + "x" * length for at in range(size)]

    async def check() -> None:
        storage = MemStorage("bucket", clock=ManualClock())
        world = await build(storage, {"a": a_list(*map(text, values))}, items=Items(hang=True))
        await world.settle()
        assert len(world.items.seen) == size
        for index, (environment, read) in world.items.seen.items():
            at = int(environment[environment[INDEX_NAME]]) + int(environment.get(INDEX_OFFSET, "0"))
            found = read.literals["a"].collection.literals[at].scalar.primitive.string_value
            assert found == values[index]
            assert environment[INDEX] == str(index)
            assert read.ByteSize() <= 2 * (4 * 2**10 + length)
            assert len(read.literals["a"].collection.literals) <= 16

    asyncio.run(check())


async def test_an_item_that_takes_elements_is_given_a_file_of_its_own(make: Make) -> None:
    def individual(array: workflow_pb2.ArrayNode) -> None:
        array.data_mode = workflow_pb2.ArrayNode.INDIVIDUAL_INPUT_FILES
        array.is_original_sub_node_interface.value = True

    world = await make({"a": a_list(number(1), number(2))}, change=individual)
    await world.settle()
    assert await world.outputs() == [1, 2]
    assert [world.items.seen[index][1].literals["a"] for index in (0, 1)] == [number(1), number(2)]


async def test_no_more_items_run_at_once_than_the_map_or_the_data_plane_permits(make: Make) -> None:
    def two(array: workflow_pb2.ArrayNode) -> None:
        array.parallelism = 2

    inputs = {"a": a_list(*map(number, range(9)))}
    world = await make(inputs, change=two, items=Items(hang=True))
    await world.settle()
    assert len(world.items.started) == 2
    world = await make(inputs, config=ArrayNodeConfig(max_items_at_once=5), items=Items(hang=True))
    await world.settle()
    assert len(world.items.started) == 5


async def test_an_item_is_tried_again_within_its_own_budget(make: Make) -> None:
    def retries(array: workflow_pb2.ArrayNode) -> None:
        array.node.metadata.retries.retries = 2

    def outcome(index: int, attempt: int) -> Failure | None:
        return Failure("Oops", "", ErrorKind.USER, retryable=True) if attempt < index else None

    world = await make({"a": a_list(*map(number, range(3)))}, change=retries, items=Items(outcome))
    await world.settle()
    assert world.engine.phase is WorkflowPhase.SUCCEEDED
    assert sorted(world.items.started) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert sorted(world.items.finalized) == sorted(world.items.started)
    assert await world.outputs() == [0, 1, 2]


async def test_failures_that_are_permitted_leave_none(make: Make) -> None:
    def half(array: workflow_pb2.ArrayNode) -> None:
        array.min_success_ratio = 0.5

    def outcome(index: int, attempt: int) -> Failure | None:
        return Failure("Oops", "", ErrorKind.USER, retryable=False) if index % 2 else None

    world = await make({"a": a_list(*map(number, range(4)))}, change=half, items=Items(outcome))
    await world.settle()
    assert await world.outputs() == [0, None, 2, None]


async def test_once_too_many_failed_the_others_are_ended_and_the_node_says_why(make: Make) -> None:
    def outcome(index: int, attempt: int) -> Failure | None:
        return Failure("Oops", "y" * 100_000, ErrorKind.USER, retryable=False)

    items = Items(outcome)
    world = await make(
        {"a": a_list(*map(number, range(100)))}, items=items, config=ArrayNodeConfig(max_items_at_once=9)
    )
    await world.settle()
    assert world.engine.phase is WorkflowPhase.FAILED
    assert world.node.failure is not None
    assert world.node.failure.code == "ArrayNodeFailed"
    assert "of 100 items of m failed, and 100 have to succeed" in world.node.failure.message
    assert len(world.node.failure.message) < 30_000
    assert world.node.task_phase is TaskPhase.FAILED
    assert len(items.started) <= 9


async def test_an_abort_ends_every_item_that_may_run(make: Make) -> None:
    world = await make({"a": a_list(*map(number, range(50)))}, items=Items(hang=True))
    await world.settle()
    world.engine.abort("enough", 5.0)
    await world.settle()
    assert world.engine.phase is WorkflowPhase.ABORTED
    assert sorted(world.items.aborted) == list(range(50))
    ended = [each for each in world.transitions if not isinstance(each, NodeTransition) and "ABORTED" in repr(each)]
    assert len([each for each in ended if repr(each).startswith("I ")]) == 50


async def test_a_missing_result_fails_the_map_and_does_not_shorten_the_list(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = Items()
    world = await make({"a": a_list(number(1), number(2))}, items=items)
    real = world.handler.collect

    async def gone(run: Run, node: NodeState) -> Observation:
        await run.literals.storage.delete(f"{run.layout.item_dir(node, 1)}/0/{OUTPUTS}")
        return await real(run, node)

    monkeypatch.setattr(world.handler, "collect", gone)
    await world.settle()
    assert world.engine.phase is WorkflowPhase.FAILED
    assert world.node.failure is not None
    assert world.node.failure.code == "OutputsNotFound"


async def test_results_that_are_too_large_together_fail_the_map_with_what_to_do(make: Make) -> None:
    world = await make({"a": a_list(number(1), number(2))}, config=ArrayNodeConfig(max_output_mbs=1))
    reference = world.run.layout.item_dir(world.node, 1)
    large = literals_pb2.LiteralMap(literals={"o0": text("x" * 2**20)})
    await world.run.literals.storage.write(f"{reference}/0/{OUTPUTS}", large.SerializeToString())
    real = world.items.start

    async def start(run: Run, node: NodeState, attempt: int) -> None:
        if node.number == 1:
            run.post(lambda engine, now: engine.succeeded(node, attempt, now))
        else:
            await real(run, node, attempt)

    world.items.start = start  # type: ignore[method-assign]
    await world.settle()
    assert world.node.failure is not None
    assert world.node.failure.code == "OutputsTooLarge"


async def test_an_array_of_branches_is_refused(make: Make) -> None:
    def branch(array: workflow_pb2.ArrayNode) -> None:
        array.node.branch_node.if_else.case.then_node.id = "arm"
        array.node.branch_node.if_else.case.then_node.task_node.reference_id.CopyFrom(
            identifier("t", identifier_pb2.TASK)
        )

    world = await make({"a": a_list(number(1))}, change=branch)
    await world.settle()
    assert world.node.failure is not None
    assert "cannot be mapped over" in world.node.failure.message


def test_items_of_one_map_never_share_a_name() -> None:
    compiled = closure({}, lambda array: None)
    node = Engine(compiled).root.node("m")
    node.unique_id = "a-node-with-a-long-id"
    layout = Layout(execution="e" * 40, data_dir="/d", raw_base="/r")
    assert len({layout.item_id(node, index) for index in range(30_000)}) == 30_000


def test_whatever_handlers_of_items_tell_the_engine_means_something_for_an_item() -> None:
    of_nodes_alone = {"prepared", "prepare_failed", "already_done", "collected", "collect_failed"}
    folder = Path(arrays.__file__).parent
    told = {
        name
        for module in ("tasks.py", "cached.py", "launch_plans.py")
        for name in re.findall(r"engine\.(\w+)\(", (folder / module).read_text())
    }
    assert told - of_nodes_alone <= set(dir(arrays._ItemEngine))
