"""The pure rules: what a pod means here, what its status says, and who may run."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.propeller.runtimes import pods
from aerodrome.propeller.runtimes.pods import Key, Machine, Outcome, Plan, Refused, Situation, State
from aerodrome.propeller.runtimes.slots import IDLE_AFTER_SECONDS, Activity, Holder, may_enter
from aerodrome.stdlib.errors import InvalidArgument

from .harness import make_pod

MACHINE = Machine(cores=4, memory_bytes=8 << 30)


def planned(**fields: Any) -> Plan:
    """The plan of a pod whose container has these fields besides."""
    pod = make_pod("p", ["run"])
    pod["spec"]["containers"][0].update(fields)
    return pods.plan(pod, MACHINE)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_command_and_args_are_joined() -> None:
    assert pods.plan(make_pod("p", ["a"], args=["b", "c"]), MACHINE).argv == ("a", "b", "c")


def test_the_annotated_container_is_the_primary_one() -> None:
    pod = make_pod("p", ["main"])
    pod["metadata"]["annotations"]["primary_container_name"] = "second"
    pod["spec"]["containers"].append({"name": "second", "image": "i", "command": ["second"]})
    plan = pods.plan(pod, MACHINE)
    assert (plan.container, plan.argv) == ("second", ("second",))
    assert "left out: p" in plan.warnings[0]
    pod["metadata"]["annotations"]["primary_container_name"] = "third"
    with pytest.raises(Refused, match="'third'"):
        pods.plan(pod, MACHINE)


def test_without_an_annotation_the_container_of_the_pods_name_is_the_primary_one() -> None:
    pod = make_pod("p", ["main"])
    pod["metadata"]["annotations"] = {}
    pod["spec"]["containers"].insert(0, {"name": "sidecar", "command": ["sidecar"]})
    assert pods.plan(pod, MACHINE).argv == ("main",)
    del pod["spec"]["containers"][1]
    assert pods.plan(pod, MACHINE).argv == ("sidecar",)


def test_the_last_of_two_variables_wins_and_expansion_takes_earlier_ones() -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$(LATER)-$$(A)-$x"},
        {"name": "A", "value": "2"},
        {"name": "EMPTY"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['node-id']"}}},
    ]
    pod = make_pod("p", ["run", "$(A)", "$(NO)", "$$(A)"], labels={"node-id": "n0"})
    pod["spec"]["containers"][0]["env"] = env
    plan = pods.plan(pod, MACHINE)
    assert plan.environment == {
        "A": "2", "B": "1-$(LATER)-$(A)-$x", "EMPTY": "", "NAME": "p", "LABEL": "n0",
    }  # fmt: skip
    assert plan.argv == ("run", "2", "$(NO)", "$(A)")


def test_a_variable_from_an_object_of_a_cluster_is_refused_unless_optional() -> None:
    source = {"secretKeyRef": {"name": "s", "key": "k"}}
    with pytest.raises(Refused, match="TOKEN"):
        planned(env=[{"name": "TOKEN", "valueFrom": source}])
    source["secretKeyRef"]["optional"] = True  # type: ignore[assignment]
    plan = planned(env=[{"name": "TOKEN", "valueFrom": source}])
    assert plan.environment == {}
    assert "TOKEN" in plan.warnings[0]
    with pytest.raises(Refused, match="'settings'"):
        planned(envFrom=[{"configMapRef": {"name": "settings"}}])
    assert planned(envFrom=[{"configMapRef": {"name": "settings", "optional": True}}]).environment == {}


@pytest.mark.parametrize(
    ("resources", "memory", "warnings"),
    [
        ({}, 0, 0),
        ({"requests": {"cpu": "500m", "memory": "1Gi"}}, 1 << 30, 0),
        ({"limits": {"memory": "1Gi"}}, 0, 0),  # a bound is no request
        ({"requests": {"memory": "900Gi"}}, 8 << 30, 1),
        ({"requests": {"cpu": "64", "memory": "900Gi"}}, 8 << 30, 2),
        ({"requests": {"nvidia.com/gpu": "0", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi"}}, 0, 0),
    ],
)
def test_requests_count_or_are_lowered(resources: dict[str, Any], memory: int, warnings: int) -> None:
    plan = planned(resources=resources)
    assert plan.memory_bytes == memory
    assert len(plan.warnings) == warnings


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "gpu", "google.com/tpu", "aws.amazon.com/neuron"])
@pytest.mark.parametrize("where", ["requests", "limits"])
def test_devices_cannot_be_had(name: str, where: str) -> None:
    with pytest.raises(Refused) as caught:
        planned(resources={where: {name: "1"}})
    assert caught.value.reason == "UnsatisfiableResources"


def test_a_malformed_quantity_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="memory"):
        planned(resources={"requests": {"memory": "lots"}})


NAMES = st.text("ab-./AB_\0\n", max_size=20) | st.sampled_from(["", ".", "..", "a" * 253, "a" * 254])


@given(NAMES, NAMES)
def test_an_accepted_name_is_one_path_component(namespace: str, name: str) -> None:
    try:
        key = pods.key_of({"metadata": {"namespace": namespace, "name": name}})
    except InvalidArgument:
        return
    for part in key:
        assert part not in ("", ".", "..")
        assert "/" not in part
        assert "\0" not in part


@given(st.text(alphabet="$(AB)x "), st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["", "1", "$(A)"])))
def test_expansion_leaves_text_without_markers_alone(text: str, environment: dict[str, str]) -> None:
    expanded = pods._expand(text, environment)
    if "$" not in text:
        assert expanded == text
    if not environment:
        assert expanded == text.replace("$$", "$")


# -- statuses ----------------------------------------------------------------------------------------------------------


def situation(state: State, outcome: Outcome | None = None, pid: int | None = None) -> Situation:
    return Situation(state, "main", "image", 1_000.0, 1_001.0 if pid else None, pid, outcome, "waits")


@pytest.mark.parametrize(
    ("given", "phase", "container"),
    [
        (situation(State.QUEUED), "Pending", None),
        (situation(State.LAUNCHING), "Pending", "waiting"),
        (situation(State.RUNNING, pid=7), "Running", "running"),
        (situation(State.ENDED, Outcome(0, 1_002.0), 7), "Succeeded", "terminated"),
        (situation(State.ENDED, Outcome(1, 1_002.0), 7), "Failed", "terminated"),
        (situation(State.ENDED, Outcome(137, 1_002.0, 9, "OOMKilled"), 7), "Failed", "terminated"),
        (situation(State.ENDED, Outcome(137, 1_002.0, None, "Lost", "gone"), 7), "Failed", "terminated"),
    ],
)
def test_a_status_says_what_is_known(given: Situation, phase: str, container: str | None) -> None:
    status = pods.status(given)
    assert status["phase"] == phase
    statuses = status["containerStatuses"]
    assert [list(each["state"]) for each in statuses] == ([[container]] if container else [])


def test_reasons_stand_where_kubernetes_has_them() -> None:
    def ended(outcome: Outcome) -> tuple[str | None, str, int]:
        status = pods.status(situation(State.ENDED, outcome, 7))
        end = status["containerStatuses"][0]["state"]["terminated"]
        return status.get("reason"), end["reason"], end["exitCode"]

    assert ended(Outcome(0, 1.0)) == (None, "Completed", 0)
    assert ended(Outcome(3, 1.0)) == (None, "Error", 3)
    assert ended(Outcome(143, 1.0, 15)) == (None, "Error", 143)
    assert ended(Outcome(137, 1.0, 9, "OOMKilled")) == (None, "OOMKilled", 137)
    assert ended(Outcome(137, 1.0, 9, "Shutdown")) == ("Shutdown", "Error", 137)
    assert ended(Outcome(137, 1.0, None, "Lost")) == ("Lost", "ContainerStatusUnknown", 137)
    assert ended(Outcome(128, 1.0, None, "StartError", "why")) == ("StartError", "StartError", 128)


@given(
    st.builds(
        Outcome,
        st.integers(0, 255),
        st.floats(0, 2e9),
        st.none() | st.integers(1, 64),
        st.none() | st.sampled_from(["Lost", "OOMKilled"]),
        st.none() | st.sampled_from(["", "why", "\n\u2713"]),
    )
)
def test_an_outcome_is_read_as_it_was_written(outcome: Outcome) -> None:
    assert Outcome.read(outcome.written()) == outcome


def test_a_key_reads_as_a_path() -> None:
    assert str(Key("ns", "name")) == "ns/name"


# -- slots -------------------------------------------------------------------------------------------------------------


def test_a_process_is_idle_after_a_while_without_work() -> None:
    activity = Activity()
    assert not activity.observe(1.0, 0.5)  # the first sample says nothing about the rate
    assert [activity.observe(float(now), 0.5) for now in (2, 3, 4)] == [False, True, True]
    assert activity.observe(5.0, 0.6)  # as much as asking a server takes
    assert not activity.observe(6.0, 1.2)


@given(st.floats(0.0, 2.0), st.floats(0.0, 0.09), st.lists(st.floats(0.9, 1.3), min_size=3, max_size=20))
def test_a_process_that_asks_a_server_every_two_seconds_is_idle(
    first: float, question_seconds: float, waits: list[float]
) -> None:
    activity, now = Activity(), 0.0
    for wait in waits:
        now += wait
        questions = max(0, math.floor((now - first) / 2.0) + 1)
        idle = activity.observe(now, questions * question_seconds)
        assert idle == (now - waits[0] >= IDLE_AFTER_SECONDS)


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.0, 1.0)), max_size=30))
def test_what_works_or_waits_for_a_processor_is_never_idle(samples: list[tuple[float, float]]) -> None:
    activity, now, used, waited = Activity(), 0.0, 0.0, 0.0
    for elapsed, share in samples:
        now += elapsed
        used += elapsed * share
        waited += elapsed * (1.0 - share)
        assert not activity.observe(now, used, waited)


def test_what_waits_for_those_that_it_launched_is_idle_whatever_that_costs() -> None:
    activity = Activity(gives_way=True)
    assert [activity.observe(float(now), now * 1.0) for now in (1, 2, 3, 4)] == [False, False, True, True]


holders = st.lists(st.builds(Holder, st.booleans(), st.integers(0, 8)), max_size=10)


@given(holders, st.integers(1, 8), st.integers(0, 16))
def test_no_more_are_at_work_than_there_are_slots(held: list[Holder], slots: int, wanted: int) -> None:
    busy = sum(not holder.idle for holder in held)
    if may_enter(held, slots, 16, wanted):
        assert busy < slots


@given(holders, st.integers(1, 16))
def test_memory_is_never_promised_twice(held: list[Holder], wanted: int) -> None:
    taken = sum(holder.memory_bytes for holder in held)
    if may_enter(held, 100, 16, wanted):
        assert taken == 0 or taken + wanted <= 16


@given(st.integers(0, 1 << 60))
def test_who_is_alone_always_enters(wanted: int) -> None:
    assert may_enter([], 1, 16, wanted)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/var/in", "/x y/1"),
        ("/var/in/a", "/x y/1/a"),
        ("cat /var/in/a > /var/in/out/b", "cat /x y/1/a > /2/b"),
        ("--in=/var/in", "--in=/x y/1"),
        ("/var/inputs", "/var/inputs"),
        ("/else/var/in", "/else/var/in"),
        ("'/var/in':'/var/in/out'", "'/x y/1':'/2'"),
        ("nothing", "nothing"),
    ],
)
def test_paths_of_volumes_are_replaced_where_they_stand_as_such(text: str, expected: str) -> None:
    assert pods.relocated(text, {"/var/in": "/x y/1", "/var/in/out": "/2"}) == expected
