"""What a workflow may look like, what its closure holds, and what each mistake is called."""

import pickle
from typing import Any

import pytest
from flyteidl.core.condition_pb2 import BooleanExpression, ComparisonExpression, ConjunctionExpression, Operand
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.core.interface_pb2 import Variable
from flyteidl.core.literals_pb2 import Binding, BindingData, Scalar
from flyteidl.core.types_pb2 import EnumType, LiteralType, SimpleType
from flyteidl.core.workflow_pb2 import (
    Alias,
    ApproveCondition,
    ArrayNode,
    BranchNode,
    GateNode,
    IfBlock,
    IfElseBlock,
    Node,
    SignalCondition,
    SleepCondition,
    TaskNode,
    WorkflowNode,
)
from google.protobuf.wrappers_pb2 import BoolValue

from aerodrome.compiler import (
    CompileErrors,
    LaunchPlanInterface,
    compile_workflow,
    graph,
    identifier_of,
    key_of,
    requirements,
)

INT = LiteralType(simple=SimpleType.INTEGER)


# --- what a closure holds --------------------------------------------------------------------------------------------


def test_start_and_end_node_come_first_and_are_connected(build: Any) -> None:
    template = build.workflow(
        build.node("b", "one", a="a.o"),
        build.node("a", "one", a=".x"),
        inputs={"x": "int"},
        outputs={"y": ("int", "b.o")},
    )
    closure = build.compile(template)
    primary = closure.primary
    assert [node.id for node in primary.template.nodes] == ["start-node", "end-node", "b", "a"]
    assert primary.template.nodes[0] == Node(id="start-node")
    assert primary.template.nodes[1] == Node(id="end-node", inputs=primary.template.outputs)
    assert build.edges(primary) == {"a": ["start-node"], "b": ["a"], "end-node": ["b"]}
    assert build.edges(primary, "downstream") == {"start-node": ["a"], "a": ["b"], "b": ["end-node"]}
    assert [task.template.id.name for task in closure.tasks] == ["one"]
    assert primary.template.nodes[3].inputs[0].binding.promise.node_id == "start-node"


def test_an_explicit_upstream_node_is_an_edge(build: Any) -> None:
    template = build.workflow(
        build.node("a", "nothing"), build.node("b", "nothing"), build.node("c", "nothing", ["b", "a"])
    )
    primary = build.compile(template).primary
    assert build.edges(primary) == {
        "a": ["start-node"],
        "b": ["start-node"],
        "c": ["a", "b"],
        "end-node": ["c"],
    }
    assert list(primary.template.nodes[4].upstream_node_ids) == ["a", "b"]


def test_the_arguments_are_not_changed(build: Any) -> None:
    sub = build.workflow(build.node("a", "one", a=".x"), inputs={"x": "int"}, outputs={"y": ("int", "a.o")}, name="sub")
    template = build.workflow(
        build.branch("c", build.node("t", "one", a=".x"), build.sub("s", "sub", x=".x"), x=".x"), inputs={"x": "int"}
    )
    before = template.SerializeToString(deterministic=True), sub.SerializeToString(deterministic=True)
    build.compile(template, sub)
    assert (template.SerializeToString(deterministic=True), sub.SerializeToString(deterministic=True)) == before


def test_an_interface_that_is_not_set_becomes_empty_maps(build: Any) -> None:
    template = build.workflow(build.node("a", "nothing"))
    template.ClearField("interface")
    interface = build.compile(template).primary.template.interface
    assert interface.HasField("inputs")
    assert interface.HasField("outputs")


def test_tasks_are_listed_once_sorted_and_only_if_used(build: Any) -> None:
    template = build.workflow(
        build.node("a", "text", s="v"),
        build.node("b", "one", a=1),
        build.node("c", "one", a=2),
        build.node("d", "one", a=2),
    )
    assert [task.template.id.name for task in build.compile(template).tasks] == ["one", "text"]


def test_sub_workflows_are_compiled_if_used_and_keep_their_order(build: Any) -> None:
    names = ["z", "unused", "a"]
    subs = [build.workflow(build.node("n", "nothing"), name=name) for name in names]
    subs[0].nodes.append(build.sub("deeper", "a"))
    closure = build.compile(build.workflow(build.sub("s", "z")), *subs)
    assert [sub.template.id.name for sub in closure.sub_workflows] == names
    assert [len(sub.template.nodes) for sub in closure.sub_workflows] == [4, 1, 3]
    assert not closure.sub_workflows[1].HasField("connections")
    assert build.edges(closure.sub_workflows[0])["end-node"] == ["deeper", "n"]


