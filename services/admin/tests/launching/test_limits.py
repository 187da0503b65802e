"""Budgets and turns: what one project asks for does not take what others need."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, execution_pb2, project_pb2
from flyteidl.core.identifier_pb2 import ResourceType
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.budgets import FEW, PRESENT_SECONDS, STEP_SECONDS, Bucket, Budgets, Turns
from aerodrome.admin.limits_config import LimitsConfig, RequestBudget
from aerodrome.admin.rpc.limits import limit
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import ResourceExhausted

CODE = grpc.StatusCode

steps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["begin", "end", "give up"]),
        st.sampled_from([0.0, 0.5, PRESENT_SECONDS]),
    ),
    max_size=200,
)


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 20),
    asks=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), max_size=60),
)
def test_no_more_is_taken_than_was_saved_up_and_has_flowed_in(
    rate: float, burst: int, asks: list[tuple[float, int]]
) -> None:
    bucket = Bucket(RequestBudget(requests_per_second=rate, burst=burst), 0.0)
    now, taken = 0.0, 0.0
    for passed, cost in asks:
        now += passed
        seconds = bucket.take(cost, now)
        if seconds == 0.0:
            taken += min(cost, burst)
        else:
            assert bucket.take(cost, now + seconds + 1e-6) == 0.0  # as it was promised
            now += seconds + 1e-6
            taken += min(cost, burst)
        assert taken <= burst + rate * now + 1e-6


@given(steps=steps, most=st.integers(1, 9))
def test_turns_are_bounded_shared_and_leave_nobody(steps: list[tuple[str, str, float]], most: int) -> None:
    alone, among_others = max(1, 3 * most // 4), max(1, most // 4)
    turns: Turns[int] = Turns(most)
    working: Counter[str] = Counter()
    waiting: dict[str, list[int]] = {each: [] for each in "abc"}
    asked: dict[str, float] = {}
    owner: dict[int, str] = {}
    now = 0.0

    def share(project: str) -> int:
        others = [at for each, at in asked.items() if each != project and now - at < PRESENT_SECONDS]
        return among_others if others else alone

    def check() -> None:
        assert turns.busy == working.total() <= most
        for project, queue in waiting.items():
            assert turns.waiting(project) == len(queue)

    def begun(project: str) -> None:
        working[project] += 1
        assert working[project] <= share(project)

    def end(project: str) -> None:
        working[project] -= 1
        for who in turns.end(project, now):
            assert waiting[owner[who]].pop(0) == who  # the oldest of its project
            begun(owner[who])
        for each, queue in waiting.items():
            if queue:  # then there is no room for it
                assert working.total() == most or working[each] >= share(each)

    for who, (project, step, passed) in enumerate(steps):
        owner[who] = project
        now += passed
        if step == "begin":
            asked[project] = now
            if turns.begin(project, now):
                begun(project)
            else:
                turns.wait(project, who)
                waiting[project].append(who)
        elif step == "end" and working[project]:
            end(project)
        elif step == "give up" and waiting[project]:
            assert turns.give_up(project, waiting[project][-1])
            assert not turns.give_up(project, waiting[project].pop())
        check()
    while working.total():
        end(next(project for project in "abc" if working[project]))
        check()
    assert not any(waiting.values())


async def test_a_crowd_keeps_few_places_as_long_as_another_project_is_there() -> None:
    clock = ManualClock()
    turns: Turns[int] = Turns(16)

    def fill(project: str) -> int:
        return sum(turns.begin(project, clock.boottime()) for _ in range(64))

    assert fill("crowd") == 12
    assert turns.begin("few", clock.boottime())  # at once, as there is room for it
    for who in range(64):
        turns.wait("crowd", who)
    for left in range(11, 0, -1):  # what is under way ends, and nobody of the crowd follows
        assert turns.end("crowd", clock.boottime()) == []
        assert turns.busy == left + 1
    assert len(turns.end("crowd", clock.boottime())) == 1
    assert turns.end("few", clock.boottime()) == []
    await clock.advance(PRESENT_SECONDS)
    assert len(turns.end("crowd", clock.boottime())) == 12  # nobody else came back


def test_a_crowd_beside_few_goes_one_at_a_time() -> None:
    turns: Turns[int] = Turns(16)
    assert turns.begin("few", 0.0)
    turns.end("few", 0.0)
    for _ in range(FEW):
        assert turns.begin("crowd", 0.0)
    assert not turns.begin("crowd", 0.0)
    for who in range(64):
        turns.wait("crowd", who)
    assert turns.end("crowd", 0.001) == []
    for who in range(20):
        assert turns.end("crowd", 0.001) == [who]
        assert turns.busy == 1
        assert turns.begin("few", 0.001)  # at once, and so is a second one
        assert turns.begin("few", 0.001)
        assert turns.end("few", 0.001) == turns.end("few", 0.001) == []


def test_a_crowd_that_waits_for_something_slow_goes_on_in_steps() -> None:
    turns: Turns[int] = Turns(16)
    assert turns.begin("few", 0.0)
    assert turns.begin("crowd", 0.0)
    for who in range(9):
        turns.wait("crowd", who)
    now = 0.0
    for who in range(3):  # up to its share
        assert turns.go_on(now) == []
        pause = turns.pause(now)
        assert pause is not None
        assert pause == pytest.approx(STEP_SECONDS)
        now += pause + 1e-9
        assert turns.go_on(now) == [who]
    assert turns.pause(now + STEP_SECONDS) is None  # whoever ends makes room
    assert turns.go_on(PRESENT_SECONDS + now) == [3, 4, 5, 6, 7, 8]  # nobody else came back


def test_where_all_are_crowds_they_have_all_of_their_places() -> None:
    turns: Turns[str] = Turns(16)
    for project in "ab":
        assert turns.begin(project, 0.0)
        turns.begin(project, 0.0)
        for _ in range(50):
            turns.wait(project, project)
    begun = turns.go_on(0.0)
    assert sorted(begun) == ["a", "a", "b", "b"]
    assert turns.end("a", 0.0) == ["a"]
    assert turns.pause(0.0) is None


def test_a_project_of_its_own_budget_pays_from_that() -> None:
    budgets = Budgets(RequestBudget(requests_per_second=1, burst=1), {"large": RequestBudget()})
    assert [budgets.take("large", 5, 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert budgets.take("small", 1, 0.0) == 0.0
    assert budgets.take("small", 1, 0.0) == 1.0
    assert budgets.take("other", 1, 0.0) == 0.0


class Slow:
    """A servicer whose answers come when the test lets them."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[str] = asyncio.Queue()
        self.go = asyncio.Semaphore(0)

    async def CreateExecution(self, request: execution_pb2.ExecutionCreateRequest, context: Any) -> str:
        self.entered.put_nowait(request.project)
        await self.go.acquire()
        return request.project


