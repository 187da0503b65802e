"""What holds for every workflow: determinism, consistent connections, cycles found, no failure but CompileErrors."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.interface_pb2 import ParameterMap, VariableMap
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import LiteralType
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.compiler import (
    CompileErrors,
    InterfaceError,
    InvalidLiteralType,
    LaunchPlanInterface,
    castable,
    compile_dynamic,
    compile_task,
    compile_workflow,
    expected_inputs,
    identifier_of,
    key_of,
    literal_map_problems,
    literal_type,
    requirements,
    resolve_execution_inputs,
    structural_diff,
    type_text,
)


def connected(compiled: CompiledWorkflow) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    sides = compiled.connections.upstream, compiled.connections.downstream
    upstream, downstream = ({key: set(ids.ids) for key, ids in side.items()} for side in sides)
    return upstream, downstream


def assert_consistent(compiled: CompiledWorkflow) -> None:
    """Both sides of the connections agree, they are sorted, and every path ends at the end node."""
    upstream, downstream = connected(compiled)
    graph = {node.id for node in compiled.template.nodes}
    assert [node.id for node in compiled.template.nodes][:2] == ["start-node", "end-node"]
    for side in (compiled.connections.upstream, compiled.connections.downstream):
        for ids in side.values():
            assert list(ids.ids) == sorted(set(ids.ids))
    assert set(downstream) == graph - {"end-node"}
    assert graph - {"start-node"} <= set(upstream)
    may_be_waited_for = graph - {"end-node"}
    edges = {(source, node) for source, nodes in downstream.items() for node in nodes}
    assert edges == {(source, node) for node, sources in upstream.items() if node in graph for source in sources}
    for sources in upstream.values():
        assert sources <= may_be_waited_for


def dag(build: Any, edges: set[tuple[int, int]], size: int, order: list[int], kinds: list[int]) -> WorkflowTemplate:
    """Node `i` waits for `j` for each edge (j, i): by reading it, by naming it, or from inside a branch that it is."""
    nodes: list[Node] = []
    for index in order:
        sources = sorted(j for j, i in edges if i == index)
        by_value = [j for j in sources if kinds[j] != 0]
        by_name = [f"n{j}" for j in sources if kinds[j] == 0]
        value = [build.promise(f"n{j}", "o") for j in by_value]
        node = build.node(f"n{index}", "sum", by_name, xs=value)
        if kinds[index] == 2:
            node = build.branch(f"n{index}", build.node("t", "sum", xs=value), build.node("e", "sum", xs=[]), c=1)
            node.upstream_node_ids.extend(f"n{j}" for j in sources)
        nodes.append(node)
    outputs = {"y": (build.list_of("int"), [build.promise(f"n{i}", "o") for i in range(size) if kinds[i] != 0])}
    return build.workflow(*nodes, inputs={"c": "int"}, outputs=outputs)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[set[tuple[int, int]], int, list[int]]:
    size = draw(st.integers(1, 12))
    pairs = [(j, i) for i in range(size) for j in range(i)]
    edges = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    return edges, size, draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))


@pytest.fixture(scope="module")
def tasks(build: Any) -> list[CompiledTask]:
    return [*build.library(), build.task("sum", {"xs": build.list_of("int")}, {"o": "int"})]


@given(graph=graphs(), seed=st.integers())
@settings(deadline=None)
def test_every_acyclic_graph_compiles_the_same_in_any_order(
    build: Any, tasks: list[CompiledTask], graph: tuple[set[tuple[int, int]], int, list[int]], seed: int
) -> None:
    edges, size, kinds = graph
    order = list(range(size))
    straight = compile_workflow(dag(build, edges, size, order, kinds), [], tasks, {})
    assert_consistent(straight.primary)
    shuffled_tasks = list(tasks)
    random.Random(seed).shuffle(order)
    random.Random(seed).shuffle(shuffled_tasks)
    shuffled = compile_workflow(dag(build, edges, size, order, kinds), [], shuffled_tasks, {})
    assert shuffled.primary.connections == straight.primary.connections
    assert shuffled.tasks == straight.tasks
    again = compile_workflow(dag(build, edges, size, order, kinds), [], tasks, {})
    assert again.SerializeToString(deterministic=True) == shuffled.SerializeToString(deterministic=True)
    upstream, _ = connected(straight.primary)
    for j, i in edges:
        assert f"n{j}" in upstream[f"n{i}"]


@given(graph=graphs(), data=st.data())
@settings(deadline=None)
def test_every_back_edge_is_a_cycle(
    build: Any, tasks: list[CompiledTask], graph: tuple[set[tuple[int, int]], int, list[int]], data: st.DataObject
) -> None:
    edges, size, kinds = graph
    template = dag(build, edges, size, list(range(size)), kinds)
    head, *tail = data.draw(st.sampled_from(paths(edges, size)))
    template.nodes[head].upstream_node_ids.append(f"n{[head, *tail][-1]}")
    with pytest.raises(CompileErrors) as caught:
        compile_workflow(template, [], tasks, {})
    assert "CycleDetected" in {error.code for error in caught.value.errors}


def paths(edges: set[tuple[int, int]], size: int) -> list[list[int]]:
    """Each node by itself, each edge, and one longer path from each node."""
    found = [[index] for index in range(size)] + [list(edge) for edge in sorted(edges)]
    for index in range(size):
        path = [index]
        while following := [i for j, i in sorted(edges) if j == path[-1]]:
            path.append(following[0])
        found.append(path)
    return found


# --- any message at all ----------------------------------------------------------------------------------------------

_WORDS = ["", "n0", "n1", "n2", "o", "x", "start-node", "end-node", "[0].o", "[", "1", "0.5Gi", "red", "n0-n1"]
_REAL = ["n0", "n1", "n2", "n3"]


def scribble(source: random.Random, message: Message, depth: int) -> None:
    """Fill in any fields with anything."""
    for field in message.DESCRIPTOR.fields:
        if source.random() > (0.5 if depth else 0.8):
            continue
        if field.message_type is not None and depth > 9:
            continue
        if field.is_repeated:
            scribble_items(source, message, field, depth)
        elif field.message_type is not None:
            child = getattr(message, field.name)
            child.SetInParent()
            scribble(source, child, depth + 1)
        else:
            setattr(message, field.name, scalar(source, field))


def scribble_items(source: random.Random, message: Message, field: Any, depth: int) -> None:
    items = getattr(message, field.name)
    for _ in range(source.choice((0, 1, 1, 2, 3))):
        if field.message_type is None:
            items.append(scalar(source, field))
        elif not field.message_type.GetOptions().map_entry:
            scribble(source, items.add(), depth + 1)
        elif field.message_type.fields_by_name["value"].message_type is not None:
            scribble(source, items[source.choice(_WORDS)], depth + 1)
        else:
            items[source.choice(_WORDS)] = scalar(source, field.message_type.fields_by_name["value"])


def scalar(source: random.Random, field: Any) -> Any:
    if field.enum_type is not None:
        return source.choice(field.enum_type.values).number
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            word = source.choice(_REAL if field.name == "id" else _WORDS)
            return word.encode() if field.type == FieldDescriptor.TYPE_BYTES else word
        case FieldDescriptor.CPPTYPE_BOOL:
            return source.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return source.choice((0.0, 1.0, 0.5, float("nan"), float("inf")))
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return source.choice((0, 1, -1, 2**31 - 1))
        case _:
            return source.choice((0, 1, 2**31))


def random_workflow(source: random.Random) -> tuple[WorkflowTemplate, list[WorkflowTemplate], list[CompiledTask], Any]:
    template, subs = WorkflowTemplate(), [WorkflowTemplate() for _ in range(source.randrange(3))]
    for one in (template, *subs):
        scribble(source, one, 0)
    template.id.name = "primary"
    needed = requirements(template, subs)
    tasks = []
    for identifier in needed.tasks:
        task = CompiledTask()
        scribble(source, task, 3)
        task.template.id.CopyFrom(identifier)
        tasks.append(task)
    plans = {}
    for identifier in needed.launch_plans:
        plan = LaunchPlanInterface(ParameterMap(), VariableMap())
        scribble(source, plan.expected_inputs, 3)
        scribble(source, plan.expected_outputs, 3)
        plans[key_of(identifier)] = plan
    return template, subs, tasks, plans


def only_compile_errors(run: Callable[[], Any]) -> bool:
    try:
        run()
    except CompileErrors as why:
        text = str(why)
    else:
        return True
    assert 0 < len(text) < 20_000
    return False


@given(seed=st.integers())
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_nothing_but_compile_errors_comes_of_any_message(seed: int) -> None:
    source = random.Random(seed)
    template, subs, tasks, plans = random_workflow(source)
    only_compile_errors(lambda: compile_workflow(template, subs, tasks, plans))
    task = TaskTemplate()
    scribble(source, task, 0)
    only_compile_errors(lambda: compile_task(task))
    spec = DynamicJobSpec()
    scribble(source, spec, 0)
    only_compile_errors(
        lambda: compile_dynamic(
            spec, project="p", domain="d", node_id="n", version="v", interface=template.interface, tasks=tasks
        )
    )
    structural_diff(template, subs[0] if subs else WorkflowTemplate())


@given(seed=st.integers())
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_nothing_but_interface_errors_comes_of_any_inputs(seed: int) -> None:
    source = random.Random(seed)
    variables, parameters, fixed, supplied = VariableMap(), ParameterMap(), LiteralMap(), LiteralMap()
    for message in (variables, parameters, fixed, supplied):
        scribble(source, message, 0)
    for run in (
        lambda: expected_inputs(variables, parameters, fixed),
        lambda: resolve_execution_inputs(parameters, fixed, supplied),
    ):
        with suppress(InterfaceError):
            run()
    literal_map_problems("inputs", supplied)
    for literal in supplied.literals.values():
        with suppress(InvalidLiteralType):
            assert type_text(literal_type(literal))
    one, other = LiteralType(), LiteralType()
    scribble(source, one, 0)
    scribble(source, other, 0)
    castable(one, other)
    assert castable(one, one)


@given(seed=st.integers(), graph=graphs())
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_a_damaged_workflow_compiles_consistently_or_has_errors(
    build: Any, tasks: list[CompiledTask], seed: int, graph: tuple[set[tuple[int, int]], int, list[int]]
) -> None:
    source = random.Random(seed)
    edges, size, kinds = graph
    template = dag(build, edges, size, list(range(size)), kinds)
    for _ in range(source.randrange(1, 4)):
        damage(source, template)
    compiled: list[CompiledWorkflowClosure] = []
    if only_compile_errors(lambda: compiled.append(compile_workflow(template, [], tasks, {}))):
        assert_consistent(compiled[0].primary)


def damage(source: random.Random, message: Message) -> None:
    """Change one thing somewhere inside a message."""
    fields = [field for field, _ in message.ListFields()]
    if not fields or source.random() < 0.1:
        scribble(source, message, 6)
        return
    field = source.choice(fields)
    value = getattr(message, field.name)
    if source.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated and field.message_type is not None and not field.message_type.GetOptions().map_entry:
        damage(source, source.choice(value))
    elif field.is_repeated:
        if source.random() < 0.5:
            scribble_items(source, message, field, 6)
        elif field.message_type is None:
            del value[source.randrange(len(value))]
        else:
            del value[source.choice(list(value))]
    elif field.message_type is not None:
        damage(source, value)
    else:
        setattr(message, field.name, scalar(source, field))


def test_any_bytes_that_parse_compile_or_have_errors(build: Any, tasks: list[CompiledTask]) -> None:
    source = random.Random(7)
    content = dag(build, {(0, 1), (1, 2)}, 3, [0, 1, 2], [1, 2, 0]).SerializeToString()
    for _ in range(2_000):
        broken = bytearray(content)
        for _ in range(source.randrange(1, 6)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        try:
            template = WorkflowTemplate.FromString(bytes(broken))
        except DecodeError:
            continue
        only_compile_errors(lambda template=template: compile_workflow(template, [], tasks, {}))  # type: ignore[misc]


# --- size ------------------------------------------------------------------------------------------------------------


def nested(levels: int, grow: Callable[[Any], Any], root: Message) -> Message:
    at: Any = root
    for _ in range(levels):
        at = grow(at)
    return root


@pytest.mark.parametrize("levels", [10, 20, 40, 60, 90, 200])
def test_what_is_nested_deeply_compiles_so_that_clients_can_read_it_or_is_refused(build: Any, levels: int) -> None:
    def deep_type(template: WorkflowTemplate) -> None:
        variable = template.interface.inputs.variables["x"].type
        nested(levels, lambda at: at.collection_type, variable)
        variable.metadata.SetInParent()

    def deep_binding(template: WorkflowTemplate) -> None:
        nested(levels, lambda at: at.collection.bindings.add(), template.nodes[0].inputs.add(var="a").binding)

    def deep_branch(template: WorkflowTemplate) -> None:
        nested(levels, lambda at: at.branch_node.if_else.else_node, template.nodes[0])

    def deep_condition(template: WorkflowTemplate) -> None:
        condition = template.nodes.add(id="c").branch_node.if_else.case.condition
        nested(levels, lambda at: at.conjunction.left_expression, condition)

    def deep_array(template: WorkflowTemplate) -> None:
        nested(levels, lambda at: at.array_node.node, template.nodes.add(id="m"))

    for deepen in (deep_type, deep_binding, deep_branch, deep_condition, deep_array):
        template = build.workflow(build.node("n", "nothing"))
        deepen(template)
        only_compile_errors(lambda template=template: build.compile(template))  # type: ignore[misc]

    template = build.workflow(build.node("n", "nothing"))
    declared = template.interface.inputs.variables["x"].type
    for _ in range(levels):
        declared = declared.collection_type
    declared.simple = 1
    if only_compile_errors(lambda: build.compile(template)):
        content = build.compile(template).SerializeToString()
        assert CompiledWorkflowClosure.FromString(content)
    else:
        assert levels >= 60


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_large_workflows_compile_fast(build: Any, tasks: list[CompiledTask], shape: str) -> None:
    nodes = [
        build.node(f"n{index}", "one", a=build.promise(f"n{index - 1}", "o") if index and shape == "chain" else 1)
        for index in range(20_000)
    ]
    template = build.workflow(*nodes)
    started = time.process_time()
    closure = compile_workflow(template, [], tasks, {})
    assert time.process_time() - started < 15
    assert_consistent(closure.primary)
    template.nodes[0].upstream_node_ids.append("n19999")
    if shape == "chain":
        assert "CycleDetected@start-node" in build.errors(template)


def test_a_long_chain_of_sub_workflows_compiles(build: Any) -> None:
    subs = [build.workflow(build.sub("n", f"w{index + 1}"), name=f"w{index}") for index in range(2_000)]
    subs.append(build.workflow(build.node("n", "nothing"), name="w2000"))
    closure = build.compile(build.workflow(build.sub("n", "w0")), *subs)
    assert [task.template.id.name for task in closure.tasks] == ["nothing"]
    assert identifier_of(key_of(closure.sub_workflows[5].template.id)).name == "w5"


def test_a_long_chain_of_approvals_compiles(build: Any) -> None:
    nodes = [build.node("n0", "one", a=1)]
    for index in range(1, 5_000):
        node = Node(id=f"n{index}", inputs=build.bindings(o=f"n{index - 1}.o"))
        node.gate_node.approve.signal_id = "s"
        nodes.append(node)
    template = build.workflow(*reversed(nodes), outputs={"y": ("str", "n4999.o")})
    assert build.errors(template) == ["MismatchingTypes@end-node"]