def test_a_workflow_input_may_go_straight_to_an_output(build: Any) -> None:
    template = build.workflow(build.node("a", "nothing"), inputs={"x": "int"}, outputs={"y": ("int", ".x")})
    assert build.edges(build.compile(template).primary)["end-node"] == ["a", "start-node"]


def test_bodies_of_a_branch_are_renamed_and_only_know_what_they_wait_for(build: Any) -> None:
    inner = build.branch("in", build.node("t", "one", a="a.o"), build.node("u", "one", a=3), x="a.o")
    template = build.workflow(
        build.node("a", "one", a=1),
        build.node("b", "one", a=1),
        build.branch("c", inner, build.node("e", "one", a="b.o"), x=".x"),
        build.node("last", "one", a="c.o"),
        inputs={"x": "int"},
    )
    primary = build.compile(template).primary
    branch = primary.template.nodes[4].branch_node.if_else
    assert branch.case.then_node.id == "c-in"
    assert branch.case.then_node.branch_node.if_else.case.then_node.id == "c-in-t"
    assert branch.else_node.id == "c-e"
    assert [node.id for node in primary.template.nodes] == ["start-node", "end-node", "a", "b", "c", "last"]
    upstream = build.edges(primary)
    assert upstream["c"] == ["start-node"]
    assert (upstream["c-in"], upstream["c-in-t"], upstream["c-in-u"], upstream["c-e"]) == (["a"], ["a"], [], ["b"])
    assert upstream["end-node"] == ["a", "b", "last"]
    assert build.edges(primary, "downstream") == {
        "start-node": ["a", "b", "c"],
        "a": ["end-node"],
        "b": ["end-node"],
        "c": ["last"],
        "last": ["end-node"],
    }


def test_cases_that_run_the_same_node_share_it(build: Any) -> None:
    body = build.node("t", "one", a=1)
    closure = build.compile(build.workflow(build.branch("c", body, body, x=".x"), inputs={"x": "int"}))
    if_else = closure.primary.template.nodes[2].branch_node.if_else
    assert if_else.case.then_node == if_else.else_node
    assert if_else.else_node.id == "c-t"


def test_a_failure_node_knows_what_it_waits_for_and_stays_beside_the_graph(build: Any) -> None:
    template = build.workflow(build.node("a", "one", a=".x"), inputs={"x": "int"})
    template.failure_node.CopyFrom(build.node("f", "one", a=".x"))
    primary = build.compile(template).primary
    assert primary.template.failure_node.id == "f"
    assert [node.id for node in primary.template.nodes] == ["start-node", "end-node", "a"]
    assert build.edges(primary)["f"] == ["start-node"]
    assert "f" not in str(build.edges(primary, "downstream"))


def test_a_branch_gives_the_outputs_that_all_its_bodies_have(build: Any) -> None:
    wide = build.task("wide", {}, {"o": "int", "p": "int"})
    template = build.workflow(
        build.branch("c", build.node("t", "wide"), build.node("e", "one", a=1), x=".x"),
        build.node("n", "one", a="c.o"),
        inputs={"x": "int"},
    )
    build.compile(template, tasks=[wide])
    template.nodes[1].inputs[0].binding.promise.var = "p"
    assert build.errors(template, tasks=[wide]) == ["VariableNameNotFound@n"]


def test_a_launch_plan_takes_required_inputs_and_defaults_that_are_bound(build: Any) -> None:
    plan = LaunchPlanInterface(build.parameters(a="int", b=("int", 1)), build.variables(o="int"))
    plans = {key_of(build.identifier(3, "lp")): plan}
    build.compile(build.workflow(build.launch("n", "lp", a=1)), launch_plans=plans)
    build.compile(build.workflow(build.launch("n", "lp", a=1, b=2)), launch_plans=plans)
    assert build.errors(build.workflow(build.launch("n", "lp", b=2)), launch_plans=plans) == ["ParameterNotBound@n"]
    wrong = build.workflow(build.launch("n", "lp", a=1, b="x"))
    assert build.errors(wrong, launch_plans=plans) == ["MismatchingTypes@n"]
    unknown = build.workflow(build.launch("n", "lp", a=1, c=1))
    assert build.errors(unknown, launch_plans=plans) == ["VariableNameNotFound@n"]


