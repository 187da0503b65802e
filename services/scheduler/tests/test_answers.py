"""What people ask of the scheduler and tell it: lists, previews, backfills, pauses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.idl.scheduler.v1 import scheduler_pb2 as messages
from aerodrome.scheduler.main import Scheduler
from aerodrome.stdlib.errors import InvalidArgument, Unavailable

from .conftest import DOMAIN, PROJECT, START, World, at, cron, rate

MINUTE = timedelta(minutes=1)
CODE = grpc.StatusCode


def stamp(moment: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)
    return found


async def refused(call: Any, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        await call
    error: Any = raised.value
    assert error.code() is code, error.details()
    return str(error.details())


@pytest.fixture
async def scheduler(world: World) -> Scheduler:
    scheduler = world.scheduler()
    assert await scheduler.tick()
    return scheduler


class TestPreview:
    async def preview(self, world: World, scheduler: Scheduler, **fields: Any) -> Any:
        return await world.ask(scheduler).Preview(messages.PreviewRequest(**fields))

    async def test_the_next_slots_of_an_expression(self, world: World, scheduler: Scheduler) -> None:
        found = await self.preview(world, scheduler, expression="CRON_TZ=America/New_York 30 2 * * *",
                                   after=stamp(at("2026-03-07 00:00")), slots=3)  # fmt: skip
        assert list(found.local_times) == [
            "2026-03-07T02:30:00-05:00", "2026-03-09T02:30:00-04:00", "2026-03-10T02:30:00-04:00",
        ]  # fmt: skip
        assert found.slots[0].ToDatetime(UTC) == at("2026-03-07 07:30")
        assert found.time_zone == "America/New_York"

    async def test_of_a_rate_and_from_now(self, world: World, scheduler: Scheduler) -> None:
        found = await self.preview(world, scheduler, period=Duration(seconds=90))
        assert [each.ToDatetime(UTC) for each in found.slots] == [START + n * 1.5 * MINUTE for n in range(1, 11)]
        assert found.time_zone == "UTC"

    async def test_refuses(self, world: World, scheduler: Scheduler) -> None:
        refusals: list[dict[str, Any]] = [
            {},
            {"expression": "* * * *"},
            {"expression": "* * * * *", "time_zone": "Mars/Base"},
            {"expression": "* * * * *", "slots": 1001},
            {"expression": "* * * * *", "after": Timestamp(seconds=253402300799)},
            {"expression": "* * * * *", "after": Timestamp(seconds=2**62)},
            {"expression": "* * * * *", "after": Timestamp(seconds=-62135596800)},
            {"period": Duration(seconds=0)},
            {"period": Duration(seconds=-5)},
            {"period": Duration(seconds=2**62)},
        ]
        for fields in refusals:
            await refused(self.preview(world, scheduler, **fields), CODE.INVALID_ARGUMENT)


class TestLists:
    async def test_pages_go_through_all_schedules_in_order(self, world: World, scheduler: Scheduler) -> None:
        for name in ("c", "a", "e", "b", "d"):
            await world.launch_plan(cron("0 * * * *") if name < "d" else rate(1), name=name)
        await scheduler.resync()
        ask, names, token = world.ask(scheduler), [], ""
        while True:
            page = await ask.ListSchedules(messages.ListSchedulesRequest(page_size=2, page_token=token))
            names += [each.launch_plan.name for each in page.schedules]
            token = page.next_page_token
            if not token:
                break
        assert names == ["a", "b", "c", "d", "e"]

    async def test_filters(self, world: World, scheduler: Scheduler) -> None:
        gone = await world.launch_plan(cron("0 * * * *"), name="a")
        await world.launch_plan(cron("0 * * * *"), name="b")
        await scheduler.resync()
        await world.deactivate(gone)
        await scheduler.resync()
        ask = world.ask(scheduler)
        for fields, expected in (
            ({}, ["a", "b"]),
            ({"active_only": True}, ["b"]),
            ({"filter": messages.ScheduleFilter(name="a")}, ["a"]),
            ({"filter": messages.ScheduleFilter(project="elsewhere")}, []),
        ):
            page = await ask.ListSchedules(messages.ListSchedulesRequest(**fields))
            assert [each.launch_plan.name for each in page.schedules] == expected

    async def test_decisions_page_from_the_newest(self, world: World, scheduler: Scheduler) -> None:
        await world.launch_plan(cron("* * * * *"))
        await scheduler.resync()
        await world.pass_time(scheduler, START + 5 * MINUTE)
        ask, found, token = world.ask(scheduler), [], ""
        while True:
            page = await ask.ListDecisions(messages.ListDecisionsRequest(page_size=2, page_token=token))
            found += [each.slot.ToDatetime(UTC) for each in page.decisions]
            token = page.next_page_token
            if not token:
                break
        assert found == [START + n * MINUTE for n in (5, 4, 3, 2, 1)]
        none = await ask.ListDecisions(messages.ListDecisionsRequest(outcomes=[messages.OUTCOME_FAILED]))
        assert not none.decisions

    async def test_old_decisions_are_forgotten(self, world: World) -> None:
        scheduler = world.scheduler(decisions_kept=3)
        for name in ("a", "b"):
            await world.launch_plan(cron("* * * * *"), name=name)
        await scheduler.resync()
        await world.pass_time(scheduler, START + 5 * MINUTE)
        await scheduler.prune()
        page = await world.ask(scheduler).ListDecisions(messages.ListDecisionsRequest())
        assert len(page.decisions) == 6
        assert min(each.slot.ToDatetime(UTC) for each in page.decisions) == START + 3 * MINUTE


class TestPause:
    @pytest.mark.parametrize("place", [(PROJECT, "", ""), (PROJECT, DOMAIN, ""), (PROJECT, DOMAIN, "lp")])
    async def test_paused_nothing_fires_and_resumed_it_goes_on_from_then(
        self, world: World, scheduler: Scheduler, place: tuple[str, str, str]
    ) -> None:
        await world.launch_plan(cron("* * * * *"))
        await scheduler.resync()
        ask = world.ask(scheduler)
        project, domain, name = place
        await world.pass_time(scheduler, START + MINUTE)
        await ask.Pause(messages.PauseRequest(project=project, domain=domain, name=name, reason="maintenance"))
        await world.pass_time(scheduler, START + 3 * MINUTE)
        (seen,) = (await ask.ListSchedules(messages.ListSchedulesRequest(decisions=5))).schedules
        assert seen.pauses[0].reason == "maintenance"
        assert not seen.HasField("next_slot")
        assert [each.reason for each in seen.last_decisions] == ["paused: maintenance"] * 2 + [""]
        await world.clock.advance(2.5 * MINUTE)  # nobody is there, and nobody looks before it is resumed
        await ask.Resume(messages.ResumeRequest(project=project, domain=domain, name=name))
        await ask.Resume(messages.ResumeRequest(project=project, domain=domain, name=name))
        await world.pass_time(scheduler, START + 7 * MINUTE)
        assert await world.slots() == [START + n * MINUTE for n in (1, 6, 7)]

    async def test_others_are_not_held_back(self, world: World, scheduler: Scheduler) -> None:
        for name in ("a", "b"):
            await world.launch_plan(cron("* * * * *"), name=name)
        await scheduler.resync()
        await world.ask(scheduler).Pause(messages.PauseRequest(project=PROJECT, domain=DOMAIN, name="a"))
        await world.pass_time(scheduler, START + MINUTE)
        assert await world.slots("a") == []
        assert await world.slots("b") == [START + MINUTE]

    async def test_refuses(self, world: World, scheduler: Scheduler) -> None:
        refusals: list[dict[str, str]] = [
            {}, {"project": PROJECT, "name": "lp"}, {"project": "x" * 256}, {"project": "a\0b"},
            {"project": PROJECT, "reason": "x" * 1001},
        ]  # fmt: skip
        for fields in refusals:
            await refused(world.ask(scheduler).Pause(messages.PauseRequest(**fields)), CODE.INVALID_ARGUMENT)


class TestBackfill:
    def request(self, start: datetime, end: datetime, **fields: str) -> Any:
        wanted = messages.LaunchPlanVersion(**{"project": PROJECT, "domain": DOMAIN, "name": "lp", **fields})
        return messages.BackfillRequest(launch_plan=wanted, start=stamp(start), end=stamp(end))

    async def test_fires_the_slots_of_a_range_once_and_finds_those_that_were_fired(
        self, world: World, scheduler: Scheduler
    ) -> None:
        await world.launch_plan(cron("0 * * * *", kickoff="when"))
        await scheduler.resync()
        await world.pass_time(scheduler, START + 60 * MINUTE, timedelta(minutes=10))
        ask = world.ask(scheduler)
        ordered = (await ask.Backfill(self.request(START - 180 * MINUTE, world.clock.now()))).backfill
        assert ordered.slots == 4  # 9, 10, 11 and 12 o'clock; the end does not belong to the range
        repeated = (await ask.Backfill(self.request(START - 60 * MINUTE, world.clock.now()))).backfill
        await world.pass_time(scheduler, START + 61 * MINUTE, timedelta(seconds=1))
        hours = [START + n * 60 * MINUTE for n in (-3, -2, -1, 0, 1)]
        assert await world.slots() == hours
        orders = (await ask.ListBackfills(messages.ListBackfillsRequest())).backfills
        assert [each.id for each in orders] == [repeated.id, ordered.id]
        assert all(each.HasField("finished_at") for each in orders)
        assert sum(each.fired for each in orders) == 4
        assert sum(each.existed for each in orders) == 2
        (seen,) = (await ask.ListSchedules(messages.ListSchedulesRequest())).schedules
        assert seen.last_slot.ToDatetime(UTC) == hours[-1]

    async def test_survives_trouble_and_a_change_of_leader_and_counts_refusals(
        self, world: World, scheduler: Scheduler
    ) -> None:
        await world.launch_plan(cron("0 * * * *"))
        await scheduler.resync()
        await world.ask(scheduler).Backfill(self.request(START - 120 * MINUTE, START))
        world.door.error = Unavailable("away")
        assert await scheduler.tick()
        await scheduler.leadership.release()
        second = world.scheduler()
        world.door.error = InvalidArgument("no")
        assert await second.tick()
        (order,) = (await world.ask(second).ListBackfills(messages.ListBackfillsRequest())).backfills
        assert (order.slots, order.fired, order.failed) == (2, 0, 2)
        assert order.HasField("finished_at")

    async def test_refuses(self, world: World, scheduler: Scheduler) -> None:
        await world.launch_plan(cron("* * * * *"))
        await scheduler.resync()
        ask = world.ask(scheduler)
        earlier = START - 10 * MINUTE
        refusals: list[tuple[Any, grpc.StatusCode]] = [
            (self.request(START, earlier), CODE.INVALID_ARGUMENT),
            (self.request(START, START), CODE.INVALID_ARGUMENT),
            (self.request(START, START + MINUTE), CODE.INVALID_ARGUMENT),
            (self.request(earlier - timedelta(days=30), START), CODE.INVALID_ARGUMENT),
            (self.request(earlier, START, name=""), CODE.INVALID_ARGUMENT),
            (self.request(earlier, START, name="other"), CODE.NOT_FOUND),
            (self.request(earlier, START, version="v9"), CODE.NOT_FOUND),
            (messages.BackfillRequest(), CODE.INVALID_ARGUMENT),
        ]
        for request, code in refusals:
            await refused(ask.Backfill(request), code)


TEXTS = st.sampled_from(["", "a", PROJECT, "x" * 5000, "\0", "é", "%", "'; --"])
NUMBERS = st.sampled_from([0, 1, 1000, 1001, 2**31, 2**32 - 1])
TOKENS = st.sampled_from(["", "x", "!!", "MQ==", "W10=", "bnVsbA==", "WzEsMiwzLDRd", "LTE=", "W" * 5000, "é"])
FILTERS = st.builds(messages.ScheduleFilter, project=TEXTS, domain=TEXTS, name=TEXTS, version=TEXTS)
MALFORMED: dict[str, Callable[..., Any]] = {
    "ListSchedules": lambda f, t, n, s: messages.ListSchedulesRequest(filter=f, page_token=t, page_size=n, decisions=n),
    "ListDecisions": lambda f, t, n, s: messages.ListDecisionsRequest(
        filter=f, page_token=t, page_size=n, outcomes=[n % 9]),
    "ListBackfills": lambda f, t, n, s: messages.ListBackfillsRequest(filter=f, page_token=t, page_size=n),
    "Preview": lambda f, t, n, s: messages.PreviewRequest(expression=t, time_zone=s, slots=n),
    "Pause": lambda f, t, n, s: messages.PauseRequest(project=f.project, domain=f.domain, name=s, reason=t),
    "Resume": lambda f, t, n, s: messages.ResumeRequest(project=f.project, domain=f.domain, name=s),
    "Backfill": lambda f, t, n, s: messages.BackfillRequest(
        launch_plan=messages.LaunchPlanVersion(project=s, domain=s, name=f.name), start=Timestamp(seconds=n - 5),
        end=Timestamp(seconds=n, nanos=n % 2**31)),
}  # fmt: skip


async def test_no_request_is_a_defect(world: World, scheduler: Scheduler) -> None:
    requests: list[tuple[str, Any]] = []

    @settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(FILTERS, TOKENS, NUMBERS, TEXTS)
    def collect(filter_: Any, token: str, number: int, text: str) -> None:
        requests.extend((rpc, make(filter_, token, number, text)) for rpc, make in MALFORMED.items())

    collect()
    ask = world.ask(scheduler)
    for rpc, request in requests:
        try:
            await getattr(ask, rpc)(request)
        except grpc.RpcError as raised:
            error: Any = raised
            assert error.code() in (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND), (request, error.details())
