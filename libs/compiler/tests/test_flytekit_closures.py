"""What unmodified flytekit serializes compiles, into the graph that its author had in mind."""

# mypy: ignore-errors
# (calls between flytekit entities have the types of their values when they run, not those of promises)

import enum
import functools
import typing
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from flyteidl.core.compiler_pb2 import CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.interface_pb2 import Parameter, ParameterMap, Variable
from flytekit import (
    FlyteContextManager,
    LaunchPlan,
    StructuredDataset,
    approve,
    conditional,
    dynamic,
    map_task,
    sleep,
    task,
    wait_for_input,
    workflow,
)
from flytekit.configuration import FastSerializationSettings, Image, ImageConfig, SerializationSettings
from flytekit.core.array_node import array_node
from flytekit.core.context_manager import ExecutionState
from flytekit.core.type_engine import TypeEngine
from flytekit.models.admin.workflow import WorkflowSpec
from flytekit.models.dynamic_job import DynamicJobSpec
from flytekit.models.launch_plan import LaunchPlan as LaunchPlanModel
from flytekit.models.literals import Literal, LiteralMap, Primitive, Scalar
from flytekit.models.task import TaskSpec
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from flytekit.types.error.error import FlyteError
from flytekit.types.file import FlyteFile

from aerodrome.compiler import (
    CompileErrors,
    LaunchPlanInterface,
    compile_dynamic,
    compile_task,
    compile_workflow,
    digest_workflow,
    expected_inputs,
    key_of,
    requirements,
    resolve_execution_inputs,
    single_task_workflow,
)

SETTINGS = SerializationSettings(
    project="p", domain="d", version="v", env={}, image_config=ImageConfig(default_image=Image("d", "image", "tag"))
)


@dataclass
class Inner:
    number: int
    tags: typing.List[str]  # noqa: UP006


@dataclass
class Small:
    x: int


@dataclass
class Big:
    x: int
    y: str
    inner: Inner


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@task
def one(a: int) -> int:
    return a


@task
def two(a: int, b: str = "x") -> tuple[int, str]:
    return a, b


@task
def make() -> Big:
    return Big(1, "a", Inner(1, []))


@task
def use(b: Big, c: Color, o: int | None = None, u: int | str | None = None) -> str:
    return ""


@task
def small(s: Small) -> int:
    return s.x


@task
def big(b: Big) -> int:
    return b.x


@task
def make_small() -> Small:
    return Small(1)


@task
def text(s: str) -> str:
    return s


@task
def nothing() -> None: ...


@task
def listed(xs: list[int]) -> list[int]:
    return xs


@task
def optionals(xs: list[int | None]) -> int:
    return 1


@task
def mapping(d: dict[str, list[int]]) -> int:
    return 1


@task
def clean_up(a: int, err: FlyteError | None = None) -> None: ...


@task
def paint(c: Color) -> Color:
    return c


@task
def files(f: FlyteFile, d: FlyteDirectory) -> tuple[FlyteFile, FlyteDirectory]:
    return f, d


@task
def frames(s: StructuredDataset) -> StructuredDataset:
    return s


@dynamic
def count(n: int) -> list[int]:
    return [one(a=index) for index in range(n)]


@workflow
def chain(a: int) -> tuple[int, str]:
    x = one(a=a)
    nothing()
    y, z = two(a=x, b="q")
    nothing() >> nothing()
    return y, z


@workflow
def inner_flow(a: int = 3) -> int:
    return one(a=one(a=a))


@workflow
def middle_flow(a: int) -> int:
    return inner_flow(a=inner_flow(a=a))


@workflow
def nested_flow(a: int) -> int:
    return one(a=middle_flow(a=a))


@workflow
def branches(a: int, s: str) -> int:
    x = one(a=a)
    z = one(a=a)
    return (
        conditional("outer")
        .if_((x == 1) & (s == "q"))
        .then(one(a=z))
        .elif_((x > 3) | (x < 0))
        .then(conditional("inner").if_(a == 5).then(one(a=a)).else_().then(one(a=z)))
        .elif_(x == 2)
        .then(inner_flow(a=z))
        .else_()
        .fail("no")
    )