def test_a_launch_plan_reference_to_the_workflow_itself_has_its_interface(build: Any) -> None:
    template = build.workflow(inputs={"x": "int"}, outputs={"y": ("int", "n.y")})
    own = WorkflowNode(launchplan_ref=template.id)
    template.nodes.append(Node(id="n", inputs=build.bindings(x=".x"), workflow_node=own))
    build.compile(template)


def gate(build: Any, node_id: str, kind: str = "approve", **inputs: Any) -> Node:
    conditions = {
        "approve": GateNode(approve=ApproveCondition(signal_id="s")),
        "signal": GateNode(signal=SignalCondition(signal_id="s", type=INT, output_variable_name="o")),
        "sleep": GateNode(sleep=SleepCondition()),
        "none": GateNode(),
    }
    return Node(id=node_id, inputs=build.bindings(**inputs), gate_node=conditions[kind])


def test_an_approval_passes_on_what_it_is_given_with_its_type(build: Any) -> None:
    template = build.workflow(
        gate(build, "g2", o="g1.o"),
        gate(build, "g1", o="a.o"),
        build.node("a", "one", a=1),
        build.node("z", "one", a="g2.o"),
    )
    primary = build.compile(template).primary
    assert build.edges(primary)["z"] == ["g2"]
    template.nodes[3].CopyFrom(build.node("z", "text", s="g2.o"))
    assert build.errors(template) == ["MismatchingTypes@z"]


def test_a_signal_gives_its_variable_and_a_sleep_gives_nothing(build: Any) -> None:
    build.compile(build.workflow(gate(build, "g", "signal"), build.node("a", "one", a="g.o")))
    wrong = build.workflow(gate(build, "g", "signal"), build.node("a", "text", s="g.o"))
    assert build.errors(wrong) == ["MismatchingTypes@a"]
    slept = build.workflow(gate(build, "g", "sleep"), build.node("a", "one", a="g.o"))
    assert build.errors(slept) == ["VariableNameNotFound@a"]


def array(build: Any, inner: Node, original: bool, ratio: float | None = None, **inputs: Any) -> Node:
    made = ArrayNode(node=inner, is_original_sub_node_interface=BoolValue(value=original), bound_inputs=["s"])
    if ratio is not None:
        made.min_success_ratio = ratio
    return Node(id="m", inputs=build.bindings(**inputs), array_node=made)


def test_an_array_node_has_the_interface_of_its_inner_node(build: Any) -> None:
    listed = build.task("listed", {"a": build.list_of("int")}, {"o": build.list_of("int")})
    node = array(build, build.node("i", "listed"), False, a=[1, 2])
    build.compile(build.workflow(node, outputs={"y": (build.list_of("int"), "m.o")}), tasks=[listed])


def test_an_array_node_over_an_unchanged_interface_maps_over_lists(build: Any) -> None:
    node = array(build, build.node("i", "two"), True, a=[1, 2], s="x")
    build.compile(build.workflow(node, outputs={"y": (build.list_of("int"), "m.o")}))
    scalar = array(build, build.node("i", "two"), True, a=1, s="x")
    assert build.errors(build.workflow(scalar)) == ["MismatchingTypes@m"]


def test_an_array_node_whose_items_may_fail_gives_optional_values(build: Any) -> None:
    node = array(build, build.node("i", "two"), True, 0.5, a=[1, 2], s="x")
    optional = build.list_of(build.union("int", "none"))
    build.compile(build.workflow(node, outputs={"y": (optional, "m.o")}))
    assert build.errors(build.workflow(node, outputs={"y": (build.list_of("int"), "m.o")})) == [
        "MismatchingTypes@end-node"
    ]


def test_aliases_rename_outputs(build: Any) -> None:
    node = build.node("a", "one", a=1)
    node.output_aliases.append(Alias(var="o", alias="other"))
    build.compile(build.workflow(node, build.node("b", "one", a="a.other")))
    assert build.errors(build.workflow(node, build.node("b", "one", a="a.o"))) == ["VariableNameNotFound@b"]


