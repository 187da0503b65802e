"""Which tasks compile, and the workflow that runs one task."""

from typing import Any

import pytest
from flyteidl.core.interface_pb2 import Variable
from flyteidl.core.literals_pb2 import RetryStrategy
from flyteidl.core.tasks_pb2 import Container, K8sPod, Resources, Sql, TaskTemplate
from google.protobuf.struct_pb2 import Struct

from aerodrome.compiler import CompileErrors, compile_task, compile_workflow, single_task_workflow


def errors(template: TaskTemplate) -> list[str]:
    with pytest.raises(CompileErrors) as caught:
        compile_task(template)
    return [f"{error.code}@{error.node_id}" for error in caught.value.errors]


def pod(*names: str) -> TaskTemplate:
    spec = Struct()
    spec.update({"containers": [{"name": name} for name in names]})
    return TaskTemplate(k8s_pod=K8sPod(pod_spec=spec))


def test_a_compiled_task_has_both_maps_of_its_interface(build: Any) -> None:
    template = TaskTemplate(id=build.identifier(1, "t"), sql=Sql(statement="select 1"))
    compiled = compile_task(template)
    assert compiled.template.interface.HasField("inputs")
    assert compiled.template.interface.HasField("outputs")
    assert not template.HasField("interface")


def test_variables_need_names_and_types(build: Any) -> None:
    template = build.template("t", {}, {})
    template.interface.inputs.variables["x"].CopyFrom(Variable())
    assert errors(template) == ["ValueRequired@t"]
    template.interface.inputs.variables["x"].type.simple = 1
    template.interface.outputs.variables[""].type.simple = 1
    assert errors(template) == ["ValueRequired@t"]


def test_containers_need_an_image_and_something_to_run(build: Any) -> None:
    template = build.template("t", {"a": "int"}, {})
    template.container.ClearField("image")
    assert errors(template) == ["ValueRequired@t"]
    template.container.CopyFrom(Container(image="i"))
    assert errors(template) == ["ValueRequired@t"]
    template.container.command.append("run")
    compile_task(template)
    without_interface = build.template("t", {}, {})
    without_interface.container.CopyFrom(Container(image="i"))
    compile_task(without_interface)


@pytest.mark.parametrize(
    "value", ["1", "0.5", "500m", "1.5Gi", "2e3", "-1", "+1", ".5", "1.", "3k", "100n", "7E", "7Ei"]
)
def test_quantities(build: Any, value: str) -> None:
    template = build.template("t", {}, {})
    template.container.resources.requests.add(name=Resources.CPU, value=value)
    compile_task(template)


@pytest.mark.parametrize("value", ["", "x", "1 Gi", "1gi", "1K", "1.2.3", "--1", "1\n", "١", ".", "e3", "9" * 100])
def test_what_is_no_quantity(build: Any, value: str) -> None:
    for field in ("requests", "limits"):
        template = build.template("t", {}, {})
        getattr(template.container.resources, field).add(name=Resources.MEMORY, value=value)
        assert errors(template) == ["InvalidValue@t"]


def test_pods_need_a_spec_and_names_that_are_labels() -> None:
    compile_task(pod("primary", "side-car-2"))
    assert errors(TaskTemplate(k8s_pod=K8sPod())) == ["ValueRequired@"]
    for name in ("Primary", "", "-x", "x-", "a.b", "x" * 64, "x\n"):
        assert errors(pod("primary", name)) == ["InvalidValue@"]


def test_a_task_that_is_nested_too_deeply_is_refused(build: Any) -> None:
    template = build.template("t", {}, {})
    declared = template.interface.inputs.variables["x"].type
    for _ in range(150):
        declared = declared.collection_type
    declared.simple = 1
    assert errors(template) == ["InvalidValue@t"]


def test_the_workflow_of_one_task_compiles_with_the_interface_of_the_task(build: Any) -> None:
    task = build.task("pkg.mod.my_task", {"b": "int", "a": "str"}, {"o1": "int", "o0": "str"})
    identifier, spec = single_task_workflow(task)
    assert (identifier.project, identifier.domain, identifier.version) == ("p", "d", "v")
    assert identifier.name == ".flytegen.pkg.mod.my_task"
    assert spec.template.id == identifier
    assert spec.template.interface == task.template.interface
    [node] = spec.template.nodes
    assert node.id == node.metadata.name == "pkgmodmytask"
    assert node.metadata.retries.retries == 3
    closure = compile_workflow(spec.template, [], [task], {})
    assert build.edges(closure.primary) == {"pkgmodmytask": ["start-node"], "end-node": ["pkgmodmytask"]}


def test_the_workflow_of_one_task_retries_as_the_task_says(build: Any) -> None:
    task = build.task("t", {}, {})
    task.template.metadata.retries.CopyFrom(RetryStrategy(retries=0))
    assert single_task_workflow(task)[1].template.nodes[0].metadata.retries.retries == 0


@pytest.mark.parametrize(
    ("name", "node_id"),
    [
        ("x" * 70 + "_y-1", "x" * 59 + "y-1"),
        ("start-node", "task-start-node"),
        ("___", "task"),
        ("größe", "gre"),
    ],
)
def test_the_node_of_one_task_has_an_id_of_letters_digits_and_dashes(build: Any, name: str, node_id: str) -> None:
    task = build.task(name, {}, {})
    template = single_task_workflow(task)[1].template
    assert template.nodes[0].id == node_id
    compile_workflow(template, [], [task], {})