@workflow
def branch_on_the_same(a: int) -> int:
    x = one(a=a)
    return one(a=conditional("c").if_(x == 1).then(x).else_().then(x))


@workflow
def mapped(xs: list[int]) -> list[int]:
    return map_task(one, concurrency=2)(a=xs)


@workflow
def mapped_with_failures(xs: list[int]) -> int:
    return optionals(xs=map_task(one, min_success_ratio=0.5)(a=xs))


@task
def with_constant(a: int, b: str) -> int:
    return a


@workflow
def mapped_partially(xs: list[int]) -> list[int]:
    return listed(xs=map_task(functools.partial(with_constant, b="x"))(a=xs))


@workflow
def dynamic_flow(n: int) -> list[int]:
    return listed(xs=count(n=n))


default_plan = LaunchPlan.get_or_create(inner_flow, name="default_plan", default_inputs={"a": 5})
fixed_plan = LaunchPlan.get_or_create(middle_flow, name="fixed_plan", fixed_inputs={"a": 5})


@workflow
def launching(a: int) -> int:
    default_plan(a=a)
    result = default_plan()
    fixed_plan()
    return one(a=result)


@workflow
def array_of_launch_plans(xs: list[int]) -> list[int]:
    return array_node(default_plan)(a=xs)


@workflow
def array_of_launch_plans_with_failures(xs: list[int]) -> list[int | None]:
    return array_node(default_plan, min_success_ratio=0.5)(a=xs)


@workflow
def gates(a: int) -> int:
    x = one(a=a)
    first = approve(x, "first", timeout=timedelta(hours=1))
    title = wait_for_input("title", timeout=timedelta(hours=1), expected_type=str)
    nap = sleep(timedelta(seconds=10))
    second = approve(first, "second", timeout=timedelta(hours=1))
    told = text(s=title)
    nap >> told
    return one(a=second)


@workflow(on_failure=clean_up)
def failing(a: int) -> int:
    return one(a=a)


@workflow
def repair(a: int) -> None:
    nothing()


@workflow(on_failure=repair)
def failing_into_a_workflow(a: int) -> int:
    return one(a=a)


@workflow
def values(c: Color, o: int | None = None) -> tuple[str, int, Color]:
    b = make()
    use(b=b, c=c, o=b.x)
    use(b=b, c=Color.RED, o=3, u="x")
    use(b=b, c=c, o=o, u=4)
    number = one(a=b.inner.number)
    text(s=b.inner.tags[0])
    text(s=c)
    small(s=b)
    return use(b=b, c=paint(c=c)), number, c


@workflow
def collections(a: int) -> int:
    x = one(a=a)
    xs = listed(xs=[1, x, a])
    optionals(xs=[1, x, None])
    one(a=xs[0])
    return mapping(d={"k": [1, x], "e": []})


@workflow
def stored(f: FlyteFile, d: FlyteDirectory, s: StructuredDataset) -> tuple[FlyteFile, StructuredDataset]:
    p, q = files(f=f, d=d)
    files(f=p, d=q)
    return p, frames(s=frames(s=s))


@workflow
def too_small() -> int:
    return big(b=make_small())


def registered(entity: Any) -> tuple[Any, dict[Any, Any], dict[Any, Any]]:
    """The specification of a workflow, and the tasks and launch plans that are registered before it."""
    entities: OrderedDict[Any, Any] = OrderedDict()
    spec = get_serializable(entities, SETTINGS, entity).to_flyte_idl()
    tasks, workflows, plans = {}, {}, {}
    for made in entities.values():
        if isinstance(made, TaskSpec):
            task_template = made.to_flyte_idl().template
            tasks[key_of(task_template.id)] = compile_task(task_template)
        elif isinstance(made, WorkflowSpec):
            template = made.to_flyte_idl().template
            workflows[key_of(template.id)] = template
    for made in entities.values():
        if isinstance(made, LaunchPlanModel):
            plan = made.to_flyte_idl()
            interface = workflows[key_of(plan.spec.workflow_id)].interface
            expected = expected_inputs(interface.inputs, plan.spec.default_inputs, plan.spec.fixed_inputs)
            plans[key_of(plan.id)] = LaunchPlanInterface(expected, interface.outputs)
    return spec, tasks, plans


