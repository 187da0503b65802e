"""Deleting one execution for good: nothing of it is left, nothing of others is touched, and nothing stops it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from flyteidl.admin import execution_pb2
from flyteidl.admin.execution_pb2 import ExecutionMetadata, WorkflowExecutionGetRequest
from flyteidl.admin.node_execution_pb2 import NodeExecutionClosure
from flyteidl.core.identifier_pb2 import WorkflowExecutionIdentifier

from aerodrome.idl.retention.v1.retention_pb2 import (
    DeletionCause,
    DeletionKind,
    ExecutionKey,
    ListDeletionsRequest,
    PinExecutionRequest,
    UnpinExecutionRequest,
)
from aerodrome.stdlib.errors import Unavailable
from aerodrome.stdlib.storage.local import LocalStorage

PROJECT, DOMAIN = "flytesnacks", "development"


def identifier(name: str) -> WorkflowExecutionIdentifier:
    return WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=name)


def key(name: str) -> ExecutionKey:
    return ExecutionKey(project=PROJECT, domain=DOMAIN, name=name)


async def refused(call: Any, code: grpc.StatusCode, *words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == code, caught.value
    for word in words:
        assert word in (caught.value.details() or "")


async def cache_hit(world: Any, user: int, source: str, node: str = "hit") -> None:
    """A node of `user` whose outputs came from `source`."""
    closure = NodeExecutionClosure()
    key = closure.task_node_metadata.catalog_key.source_task_execution.node_execution_id.execution_id
    key.CopyFrom(identifier(source))
    await world.database.execute(
        "INSERT INTO node_executions (execution_id, node_id, phase, closure, node_execution_metadata, cache_status) "
        "VALUES ($1, $2, 'SUCCEEDED', $3, '', 'CACHE_HIT')",
        user, node, closure.SerializeToString(),
    )  # fmt: skip


async def test_nothing_of_it_is_left_and_everything_of_others_is(world: Any) -> None:
    kept = await world.run("kept")
    before = await world.everything()
    rows_before = await world.rows_of(kept)
    gone = await world.run("gone")
    await world.database.execute("INSERT INTO signals (execution_id, signal_id, type) VALUES ($1, 's', '')", gone)
    await world.database.execute("INSERT INTO execution_tags (execution_id, key) VALUES ($1, 'k')", gone)
    tables = await world.rows_of(gone)
    assert {"executions", "leases", "signals", "execution_tags"} <= set(tables)
    assert sum(count for table, count in tables.items() if table.startswith("journal")) >= 5
    made = {reference for reference in await world.everything() if reference not in before}
    assert len(made) >= 6

    answer = await world.delete("gone")

    (deletion,) = answer.deletions
    assert deletion.HasField("finished_at")
    assert (deletion.kind, deletion.cause) == (
        DeletionKind.DELETION_KIND_EXECUTION,
        DeletionCause.DELETION_CAUSE_REQUEST,
    )
    assert deletion.blobs == len(made)
    assert deletion.blob_bytes >= 5 * len(world.blobs("gone"))
    distinct = {table: count for table, count in tables.items() if not table[-1].isdigit() and table not in ("x",)}
    assert deletion.rows == sum(distinct.values())
    assert await world.everything() == before
    assert await world.rows_of(kept) == rows_before
    assert await world.rows_of(gone) == {"execution_deletions": 1, "execution_tombstones": 1}
    assert world.catalog.told == ["flytesnacks/development/gone"]
    assert world.pods.forgotten == [f"flytesnacks-development/gone-{node}-0" for node in ("n0", "n0-0-n3")]


async def test_a_runtime_that_is_away_is_tried_again(world: Any) -> None:
    spec = execution_pb2.ExecutionSpec()
    spec.raw_output_data_config.output_location_prefix = place = world.storage.join("mine", "raw")
    gone = await world.run("gone", spec=spec, raw_base=place)
    world.pods.refuses = 1
    (deletion,) = (await world.delete("gone")).deletions
    assert not deletion.HasField("finished_at")
    assert "the runtime is away" in deletion.last_error
    world.days_pass(1 / 24)
    assert await world.admin.retention.resume() == 1
    assert await world.rows_of(gone) == {"execution_deletions": 1, "execution_tombstones": 1}
    assert world.pods.forgotten == [f"flytesnacks-development/gone-{node}-0" for node in ("n0", "n0-0-n3")]


async def test_its_name_stays_taken_and_it_is_not_found(world: Any) -> None:
    await world.run("gone")
    await world.delete("gone")
    await refused(
        world.stub.GetExecution(WorkflowExecutionGetRequest(id=identifier("gone"))), grpc.StatusCode.NOT_FOUND
    )
    await refused(world.launch("gone"), grpc.StatusCode.ALREADY_EXISTS)
    again = await world.delete("gone")
    assert [each.execution.name for each in again.deletions] == ["gone"]


async def test_what_runs_or_was_never_there_is_refused(world: Any) -> None:
    await world.launch("running")
    await refused(world.delete("running"), grpc.StatusCode.FAILED_PRECONDITION, "terminate it")
    await refused(world.delete("nowhere"), grpc.StatusCode.NOT_FOUND, "nowhere")
    await refused(world.delete(""), grpc.StatusCode.INVALID_ARGUMENT, "name")
    assert await world.exists("running")


async def test_a_data_plane_that_has_not_let_go_is_waited_for(world: Any) -> None:
    gone = await world.run("held")
    await world.database.execute("UPDATE leases SET state = 'held', session_id = 1 WHERE execution_id = $1", gone)
    await refused(world.delete("held"), grpc.StatusCode.FAILED_PRECONDITION, "try again")


async def test_a_pin_holds_until_it_is_taken_away(world: Any) -> None:
    await world.run("pinned")
    await world.retention.PinExecution(PinExecutionRequest(execution=key("pinned"), reason="the audit of May"))
    await refused(world.delete("pinned"), grpc.StatusCode.FAILED_PRECONDITION, "the audit of May", "unpin")
    first = await world.retention.UnpinExecution(UnpinExecutionRequest(execution=key("pinned")))
    second = await world.retention.UnpinExecution(UnpinExecutionRequest(execution=key("pinned")))
    assert (first.was_pinned, second.was_pinned) == (True, False)
    await world.delete("pinned")
    await refused(world.retention.PinExecution(PinExecutionRequest(execution=key("pinned"))), grpc.StatusCode.NOT_FOUND)


async def test_an_execution_goes_with_all_that_it_launched(world: Any) -> None:
    before = await world.everything()
    ids = {name: await world.run(name) for name in ("parent", "child", "grandchild", "bystander")}
    for child, parent in (("child", "parent"), ("grandchild", "child")):
        await world.database.execute(
            "UPDATE executions SET parent_execution_id = $2, parent_node_id = 'n0' WHERE execution_id = $1",
            ids[child], ids[parent],
        )  # fmt: skip
    await refused(world.delete("child"), grpc.StatusCode.FAILED_PRECONDITION, "part of flytesnacks/development/parent")
    answer = await world.delete("parent")
    assert [each.execution.name for each in answer.deletions] == ["parent", "child", "grandchild"]
    assert all(each.HasField("finished_at") for each in answer.deletions)
    assert await world.exists("bystander")
    left = set(await world.everything()) - set(before)
    assert all("bystander" in each for each in left)


async def test_what_others_recovered_from_stays(world: Any) -> None:
    source = await world.run("source", phase="FAILED")
    recovered = await world.run("recovered")
    await world.database.execute(
        "UPDATE executions SET recovered_execution_id = $2 WHERE execution_id = $1", recovered, source
    )
    await refused(world.delete("source"), grpc.StatusCode.FAILED_PRECONDITION, "recovered from it")
    await world.delete("recovered")
    await world.delete("source")


async def test_what_the_cache_gave_to_others_stays(world: Any) -> None:
    await world.run("source")
    user = await world.run("user")
    await cache_hit(world, user, "source")
    await refused(world.delete("source"), grpc.StatusCode.FAILED_PRECONDITION, "user", "from the cache")
    await world.delete("user")
    await world.delete("source")


async def test_a_hit_found_while_it_was_being_deleted_keeps_the_blobs(world: Any) -> None:
    user = await world.run("user")
    await world.run("source")
    evict = world.catalog.evict_execution

    async def too_late(project: str, domain: str, name: str) -> None:
        await cache_hit(world, user, "source")
        world.catalog.evict_execution = evict

    world.catalog.evict_execution = too_late
    (deletion,) = (await world.delete("source")).deletions
    assert not deletion.HasField("finished_at")
    assert "user" in deletion.last_error
    assert set(world.blobs("source")) <= set(await world.everything())
    await world.delete("user")
    world.days_pass(1 / 24)
    assert await world.admin.retention.resume() == 1
    assert not set(world.blobs("source")) & set(await world.everything())


async def test_an_unknown_cache_entry_is_waited_for_and_tried_again(world: Any) -> None:
    world.catalog.refuses = 2
    gone = await world.run("gone")
    (deletion,) = (await world.delete("gone")).deletions
    assert not deletion.HasField("finished_at")
    assert "the catalog is away" in deletion.last_error
    assert set(world.blobs("gone")) <= set(await world.everything())
    assert not await world.exists("gone")
    assert await world.admin.retention.resume() == 0  # not before its time
    world.days_pass(1 / 24)
    assert await world.admin.retention.resume() == 1
    world.days_pass(1 / 24)
    assert await world.admin.retention.resume() == 1
    assert await world.rows_of(gone) == {"execution_deletions": 1, "execution_tombstones": 1}
    listed = await world.retention.ListDeletions(ListDeletionsRequest(unfinished_only=True))
    assert not listed.deletions


class Crash(BaseException):
    """The process ends here."""


async def test_a_crash_at_any_step_is_continued_from(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await world.everything()
    steps = 0
    crash_at = 0

    def counted(method: Any) -> Any:
        async def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == crash_at:
                raise Crash
            return await method(*args, **kwargs)

        return counting

    owner = "aerodrome.admin.repositories.retention.RetentionRepository"
    finished = False
    while not finished:
        crash_at, steps = crash_at + 1, 0
        name = f"gone{crash_at}"
        gone = await world.run(name)
        with monkeypatch.context() as patch:
            patch.setattr(world.catalog, "evict_execution", counted(world.catalog.evict_execution))
            patch.setattr(LocalStorage, "delete_prefix", counted(LocalStorage.delete_prefix))
            for method in ("delete_rows", "advance"):
                patch.setattr(f"{owner}.{method}", counted(_method(owner, method)))
            try:
                await world.admin.retention.delete_execution(PROJECT, DOMAIN, name, "")
                finished = True
            except BaseException as error:  # noqa: BLE001  # the crash may come in a group of exceptions
                assert _holds_crash(error), error  # noqa: PT017
        assert not await world.exists(name)
        world.days_pass(1 / 24)
        assert await world.admin.retention.resume() == (0 if finished else 1)
        assert await world.everything() == before, crash_at
        assert await world.rows_of(gone) == {"execution_deletions": 1, "execution_tombstones": 1}
    assert crash_at > 12


def _method(owner: str, name: str) -> Any:
    module, _, cls = owner.rpartition(".")
    return getattr(getattr(__import__(module, fromlist=[cls]), cls), name)


def _holds_crash(error: BaseException) -> bool:
    return isinstance(error, Crash) or (
        isinstance(error, BaseExceptionGroup) and any(map(_holds_crash, error.exceptions))
    )


async def test_a_store_that_fails_is_tried_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.run("gone")

    async def away(self: Any, prefix: str) -> int:
        raise Unavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete_prefix", away)
        (deletion,) = (await world.delete("gone")).deletions
    assert "the store is away" in deletion.last_error
    (deletion,) = (await world.delete("gone")).deletions
    assert deletion.HasField("finished_at")
    assert not deletion.last_error


async def test_raw_outputs_where_the_user_wanted_them_are_not_ours(world: Any) -> None:
    place = world.storage.join("mine", "raw")
    spec = execution_pb2.ExecutionSpec()
    spec.raw_output_data_config.output_location_prefix = place
    await world.run("gone", spec=spec, raw_base=place)
    await world.delete("gone")
    assert {each for each in await world.everything() if "gone" in each} == set(world.blobs("gone", raw_base=place)[2:])


async def test_a_namesake_in_another_domain_keeps_its_raw_outputs(world: Any) -> None:
    await world.register(domain="staging")
    before = await world.everything()
    await world.run("twin")
    await world.run("twin", domain="staging")
    shared = set(world.blobs("twin")[2:])
    assert shared == set(world.blobs("twin", domain="staging")[2:])
    await world.delete("twin")
    left = await world.everything()
    assert set(world.blobs("twin", domain="staging")) <= set(left)
    assert not set(world.blobs("twin")[:2]) & set(left)
    await world.delete("twin", domain="staging")
    assert await world.everything() == before
    assert await world.database.fetchval("SELECT count(*) FROM retained_prefixes") == 0


async def test_names_that_give_the_same_directory_keep_it(world: Any) -> None:
    """Project `flytesnacks`, name `development-x` and ... both are `flytesnacks-development-development-x`."""
    await world.database.execute("INSERT INTO projects (identifier, name) VALUES ('flytesnacks-development', 'x')")
    await world.register(project="flytesnacks-development")
    before = await world.everything()
    await world.run("development-x")
    await world.run("x", project="flytesnacks-development")
    await world.delete("development-x")
    assert set(world.blobs("x", project="flytesnacks-development")) <= set(await world.everything())
    assert not world.pods.forgotten
    await world.delete("x", project="flytesnacks-development")
    assert await world.everything() == before


async def test_a_child_of_what_was_deleted_can_no_longer_be_launched(world: Any) -> None:
    await world.run("parent")
    await world.delete("parent")
    spec = execution_pb2.ExecutionSpec()
    spec.metadata.mode = ExecutionMetadata.CHILD_WORKFLOW
    spec.metadata.parent_node_execution.execution_id.CopyFrom(identifier("parent"))
    spec.metadata.parent_node_execution.node_id = "n0"
    await refused(world.launch("late", spec=spec), grpc.StatusCode.NOT_FOUND)


async def test_deletions_are_listed_the_latest_first_a_page_at_a_time(world: Any) -> None:
    for name in ("a", "b", "c"):
        await world.run(name)
        await world.delete(name)
    first = await world.retention.ListDeletions(ListDeletionsRequest(project=PROJECT, limit=2))
    second = await world.retention.ListDeletions(ListDeletionsRequest(project=PROJECT, limit=2, token=first.token))
    assert [each.execution.name for each in (*first.deletions, *second.deletions)] == ["c", "b", "a"]
    assert second.token == ""
    assert not (await world.retention.ListDeletions(ListDeletionsRequest(project="other"))).deletions
    await refused(
        world.retention.ListDeletions(ListDeletionsRequest(token="x")), grpc.StatusCode.INVALID_ARGUMENT, "token"
    )