def test_a_renamed_approval_keeps_its_type(build: Any) -> None:
    node = gate(build, "g", o="a.o")
    node.output_aliases.append(Alias(var="o", alias="other"))
    template = build.workflow(build.node("a", "one", a=1), node, build.node("z", "text", s="g.other"))
    assert build.errors(template) == ["MismatchingTypes@z"]


# --- requirements ----------------------------------------------------------------------------------------------------


def test_requirements_are_found_wherever_they_are(build: Any) -> None:
    sub = build.workflow(build.launch("n", "from-sub"), build.sub("s", "deep"), name="sub")
    deep = build.workflow(build.node("n", "from-deep"), name="deep")
    unused = build.workflow(build.node("n", "unused"), name="unused")
    template = build.workflow(
        build.branch("c", build.node("t", "in-branch"), build.launch("e", "lp-in-branch"), x=1),
        array(build, build.node("i", "in-array"), False),
        build.sub("s", "sub"),
        build.node("again", "in-array"),
    )
    template.failure_node.CopyFrom(build.node("f", "in-failure"))
    found = requirements(template, [unused, deep, sub])
    assert [one.name for one in found.tasks] == ["from-deep", "in-array", "in-branch", "in-failure"]
    assert [one.name for one in found.launch_plans] == ["from-sub", "lp-in-branch"]


def test_identifiers_survive_becoming_keys(build: Any) -> None:
    identifier = Identifier(resource_type=ResourceType.LAUNCH_PLAN, project="a", domain="b", name="c", version="d")
    assert identifier_of(key_of(identifier)) == identifier


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_references_that_are_missing(build: Any) -> None:
    template = build.workflow(build.node("a", "missing"), build.sub("b", "missing"), build.launch("c", "missing"))
    assert build.errors(template) == [
        "TaskReferenceNotFound@start-node",
        "WorkflowReferenceNotFound@start-node",
        "WorkflowReferenceNotFound@start-node",
    ]


def test_a_workflow_without_nodes(build: Any) -> None:
    assert build.errors(build.workflow()) == ["NoNodesFound@start-node"]


def test_a_sub_workflow_given_twice(build: Any) -> None:
    sub = build.workflow(build.node("n", "nothing"), name="sub")
    assert build.errors(build.workflow(build.sub("s", "sub")), sub, sub) == ["ValueCollision@start-node"]


def test_a_task_given_twice_with_different_contents(build: Any) -> None:
    template = build.workflow(build.node("a", "one", a=1))
    assert build.errors(template, tasks=[build.task("one", {}, {})]) == ["ValueCollision@start-node"]
    build.compile(template, tasks=build.library())


def test_sub_workflows_that_contain_each_other(build: Any) -> None:
    one = build.workflow(build.sub("n", "two"), name="one")
    two = build.workflow(build.sub("n", "one"), name="two")
    assert build.errors(build.workflow(build.sub("s", "one")), one, two) == ["CycleDetected@start-node"]
    assert build.errors(build.workflow(build.sub("s", "wf"))) == ["CycleDetected@start-node"]


def test_errors_of_a_sub_workflow_name_it(build: Any) -> None:
    sub = build.workflow(build.node("n", "one", a="x"), name="sub")
    with pytest.raises(CompileErrors, match="in sub-workflow sub"):
        build.compile(build.workflow(build.sub("s", "sub")), sub)


def test_variables_without_name_or_type(build: Any) -> None:
    template = build.workflow(build.node("n", "nothing"))
    template.interface.inputs.variables["x"].CopyFrom(Variable())
    template.interface.outputs.variables[""].type.CopyFrom(INT)
    assert "ValueRequired@start-node" in build.errors(template)
    assert "ValueRequired@end-node" in build.errors(template)


def test_ids_that_are_missing_reserved_repeated_or_endless(build: Any) -> None:
    assert build.errors(build.workflow(build.node("", "nothing"))) == ["ValueRequired@"]
    for reserved in ("start-node", "end-node"):
        assert build.errors(build.workflow(build.node(reserved, "nothing"))) == [f"DuplicateId@{reserved}"]
    repeated = build.workflow(build.node("n", "nothing"), build.node("n", "nothing"))
    assert build.errors(repeated) == ["DuplicateId@n"]
    endless = build.errors(build.workflow(build.node("n" * 10_000_000, "nothing")))
    assert endless[0].startswith("InvalidValue@nnn")
    assert len(endless[0]) < 200
    failure = build.workflow(build.node("n", "nothing"))
    failure.failure_node.CopyFrom(build.node("n", "nothing"))
    assert build.errors(failure) == ["DuplicateId@n"]


