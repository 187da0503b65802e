"""Schedules as users have them: registered by flytekit, activated, fired by the platform's own clock, deactivated.

What takes a minute begins with the first of all tests (`scheduled`), and is looked at here.
"""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from flyteidl.admin.common_pb2 import ObjectGetRequest
from flyteidl.admin.launch_plan_pb2 import ACTIVE, INACTIVE, LaunchPlanCreateRequest, LaunchPlanUpdateRequest
from flyteidl.core.execution_pb2 import WorkflowExecution

from aerodrome.idl.scheduler.v1 import scheduler_pb2 as messages
from aerodrome.idl.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub

from .conftest import DOMAIN, PROJECT, Registered
from .instance import Instance, wait_until

LATE = timedelta(seconds=10)
"""A busy machine's allowance; a quiet one takes some tens of milliseconds."""


def executions_of(registered: Registered, name: str) -> list[Any]:
    """The executions of a launch plan, the oldest slot first."""
    found, _ = registered.remote.client.list_executions_paginated(PROJECT, DOMAIN, limit=500)
    mine = [each.to_flyte_idl() for each in found]
    mine = [each for each in mine if each.spec.launch_plan.name == name]
    return sorted(mine, key=lambda each: each.spec.metadata.scheduled_at.ToDatetime())


def slots_of(registered: Registered, name: str) -> list[datetime]:
    return [each.spec.metadata.scheduled_at.ToDatetime(UTC) for each in executions_of(registered, name)]


@pytest.mark.timeout(120)
def test_deactivated_it_stops(instance: Instance, registered: Registered) -> None:
    name = "told_often"
    client: Any = registered.remote.client
    stub = client._stub
    plan = registered.remote.fetch_launch_plan(name="told_by_cron", version=registered.version)
    request = LaunchPlanCreateRequest(id=plan.id.to_flyte_idl())
    request.spec.CopyFrom(stub.GetLaunchPlan(ObjectGetRequest(id=request.id)).spec)
    request.id.name = name
    request.spec.entity_metadata.schedule.cron_schedule.schedule = "@every 2s"
    stub.CreateLaunchPlan(request)
    stub.UpdateLaunchPlan(LaunchPlanUpdateRequest(id=request.id, state=ACTIVE))
    wait_until("it fires", lambda: len(slots_of(registered, name)) >= 2, seconds=30, every=0.2)
    stub.UpdateLaunchPlan(LaunchPlanUpdateRequest(id=request.id, state=INACTIVE))

    with grpc.insecure_channel(instance.endpoint) as channel:
        make: Any = SchedulerServiceStub
        scheduler = make(channel)

        def schedule() -> Any:
            wanted = messages.ListSchedulesRequest(filter=messages.ScheduleFilter(name=name), decisions=20)
            return scheduler.ListSchedules(wanted).schedules[0]

        wait_until("the scheduler knows", lambda: not schedule().active, seconds=20)
        fired = slots_of(registered, name)
        time.sleep(4.5)  # two slots' time in which nothing may happen
        assert slots_of(registered, name) == fired
        seen = schedule()
    assert not seen.HasField("next_slot")
    assert {each.outcome for each in seen.last_decisions} == {messages.OUTCOME_FIRED}
    assert all(later - earlier == timedelta(seconds=2) for earlier, later in itertools.pairwise(fired))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["told_by_cron", "told_by_rate"])
def test_a_minute_s_schedule_fires_on_time_with_its_kickoff_time(
    registered: Registered, scheduled: dict[str, datetime], name: str
) -> None:
    activated = scheduled[name]
    first = wait_until("it fires", lambda: executions_of(registered, name), seconds=80, every=0.5)[0]
    slot = first.spec.metadata.scheduled_at.ToDatetime(UTC)
    if name == "told_by_cron":
        assert (slot.second, slot.microsecond) == (0, 0)
        assert timedelta(0) < slot - activated.replace(microsecond=0) <= timedelta(minutes=1)
    else:
        assert abs(slot - activated - timedelta(minutes=1)) < timedelta(seconds=2)
    created = first.closure.created_at.ToDatetime(UTC)
    assert timedelta(0) <= created - slot < LATE

    execution = registered.finish(registered.remote.fetch_execution(name=first.id.name))
    assert execution.closure.phase == WorkflowExecution.SUCCEEDED
    assert execution.outputs is not None
    assert execution.outputs.get("o0", datetime) == slot


def test_the_scheduler_answers_on_the_same_port(instance: Instance) -> None:
    with grpc.insecure_channel(instance.endpoint) as channel:
        make: Any = SchedulerServiceStub
        preview = make(channel).Preview(
            messages.PreviewRequest(expression="0 9 * * mon-fri", time_zone="Europe/Berlin", slots=3)
        )
    assert len(preview.slots) == 3
    assert all("T09:00:00+0" in each for each in preview.local_times)
