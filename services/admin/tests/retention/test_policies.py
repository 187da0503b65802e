"""Policies: which one counts, what they make due, and what a sweep and a dry run make of that."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.domain.retention import (
    Policy,
    Stored,
    attempts_of_item,
    attempts_of_node,
    check_policy,
    effective,
    namesakes,
)
from aerodrome.idl.retention.v1 import retention_pb2
from aerodrome.idl.retention.v1.retention_pb2 import (
    DeletePolicyRequest,
    DeletionCause,
    DeletionKind,
    DryRunRequest,
    ExecutionKey,
    GetPolicyRequest,
    ListDeletionsRequest,
    ListPoliciesRequest,
    PinExecutionRequest,
    SetPolicyRequest,
)
from aerodrome.propeller.layout import Layout
from aerodrome.stdlib.errors import InvalidArgument

PROJECT, DOMAIN = "flytesnacks", "development"

_words = st.text("ab-", min_size=1, max_size=6)
_places = st.tuples(st.sampled_from(["", "p", "q"]), st.sampled_from(["", "d", "e"])).filter(
    lambda place: bool(place[0]) or not place[1]
)


@given(_words, _words, _words)
def test_namesakes_are_exactly_those_of_the_same_identity(project: str, domain: str, name: str) -> None:
    stored = Stored(1, project, domain, name)
    found = namesakes(stored)
    assert all("-".join(each) == stored.identity for each in found)
    assert (project, domain, name) not in found
    for other in found:
        assert (project, domain, name) in namesakes(Stored(2, *other))


@given(st.dictionaries(_places, st.integers(1, 9)), st.sampled_from("pqr"), st.sampled_from("def"))
def test_the_most_specific_policy_counts(days: dict[tuple[str, str], int], project: str, domain: str) -> None:
    found = effective([Policy(*place, each, None) for place, each in days.items()], project, domain)
    expected = next((each for each in ((project, domain), (project, ""), ("", "")) if each in days), None)
    assert (None if found is None else (found.project, found.domain)) == expected


@given(st.integers(-5, 40_000) | st.none(), st.integers(-5, 40_000) | st.none())
def test_a_policy_is_refused_or_deletes_blobs_no_later_than_executions(
    executions: int | None, blobs: int | None
) -> None:
    policy = Policy("p", "d", executions, blobs)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    try:
        check_policy(policy)
    except InvalidArgument:
        return
    before = policy.executions_before(now)
    blobs_before = policy.blobs_before(now)
    assert before is not None or blobs_before is not None
    assert before is None or before <= now - timedelta(days=1)
    assert before is None or blobs_before is None or before <= blobs_before


@given(st.text("abc", min_size=1, max_size=60), st.integers(1, 4))
def test_a_raw_output_is_told_by_its_name_or_known_to_be_a_hash(name: str, attempts: int) -> None:
    for found in (list(attempts_of_node(name, "n0", attempts)), list(attempts_of_item(name, "n0", 7, attempts))):
        assert len({each.raw_output for each in found}) == attempts
        for each in found:
            assert each.hashed != each.raw_output.partition("/")[2].startswith(f"{name}-")


@pytest.mark.parametrize("name", ["short", "long-enough-for-a-hash-together-with-node-and-attempt"])
@pytest.mark.parametrize("node", ["n0", "a-node-with-a-long-id"])
def test_attempts_are_called_as_the_data_plane_calls_them(name: str, node: str) -> None:
    layout = Layout(execution=name, data_dir="", raw_base="s3://raw")
    array: Any = SimpleNamespace(unique_id=node, attempts=0, memo={})
    item: Any = SimpleNamespace(unique_id=layout.item_id(array, 7), memo={"element": lambda: None})
    for expected, found in ((array, attempts_of_node(name, node, 2)), (item, attempts_of_item(name, node, 7, 2))):
        assert [f"s3://raw/{each.raw_output}" for each in found] == [layout.raw_prefix(expected, at) for at in (0, 1)]


async def dry_run(world: Any, **fields: Any) -> Any:
    return await world.retention.DryRun(DryRunRequest(**fields))


async def test_what_is_set_is_returned_listed_and_removed(world: Any) -> None:
    await world.keep(keep_executions_days=30)
    await world.keep(PROJECT, keep_blobs_days=7, keep_executions_days=90)
    get = world.retention.GetPolicy
    own = (await get(GetPolicyRequest(project=PROJECT, domain=DOMAIN))).policy
    assert (own.project, own.domain, own.keep_executions_days, own.keep_blobs_days) == (PROJECT, "", 90, 7)
    general = (await get(GetPolicyRequest(project="other", domain=DOMAIN))).policy
    assert general.keep_executions_days == 30
    assert not general.HasField("keep_blobs_days")
    listed = (await world.retention.ListPolicies(ListPoliciesRequest())).policies
    assert [each.project for each in listed] == ["", PROJECT]
    first = await world.retention.DeletePolicy(DeletePolicyRequest())
    second = await world.retention.DeletePolicy(DeletePolicyRequest())
    assert (first.was_set, second.was_set) == (True, False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(GetPolicyRequest(project="other", domain=DOMAIN))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_policy_that_cannot_be_meant_is_refused(world: Any) -> None:
    asked: list[tuple[dict[str, Any], str, str]] = [
        ({}, "INVALID_ARGUMENT", "set keep_executions_days or keep_blobs_days"),
        ({"keep_executions_days": 0}, "INVALID_ARGUMENT", "keep_executions_days"),
        ({"keep_executions_days": 2**32 - 1}, "INVALID_ARGUMENT", "keep_executions_days"),
        ({"keep_blobs_days": 10, "keep_executions_days": 5}, "INVALID_ARGUMENT", "at most keep_executions_days"),
        ({"domain": DOMAIN, "keep_blobs_days": 10}, "INVALID_ARGUMENT", "needs a project"),
        ({"project": PROJECT, "domain": "moon", "keep_blobs_days": 1}, "INVALID_ARGUMENT", "not configured"),
        ({"project": "nowhere", "keep_blobs_days": 1}, "NOT_FOUND", "nowhere"),
        ({"project": "\x00", "keep_blobs_days": 1}, "INVALID_ARGUMENT", "NUL"),
    ]
    for policy, code, words in asked:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.retention.SetPolicy(SetPolicyRequest(policy=retention_pb2.Policy(**policy)))
        assert caught.value.code().name == code
        assert words in (caught.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError):
        await world.retention.SetPolicy(SetPolicyRequest())


async def test_a_sweep_deletes_what_is_due_as_the_dry_run_said(world: Any) -> None:
    await world.register("other")
    await world.run("old")
    await world.run("failed", phase="FAILED")
    await world.run("pinned")
    await world.launch("never-began")
    await world.run("elsewhere", project="other")
    await world.retention.PinExecution(
        PinExecutionRequest(execution=ExecutionKey(project=PROJECT, domain=DOMAIN, name="pinned"))
    )
    first = world.clock.now()
    world.days_pass(20)
    await world.run("young")
    await world.keep(PROJECT, keep_executions_days=30)
    assert await world.admin.retention.sweep() == 0
    world.days_pass(11)

    (due,) = (await dry_run(world, measured_executions=10)).places
    assert (due.project, due.domain, due.executions, due.blobs_only, due.kept) == (PROJECT, DOMAIN, 2, 0, 1)
    assert due.oldest.ToDatetime(tzinfo=UTC) == first
    assert due.measured_executions == 2
    count, size = due.blobs, due.blob_bytes
    assert not (await dry_run(world, project="other")).places

    assert await world.admin.retention.sweep() == 2
    names = ("old", "failed", "pinned", "never-began", "young")
    assert [await world.exists(name) for name in names] == [False, False, True, True, True]
    assert await world.exists("elsewhere", "other")
    deletions = (await world.retention.ListDeletions(ListDeletionsRequest())).deletions
    assert {each.cause for each in deletions} == {DeletionCause.DELETION_CAUSE_POLICY}
    assert (sum(each.blobs for each in deletions), sum(each.blob_bytes for each in deletions)) == (count, size)
    assert await world.admin.retention.sweep() == 0


async def test_blobs_may_go_before_their_execution_and_once(world: Any) -> None:
    gone = await world.run("old")
    before = await world.rows_of(gone)
    await world.keep(keep_blobs_days=1, keep_executions_days=3)
    world.days_pass(2)
    (due,) = (await dry_run(world)).places
    assert (due.executions, due.blobs_only) == (0, 1)
    assert await world.admin.retention.sweep() == 1
    assert not set(world.blobs("old")) & set(await world.everything())
    assert await world.rows_of(gone) == before | {"execution_deletions": 1}
    (deletion,) = (await world.retention.ListDeletions(ListDeletionsRequest())).deletions
    assert deletion.kind == DeletionKind.DELETION_KIND_BLOBS
    assert await world.admin.retention.sweep() == 0
    assert not (await dry_run(world)).places
    world.days_pass(2)
    assert await world.admin.retention.sweep() == 1
    assert await world.rows_of(gone) == {"execution_deletions": 2, "execution_tombstones": 1}


async def test_a_policy_can_be_tried_out(world: Any) -> None:
    await world.run("old")
    world.days_pass(5)
    (due,) = (await dry_run(world, policy=retention_pb2.Policy(keep_executions_days=3))).places
    assert due.executions == 1
    assert not (await dry_run(world, policy=retention_pb2.Policy(keep_executions_days=6))).places
    assert await world.admin.retention.sweep() == 0


async def test_a_family_is_due_when_its_root_is(world: Any) -> None:
    child = await world.run("child")
    world.days_pass(5)
    parent = await world.run("parent")
    await world.database.execute(
        "UPDATE executions SET parent_execution_id = $2 WHERE execution_id = $1", child, parent
    )
    await world.keep(keep_executions_days=3)
    assert await world.admin.retention.sweep() == 0
    world.days_pass(4)
    assert await world.admin.retention.sweep() == 2


async def test_the_background_finishes_and_sweeps_by_itself(world: Any) -> None:
    await world.run("old")
    world.catalog.refuses = 1
    await world.delete("old")
    await world.run("older")
    await world.keep(keep_executions_days=1)
    world.days_pass(2)
    task = asyncio.create_task(world.admin.retention.run())
    async with asyncio.timeout(20):
        finished = "SELECT count(*) FROM execution_deletions WHERE finished_at IS NOT NULL"
        while await world.database.fetchval(finished) != 2:  # noqa: ASYNC110  # another process may be the one to tell
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})


async def test_a_partition_of_which_nothing_is_left_is_dropped(world: Any) -> None:
    old = datetime(2020, 2, 1, tzinfo=UTC)
    await world.database.execute("SELECT ensure_execution_partitions($1, $2)", old, old + timedelta(days=90))
    partitions = "SELECT count(*) FROM pg_class WHERE relname ~ '_2020q[12]$' AND relkind = 'r'"
    assert await world.database.fetchval(partitions) == 8
    await world.run("recent")
    await world.database.execute(
        "INSERT INTO journal (execution_id, sequence, epoch, kind, body) VALUES (execution_id_at($1) + 1, 1, 0, 1, '')",
        old,
    )
    dropped = await world.admin.retention.drop_partitions()
    assert len(dropped) == 7
    assert "journal_2020q1" not in dropped
    await world.database.execute("DELETE FROM journal WHERE execution_id < execution_id_at($1)", old + timedelta(1))
    assert await world.admin.retention.drop_partitions() == ["journal_2020q1"]
    assert await world.database.fetchval(partitions) == 0
    await world.run("still-works")


async def test_launches_go_on_while_a_sweep_deletes(world: Any) -> None:
    for number in range(6):
        await world.run(f"old{number}")
    await world.keep(keep_executions_days=1)
    world.days_pass(2)
    sweep = asyncio.create_task(world.admin.retention.sweep())
    launched = [await world.launch(f"new{number}") for number in range(20)]
    assert await sweep == 6
    assert len(set(launched)) == 20
    assert await world.database.fetchval("SELECT count(*) FROM executions") == 20