def test_bodies_of_a_branch_whose_ids_clash(build: Any) -> None:
    clash = build.branch("c", build.node("t", "one", a=1), build.node("t", "one", a=2), x=1)
    assert build.errors(build.workflow(clash)) == ["DuplicateId@c-t"]
    outside = build.branch("c", build.node("t", "one", a=1), build.node("e", "one", a=2), x=1)
    assert build.errors(build.workflow(outside, build.node("c-t", "nothing"))) == ["DuplicateId@c-t"]


def test_aliases_that_are_wrong(build: Any) -> None:
    for aliases, code in (
        ([("o", "x"), ("o", "y")], "DuplicateAlias"),
        ([("missing", "x")], "ParameterNotBound"),
        ([("o", "p")], "DuplicateAlias"),
    ):
        node = build.node("n", "wide")
        node.output_aliases.extend(Alias(var=var, alias=alias) for var, alias in aliases)
        wide = build.task("wide", {}, {"o": "int", "p": "int"})
        assert build.errors(build.workflow(node), tasks=[wide]) == [f"{code}@n"]


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (Node(id="n"), "ValueRequired"),
        (Node(id="n", task_node=TaskNode()), "ValueRequired"),
        (Node(id="n", workflow_node=WorkflowNode()), "ValueRequired"),
        (Node(id="n", gate_node=GateNode()), "NoConditionFound"),
        (Node(id="n", gate_node=GateNode(approve=ApproveCondition())), "ValueRequired"),
        (Node(id="n", gate_node=GateNode(signal=SignalCondition(signal_id="s", type=INT))), "ValueRequired"),
        (
            Node(id="n", gate_node=GateNode(signal=SignalCondition(signal_id="s", output_variable_name="o"))),
            "ValueRequired",
        ),
        (Node(id="n", array_node=ArrayNode()), "ValueRequired"),
        (Node(id="n", array_node=ArrayNode(node=Node(gate_node=GateNode()))), "InvalidValue"),
    ],
)
def test_a_node_that_does_nothing_sensible(build: Any, node: Node, code: str) -> None:
    assert build.errors(build.workflow(node)) == [f"{code}@n"]


def test_bindings_that_are_wrong(build: Any) -> None:
    def errors(*nodes: Node, **options: Any) -> Any:
        return build.errors(build.workflow(build.node("s", "one", a=1), *nodes, **options))

    assert errors(build.node("n", "one", a=1, b=2)) == ["VariableNameNotFound@n"]
    assert errors(build.node("n", "one")) == ["ParameterNotBound@n"]
    twice = build.node("n", "one", a=1)
    twice.inputs.extend(build.bindings(a=2))
    assert errors(twice) == ["ParameterBoundMoreThanOnce@n"]
    for nothing in (Binding(var="a"), Binding(var="a", binding=BindingData())):
        empty = build.node("n", "one")
        empty.inputs.append(nothing)
        assert errors(empty) == ["ValueRequired@n"]
    assert errors(build.node("n", "one", a="missing.o")) == ["NodeReferenceNotFound@n"]
    assert errors(build.node("n", "one", a="s.missing")) == ["VariableNameNotFound@n"]
    assert errors(build.node("n", "one", a=".missing")) == ["VariableNameNotFound@n"]
    assert errors(build.node("n", "text", s="s.o")) == ["MismatchingTypes@n"]
    assert errors(build.node("n", "text", s=1)) == ["MismatchingTypes@n"]
    assert errors(build.node("n", "text", s=[1])) == ["MismatchingBindings@n"]
    scalar = build.node("n", "text")
    scalar.inputs.append(Binding(var="s", binding=BindingData(scalar=Scalar())))
    assert errors(scalar) == ["UnrecognizedValue@n"]
    assert errors(outputs={"y": ("str", "s.o")}) == ["MismatchingTypes@end-node"]
    unbound = build.workflow(build.node("s", "one", a=1), outputs={"y": ("int", "s.o")})
    del unbound.outputs[:]
    assert build.errors(unbound) == ["ParameterNotBound@end-node"]


