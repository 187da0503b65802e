"""The rules by themselves: cron expressions, slots, names, and the misfire policies."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.domain.schedules import check_cron
from aerodrome.scheduler.domain.misfire import COUNTED, Misfire, Policy, judge
from aerodrome.scheduler.domain.naming import Key, execution_hash, execution_name, fnv1_64, schedule_key
from aerodrome.scheduler.domain.plans import plan_of, settings_of
from aerodrome.scheduler.domain.schedules import Rate, Schedule, count_slots, latest_slots, schedule_of, slots
from aerodrome.stdlib.cron import SDK_ALIASES, Cron, parse
from aerodrome.stdlib.errors import InvalidArgument

MINUTE = timedelta(minutes=1)
ANCHOR = datetime(2026, 3, 2, 12, tzinfo=UTC)


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def nexts(expression: str, after: str, count: int, zone: str = "UTC") -> list[str]:
    """The next times, as they read in the zone."""
    found = itertools.islice(slots(parse(expression), at(after, zone), at("2200-01-01")), count)
    return [slot.astimezone(ZoneInfo(zone)).isoformat()[:16] for slot in found]


class TestNames:
    """The vectors of the specification, section B.5."""

    def test_key(self) -> None:
        assert schedule_key(Key("project", "domain", "schedule_active_1", "version1")) == "11407394263542327059"

    @pytest.mark.parametrize(
        ("key", "seconds", "number", "name"),
        [
            (("flytesnacks", "development", "my_lp", "v1"), 1700000000, 9442962328448962535, "fe78f98ee34240c83000"),
            (("flytesnacks", "development", "my_lp", "v1"), 1700000060, 9442960129425706049, "f418c98ee34220c83000"),
            (("p", "d", "n", "v"), 0, 8441791412262087923, "ff32cd31b90442775000"),
        ],
    )
    def test_execution(self, key: tuple[str, str, str, str], seconds: int, number: int, name: str) -> None:
        slot = datetime.fromtimestamp(seconds, UTC)
        assert execution_hash(Key(*key), slot) == number
        assert execution_name(Key(*key), slot) == name

    def test_fnv_of_nothing_is_its_offset(self) -> None:
        assert fnv1_64("") == 14695981039346656037

    @given(st.text(max_size=20), st.datetimes(datetime(1970, 1, 2), datetime(2199, 1, 1)))
    def test_every_name_can_be_an_execution_s(self, name: str, moment: datetime) -> None:
        found = execution_name(Key("p", "d", name, "v"), moment.replace(tzinfo=UTC))
        assert len(found) == 20
        assert found[0] == "f"
        assert found[-3:] == "000"
        assert set(found) <= set("0123456789abcdef")
        assert found == execution_name(Key("p", "d", name, "v"), moment.replace(tzinfo=UTC, microsecond=0))


class TestExpressions:
    @pytest.mark.parametrize(
        ("expression", "after", "expected"),
        [
            ("*/15 * * * *", "2026-03-02 12:07", ["2026-03-02T12:15", "2026-03-02T12:30", "2026-03-02T12:45"]),
            ("0 9 * * mon-fri", "2026-03-06 09:00", ["2026-03-09T09:00", "2026-03-10T09:00"]),
            ("0 9 * * MON-Fri", "2026-03-06 09:00", ["2026-03-09T09:00", "2026-03-10T09:00"]),
            ("0 0 1,15 * 3", "2026-03-01 00:00", ["2026-03-04T00:00", "2026-03-11T00:00", "2026-03-15T00:00"]),
            ("0 0 1,15 * *", "2026-03-01 00:00", ["2026-03-15T00:00", "2026-04-01T00:00"]),
            ("0 0 * * 3", "2026-03-01 00:00", ["2026-03-04T00:00", "2026-03-11T00:00"]),
            # A step takes the star away, so that either of the days is enough.
            ("0 0 */10 * 1", "2026-03-01 00:00", ["2026-03-02T00:00", "2026-03-09T00:00", "2026-03-11T00:00"]),
            ("0 0 */1 * 1", "2026-03-01 00:00", ["2026-03-02T00:00", "2026-03-09T00:00"]),
            ("0 0 ? * 1", "2026-03-01 00:00", ["2026-03-02T00:00", "2026-03-09T00:00"]),
            ("50/5 * * * *", "2026-03-02 12:00", ["2026-03-02T12:50", "2026-03-02T12:55", "2026-03-02T13:50"]),
            ("10-20/5,40 6 * * *", "2026-03-02 06:10", ["2026-03-02T06:15", "2026-03-02T06:20", "2026-03-02T06:40"]),
            ("0 0 29 2 *", "2026-03-02 00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
            ("0 0 29 2 *", "2096-03-01 00:00", ["2104-02-29T00:00"]),
            ("59 23 31 dec *", "2026-03-02 00:00", ["2026-12-31T23:59", "2027-12-31T23:59"]),
            ("@hourly", "2026-03-02 12:00", ["2026-03-02T13:00"]),
            ("@midnight", "2026-03-02 12:00", ["2026-03-03T00:00"]),
            ("@weekly", "2026-03-02 12:00", ["2026-03-08T00:00"]),
            ("@monthly", "2026-03-02 12:00", ["2026-04-01T00:00"]),
            ("@annually", "2026-03-02 12:00", ["2027-01-01T00:00"]),
            ("daily", "2026-03-02 12:00", ["2026-03-03T00:00"]),
            ("  0   0  *  * * ", "2026-03-02 12:00", ["2026-03-03T00:00"]),
            ("TZ=UTC 0 0 * * *", "2026-03-02 12:00", ["2026-03-03T00:00"]),
        ],
    )
    def test_next(self, expression: str, after: str, expected: list[str]) -> None:
        assert nexts(expression, after, len(expected)) == expected
        check_cron(expression)

    @pytest.mark.parametrize(
        "expression",
        [
            "", " ", "* * * *", "* * * * * *", "* * * * 7", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
            "*/0 * * * *", "5-1 * * * *", "x * * * *", "* * * foo *", "* * L * *", "* * * * 1#2", "@reboot", "@every",
            "@every soon", "@every -5s", "0 0 31 2 *", "0 0 30 feb *", "0 0 31 4,6,9,11 *", "TZ=UTC",
            "CRON_TZ=Europe/Berlin", "TZ= * * * * *", "TZ=Mars/Base * * * * *", "TZ=../etc * * * * *", "1,,2 * * * *",
            "* * * * * " + "x" * 300, "-1 * * * *", "1- * * * *", "\u0661 * * * *", "*\0 * * * *",
        ],
    )  # fmt: skip
    def test_refused_here_and_at_registration(self, expression: str) -> None:
        with pytest.raises(InvalidArgument, match=r"^(Invalid cron expression: .|a schedule's period)"):
            schedule_of(expression, None, anchor=ANCHOR)
        with pytest.raises(InvalidArgument, match=r"^Invalid cron expression: ."):
            check_cron(expression)

    def test_a_day_that_no_month_has_is_fine_where_the_day_of_the_week_gives_others(self) -> None:
        assert nexts("0 0 31 2 1", "2026-02-20 00:00", 1) == ["2026-02-23T00:00"]

    @given(st.text(alphabet="0123456789*/-,?@ LW#TZ=UTCevryhm", max_size=30))
    def test_what_registration_accepts_can_be_run(self, expression: str) -> None:
        try:
            check_cron(expression)
        except InvalidArgument:
            return
        assert schedule_of(expression, None, anchor=ANCHOR).next(ANCHOR) is not None

    @pytest.mark.parametrize("alias", SDK_ALIASES)
    def test_aliases_of_the_sdk_are_descriptors(self, alias: str) -> None:
        check_cron(alias)
        assert parse(alias) == parse(SDK_ALIASES[alias])

    def test_every_is_a_rate_of_whole_seconds_and_one_at_least(self) -> None:
        for text, seconds in (("@every 90s", 90), ("@every 1h30m10.9s", 5410), ("@every 10ms", 1)):
            assert schedule_of(text, None, anchor=ANCHOR) == Rate(timedelta(seconds=seconds), ANCHOR)
            check_cron(text)

    def test_the_expression_s_own_zone_wins(self) -> None:
        def zone(expression: str, mine: str, all_: str) -> str:
            found = schedule_of(expression, None, anchor=ANCHOR, zone=mine, default_zone=all_)
            assert isinstance(found, Cron)
            return str(found.zone)

        assert zone("CRON_TZ=Asia/Tokyo 0 0 * * *", "Europe/Berlin", "America/New_York") == "Asia/Tokyo"
        assert zone("0 0 * * *", "Europe/Berlin", "America/New_York") == "Europe/Berlin"
        assert zone("0 0 * * *", "", "America/New_York") == "America/New_York"
        assert zone("0 0 * * *", "", "") == "UTC"


class TestChangesOfTheClock:
    def test_a_time_that_does_not_exist_is_left_out(self) -> None:
        found = nexts("CRON_TZ=America/New_York 30 2 * * *", "2024-03-09 00:00", 3, "America/New_York")
        assert found == ["2024-03-09T02:30", "2024-03-11T02:30", "2024-03-12T02:30"]

    def test_a_fixed_hour_that_comes_twice_fires_once(self) -> None:
        found = list(slots(parse("CRON_TZ=America/New_York 30 1 * * *"), at("2024-11-02"), at("2024-11-05")))
        assert [each.isoformat()[:16] for each in found] == ["2024-11-02T05:30", "2024-11-03T05:30", "2024-11-04T06:30"]

    def test_what_fires_every_hour_follows_the_time_that_passes(self) -> None:
        found = list(slots(parse("CRON_TZ=Europe/Berlin 0 * * * *"), at("2026-10-24T22:30"), at("2026-10-25T03:30")))
        assert [each.hour for each in found] == [23, 0, 1, 2, 3]
        found = list(slots(parse("CRON_TZ=Europe/Berlin 0 * * * *"), at("2026-03-28T22:30"), at("2026-03-29T03:30")))
        assert [each.hour for each in found] == [23, 0, 1, 2, 3]

    def test_a_change_by_half_an_hour(self) -> None:
        zone = "Australia/Lord_Howe"
        found = list(slots(parse(f"CRON_TZ={zone} */15 * * * *"), at("2026-04-04T14:00"), at("2026-04-04T16:00")))
        assert all(later - earlier == 15 * MINUTE for earlier, later in itertools.pairwise(found))
        assert len(found) == 8

    def test_a_day_that_a_zone_left_out(self) -> None:
        found = nexts("CRON_TZ=Pacific/Apia 0 12 * * *", "2011-12-29 00:00", 2, "Pacific/Apia")
        assert found == ["2011-12-29T12:00", "2011-12-31T12:00"]


ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo"]
FIELDS = (
    st.sampled_from(["*", "*/15", "0", "30", "7,37", "58/1"]),
    st.sampled_from(["*", "?", "*/6", "1", "2", "0-4", "1,2,3", "23"]),
    st.sampled_from(["*", "*/10", "1", "31", "29", "25-31"]),
    st.sampled_from(["*", "3", "10,11", "jan-jun"]),
    st.sampled_from(["*", "0", "mon-fri", "*/2"]),
)
EXPRESSIONS = st.tuples(*FIELDS).map(" ".join)
CHANGES = st.sampled_from(["2026-03-08 06:00", "2026-03-29 00:30", "2026-04-04 14:00", "2026-10-25 00:30",
                           "2026-11-01 05:00", "2026-10-03 15:00", "2028-02-28 22:00", "2018-11-04 02:00"])  # fmt: skip
MOMENTS = st.builds(
    lambda start, seconds: at(start) + timedelta(seconds=seconds), CHANGES, st.integers(-40 * 3600, 40 * 3600)
)


def fires(cron: Cron, instant: datetime) -> bool:
    """The meaning of an expression said in another way: whether it fires at a whole minute."""
    local = instant.astimezone(cron.zone)
    in_month, in_week = local.day in cron.days, local.isoweekday() % 7 in cron.weekdays
    return (
        local.minute in cron.minutes
        and local.hour in cron.hours
        and local.month in cron.months
        and (in_month or in_week if cron.either_day else in_month and in_week)
        and (local.fold == 0 or len(cron.hours) == 24)
    )


class TestSlots:
    @given(EXPRESSIONS, st.sampled_from(ZONES), MOMENTS)
    def test_next_is_the_first_minute_after_that_fires(self, expression: str, zone: str, after: datetime) -> None:
        try:
            cron = parse(expression, zone)
        except InvalidArgument:
            return
        found = cron.next(after)
        minute = after.replace(second=0) + MINUTE
        looked_until = after + timedelta(hours=30)
        while minute <= looked_until and not fires(cron, minute):
            minute += MINUTE
        if minute <= looked_until:
            assert found == minute
        else:
            assert found is not None
            assert found > looked_until
            assert fires(cron, found)

    @given(
        st.one_of(
            st.builds(parse, st.sampled_from(["* * * * *", "*/15 1,2 * * *", "0 * * * *", "30 1 * * *"]),
                      st.sampled_from(ZONES)),
            st.builds(Rate, st.sampled_from([timedelta(seconds=1), 7 * MINUTE, timedelta(days=1)]),
                      st.just(at("2026-01-01"))),
        ),
        MOMENTS, st.lists(st.integers(1, 5 * 3600), min_size=1, max_size=12), st.booleans(),
    )  # fmt: skip
    def test_no_slot_is_skipped_or_repeated_however_time_is_cut(
        self, schedule: Schedule, start: datetime, steps: list[int], several: bool
    ) -> None:
        """Looking at every step, or only at the end, finds the same slots; each is strictly after the one before."""
        end = start + timedelta(seconds=sum(steps))
        if isinstance(schedule, Rate) and schedule.period < MINUTE:
            end, steps = start + timedelta(seconds=30), [10, 20]
        found: list[datetime] = []
        now = start
        for step in steps:
            found += slots(schedule, now, now + timedelta(seconds=step))
            now += timedelta(seconds=step)
        assert found == list(slots(schedule, start, end))
        assert all(later > earlier for earlier, later in itertools.pairwise([start, *found]))
        assert latest_slots(schedule, start, end, 5) == found[-5:]
        assert count_slots(schedule, start, end, 1000) == min(1000, len(found))
        assert count_slots(schedule, start, end, 3) == min(3, len(found))

    def test_the_latest_of_very_many_are_found_at_once(self) -> None:
        second = Rate(timedelta(seconds=1), at("1990-01-01"))
        assert latest_slots(second, at("1990-01-01"), at("2026-01-01"), 2)[-1] == at("2026-01-01")
        assert count_slots(second, at("1990-01-01"), at("2026-01-01"), COUNTED) == COUNTED
        assert len(latest_slots(parse("* * * * *"), at("1990-01-01"), at("2026-01-01"), 100)) == 100

    def test_the_end_of_the_calendar_is_the_end(self) -> None:
        assert Rate(timedelta(days=900_000_000), ANCHOR).next(ANCHOR) is None
        assert parse("0 0 1 1 *").next(datetime(9998, 6, 1, tzinfo=UTC)) is None


POLICIES = st.builds(
    Policy,
    st.sampled_from(Misfire),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([MINUTE, timedelta(minutes=20), timedelta(days=7)]),
    st.sampled_from([timedelta(0), timedelta(seconds=30), 5 * MINUTE]),
)
RUNS = st.sampled_from([parse("* * * * *"), parse("*/7 * * * *"), Rate(MINUTE, ANCHOR), Rate(25 * MINUTE, ANCHOR)])


class TestMisfire:
    @given(RUNS, POLICIES, st.lists(st.tuples(st.integers(1, 3600), st.booleans()), max_size=8))
    def test_every_slot_is_decided_once_and_none_early(
        self, schedule: Schedule, policy: Policy, rounds: list[tuple[int, bool]]
    ) -> None:
        decided, now = ANCHOR, ANCHOR
        fired: list[datetime] = []
        skipped = 0
        for seconds, paused in rounds:
            now += timedelta(seconds=seconds)
            due = judge(schedule, decided, now, policy, paused=paused)
            if due.skip is not None:
                assert decided < due.skip.first <= due.skip.last <= now
                assert due.skip.first == schedule.next(decided)
                skipped += due.skip.count
                decided = due.skip.last
            for slot in due.fire:
                assert slot == schedule.next(decided)  # strictly after, none left out
                decided = slot
                fired.append(slot)
            assert len(due.fire) <= policy.cap
            following = schedule.next(decided)
            assert following is not None
            assert following > now
        assert all(slot <= now for slot in fired)
        assert len(set(fired)) == len(fired)
        assert len(fired) + skipped == len(list(slots(schedule, ANCHOR, now)))

    @given(RUNS, POLICIES, st.integers(1, 7200))
    def test_what_is_on_time_fires_under_every_policy(self, schedule: Schedule, policy: Policy, seconds: int) -> None:
        now = ANCHOR + timedelta(seconds=seconds)
        due = judge(schedule, ANCHOR, now, policy)
        on_time = [slot for slot in slots(schedule, ANCHOR, now) if slot >= now - policy.grace]
        assert list(due.fire)[-len(on_time) :][-policy.cap :] == on_time[-policy.cap :] or not on_time
        if policy.misfire is Misfire.NONE:
            assert list(due.fire) == on_time[-policy.cap :]
        if policy.misfire is Misfire.LATEST and not on_time:
            assert len(due.fire) <= 1


def test_a_rate_of_nothing_is_none_and_one_that_cannot_be_says_why() -> None:
    plan: Any = LaunchPlan()
    assert plan_of(plan) is None
    plan.spec.entity_metadata.schedule.rate.value = 0
    assert plan_of(plan) is None
    plan.spec.entity_metadata.schedule.rate.value = 2**32 - 1
    plan.spec.entity_metadata.schedule.rate.unit = 2
    known = plan_of(plan)
    assert known is not None
    with pytest.raises(InvalidArgument, match="never fires"):
        settings_of(known, Policy(), "")
    plan.spec.entity_metadata.schedule.rate.unit = 9
    known = plan_of(plan)
    assert known is not None
    with pytest.raises(InvalidArgument, match="in minutes, hours or days"):
        settings_of(known, Policy(), "")
