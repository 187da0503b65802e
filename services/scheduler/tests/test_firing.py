"""Slots become executions, exactly once each: through a real control plane, on a manual clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flyteidl.admin.execution_pb2 import ExecutionMetadata, WorkflowExecutionGetDataRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanState, LaunchPlanUpdateRequest
from flyteidl.admin.project_pb2 import Project

from aerodrome.idl.scheduler.v1 import scheduler_pb2 as messages
from aerodrome.scheduler.domain.naming import Key, execution_name
from aerodrome.scheduler.main import Scheduler
from aerodrome.stdlib.errors import InvalidArgument, Unavailable

from .conftest import DOMAIN, PROJECT, START, World, at, cron, rate

MINUTE = timedelta(minutes=1)


def minutes(first: int, last: int) -> list[datetime]:
    """Whole minutes after START."""
    return [START + number * MINUTE for number in range(first, last + 1)]


async def ready(world: World, **settings: Any) -> Scheduler:
    """A leader that knows what is active."""
    scheduler = world.scheduler(**settings)
    await scheduler.resync()
    assert await scheduler.tick()
    return scheduler


async def until(look: Callable[[], bool]) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def decisions(world: World, scheduler: Scheduler, name: str = "lp") -> list[Any]:
    """What was decided about a launch plan, the oldest first."""
    request = messages.ListDecisionsRequest(filter=messages.ScheduleFilter(name=name), page_size=1000)
    return list(reversed((await world.ask(scheduler).ListDecisions(request)).decisions))


async def schedule(world: World, scheduler: Scheduler, name: str = "lp") -> Any:
    request = messages.ListSchedulesRequest(filter=messages.ScheduleFilter(name=name), decisions=20)
    (found,) = (await world.ask(scheduler).ListSchedules(request)).schedules
    return found


async def test_cron_fires_on_time_with_its_name_and_its_kickoff_time(world: World) -> None:
    await world.launch_plan(cron("*/2 * * * *", kickoff="when"))
    scheduler = await ready(world)
    await world.pass_time(scheduler, START + 5 * MINUTE)
    assert await world.slots() == [START + 2 * MINUTE, START + 4 * MINUTE]
    first = (await world.executions())[0]
    key = Key(PROJECT, DOMAIN, "lp", "v1")
    assert first.id.name == execution_name(key, START + 2 * MINUTE)
    assert first.spec.metadata.mode == ExecutionMetadata.SCHEDULED
    assert first.spec.launch_plan.version == "v1"
    data = await world.stub.GetExecutionData(WorkflowExecutionGetDataRequest(id=first.id))
    kickoff = data.full_inputs.literals["when"].scalar.primitive.datetime
    assert kickoff.ToDatetime(UTC) == START + 2 * MINUTE
    seen = await schedule(world, scheduler)
    assert seen.next_slot.ToDatetime(UTC) == START + 6 * MINUTE
    assert seen.last_slot.ToDatetime(UTC) == START + 4 * MINUTE
    assert seen.last_execution_name == execution_name(key, START + 4 * MINUTE)
    assert [each.outcome for each in seen.last_decisions] == [messages.OUTCOME_FIRED] * 2
    assert {each.origin for each in seen.last_decisions} == {messages.ORIGIN_ON_TIME}


async def test_rate_counts_from_activation_and_gets_its_kickoff_time_and_keeps_step_after_a_restart(
    world: World,
) -> None:
    await world.clock.advance(17)
    await world.launch_plan(rate(3, kickoff="when"))
    anchor = START + timedelta(seconds=17)
    scheduler = await ready(world)
    await world.pass_time(scheduler, anchor + 4 * MINUTE)
    await scheduler.leadership.release()
    again = world.scheduler()
    await world.clock.advance(10)
    assert await again.tick()
    assert await world.slots() == [anchor + 3 * MINUTE]
    await world.pass_time(again, anchor + 10 * MINUTE)
    assert await world.slots() == [anchor + n * MINUTE for n in (3, 6, 9)]
    data = await world.stub.GetExecutionData(WorkflowExecutionGetDataRequest(id=(await world.executions())[0].id))
    kickoff = data.full_inputs.literals["when"].scalar.primitive.datetime
    assert kickoff.ToDatetime(UTC) == anchor + 3 * MINUTE


async def test_nothing_fires_early(world: World) -> None:
    await world.launch_plan(cron("* * * * *"))
    scheduler = await ready(world)
    await world.clock.advance(59.999)
    assert await scheduler.tick()
    assert await world.slots() == []
    await world.clock.advance(0.001)
    assert await scheduler.tick()
    assert await world.slots() == minutes(1, 1)


class TestActivation:
    async def test_deactivated_it_stops_and_activated_again_it_makes_up_for_nothing(self, world: World) -> None:
        launch_plan = await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + 2 * MINUTE)
        await world.clock.advance(1)
        await world.deactivate(launch_plan)
        await scheduler.launch_plan_changed(LaunchPlanUpdateRequest(id=launch_plan).SerializeToString())
        await world.pass_time(scheduler, START + 5.5 * MINUTE)
        assert await world.slots() == minutes(1, 2)
        assert not (await schedule(world, scheduler)).active
        await world.set_state(launch_plan, LaunchPlanState.ACTIVE)
        await scheduler.launch_plan_changed(LaunchPlanUpdateRequest(id=launch_plan).SerializeToString())
        await world.pass_time(scheduler, START + 7 * MINUTE)
        assert await world.slots() == [*minutes(1, 2), *minutes(6, 7)]

    async def test_a_resync_finds_what_no_announcement_told(self, world: World) -> None:
        scheduler = await ready(world)
        launch_plan = await world.launch_plan(cron("* * * * *"))
        await scheduler.resync()
        await world.pass_time(scheduler, START + MINUTE)
        await world.deactivate(launch_plan)
        await scheduler.resync()
        await world.pass_time(scheduler, START + 3 * MINUTE)
        assert await world.slots() == minutes(1, 1)

    async def test_a_new_version_takes_over_without_overlap(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + 2 * MINUTE)
        second = await world.launch_plan(cron("* * * * *"), version="v2")
        for version in ("v1", "v2"):
            second.version = version
            await scheduler.launch_plan_changed(LaunchPlanUpdateRequest(id=second).SerializeToString())
        await world.pass_time(scheduler, START + 4 * MINUTE)
        fired = [(each.spec.launch_plan.version, when) for each, when in zip(
            await world.executions(), await world.slots(), strict=True)]  # fmt: skip
        assert fired == list(zip(["v1", "v1", "v2", "v2"], minutes(1, 4), strict=True))

    async def test_activating_what_is_active_does_not_shift_a_rate(self, world: World) -> None:
        launch_plan = await world.launch_plan(rate(2))
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + MINUTE)
        await world.set_state(launch_plan, LaunchPlanState.ACTIVE)
        await scheduler.launch_plan_changed(LaunchPlanUpdateRequest(id=launch_plan).SerializeToString())
        await world.pass_time(scheduler, START + 4 * MINUTE)
        assert await world.slots() == [START + 2 * MINUTE, START + 4 * MINUTE]

    async def test_an_announcement_that_cannot_be_read_is_dropped(self, world: World) -> None:
        scheduler = await ready(world)
        await scheduler.launch_plan_changed(b"\xff\xff")
        await scheduler.launch_plan_changed(b"")
        assert await scheduler.tick()


class TestDowntime:
    """Five minutes without a scheduler, and what each policy makes of them."""

    @pytest.mark.parametrize(
        ("annotations", "made_up"),
        [
            ({}, minutes(2, 6)),
            ({"aerodrome/misfire": "all"}, minutes(2, 6)),
            ({"aerodrome/misfire": "all", "aerodrome/misfire-cap": "2"}, minutes(5, 6)),
            ({"aerodrome/misfire": "all", "aerodrome/misfire-window": "3m"}, minutes(4, 6)),
            ({"aerodrome/misfire": "latest"}, minutes(6, 6)),
            ({"aerodrome/misfire": "none"}, []),
            ({"aerodrome/misfire": "none", "aerodrome/misfire-grace": "2m"}, minutes(5, 6)),
        ],
        ids=["default", "all", "cap", "window", "latest", "none", "grace"],
    )
    async def test_policy(self, world: World, annotations: dict[str, str], made_up: list[datetime]) -> None:
        await world.launch_plan(cron("* * * * *", kickoff="when"), annotations=annotations)
        first = await ready(world)
        await world.pass_time(first, START + MINUTE)
        await first.leadership.release()
        await world.clock.advance(5 * MINUTE + timedelta(seconds=45))  # nobody is there
        second = world.scheduler()
        assert await second.tick()
        assert await world.slots() == [*minutes(1, 1), *made_up]
        await world.pass_time(second, START + 8 * MINUTE)
        assert await world.slots() == [*minutes(1, 1), *made_up, *minutes(7, 8)]
        for execution in await world.executions():
            data = await world.stub.GetExecutionData(WorkflowExecutionGetDataRequest(id=execution.id))
            kickoff = data.full_inputs.literals["when"].scalar.primitive.datetime
            assert kickoff == execution.spec.metadata.scheduled_at
        skipped = [each for each in await decisions(world, second) if each.outcome == messages.OUTCOME_SKIPPED]
        assert sum(each.slots for each in skipped) == 5 - len(made_up)
        third = world.scheduler()
        await second.leadership.release()
        assert await third.tick()
        assert len(await world.slots()) == 3 + len(made_up)

    async def test_catching_up_keeps_to_its_rates_and_lets_others_pass(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"), name="behind")
        await world.launch_plan(cron("* * * * *"), name="slow", annotations={"aerodrome/misfire-rate": "0.5"})
        first = await ready(world)
        await first.leadership.release()
        await world.clock.advance(30 * MINUTE)
        await world.launch_plan(cron("* * * * *"), name="punctual")
        second = world.scheduler(misfire={"tps": 2})
        await second.resync()
        assert await second.tick()
        assert len(await world.slots()) <= 3  # what is there at once, of all schedules
        await world.pass_time(second, world.clock.now() + timedelta(seconds=5), timedelta(seconds=0.5))
        assert 8 <= len(await world.slots()) <= 12  # two in a second
        assert len(await world.slots("slow")) <= 4  # one in two seconds
        await world.pass_time(second, START + 31 * MINUTE, timedelta(seconds=1))
        assert await world.slots("punctual") == minutes(31, 31)
        assert await world.slots("behind") == minutes(1, 31)
        assert len(await world.slots("slow")) >= 28


class TestClock:
    async def test_one_that_jumps_forward_is_an_outage_and_back_fires_nothing_again(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + 2 * MINUTE)
        world.clock.set(START + 10 * MINUTE)
        assert await scheduler.tick()
        assert await world.slots() == minutes(1, 10)
        world.clock.set(START + 3 * MINUTE)
        assert await scheduler.tick()
        await world.pass_time(scheduler, START + 12 * MINUTE)
        assert await world.slots() == minutes(1, 12)
        assert len(world.door.created) == 12

    async def test_a_scheduler_that_starts_after_a_jump_back_fires_nothing_again(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + 5 * MINUTE)
        await scheduler.leadership.release()
        world.clock.set(START)
        second = world.scheduler()
        await world.pass_time(second, START + 6 * MINUTE)
        assert len(world.door.created) == 6


class TestTimeZones:
    async def fire(self, world: World, expression: str, start: str, end: str, **annotations: str) -> list[datetime]:
        """What fires between two local times in New York."""
        from zoneinfo import ZoneInfo

        zone = ZoneInfo("America/New_York")
        world.clock.set(at(start, zone).astimezone(UTC))
        await world.launch_plan(
            cron(expression), annotations={f"aerodrome/{name.replace('_', '-')}": text for name, text in
            annotations.items()},
        )  # fmt: skip
        scheduler = await ready(world)
        await world.pass_time(scheduler, at(end, zone).astimezone(UTC), timedelta(minutes=10))
        return [each.astimezone(zone) for each in await world.slots()]

    async def test_summer_time_leaves_out_what_does_not_exist(self, world: World) -> None:
        fired = await self.fire(world, "CRON_TZ=America/New_York 30 2 * * *", "2026-03-07 00:00", "2026-03-09 12:00")
        assert [each.isoformat() for each in fired] == ["2026-03-07T02:30:00-05:00", "2026-03-09T02:30:00-04:00"]

    async def test_winter_time_fires_a_fixed_hour_once(self, world: World) -> None:
        fired = await self.fire(
            world, "30 1 * * *", "2026-10-31 12:00", "2026-11-02 12:00", time_zone="America/New_York"
        )
        assert [each.isoformat() for each in fired] == ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]

    async def test_winter_time_repeats_the_hour_of_what_fires_every_hour(self, world: World) -> None:
        fired = await self.fire(world, "CRON_TZ=America/New_York 0 * * * *", "2026-11-01 00:30", "2026-11-01 03:30")
        assert [each.isoformat()[11:] for each in fired] == [
            "01:00:00-04:00", "01:00:00-05:00", "02:00:00-05:00", "03:00:00-05:00",
        ]  # fmt: skip

    async def test_leap_day(self, world: World) -> None:
        world.clock.set(at("2028-02-27 23:00"))
        await world.launch_plan(cron("0 0 29 2 *"))
        scheduler = await ready(world)
        await world.pass_time(scheduler, at("2028-03-02 00:00"), timedelta(hours=6))
        assert await world.slots() == [at("2028-02-29 00:00")]
        assert (await schedule(world, scheduler)).next_slot.ToDatetime(UTC) == at("2032-02-29 00:00")


class TestTrouble:
    async def test_what_cannot_be_taken_now_is_tried_again_until_it_succeeds(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        world.door.error = Unavailable("away")
        await world.pass_time(scheduler, START + 3 * MINUTE, timedelta(seconds=5))
        assert await world.slots() == []
        assert (await schedule(world, scheduler)).last_error == "away"
        world.door.error = None
        await world.pass_time(scheduler, START + 4 * MINUTE, timedelta(seconds=5))
        assert await world.slots() == minutes(1, 4)
        assert (await schedule(world, scheduler)).last_error == ""

    async def test_a_slot_that_nobody_could_take_in_time_is_missed_under_the_policy(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"), annotations={"aerodrome/misfire": "none"})
        scheduler = await ready(world)
        world.door.error = Unavailable("away")
        await world.pass_time(scheduler, START + 2.75 * MINUTE, timedelta(seconds=5))
        world.door.error = None
        await world.pass_time(scheduler, START + 4 * MINUTE, timedelta(seconds=5))
        assert await world.slots() == minutes(3, 4)

    async def test_a_refusal_is_recorded_and_harms_no_other_slot_or_schedule(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        world.door.error = InvalidArgument("no such thing")
        await world.pass_time(scheduler, START + MINUTE)
        world.door.error = None
        await world.pass_time(scheduler, START + 2 * MINUTE)
        assert await world.slots() == minutes(2, 2)
        first, second = await decisions(world, scheduler)
        assert (first.outcome, first.reason) == (messages.OUTCOME_FAILED, "no such thing")
        assert second.outcome == messages.OUTCOME_FIRED

    async def test_an_archived_project_is_refused_and_says_so(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        await world.stub.UpdateProject(Project(id=PROJECT, name=PROJECT, state=Project.ARCHIVED))
        await world.pass_time(scheduler, START + MINUTE)
        (decision,) = await decisions(world, scheduler)
        assert decision.outcome == messages.OUTCOME_FAILED
        assert "not active" in decision.reason

    async def test_an_unusable_schedule_harms_only_itself_and_says_so(self, world: World) -> None:
        problems: list[tuple[dict[str, str], str]] = [
            ({"aerodrome/misfire": "sometimes"}, "aerodrome/misfire cannot be 'sometimes'"),
            ({"aerodrome/time-zone": "Mars/Base"}, "'Mars/Base' is no time zone"),
            ({"aerodrome/misfire-cap": "0"}, "misfire-cap cannot be '0'"),
            ({"aerodrome/misfire-grace": "soon"}, "misfire-grace cannot be 'soon'"),
            ({"aerodrome/misfire-rate": "nan"}, "misfire-rate cannot be 'nan'"),
        ]
        for number, (written, _) in enumerate(problems):
            await world.launch_plan(cron("* * * * *"), name=f"broken-{number}", annotations=written)
        await world.launch_plan(cron("* * * * *"), name="lp")
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + MINUTE)
        assert await world.slots() == await world.slots("lp") == minutes(1, 1)
        for number, (_, problem) in enumerate(problems):
            seen = await schedule(world, scheduler, f"broken-{number}")
            assert problem in seen.problem
            assert not seen.HasField("next_slot")
            (decision,) = await decisions(world, scheduler, f"broken-{number}")
            assert decision.outcome == messages.OUTCOME_UNUSABLE
            assert problem in decision.reason

    async def test_a_slot_that_was_created_and_not_recorded_is_found_by_its_name(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        scheduler = await ready(world)
        await world.pass_time(scheduler, START + MINUTE)
        await world.database.execute("UPDATE scheduler_schedules SET decided_until = $1", START)
        await scheduler.leadership.release()
        assert await world.scheduler().tick()
        assert await world.slots() == minutes(1, 1)
        assert (await decisions(world, scheduler))[-1].outcome == messages.OUTCOME_EXISTED


class TestReplicas:
    async def test_one_leads_and_the_other_waits(self, world: World) -> None:
        await world.launch_plan(cron("* * * * *"))
        first, second = await ready(world), world.scheduler()
        assert not await second.tick()
        await world.clock.advance(MINUTE)
        assert await first.tick()
        assert not await second.tick()
        assert len(world.door.created) == 1

    async def test_two_that_both_fire_create_one_execution(self, world: World) -> None:
        """The worst case: the first is cut off after it looked at its lease, and the second leads by then."""
        await world.launch_plan(cron("* * * * *"))
        first, second = await ready(world), world.scheduler()
        world.door.passing.clear()
        await world.clock.advance(MINUTE)
        stuck = asyncio.create_task(first.tick())
        await asyncio.wait_for(world.door.asked.wait(), 20)
        await world.database.execute("UPDATE scheduler_leader SET expires_at = '-infinity'")
        other = asyncio.create_task(second.tick())
        await until(lambda: second.leadership.epoch > first.leadership.epoch)
        world.door.passing.set()
        assert await asyncio.wait_for(other, 20)
        assert not await asyncio.wait_for(stuck, 20)
        assert await world.slots() == minutes(1, 1)
        (decision,) = await decisions(world, second)  # the first could not write any more
        assert decision.outcome in (messages.OUTCOME_FIRED, messages.OUTCOME_EXISTED)

    async def test_a_killed_leader_is_followed_within_its_term(self, world: World) -> None:
        term = {"lease": {"term": "500ms"}}
        await world.launch_plan(cron("* * * * *"))
        first = await ready(world, **term)
        await world.pass_time(first, START + MINUTE)
        del first  # it neither gives the lead back nor renews it
        second = world.scheduler(**term)
        await world.clock.advance(MINUTE)
        begun = asyncio.get_running_loop().time()
        while not await second.tick():  # noqa: ASYNC110 - each look is an attempt
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - begun < 5
        assert await world.slots() == minutes(1, 2)

    async def test_running_replicas_share_the_work_and_hand_over(self, world: World) -> None:
        """The loops themselves: the leader is cancelled, and the other goes on."""
        await world.launch_plan(cron("* * * * *"))
        replicas = [world.scheduler(lease={"term": "60s"}) for _ in range(2)]
        tasks = [asyncio.create_task(each.run()) for each in replicas]
        try:

            async def lived_until(count: int) -> None:
                async with asyncio.timeout(30):
                    while len(world.door.created) < count:
                        await world.clock.advance(1)
                        await asyncio.sleep(0.01)

            await lived_until(2)
            leader = next(index for index, each in enumerate(replicas) if each.leadership.holds)
            tasks[leader].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tasks[leader]
            await lived_until(4)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        slots = await world.slots()
        assert slots == minutes(1, len(slots))