def test_a_mismatch_names_both_variables_and_both_types(build: Any) -> None:
    with pytest.raises(CompileErrors) as caught:
        build.compile(build.workflow(build.node("s", "one", a=1), build.node("n", "text", s="s.o")))
    assert "The input [s] is of type str, but [s.o] is of type int." in str(caught.value)


def test_what_an_unbound_input_may_be(build: Any) -> None:
    optional = build.task("optional", {"a": build.union("int", "none"), "b": "int"}, {})
    build.compile(build.workflow(build.node("n", "optional", b=1)), tasks=[optional])
    assert build.errors(build.workflow(build.node("n", "optional", a=1)), tasks=[optional]) == ["ParameterNotBound@n"]


def test_bindings_to_lists_maps_and_unions(build: Any) -> None:
    wanted = {
        "ints": build.list_of("int"),
        "maps": build.map_of(build.list_of("int")),
        "either": build.union(build.list_of("int"), build.list_of("str")),
    }
    task = build.task("many", wanted, {})

    def node(**changed: Any) -> Any:
        given = {"ints": [1, build.promise("s", "o")], "maps": {"k": [1]}, "either": ["x"], **changed}
        return build.node("n", "many", **given)

    def errors(**changed: Any) -> Any:
        return build.errors(build.workflow(build.node("s", "one", a=1), node(**changed)), tasks=[task])

    closure = build.compile(build.workflow(build.node("s", "one", a=1), node()), tasks=[task])
    assert build.edges(closure.primary)["n"] == ["s"]
    assert errors(ints=[1, "x"]) == ["MismatchingTypes@n"]
    assert errors(ints=[build.promise("missing", "o")]) == ["NodeReferenceNotFound@n"]
    assert errors(ints=[BindingData()]) == ["ValueRequired@n"]
    assert errors(ints=1) == ["MismatchingTypes@n"]
    assert errors(ints={"k": 1}) == ["MismatchingBindings@n"]
    assert errors(maps={"k": ["x"]}) == ["MismatchingTypes@n"]
    assert errors(either=[]) == ["AmbiguousBindingUnionValue@n"]
    assert errors(either=[1, "x"]) == ["IncompatibleBindingUnionValue@n"]


def test_a_value_of_an_enum(build: Any) -> None:
    task = build.task("paint", {"c": LiteralType(enum_type=EnumType(values=["red", "blue"]))}, {})
    build.compile(build.workflow(build.node("n", "paint", c="red")), tasks=[task])
    assert build.errors(build.workflow(build.node("n", "paint", c="green")), tasks=[task]) == ["IllegalEnumValue@n"]


def test_promises_of_elements_and_fields(build: Any) -> None:
    shape = build.type("struct")
    shape.structure.dataclass_type["f"].CopyFrom(INT)
    shape.structure.dataclass_type["m"].CopyFrom(build.map_of(build.list_of("int")))
    made = build.task("made", {}, {"l": build.list_of("int"), "d": shape, "i": "int"})

    def errors(promise: BindingData) -> list[str]:
        template = build.workflow(build.node("s", "made"), build.node("n", "one", a=promise))
        try:
            build.compile(template, tasks=[made])
        except CompileErrors as why:
            return [error.code for error in why.errors]
        return []

    assert errors(build.promise("s", "[0].l")) == []
    assert errors(build.promise("s", "l", 0)) == []
    assert errors(build.promise("s", "d", "f")) == []
    assert errors(build.promise("s", "d", "m", "k", 1)) == []
    assert errors(build.promise("s", "i", "ignored")) == []
    assert errors(build.promise("s", "d", "missing")) == ["FieldNotFound"]
    assert errors(build.promise("s", "d", "m")) == ["MismatchingTypes"]
    assert errors(build.promise("s", "[0].i")) == ["MismatchingTypes"]
    assert errors(build.promise("s", "[x].l")) == ["SyntaxError"]
    assert errors(build.promise("s", "[0]")) == ["SyntaxError"]
    assert errors(build.promise("s", "")) == ["SyntaxError"]


