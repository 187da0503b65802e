"""Where files are: the paths that task containers, data proxy and console rely on.  Source: spec/data-plane.md, 2.1."""

from __future__ import annotations

from flyteidl.core import compiler_pb2, identifier_pb2
from graphs import identifier

from aerodrome.propeller.engine.graph import START, Closure
from aerodrome.propeller.engine.state import NodeState, Scope
from aerodrome.propeller.layout import Layout

EXECUTION = "f0123456789abcdef012"
DATA = f"s3://bucket/metadata/propeller/p-d-{EXECUTION}"


def layout() -> Layout:
    return Layout(execution=EXECUTION, data_dir=DATA, raw_base="s3://raw/base")


def scope() -> Scope:
    """n0: a task; sub: a sub-workflow of `inner`, which has a task n0 and a branch b with an arm a."""
    closure = compiler_pb2.CompiledWorkflowClosure()
    closure.tasks.add().template.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    for workflow, name in ((closure.primary, "w"), (closure.sub_workflows.add(), "inner")):
        workflow.template.id.CopyFrom(identifier(name))
        workflow.template.nodes.add(id=START)
        workflow.template.nodes.add(id="n0").task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    closure.primary.template.nodes.add(id="sub").workflow_node.sub_workflow_ref.CopyFrom(identifier("inner"))
    arm = closure.sub_workflows[0].template.nodes.add(id="b").branch_node.if_else.case.then_node
    arm.id = "a"
    arm.task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    known = Closure(closure)
    root = Scope(known.root(), None)
    owner = root.node("sub")
    owner.inner = Scope(known.sub_workflow(identifier("inner")), owner)
    return root


def inner(owner: NodeState) -> Scope:
    assert owner.inner is not None
    return owner.inner


def test_a_node_of_the_workflow_has_a_data_directory_and_one_per_attempt() -> None:
    node, paths = scope().node("n0"), layout()
    assert paths.node_data(node) == f"{DATA}/n0/data"
    assert paths.inputs(node) == f"{DATA}/n0/data/inputs.pb"
    assert paths.output_dir(node) == f"{DATA}/n0/data/0"
    assert paths.outputs(node) == f"{DATA}/n0/data/0/outputs.pb"


def test_a_retry_shares_the_inputs_and_has_its_own_outputs() -> None:
    node, paths = scope().node("n0"), layout()
    before = paths.inputs(node)
    node.attempts = 2
    assert paths.inputs(node) == before
    assert paths.outputs(node) == f"{DATA}/n0/data/2/outputs.pb"
    assert paths.output_dir(node, 1) == f"{DATA}/n0/data/1"


def test_a_node_inside_another_lies_in_its_output_directory_without_a_data_segment() -> None:
    paths = layout()
    nested = inner(scope().node("sub"))
    assert paths.node_data(nested.node("n0")) == f"{DATA}/sub/data/0/n0"
    assert paths.inputs(nested.node("n0")) == f"{DATA}/sub/data/0/n0/inputs.pb"
    assert paths.outputs(nested.node("n0")) == f"{DATA}/sub/data/0/n0/0/outputs.pb"
    assert paths.outputs(nested.node(START)) == f"{DATA}/sub/data/0/start-node/0/outputs.pb"


def test_nesting_goes_on_level_by_level() -> None:
    paths = layout()
    branch = inner(scope().node("sub")).node("b")
    assert branch.spec.arms is not None
    branch.inner = Scope(branch.spec.arms, branch)
    arm = inner(branch).node("a")
    arm.attempts = 1
    assert paths.inputs(arm) == f"{DATA}/sub/data/0/b/0/a/inputs.pb"
    assert paths.outputs(arm) == f"{DATA}/sub/data/0/b/0/a/1/outputs.pb"


def test_what_is_inside_an_attempt_stays_with_that_attempt() -> None:
    root, paths = scope(), layout()
    owner = root.node("sub")
    graph = inner(owner).graph
    first = inner(owner).node("n0")
    owner.attempts = 1
    second = Scope(graph, owner).node("n0")
    assert paths.outputs(first) == f"{DATA}/sub/data/0/n0/0/outputs.pb"
    assert paths.outputs(second) == f"{DATA}/sub/data/1/n0/0/outputs.pb"
    assert first.unique_id != second.unique_id


def test_long_ids_are_hashed_in_names_and_kept_in_paths() -> None:
    closure = compiler_pb2.CompiledWorkflowClosure()
    closure.tasks.add().template.id.CopyFrom(identifier("t", identifier_pb2.TASK))
    template = closure.primary.template
    template.id.CopyFrom(identifier("w"))
    template.nodes.add(id=START)
    template.nodes.add(id="x" * 24).task_node.reference_id.CopyFrom(identifier("t", identifier_pb2.TASK))
    node = Scope(Closure(closure).root(), None).node("x" * 24)
    assert node.unique_id == "fuaa3aji"
    assert layout().node_data(node) == f"{DATA}/{'x' * 24}/data"
    assert layout().generated_name(node, 0) == f"{EXECUTION}-fuaa3aji-0"


def test_raw_data_is_spread_by_the_attempts_name() -> None:
    node, paths = scope().node("n0"), layout()
    assert paths.generated_name(node, 0) == f"{EXECUTION}-n0-0"
    assert paths.raw_prefix(node, 0) == f"s3://raw/base/gy/{EXECUTION}-n0-0"
    assert paths.checkpoints(node, 0) == f"s3://raw/base/gy/{EXECUTION}-n0-0/_flytecheckpoints"
    assert paths.raw_prefix(node, 1) != paths.raw_prefix(node, 0)


def test_a_nested_nodes_raw_data_goes_by_its_unique_id() -> None:
    nested = inner(scope().node("sub")).node("n0")
    assert nested.unique_id == "sub-0-n0"
    assert layout().raw_prefix(nested, 0).endswith(f"/{EXECUTION}-sub-0-n0-0")


def test_values_that_nodes_share_have_names_that_follow_from_their_content() -> None:
    node, paths = scope().node("n0"), layout()
    paths.share(node.unique_id, inputs=b"\x01\xab", outputs=b"\xff")
    assert paths.inputs(node) == f"{DATA}/shared/01ab.pb"
    assert paths.outputs(node) == paths.outputs(node, 0) == f"{DATA}/shared/ff.pb"
    assert paths.outputs(node, 1) == f"{DATA}/n0/data/1/outputs.pb", "only of the attempt that gave them"
    assert paths.output_dir(node) == f"{DATA}/n0/data/0"
    paths.begin(node.unique_id)
    assert paths.outputs(node) == f"{DATA}/n0/data/0/outputs.pb"
    assert paths.shares(node.unique_id) == (b"\x01\xab", b"")
    paths.keep_apart(node.unique_id)
    assert paths.inputs(node) == f"{DATA}/n0/data/inputs.pb"