def compiled(entity: Any) -> CompiledWorkflowClosure:
    """As the control plane does it: requirements first, then only what is required."""
    spec, tasks, plans = registered(entity)
    needed = requirements(spec.template, spec.sub_workflows)
    return compile_workflow(
        spec.template,
        spec.sub_workflows,
        [tasks[key_of(one)] for one in needed.tasks],
        {key_of(one): plans[key_of(one)] for one in needed.launch_plans},
    )


def upstream(workflow: CompiledWorkflow) -> dict[str, str]:
    return {node_id: " ".join(ids.ids) for node_id, ids in workflow.connections.upstream.items()}


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        pytest.param(
            chain,
            {
                "n0": "start-node",
                "n1": "start-node",
                "n2": "n0",
                "n3": "start-node",
                "n4": "n3",
                "end-node": "n1 n2 n4",
            },
            id="tasks",
        ),
        pytest.param(nested_flow, {"n0": "start-node", "n1": "n0", "end-node": "n1"}, id="sub-workflows"),
        pytest.param(
            branches,
            {
                "n0": "start-node",
                "n1": "start-node",
                "n2": "n0 start-node",
                "n2-n0": "n1",
                "n2-n1": "start-node",
                "n2-n1-n0": "start-node",
                "n2-n1-n1": "n1",
                "n2-n2": "n1",
                "end-node": "n1 n2",
            },
            id="conditionals",
        ),
        pytest.param(
            branch_on_the_same,
            {"n0": "start-node", "n1": "n0", "n1-n0": "start-node", "n2": "n1", "end-node": "n2"},
            id="a conditional that chooses between equal nodes",
        ),
        pytest.param(mapped, {"n0": "start-node", "end-node": "n0"}, id="map task"),
        pytest.param(
            mapped_with_failures, {"n0": "start-node", "n1": "n0", "end-node": "n1"}, id="map task whose items may fail"
        ),
        pytest.param(
            mapped_partially, {"n0": "start-node", "n1": "n0", "end-node": "n1"}, id="map task with a bound input"
        ),
        pytest.param(dynamic_flow, {"n0": "start-node", "n1": "n0", "end-node": "n1"}, id="dynamic"),
        pytest.param(
            launching,
            {"n0": "start-node", "n1": "start-node", "n2": "start-node", "n3": "n1", "end-node": "n0 n2 n3"},
            id="launch plans",
        ),
        pytest.param(array_of_launch_plans, {"n0": "start-node", "end-node": "n0"}, id="array of launch plans"),
        pytest.param(
            array_of_launch_plans_with_failures,
            {"n0": "start-node", "end-node": "n0"},
            id="array of launch plans that may fail",
        ),
        pytest.param(
            gates,
            {
                "n0": "start-node",
                "n1": "n0",
                "n2": "start-node",
                "n3": "start-node",
                "n4": "n1",
                "n5": "n2 n3",
                "n6": "n4",
                "end-node": "n5 n6",
            },
            id="gates",
        ),
        pytest.param(failing, {"n0": "start-node", "fn0": "start-node", "end-node": "n0"}, id="failure task"),
        pytest.param(
            failing_into_a_workflow,
            {"n0": "start-node", "fn0": "start-node", "end-node": "n0"},
            id="failure workflow",
        ),
        pytest.param(
            collections,
            {"n0": "start-node", "n1": "n0 start-node", "n2": "n0", "n3": "n1", "n4": "n0", "end-node": "n2 n3 n4"},
            id="lists and maps",
        ),
        pytest.param(
            stored,
            {"n0": "start-node", "n1": "n0", "n2": "start-node", "n3": "n2", "end-node": "n0 n1 n3"},
            id="files, directories and datasets",
        ),
    ],
)
def test_what_flytekit_serializes_compiles(entity: Any, expected: dict[str, str]) -> None:
    assert upstream(compiled(entity).primary) == expected