def ask(slow: Slow, project: str, *, child: bool = False) -> asyncio.Task[str]:
    request = execution_pb2.ExecutionCreateRequest(project=project)
    if child:
        request.spec.metadata.mode = execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
        request.spec.metadata.parent_node_execution.node_id = "n0"
    return asyncio.ensure_future(slow.CreateExecution(request, None))


async def test_a_burst_of_one_project_leaves_places_for_others_at_once() -> None:
    slow = Slow()
    limit(slow, LimitsConfig(requests_in_flight=4), ManualClock())
    burst = [ask(slow, "crowd") for _ in range(500)]
    async with asyncio.timeout(10):
        assert [await slow.entered.get() for _ in range(3)] == ["crowd"] * 3
        others = [ask(slow, "few") for _ in range(3)]
        assert await slow.entered.get() == "few"
        assert slow.entered.empty()
        slow.go.release()
        slow.go.release()
        burst[-1].cancel()
        for _ in range(600):
            slow.go.release()
        assert await asyncio.gather(*others) == ["few"] * 3
        assert (await asyncio.gather(*burst, return_exceptions=True)).count("crowd") == 499


async def test_a_crowd_beside_few_is_answered_to_the_last_however_slow_the_first_is() -> None:
    slow = Slow()
    clock = ManualClock()
    limit(slow, LimitsConfig(), clock)
    async with asyncio.timeout(30):
        slow.go.release()
        assert await ask(slow, "few") == "few"
        burst = [ask(slow, "crowd") for _ in range(100)]
        entered = [await slow.entered.get() for _ in range(1 + FEW)]
        assert entered == ["few", *["crowd"] * FEW]
        for each in burst[50:60]:
            each.cancel()
        await asyncio.sleep(0)
        assert slow.entered.empty()
        await clock.advance(STEP_SECONDS)  # none of them has ended, and the next one begins all the same
        assert await slow.entered.get() == "crowd"
        for _ in range(200):
            slow.go.release()
        answers = await asyncio.gather(*burst, return_exceptions=True)
        assert answers.count("crowd") == 90


async def test_too_many_that_wait_are_refused_but_children_never(build: Any) -> None:
    slow = Slow()
    limit(slow, LimitsConfig(requests_in_flight=1, requests_waiting=2), ManualClock())
    tasks = [ask(slow, "crowd") for _ in range(3)]
    async with asyncio.timeout(10):
        await slow.entered.get()
        with pytest.raises(ResourceExhausted, match="2 requests of project crowd wait already; send fewer at once"):
            await ask(slow, "crowd")
        tasks += [ask(slow, "crowd", child=True), ask(slow, "few")]
        for _ in tasks:
            slow.go.release()
        assert await asyncio.gather(*tasks) == ["crowd"] * 4 + ["few"]