def test_branches_that_are_wrong(build: Any) -> None:
    def errors(change: Any) -> list[str]:
        node = build.branch("c", build.node("t", "one", a=1), build.node("e", "one", a=1), x=1)
        change(node.branch_node.if_else)
        return [error.split("@")[0] for error in build.errors(build.workflow(node))]

    def operand(left: Operand) -> Any:
        return lambda branch: branch.case.condition.comparison.left_value.CopyFrom(left)

    assert errors(lambda branch: branch.ClearField("case")) == ["BranchNodeHasNoCondition"]
    assert errors(lambda branch: branch.case.ClearField("condition")) == ["BranchNodeHasNoCondition"]
    assert errors(lambda branch: branch.case.ClearField("then_node")) == ["BranchNodeIdNotFound"]
    assert errors(lambda branch: branch.ClearField("else_node")) == ["BranchNodeHasNoDefault"]
    assert errors(lambda branch: branch.other.add()) == ["BranchNodeHasNoCondition", "BranchNodeIdNotFound"]
    assert errors(lambda branch: branch.case.condition.Clear()) == ["ValueRequired"]
    assert errors(operand(Operand(var="missing"))) == ["VariableNameNotFound"]
    assert errors(operand(Operand())) == ["ValueRequired"]
    assert errors(operand(Operand(var=""))) == ["ValueRequired"]
    assert errors(operand(Operand(scalar=Scalar()))) == ["UnrecognizedValue"]
    assert errors(operand(Operand(primitive=build.literal("x").scalar.primitive))) == ["MismatchingTypes"]
    half = BooleanExpression(conjunction=ConjunctionExpression(left_expression=build.equals("x", 1)))
    assert errors(lambda branch: branch.case.condition.CopyFrom(half)) == ["ValueRequired"]
    both = BooleanExpression(
        conjunction=ConjunctionExpression(
            left_expression=build.equals("x", 1), right_expression=build.equals("missing", 1)
        )
    )
    assert errors(lambda branch: branch.case.condition.CopyFrom(both)) == ["VariableNameNotFound"]
    assert errors(lambda branch: branch.else_node.CopyFrom(build.node("e", "text", s="x"))) == ["MismatchingTypes"]
    assert errors(lambda branch: branch.else_node.ClearField("id")) == ["ValueRequired"]
    assert errors(lambda branch: branch.else_node.inputs[0].binding.Clear()) == ["ValueRequired"]
    assert errors(lambda branch: branch.Clear()) == ["BranchNodeHasNoCondition", "BranchNodeHasNoDefault"]


def test_a_branch_may_fail_with_an_error_instead_of_an_else_case(build: Any) -> None:
    block = IfBlock(condition=build.equals("x", 1), then_node=build.node("t", "one", a=1))
    branch = BranchNode(if_else=IfElseBlock(case=block, error={"message": "no"}))
    node = Node(id="c", inputs=build.bindings(x=1), branch_node=branch)
    build.compile(build.workflow(node, build.node("n", "one", a="c.o")))


def test_a_condition_may_compare_with_none(build: Any) -> None:
    node = build.branch("c", build.node("t", "one", a=1), build.node("e", "one", a=1), x=1)
    comparison = ComparisonExpression(left_value=Operand(var="x"), right_value=Operand(scalar=Scalar(none_type={})))
    node.branch_node.if_else.case.condition.comparison.CopyFrom(comparison)
    build.compile(build.workflow(node))


def test_a_body_of_a_branch_cannot_be_read_from_outside(build: Any) -> None:
    branch = build.branch("c", build.node("t", "one", a=1), build.node("e", "one", a=1), x=1)
    assert build.errors(build.workflow(branch, build.node("n", "one", a="c-t.o"))) == ["NodeReferenceNotFound@n"]


def test_a_wrong_reference_is_reported_without_consequences(build: Any) -> None:
    template = build.workflow(Node(id="n"), build.node("m", "one", a="n.o"))
    assert build.errors(template) == ["ValueRequired@n"]


# --- cycles and islands ----------------------------------------------------------------------------------------------


def test_nodes_that_wait_for_each_other(build: Any) -> None:
    reachable = build.workflow(
        build.node("s", "one", a=1), build.node("a", "nothing", ["s", "b"]), build.node("b", "nothing", ["a"])
    )
    with pytest.raises(CompileErrors, match="a>b>a") as caught:
        build.compile(reachable)
    assert [error.code for error in caught.value.errors] == ["CycleDetected"]
    island = build.workflow(
        build.node("a", "one", a="b.o"), build.node("b", "one", a="a.o"), build.node("c", "nothing")
    )
    assert build.errors(island) == ["CycleDetected@start-node", "UnreachableNodes@start-node"]
    itself = build.workflow(build.node("a", "one", a="a.o"))
    assert build.errors(itself) == ["CycleDetected@start-node", "UnreachableNodes@start-node"]
    after_the_end = build.workflow(build.node("a", "nothing", ["end-node"]), build.node("b", "nothing"))
    assert build.errors(after_the_end) == ["CycleDetected@start-node"]


