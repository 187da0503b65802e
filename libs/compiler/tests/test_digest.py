"""When two registered entities are the same, and how their difference reads."""

import random
from typing import Any

from flyteidl.admin.launch_plan_pb2 import LaunchPlanSpec
from flyteidl.core.compiler_pb2 import CompiledTask
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.compiler import (
    compile_workflow,
    digest_launch_plan,
    digest_task,
    digest_workflow,
    structural_diff,
)


@given(names=st.lists(st.text(min_size=1), unique=True, max_size=8), seed=st.integers())
def test_the_order_of_maps_does_not_change_a_digest(build: Any, names: list[str], seed: int) -> None:
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    one, other = (build.task("t", dict.fromkeys(order, "int"), {}) for order in (names, shuffled))
    assert digest_task(one) == digest_task(other)


def test_what_changes_a_digest_of_a_task(build: Any) -> None:
    task = build.task("t", {"a": "int"}, {})
    changed = CompiledTask()
    changed.CopyFrom(task)
    changed.template.container.image = "other"
    assert digest_task(task) == digest_task(CompiledTask.FromString(task.SerializeToString()))
    assert digest_task(task) != digest_task(changed)


def test_the_order_of_sub_workflows_does_not_change_a_digest(build: Any) -> None:
    subs = [build.workflow(build.node("n", "nothing"), name=name) for name in "ab"]
    template = build.workflow(build.sub("x", "a"), build.sub("y", "b"))
    one = compile_workflow(template, subs, build.library(), {})
    other = compile_workflow(template, subs[::-1], build.library(), {})
    assert digest_workflow(one) == digest_workflow(other)
    other.sub_workflows[0].template.metadata.on_failure = 1  # type: ignore[assignment]
    assert digest_workflow(one) != digest_workflow(other)


def test_a_digest_of_a_launch_plan_covers_all_of_it(build: Any) -> None:
    base: tuple[Any, ...] = (
        build.identifier(3, "lp"),
        LaunchPlanSpec(),
        build.parameters(a="int"),
        build.variables(o="int"),
    )
    changes: list[tuple[int, Any]] = [
        (0, build.identifier(3, "other")),
        (1, LaunchPlanSpec(role="r")),
        (2, build.parameters(a=("int", 1))),
        (3, build.variables()),
    ]
    digests = {digest_launch_plan(*base)}
    for index, value in changes:
        changed = list(base)
        changed[index] = value
        digests.add(digest_launch_plan(*changed))
    assert len(digests) == 5
    assert all(len(digest) == 32 for digest in digests)


def test_a_diff_names_the_path_and_both_values(build: Any) -> None:
    old, new = build.task("t", {"a": "int", "b": "int"}, {}), build.task("t", {"a": "str", "c": "int"}, {})
    new.template.container.args.append("more")
    new.template.custom.update({"k": 1})
    assert structural_diff(old, new).split("\n") == [
        "/template/interface/inputs/variables/a/type/simple",
        "\t- INTEGER",
        "\t+ STRING",
        "/template/interface/inputs/variables/b",
        "\t- type { simple: INTEGER }",
        "\t+ <absent>",
        "/template/interface/inputs/variables/c",
        "\t- <absent>",
        "\t+ type { simple: INTEGER }",
        "/template/custom",
        "\t- <absent>",
        '\t+ fields { key: "k" value { number_value: 1 } }',
        "/template/container/args/1",
        "\t- <absent>",
        "\t+ more",
    ]


def test_equal_messages_have_no_diff(build: Any) -> None:
    assert structural_diff(build.task("t", {}, {}), build.task("t", {}, {})) == ""


def test_a_diff_stays_small(build: Any) -> None:
    huge = "x" * 1_000_000
    old = build.task("t", {f"{index}{huge}": "int" for index in range(50)}, {})
    new = build.task("t", {}, {})
    new.template.container.image = huge
    new.template.custom.update({huge: huge})
    assert 0 < len(structural_diff(old, new)) < 20_000
    assert structural_diff(old, new).endswith("... and more")
