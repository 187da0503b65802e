"""The workflows that dynamic tasks make at run time."""

from typing import Any

import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec

from aerodrome.compiler import (
    CompileErrors,
    LaunchPlanInterface,
    compile_dynamic,
    dynamic_requirements,
    key_of,
)

PLACE: dict[str, Any] = {"project": "p", "domain": "d", "node_id": "n0", "version": "random"}


def test_a_dynamic_workflow_has_the_outputs_of_its_task(build: Any) -> None:
    spec = DynamicJobSpec(
        nodes=[build.node("dn0", "one", a=1), build.node("dn1", "one", a="dn0.o")],
        tasks=[build.template("one", {"a": "int"}, {"o": "int"})],
        outputs=build.bindings(y=[build.promise("dn0", "o"), build.promise("dn1", "o")]),
    )
    interface = build.interface({"x": "int"}, {"y": build.list_of("int")})
    closure = compile_dynamic(spec, **PLACE, interface=interface)
    template = closure.primary.template
    assert (template.id.project, template.id.domain, template.id.name, template.id.version) == (
        "p",
        "d",
        "dynamic_n0",
        "random",
    )
    assert template.interface.outputs == interface.outputs
    assert not template.interface.inputs.variables
    assert build.edges(closure.primary) == {"dn0": ["start-node"], "dn1": ["dn0"], "end-node": ["dn0", "dn1"]}
    assert [task.template.id.name for task in closure.tasks] == ["one"]


def test_a_dynamic_workflow_may_be_empty(build: Any) -> None:
    spec = DynamicJobSpec(outputs=build.bindings(y=[1, 2]))
    closure = compile_dynamic(spec, **PLACE, interface=build.interface({}, {"y": build.list_of("int")}))
    assert [node.id for node in closure.primary.template.nodes] == ["start-node", "end-node"]
    assert build.edges(closure.primary) == {"end-node": ["start-node"]}


def test_what_a_dynamic_workflow_needs_from_outside(build: Any) -> None:
    sub = build.workflow(build.launch("n", "lp"), name="sub")
    spec = DynamicJobSpec(
        nodes=[build.node("a", "own"), build.node("b", "other"), build.sub("c", "sub")],
        tasks=[build.template("own", {}, {})],
        subworkflows=[sub],
    )
    needed = dynamic_requirements(spec)
    assert [one.name for one in needed.tasks] == ["other"]
    assert [one.name for one in needed.launch_plans] == ["lp"]
    plan = LaunchPlanInterface(build.parameters(), build.variables())
    closure = compile_dynamic(
        spec,
        **PLACE,
        interface=build.interface({}, {}),
        tasks=[build.task("other", {}, {})],
        launch_plans={key_of(needed.launch_plans[0]): plan},
    )
    assert [task.template.id.name for task in closure.tasks] == ["other", "own"]


def test_tasks_of_a_dynamic_workflow_that_do_not_compile(build: Any) -> None:
    broken = build.template("own", {}, {})
    broken.container.ClearField("image")
    with pytest.raises(CompileErrors, match=r"Container\.Image"):
        compile_dynamic(DynamicJobSpec(tasks=[broken]), **PLACE, interface=build.interface({}, {}))


def test_a_dynamic_workflow_with_outputs_of_the_wrong_type(build: Any) -> None:
    spec = DynamicJobSpec(outputs=build.bindings(y="x"))
    with pytest.raises(CompileErrors, match="MismatchingTypes"):
        compile_dynamic(spec, **PLACE, interface=build.interface({}, {"y": "int"}))