def test_a_body_that_waits_for_what_waits_for_its_branch(build: Any) -> None:
    branch = build.branch("c", build.node("t", "one", a="n.o"), build.node("e", "one", a=1), x=1)
    assert build.errors(build.workflow(branch, build.node("n", "one", a="c.o"))) == ["CycleDetected@start-node"]


def test_approvals_in_a_circle(build: Any) -> None:
    template = build.workflow(gate(build, "g", o="h.o"), gate(build, "h", o="g.o"), build.node("n", "one", a="g.o"))
    assert build.errors(template) == ["CycleDetected@start-node", "UnreachableNodes@start-node"]


def test_a_node_that_waits_for_one_that_does_not_exist(build: Any) -> None:
    template = build.workflow(build.node("a", "nothing", ["missing"]), build.node("b", "nothing", ["a"]))
    assert build.errors(template) == ["UnreachableNodes@a", "UnreachableNodes@start-node"]
    body = build.branch("c", build.node("t", "nothing", ["missing"]), build.node("e", "nothing"), x=1)
    assert build.errors(build.workflow(body)) == ["UnreachableNodes@c-t"]
    partly = build.workflow(build.node("a", "nothing"), build.node("b", "nothing", ["a", "missing"]))
    assert build.errors(partly) == ["UnreachableNodes@b"]


# --- the form of the errors ------------------------------------------------------------------------------------------


def test_errors_are_counted_numbered_and_sorted(build: Any) -> None:
    with pytest.raises(CompileErrors) as caught:
        build.compile(build.workflow(build.node("b", "one"), build.node("a", "one"), build.node("c", "text", s=1)))
    lines = str(caught.value).split("\n")
    assert lines[0] == "Collected Errors: 3"
    assert lines[1].startswith("\tError 0: Code: MismatchingTypes, Node Id: c, Description: ")
    assert lines[2].startswith("\tError 1: Code: ParameterNotBound, Node Id: a, Description: ")
    assert lines[3].startswith("\tError 2: Code: ParameterNotBound, Node Id: b, Description: ")
    assert lines[4:] == [""]


def test_errors_stay_small_whatever_is_wrong(build: Any) -> None:
    huge = "x\n" * 5_000_000
    nodes = [build.node(f"n{index}", "one", a=build.promise(huge, huge)) for index in range(3)]
    template = build.workflow(*nodes, *(build.node(f"m{index}", "one") for index in range(5_000)))
    with pytest.raises(CompileErrors) as caught:
        build.compile(template)
    assert len(str(caught.value)) < 20_000
    assert len(caught.value.errors) <= 1_000
    assert all(len(error.description) < 1_000 and "\n" not in error.description for error in caught.value.errors)


def test_of_many_names_only_the_number_is_said(build: Any) -> None:
    wide = build.task("wide", {f"x{index}": build.union("int", "none") for index in range(50_000)}, {})
    with pytest.raises(CompileErrors, match="there are 50000 others"):
        build.compile(build.workflow(build.node("n", "wide", missing=1)), tasks=[wide])


def test_types_that_take_too_long_to_compare_are_refused(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_CASTING_STEPS", 50_000)
    inputs, outputs = {}, {}
    for index in range(20):
        up, down = build.type("int"), build.type("str")
        for _ in range(20):  # each level doubles the pairs to be compared
            up, down = build.union(up), build.union(down, build.map_of("float"))
        up.structure.tag = down.structure.tag = str(index)
        inputs[f"x{index}"], outputs[f"x{index}"] = down, up
    tasks = [build.task("from", {}, outputs), build.task("to", inputs, {})]
    promises = {name: build.promise("n", name) for name in inputs}
    template = build.workflow(build.node("n", "from"), build.node("m", "to", **promises))
    assert "InvalidValue@start-node" in build.errors(template, tasks=tasks)


def test_compile_errors_survive_pickling(build: Any) -> None:
    with pytest.raises(CompileErrors) as caught:
        compile_workflow(build.workflow(), [], [], {})
    assert pickle.loads(pickle.dumps(caught.value)).errors == caught.value.errors