class TestBudgets:
    @pytest.fixture
    def config(self) -> AdminConfig:
        return AdminConfig.model_validate(
            {
                "flyte": {"admin": {"seed_projects": ["flytesnacks", "other"]}},
                "limits": {"request_budget": {"requests_per_second": 0.5, "burst": 12}},
            }
        )

    async def test_one_that_is_used_up_says_when_to_come_again(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())  # 1
        await platform.stub.CreateWorkflow(build.workflow_request())  # 5
        await platform.stub.CreateLaunchPlan(build.launch_plan_request())  # 1
        for at in range(5):
            await platform.stub.CreateExecution(build.execution_request(f"e{at}"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await platform.stub.CreateExecution(build.execution_request("e5"))
        assert caught.value.code() is CODE.RESOURCE_EXHAUSTED
        assert caught.value.details() == (
            "project flytesnacks has used up its budget of 0.5 requests per second (at most 12 at once): try again in "
            "2.00 s, send fewer requests, or let an operator raise limits.requestBudget"
        )
        (trailer,) = [value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"]
        assert isinstance(trailer, bytes)
        (detail,) = Status.FromString(trailer).details
        info = RetryInfo()
        assert detail.Unpack(info)
        assert info.retry_delay.ToTimedelta().total_seconds() == 2.0
        listing = common_pb2.ResourceListRequest(limit=1)
        listing.id.project, listing.id.domain = "flytesnacks", "development"
        with pytest.raises(grpc.aio.AioRpcError):
            await platform.stub.ListExecutions(listing)
        listing.id.project = "other"
        await platform.stub.ListExecutions(listing)
        await platform.stub.ListProjects(project_pb2.ProjectListRequest(limit=1))
        await platform.stub.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=build.key("e0")))
        await platform.clock.advance(2)
        await platform.stub.CreateExecution(build.execution_request("e5"))

    async def test_what_a_node_launches_takes_none(self, platform: Any, build: Any) -> None:
        for at in range(15):
            request = build.execution_request(f"e{at}", build.identifier(ResourceType.LAUNCH_PLAN, "unknown"))
            request.spec.metadata.mode = execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
            request.spec.metadata.parent_node_execution.node_id = "n0"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await platform.stub.CreateExecution(request)
            assert caught.value.code() is CODE.NOT_FOUND


class TestSizes:
    """Each limit is a setting, is enforced at the edge, and says what it is."""

    @pytest.fixture
    def config(self) -> AdminConfig:
        return AdminConfig.model_validate(
            {
                "flyte": {"admin": {"seed_projects": ["flytesnacks"]}},
                "registration": {
                    "max_workflow_nodes": 2,
                    "workflow_size_limit": "4Ki",
                    "max_entity_bytes": 1_000,
                    "max_execution_spec_bytes": 500,
                },
                "storage": {"limits": {"max_download_mbs": 1}},
            }
        )

    async def refusal(self, call: Any) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is CODE.INVALID_ARGUMENT, caught.value
        return str(caught.value.details())

    async def test_what_is_too_large_is_refused_with_the_limit(self, platform: Any, build: Any) -> None:
        stub = platform.stub
        task = build.task_request("large")
        task.spec.template.container.args.append("x" * 1_000)
        assert "at most 1000 are allowed" in await self.refusal(stub.CreateTask(task))
        await stub.CreateTask(build.task_request())
        workflow = build.workflow_request("nodes")
        for at in range(2):
            workflow.spec.template.nodes.add(id=f"m{at}").CopyFrom(workflow.spec.template.nodes[0])
            workflow.spec.template.nodes[-1].id = f"m{at}"
        text = await self.refusal(stub.CreateWorkflow(workflow))
        assert "number of nodes in workflow" in text
        assert "3 > 2" in text
        workflow = build.workflow_request("bytes")
        workflow.spec.template.nodes[0].metadata.name = "n" * 5_000
        assert "4Ki" in (text := await self.refusal(stub.CreateWorkflow(workflow))) or "4096" in text
        await stub.CreateWorkflow(build.workflow_request())
        plan = build.launch_plan_request("large")
        plan.spec.annotations.values["note"] = "x" * 1_000
        assert "at most 1000 are allowed" in await self.refusal(stub.CreateLaunchPlan(plan))
        await stub.CreateLaunchPlan(build.launch_plan_request())
        request = build.execution_request("e1")
        request.spec.annotations.values["note"] = "x" * 500
        assert "at most 500 are allowed" in await self.refusal(stub.CreateExecution(request))
        request = build.execution_request("e2")
        request.inputs.literals["zz"].scalar.primitive.string_value = "x" * 2**20
        assert "inputs too large" in await self.refusal(stub.CreateExecution(request))

    async def test_pages_have_a_size(self, platform: Any, build: Any) -> None:
        listing = common_pb2.ResourceListRequest()
        listing.id.project, listing.id.domain = "flytesnacks", "development"
        assert await self.refusal(platform.stub.ListExecutions(listing)) == "invalid value for limit"
        listing.limit = 2**31 - 1  # more than a page may have: it is cut, and the token leads on
        await platform.stub.ListExecutions(listing)