def test_dataclasses_enums_and_unions_compile() -> None:
    closure = compiled(values)
    assert upstream(closure.primary)["n5"] == "n0"
    assert {task.template.id.name.rsplit(".", 1)[1] for task in closure.tasks} == {
        "make",
        "one",
        "paint",
        "small",
        "text",
        "use",
    }


def test_every_sub_workflow_is_compiled() -> None:
    closure = compiled(nested_flow)
    assert {one.template.id.name.rsplit(".", 1)[1]: len(one.template.nodes) for one in closure.sub_workflows} == {
        "inner_flow": 4,
        "middle_flow": 4,
    }
    assert all(one.connections.upstream for one in closure.sub_workflows)


def test_serializing_again_gives_the_same_digest() -> None:
    assert digest_workflow(compiled(nested_flow)) == digest_workflow(compiled(nested_flow))
    assert digest_workflow(compiled(nested_flow)) != digest_workflow(compiled(chain))


def test_a_dataclass_with_too_few_fields_is_refused() -> None:
    with pytest.raises(CompileErrors, match="MismatchingTypes, Node Id: n1"):
        compiled(too_small)


def test_what_a_dynamic_task_made_compiles() -> None:
    fast = FastSerializationSettings(enabled=False, destination_dir=None, distribution_location=None)
    context = FlyteContextManager.current_context()
    builder = context.new_builder().with_serialization_settings(
        SETTINGS.new_builder().with_fast_serialization_settings(fast).build()
    )
    state = context.new_execution_state().with_params(mode=ExecutionState.Mode.TASK_EXECUTION)
    with FlyteContextManager.with_context(builder.with_execution_state(state)) as inside:
        made = count.dispatch_execute(inside, count_inputs())
    assert isinstance(made, DynamicJobSpec)
    interface = registered(dynamic_flow)[1]
    declared = next(task for key, task in interface.items() if key.name.endswith("count")).template.interface
    closure = compile_dynamic(
        made.to_flyte_idl(), project="p", domain="d", node_id="n0", version="x", interface=declared
    )
    edges = upstream(closure.primary)
    assert edges == {"dn0": "start-node", "dn1": "start-node", "dn2": "start-node", "end-node": "dn0 dn1 dn2"}


def count_inputs() -> Any:
    return LiteralMap({"n": Literal(scalar=Scalar(primitive=Primitive(integer=3)))})


@pytest.mark.parametrize("entity", [one, two, use, nothing, paint, files, frames, optionals, mapping])
def test_every_task_can_run_by_itself(entity: Any) -> None:
    entities: OrderedDict[Any, Any] = OrderedDict()
    made = compile_task(get_serializable(entities, SETTINGS, entity).to_flyte_idl().template)
    identifier, spec = single_task_workflow(made)
    closure = compile_workflow(spec.template, spec.sub_workflows, [made], {})
    assert closure.primary.template.id == identifier


def test_inputs_that_flytekit_sends_are_accepted() -> None:
    context = FlyteContextManager.current_context()
    given: dict[str, tuple[Any, Any]] = {
        "number": (3, int),
        "maybe": (None, int | None),
        "either": ("x", int | str),
        "color": (Color.RED, Color),
        "shape": (Big(1, "a", Inner(1, ["t"])), Big),
        "empty": ([], list[int]),
        "rows": ([[1, None], [], [2]], list[list[int | None]]),
        "table": ({"a": [1], "b": []}, dict[str, list[int]]),
        "anything": ({"a": 1}, dict),
    }
    expected = ParameterMap(
        parameters={
            name: Parameter(var=Variable(type=TypeEngine.to_literal_type(kind).to_flyte_idl()), required=True)
            for name, (_, kind) in given.items()
        }
    )
    literals = {
        name: TypeEngine.to_literal(context, value, kind, TypeEngine.to_literal_type(kind))
        for name, (value, kind) in given.items()
    }
    supplied = LiteralMap(literals).to_flyte_idl()
    assert resolve_execution_inputs(expected, LiteralMap({}).to_flyte_idl(), supplied) == supplied
