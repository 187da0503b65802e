"""Every kind of task and node against every way in which it may go, where no other file tries it.

Each way is one workflow with a node of each kind in it, and all of them are launched at once; the platform shows the
items of maps as nodes.  Where each cell of the whole matrix is tried (A `test_nodes_arrays`, C `test_cache`,
D `test_nodes_dynamic`, F `test_failures`, G `test_nodes_gates`, L `test_nodes_launch_plans`, M `test_matrix`,
P `test_plugins`, V `test_recovery`, R here, - cannot be):

                         success  failure  retry  timeout  abort  recovery  hit  explain
    task                    F        F       F       F       F       V       C      C
    sub-workflow            C        F       M       M       M       V       C      C
    launch plan             L        L       M (1)   L       L       M V     C      R
    branch                  M        M       M       M       M       V       C      C
    gate: signal            G        - (2)   -       G       R       R       -      -
    gate: approval          G        G       -       R       R       M       -      -
    gate: sleep             G        -       -       R       R       R       -      -
    dynamic                 D        D       D       M       D       V       C      C
    map                     A        A       A       A       A       A       C      C
    map, items as nodes     R        R       R       R       R       R       R      R
    map over launch plans   A R      R       - (1)   R       R       R       R      R
    failure node            D        R       R       R       R       R (3)   R      R
    eager                   D        R       R       R       D       R       R      R
    connector, async        P R      P R     P R     R       P R     R       R      R
    connector, sync         P R      P R     R       R       R       R       R      R
    raw container           P R      P R     R       R       R       R       R      R
    shell                   P R      R       R       R       R       R       R      R
    pod                     P R      R       P R     R       R       R       R      R
    echo (4)                P R      -       -       -       -       R       R      R
    other nodes                              - cannot be mapped over: R -

(1) The failure of a child is final.  (2) `SetSignal` refuses a value of another type.  (3) They run anew.  (4) It takes
no time, and never fails.  Source: spec/data-plane.md, 1.12, 1.13, 3.7, 4.6, 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.admin import (
    common_pb2,
    execution_pb2,
    launch_plan_pb2,
    signal_pb2,
    task_execution_pb2,
    workflow_pb2,
)
from flyteidl.core import catalog_pb2, identifier_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import workflow_pb2 as core_workflow_pb2
from flyteidl.service import admin_pb2_grpc, signal_pb2_grpc

from aerodrome.idl.catalog.v1 import catalog_pb2 as catalog
from aerodrome.idl.catalog.v1.catalog_pb2_grpc import CatalogServiceStub

from .instance import is_alive, wait_until
from .plugged import DOMAIN, PROJECT, Plugged, literal, plain
from .seen import Seen, SeenNode

EXPIRED = "TimeoutExpired"
_HIT, _POPULATED = catalog_pb2.CACHE_HIT, catalog_pb2.CACHE_POPULATED
_USER = phases.ExecutionError.USER


@dataclass(frozen=True)
class Case:
    """One execution, what it was given, and where its tasks note that they ran."""

    id: identifier_pb2.WorkflowExecutionIdentifier
    folder: Path
    way: str
    inputs: Mapping[str, str]

    def ran(self, name: str) -> int:
        """How often a task noted that it ran."""
        path = self.folder / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def pids(self) -> list[int]:
        """The processes that noted themselves."""
        notes = [path for path in self.folder.iterdir() if path.is_file() and path.name != "sync"]
        return [int(line) for path in notes for line in path.read_text().split()]


class World:
    """The platform, and what was launched on it."""

    def __init__(self, plugged: Plugged, channel: grpc.Channel, base: Path) -> None:
        self.plugged = plugged
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
        self.seen = Seen(stub=self.admin)
        self.signals: Any = signal_pb2_grpc.SignalServiceStub(channel)
        self.catalog: Any = CatalogServiceStub(channel)
        self._base = base
        self._over: dict[str, dict[str, SeenNode]] = {}

    def launch(self, way: str, *names: str) -> Case:
        """Start a workflow; `names` are its inputs beside `folder`, each a folder in which a job may end at once."""
        folder = self._base / way
        folder.mkdir()
        inputs = {"folder": str(folder)}
        for name in names:
            (folder / name).mkdir()
            (folder / name / "go").touch()
            inputs[name] = str(folder / name)
        return Case(self.plugged.launch(f"rest.{way}", **inputs), folder, way, inputs)

    def repeat(self, case: Case) -> Case:
        """Start it once more, with the same inputs."""
        return Case(self.plugged.launch(f"rest.{case.way}", **case.inputs), case.folder, case.way, case.inputs)

    def recover(self, case: Case) -> Case:
        request = execution_pb2.ExecutionRecoverRequest(id=case.id)
        return Case(self.admin.RecoverExecution(request).id, case.folder, case.way, case.inputs)

    def ended(self, case: Case) -> tuple[str, dict[str, SeenNode]]:
        """The phase of an execution that is over, and its nodes, whose shape is checked."""
        phase = self.seen.finished(case.id, seconds=90)
        if case.id.name not in self._over:
            nodes = self._over[case.id.name] = self.seen.nodes(case.id)
            check_shape(case.id.name, nodes)
        return phase, self._over[case.id.name]

    def node(self, case: Case, name: str) -> SeenNode:
        """A node of an execution that is over; one inside of another by the names of both."""
        nodes, found = self.ended(case)[1], None
        for each in name.split("/"):
            found = nodes[each]
            nodes = found.inside
        assert found is not None
        return found

    def attempt(self, node: SeenNode, number: int = 0) -> task_execution_pb2.TaskExecution:
        """An attempt of a task node, unabridged."""
        request = task_execution_pb2.TaskExecutionListRequest(node_execution_id=node.message.id, limit=10)
        known = self.admin.ListTaskExecutions(request).task_executions
        (found,) = [each for each in known if each.id.retry_attempt == number]
        whole: task_execution_pb2.TaskExecution = self.admin.GetTaskExecution(
            task_execution_pb2.TaskExecutionGetRequest(id=found.id)
        )
        return whole

    def explain(self, case: Case, node_id: str, item: int | None = None) -> Any:
        asked = catalog.NodeOfExecution(project=PROJECT, domain=DOMAIN, execution=case.id.name, node_id=node_id)
        if item is not None:
            asked.item = item
        return self.catalog.Explain(catalog.ExplainRequest(node=asked))

    def asked(self, case: Case) -> list[str]:
        """The signals that an execution has asked for."""
        request = signal_pb2.SignalListRequest(workflow_execution_id=case.id, limit=10)
        return [each.id.signal_id for each in self.signals.ListSignals(request).signals]

    def give(self, case: Case, signal: str, value: int) -> None:
        """Set a signal as soon as it is asked for."""
        wait_until(f"{signal} is asked for", lambda: signal in self.asked(case))
        identifier = identifier_pb2.SignalIdentifier(signal_id=signal, execution_id=case.id)
        self.signals.SetSignal(signal_pb2.SignalSetRequest(id=identifier, value=literal(value)))


def check_shape(execution: str, nodes: dict[str, SeenNode], parent: SeenNode | None = None) -> None:
    """Ids, parents, places and flags of nodes, and of everything inside."""
    for name, node in nodes.items():
        message, closure = node.message, node.message.closure
        assert message.id.execution_id.name == execution
        if parent is None:
            assert message.id.node_id == name
        else:
            assert "parent" in parent.flags
            assert message.id.node_id == f"{parent.id}-{message.metadata.retry_group}-{name}"
        if name != "start-node":
            assert f"-{execution}/" in message.input_uri
            # Where no process looks for them, nodes share what they were given.
            assert message.input_uri.endswith("/inputs.pb") or "/shared/" in message.input_uri
        if parent is not None and "array" in parent.flags:
            assert message.input_uri == parent.message.input_uri, "items read what their map was given"
            assert message.metadata.retry_group == "0"
        good = node.phase in ("SUCCEEDED", "RECOVERED")
        assert bool(closure.output_uri) == good, f"{node.id} is {node.phase}"
        assert closure.HasField("error") == (node.phase in ("FAILED", "ABORTED")), f"{node.id} is {node.phase}"
        check_shape(execution, node.inside, node)


@pytest.fixture(scope="module")
def world(plugged: Plugged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with grpc.insecure_channel(plugged.instance.endpoint) as channel:
        yield World(plugged, channel, tmp_path_factory.mktemp("rest"))


@pytest.fixture(scope="module", autouse=True)
def cases(world: World) -> Iterator[dict[str, Case]]:
    """All of them, under way before the first test looks."""
    answering = world.launch("answering")
    wait_until("the connector is asked", (answering.folder / "sync").exists)
    world.plugged.terminate(answering.id)
    ways = {
        **dict.fromkeys(("eager_once", "eager_overlong", "eager_flaky"), ()),
        "once_broken": ("job", "done"),
        **dict.fromkeys(("fine", "flaky", "overlong", "lasting"), ("job",)),
    }
    begun = {"answering": answering, **{way: world.launch(way, *names) for way, names in ways.items()}}
    world.give(begun["once_broken"], "given", 3)
    yield begun
    for case in begun.values():
        if world.seen.phase(case.id) in ("QUEUED", "RUNNING"):
            world.plugged.terminate(case.id)


@pytest.fixture(scope="module")
def aborted(world: World, cases: dict[str, Case]) -> Case:
    """`lasting`, aborted while everything in it runs."""
    case = cases["lasting"]
    names = ("raw", "shell", "pod", "map0", "map1", "child0", "handler", "job/created")
    wait_until("all of it runs", lambda: all((case.folder / name).exists() for name in names))
    wait_until("all is asked for", lambda: set(world.asked(case)) == {"never given", "never approved"})
    world.plugged.terminate(case.id)
    return case


@pytest.fixture(scope="module")
def again(world: World, cases: dict[str, Case]) -> dict[str, Case]:
    """Recoveries of those that failed, and others once more, all at once as soon as the first are over."""
    first = {way: cases[way] for way in ("once_broken", "fine", "eager_once", "eager_flaky")}
    for case in first.values():
        world.ended(case)
    return {
        way: world.recover(case) if way in ("once_broken", "eager_once") else world.repeat(case)
        for way, case in first.items()
    }


# Failure, retry, timeout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raw", "exited with code 1"),
        ("shell", "Failed to Execute Script"),
        ("pod", "broken once"),
        ("async", "the job broke"),
        ("sync", "not the first time"),
        ("map", "1 of 2 items of map failed"),
        ("map/n1", "map 1 is broken once"),
        ("plans", "1 of 2 items of plans failed"),
        ("plans/n1", "child 1 is broken once"),
        ("handler", "the handler is broken once"),
        ("handler/fn0", "the handler is broken once"),
        ("handler-kept", "is broken for good"),
    ],
)
def test_it_fails(world: World, cases: dict[str, Case], name: str, says: str) -> None:
    phase, _ = world.ended(cases["once_broken"])
    node = world.node(cases["once_broken"], name)
    assert (phase, node.phase, node.error.kind) == ("FAILED", "FAILED", _USER)
    assert says in node.error.message
    attempts = world.seen.attempts(node)
    assert attempts == ([] if name.startswith(("plans", "handler")) and name != "handler/fn0" else ["FAILED"])
    if attempts and name != "map":
        error = world.attempt(node).closure.error
        assert says in error.message


def test_a_child_of_an_item_that_failed_says_why(world: World, cases: dict[str, Case]) -> None:
    item = world.node(cases["once_broken"], "plans/n1")
    child = world.seen.execution(item.child)
    assert child.spec.metadata.parent_node_execution == item.message.id
    assert child.closure.error == item.error


@pytest.mark.parametrize("name", ["raw", "shell", "pod", "async", "sync", "map/n1", "handler/fn0"])
def test_it_is_retried(world: World, cases: dict[str, Case], name: str) -> None:
    node = world.node(cases["flaky"], name)
    assert node.phase == "SUCCEEDED"
    assert world.seen.attempts(node) == ["FAILED", "SUCCEEDED"]
    first, second = world.attempt(node, 0), world.attempt(node, 1)
    assert first.closure.HasField("error")
    assert not first.closure.output_uri
    assert second.closure.output_uri == node.message.closure.output_uri
    assert node.message.closure.output_uri.endswith("/1/outputs.pb")
    generated = [attempt.closure.metadata.generated_name for attempt in (first, second)]
    assert generated == [f"{cases['flaky'].id.name}-{node.id}-{number}" for number in (0, 1)]


@pytest.mark.parametrize(
    "name",
    ["raw", "shell", "pod", "async", "sync", "map", "map/n0", "plans", "approve", "sleep", "handler/fn0"],
)
def test_it_takes_no_longer_than_it_may(world: World, cases: dict[str, Case], name: str) -> None:
    case = cases["overlong"]
    phase, _ = world.ended(case)
    node = world.node(case, name)
    assert (phase, node.phase, node.error.kind) == ("FAILED", "FAILED", _USER)
    assert EXPIRED in (node.error.message if name == "map" else node.error.code)
    if name in ("plans", "approve", "sleep"):
        assert world.seen.attempts(node) == []
    else:
        assert world.seen.attempts(node) == ["FAILED"]
        assert EXPIRED in (world.attempt(node).closure.error.message + world.attempt(node).closure.error.code)


def test_nothing_is_left_of_what_took_too_long(world: World, cases: dict[str, Case]) -> None:
    case = cases["overlong"]
    world.ended(case)
    assert (case.folder / "job" / "deleted").exists(), "the connector's job goes on"
    assert (case.folder / "job" / "created").read_text() == "0\n"
    wait_until("its processes have ended", lambda: not [pid for pid in case.pids() if is_alive(pid)])
    item = world.node(case, "plans/n0")
    assert (item.phase, world.seen.finished(item.child)) == ("ABORTED", "ABORTED")


# Abort


@pytest.mark.parametrize("name", ["raw", "shell", "pod", "async", "map", "map/n0", "map/n1", "handler/fn0"])
def test_an_abort_ends_an_attempt(world: World, aborted: Case, name: str) -> None:
    phase, _ = world.ended(aborted)
    node = world.node(aborted, name)
    assert (phase, node.phase, world.seen.attempts(node)) == ("ABORTED", "ABORTED", ["ABORTED"])
    assert (node.error.code, node.error.message) == ("NodeAborted", "enough")


@pytest.mark.parametrize("name", ["signal", "approve", "sleep", "plans", "plans/n0", "handler"])
def test_an_abort_ends_a_wait(world: World, aborted: Case, name: str) -> None:
    node = world.node(aborted, name)
    assert (node.phase, world.seen.attempts(node)) == ("ABORTED", [])
    assert (node.error.code, node.error.message) == ("NodeAborted", "enough")


def test_nothing_is_left_of_what_was_aborted(world: World, aborted: Case) -> None:
    world.ended(aborted)
    assert (aborted.folder / "job" / "deleted").exists(), "the connector's job goes on"
    assert len(aborted.pids()) == 7
    wait_until("its processes have ended", lambda: not [pid for pid in aborted.pids() if is_alive(pid)])
    assert world.seen.finished(world.node(aborted, "plans/n0").child) == "ABORTED"


def test_an_abort_ends_what_a_connector_answers_at_once(world: World, cases: dict[str, Case]) -> None:
    phase, nodes = world.ended(cases["answering"])
    assert (phase, nodes["n0"].phase, world.seen.attempts(nodes["n0"])) == ("ABORTED", "ABORTED", ["ABORTED"])
    assert cases["answering"].ran("sync") == 1


# Success, cache hit, cache explain


@pytest.mark.parametrize(
    ("name", "task_type", "plugin"),
    [
        ("raw", "raw-container", "container"),
        ("shell", "python-task", "container"),
        ("pod", "python-task", "container"),
        ("async", "slow-job", "connector-service"),
        ("sync", "note-down", "connector-service"),
        ("echo", "echo", "echo"),
        ("map/n0", "python-task", "container"),
    ],
)
def test_it_succeeds(world: World, cases: dict[str, Case], name: str, task_type: str, plugin: str) -> None:
    case = cases["fine"]
    phase, _ = world.ended(case)
    node = world.node(case, name)
    assert (phase, node.phase, node.flags, world.seen.attempts(node)) == (
        "SUCCEEDED",
        "SUCCEEDED",
        set(),
        ["SUCCEEDED"],
    )
    place = "map/data/0/0/0" if name == "map/n0" else f"{name}/data/0"
    assert node.message.closure.output_uri.endswith(f"/{place}/outputs.pb") or name == "echo"
    assert node.message.closure.task_node_metadata.cache_status == _POPULATED
    closure = world.attempt(node).closure
    assert (closure.task_type, closure.metadata.plugin_identifier) == (task_type, plugin)
    assert closure.output_uri == node.message.closure.output_uri
    explained = world.explain(case, node.id)
    assert "found no entry and made this one" in explained.reason


def test_items_of_a_map_are_nodes(world: World, cases: dict[str, Case]) -> None:
    """Layout 1 of spec/data-plane.md, 3.7."""
    node = world.node(cases["fine"], "map")
    assert node.flags == {"parent", "array"}
    assert node.phases() == {"n0": "SUCCEEDED", "n1": "SUCCEEDED"}
    for index, item in enumerate(node.inside[f"n{number}"] for number in range(2)):
        metadata = item.message.metadata
        assert (item.id, metadata.spec_node_id, item.flags) == (f"map-0-n{index}", f"n{index}", set())
        attempt = world.attempt(item)
        assert attempt.id.task_id.name.startswith("rest.map_part_fine_")
        assert attempt.id.node_execution_id == item.message.id
        assert attempt.closure.metadata.generated_name == f"{cases['fine'].id.name}-map-0-n{index}-0"
    whole = world.attempt(node).closure
    assert (whole.task_type, whole.metadata.plugin_identifier) == ("container_array", "k8s-array")


def test_items_of_a_map_over_a_launch_plan_are_nodes(world: World, cases: dict[str, Case]) -> None:
    node = world.node(cases["fine"], "plans")
    assert node.flags == {"parent", "array"}
    assert node.phases() == {"n0": "SUCCEEDED", "n1": "SUCCEEDED"}
    for index, item in enumerate(node.inside[f"n{number}"] for number in range(2)):
        assert (item.id, item.flags, world.seen.attempts(item)) == (f"plans-0-n{index}", set(), [])
        child = world.seen.execution(item.child)
        assert child.spec.metadata.mode == execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
        assert child.spec.metadata.parent_node_execution == item.message.id


@pytest.mark.parametrize("name", ["raw", "shell", "pod", "async", "sync", "echo", "map/n0", "map/n1"])
def test_what_was_computed_before_is_a_hit_and_explained(
    world: World, cases: dict[str, Case], again: dict[str, Case], name: str
) -> None:
    case = again["fine"]
    phase, _ = world.ended(case)
    node = world.node(case, name)
    assert (phase, node.phase) == ("SUCCEEDED", "SUCCEEDED")
    assert node.message.closure.task_node_metadata.cache_status == _HIT
    assert case.ran(name.replace("/n", "")) == (0 if name in ("async", "echo") else 1)
    assert (case.folder / "job" / "created").read_text() == "0\n"
    explained = world.explain(case, node.id)
    assert (explained.outcome, explained.entry.source_execution) == (catalog.OUTCOME_HIT, cases["fine"].id.name)
    if name.startswith("map/"):
        by_item = world.explain(case, "map", item=int(name[-1]))
        assert by_item.entry.source_execution == cases["fine"].id.name
    else:
        assert world.seen.attempts(node) == []


@pytest.mark.parametrize("name", ["plan", "plans/n0", "plans/n1"])
def test_what_a_child_computed_before_is_a_hit_and_explained(
    world: World, cases: dict[str, Case], again: dict[str, Case], name: str
) -> None:
    node = world.node(again["fine"], name)
    inner = world.seen.nodes(node.child)["n0"]
    assert inner.message.closure.task_node_metadata.cache_status == _HIT
    asked = catalog.NodeOfExecution(project=PROJECT, domain=DOMAIN, execution=node.child.name, node_id="n0")
    explained = world.catalog.Explain(catalog.ExplainRequest(node=asked))
    assert explained.outcome == catalog.OUTCOME_HIT
    assert explained.entry.source_execution == world.node(cases["fine"], name).child.name
    assert [again["fine"].ran(f"child{number}") for number in range(3)] == [1, 1, 1]


def test_maps_give_the_same_from_the_cache(world: World, again: dict[str, Case]) -> None:
    world.ended(again["fine"])
    data = world.admin.GetExecutionData(execution_pb2.WorkflowExecutionGetDataRequest(id=again["fine"].id))
    assert [plain(value) for _, value in sorted(data.full_outputs.literals.items())] == [[0, 1], [0, 1]]


# Recovery


@pytest.mark.parametrize("name", ["raw", "shell", "pod", "async", "sync", "map", "map/n1", "plans", "plans/n1"])
def test_what_failed_runs_again_in_a_recovery(world: World, again: dict[str, Case], name: str) -> None:
    case = again["once_broken"]
    node = world.node(case, name)
    assert node.phase == "SUCCEEDED"
    attempts = world.seen.attempts(node)
    assert attempts == ([] if name.startswith("plans") else ["SUCCEEDED"])
    notes = {"async": "job/created", "map/n1": "map1", "plans/n1": "child1", "plans": "child1", "map": "map1"}
    assert case.ran(notes.get(name, name)) == 2


@pytest.mark.parametrize("name", ["raw", "pod", "async", "sync", "echo", "signal", "sleep"])
def test_what_was_done_is_taken_over_by_a_recovery(world: World, again: dict[str, Case], name: str) -> None:
    case = again["once_broken"]
    node = world.node(case, f"{name}-done")
    assert (node.phase, world.seen.attempts(node)) == ("RECOVERED", [])
    assert world.asked(case) == []
    notes = {"raw": "done/raw", "pod": "done/pod_done", "async": "done/created", "sync": "done/sync"}
    if name in notes:
        assert case.ran(notes[name]) == 1


def test_an_item_that_was_done_is_taken_over_by_a_recovery(
    world: World, cases: dict[str, Case], again: dict[str, Case]
) -> None:
    case = again["once_broken"]
    item = world.node(case, "map/n0")
    if world.node(cases["once_broken"], "map/n0").phase == "SUCCEEDED":  # before the other one failed
        assert (item.phase, world.seen.attempts(item), case.ran("map0")) == ("RECOVERED", [], 1)
    assert item.message.closure.output_uri.endswith("/map/data/0/0/0/outputs.pb")


def test_failure_nodes_run_anew_in_a_recovery_unless_their_result_is_kept(world: World, again: dict[str, Case]) -> None:
    case = again["once_broken"]
    phase, _ = world.ended(case)
    assert phase == "FAILED", "what they handle fails again"
    once, kept = world.node(case, "handler/fn0"), world.node(case, "handler-kept/fn0")
    assert (once.phase, world.seen.attempts(once), case.ran("handler")) == ("SUCCEEDED", ["SUCCEEDED"], 2)
    assert (kept.phase, world.seen.attempts(kept), case.ran("handler_kept")) == ("SUCCEEDED", [], 1)
    assert kept.message.closure.task_node_metadata.cache_status == _HIT
    assert world.explain(case, kept.id).outcome == catalog.OUTCOME_HIT


# Eager workflows


def test_an_eager_workflow_fails_with_what_it_awaited_and_runs_again_in_a_recovery(
    world: World, cases: dict[str, Case], again: dict[str, Case]
) -> None:
    phase, nodes = world.ended(cases["eager_once"])
    assert (phase, nodes["n0"].phase, world.seen.attempts(nodes["n0"])) == ("FAILED", "FAILED", ["FAILED"])
    assert "step_once" in nodes["n0"].error.message
    phase, nodes = world.ended(again["eager_once"])
    assert (phase, nodes["n0"].phase, world.seen.attempts(nodes["n0"])) == ("SUCCEEDED", "SUCCEEDED", ["SUCCEEDED"])
    assert (again["eager_once"].ran("eager"), again["eager_once"].ran("step")) == (2, 2)


def test_an_eager_workflow_takes_no_longer_than_it_may_and_leaves_nothing(world: World, cases: dict[str, Case]) -> None:
    case = cases["eager_overlong"]
    phase, nodes = world.ended(case)
    assert (phase, nodes["n0"].phase, world.seen.attempts(nodes["n0"])) == ("FAILED", "FAILED", ["FAILED"])
    assert EXPIRED in nodes["n0"].error.code
    assert nodes["efn"].phase == "SUCCEEDED", "flytekit ends there what it launched"
    wait_until("its processes have ended", lambda: not [pid for pid in case.pids() if is_alive(pid)])


def test_an_eager_workflow_is_retried_and_its_result_is_kept(
    world: World, cases: dict[str, Case], again: dict[str, Case]
) -> None:
    phase, nodes = world.ended(cases["eager_flaky"])
    assert (phase, world.seen.attempts(nodes["n0"])) == ("SUCCEEDED", ["FAILED", "SUCCEEDED"])
    assert nodes["n0"].message.closure.deck_uri, "it shows what it launched"
    case = again["eager_flaky"]
    phase, nodes = world.ended(case)
    assert (phase, world.seen.attempts(nodes["n0"])) == ("SUCCEEDED", [])
    assert nodes["n0"].message.closure.task_node_metadata.cache_status == _HIT
    assert (case.ran("eager"), case.ran("step")) == (2, 1)
    explained = world.explain(case, "n0")
    assert (explained.outcome, explained.entry.source_execution) == (
        catalog.OUTCOME_HIT,
        cases["eager_flaky"].id.name,
    )


# What cannot be mapped over, which flytekit would not register


def answering_template(world: World) -> core_workflow_pb2.WorkflowTemplate:
    """The workflow `answering` as a client sends it: one node, that is given a folder."""
    identity = _identity(identifier_pb2.WORKFLOW, "rest.answering", world.plugged.version)
    found = world.admin.GetWorkflow(common_pb2.ObjectGetRequest(id=identity))
    template = core_workflow_pb2.WorkflowTemplate()
    template.CopyFrom(found.closure.compiled_workflow.primary.template)
    own = [node for node in template.nodes if node.id not in ("start-node", "end-node")]
    del template.nodes[:]
    template.nodes.extend(own)
    return template


def _identity(kind: int, name: str, version: str) -> identifier_pb2.Identifier:
    identity = identifier_pb2.Identifier(project=PROJECT, domain=DOMAIN, name=name, version=version)
    identity.resource_type = kind  # type: ignore[assignment]
    return identity


@pytest.mark.parametrize("kind", ["branch_node", "gate_node"])
def test_branches_and_gates_cannot_be_mapped_over_and_are_not_registered(world: World, kind: str) -> None:
    template = answering_template(world)
    (node,) = template.nodes
    arm = core_workflow_pb2.Node()
    arm.CopyFrom(node)
    inner = node.array_node.node
    if kind == "branch_node":
        inner.branch_node.if_else.case.then_node.CopyFrom(arm)
    else:
        inner.gate_node.sleep.duration.FromSeconds(1)
    template.id.name = f"rest.map_over_{kind}"
    request = workflow_pb2.WorkflowCreateRequest(id=template.id, spec=workflow_pb2.WorkflowSpec(template=template))
    with pytest.raises(grpc.RpcError) as caught:
        world.admin.CreateWorkflow(request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "An array node maps a task or a workflow, nothing else" in error.details()


def test_a_map_over_a_sub_workflow_fails_at_once_with_what_to_do(world: World) -> None:
    inner, template = answering_template(world), answering_template(world)
    (node,) = template.nodes
    bound = [binding for binding in node.inputs if binding.var == "folder"]
    del node.inputs[:]
    node.inputs.extend(bound)
    node.array_node.node.workflow_node.sub_workflow_ref.CopyFrom(inner.id)
    template.id.name = "rest.map_over_workflow"
    spec = workflow_pb2.WorkflowSpec(template=template, sub_workflows=[inner])
    world.admin.CreateWorkflow(workflow_pb2.WorkflowCreateRequest(id=template.id, spec=spec))
    plan = launch_plan_pb2.LaunchPlanSpec(workflow_id=template.id)
    plan.default_inputs.parameters["folder"].var.CopyFrom(template.interface.inputs.variables["folder"])
    plan.default_inputs.parameters["folder"].required = True
    identity = _identity(identifier_pb2.LAUNCH_PLAN, template.id.name, template.id.version)
    world.admin.CreateLaunchPlan(launch_plan_pb2.LaunchPlanCreateRequest(id=identity, spec=plan))

    execution = world.plugged.run(template.id.name, folder="anything")
    error = execution.closure.error
    assert (error.code, error.kind) == ("UnsupportedNodeKind", _USER)
    assert "map over a task, or over a launch plan of a workflow that has the node in it" in error.message
