"""aerodrome.scheduler.v1.SchedulerService."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.idl.scheduler.v1 import scheduler_pb2 as messages
from aerodrome.idl.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from aerodrome.scheduler.domain.naming import Key
from aerodrome.scheduler.domain.records import BackfillOrder, KnownDecision, Pause
from aerodrome.scheduler.managers.answering import AnsweringManager, View
from aerodrome.scheduler.repositories.schedules import Filter
from aerodrome.stdlib.errors import InvalidArgument

PAGE = 100
MOST_PAGE = 1_000
MOST_DECISIONS = 20

_T = TypeVar("_T")


class SchedulerRpcs(SchedulerServiceServicer):
    """The servicer of aerodrome.scheduler.v1.SchedulerService."""

    def __init__(self, answering: AnsweringManager) -> None:
        self._answering = answering

    async def ListSchedules(self, request: messages.ListSchedulesRequest, context: Any) -> Any:
        if request.decisions > MOST_DECISIONS:
            raise InvalidArgument(f"decisions is at most {MOST_DECISIONS}")
        limit = _limit(request.page_size)
        found = await self._answering.schedules(
            _filter(request.filter),
            active_only=request.active_only,
            decisions=request.decisions,
            after=_token(request.page_token, _key_token) or ("", "", "", ""),
            limit=limit + 1,
        )
        response = messages.ListSchedulesResponse(schedules=[_schedule(view) for view in found[:limit]])
        if len(found) > limit:
            key = found[limit - 1].known.plan.key
            response.next_page_token = _as_token([key.project, key.domain, key.name, key.version])
        return response

    async def Preview(self, request: messages.PreviewRequest, context: Any) -> Any:
        kind = request.WhichOneof("kind")
        if kind is None:
            raise InvalidArgument("missing expression or period")
        preview = self._answering.preview(
            request.expression,
            _timedelta("period", request.period) if kind == "period" else None,
            request.time_zone,
            _datetime("after", request.after) if request.HasField("after") else None,
            request.slots,
        )
        return messages.PreviewResponse(
            slots=[_timestamp(slot) for slot in preview.slots],
            local_times=[slot.astimezone(preview.local).isoformat() for slot in preview.slots],
            time_zone=preview.zone,
        )

    async def Backfill(self, request: messages.BackfillRequest, context: Any) -> Any:
        for field in ("start", "end"):
            if not request.HasField(field):
                raise InvalidArgument(f"missing {field}")
        wanted = request.launch_plan
        key, order = await self._answering.backfill(
            Key(wanted.project, wanted.domain, wanted.name, wanted.version),
            _datetime("start", request.start),
            _datetime("end", request.end),
        )
        return messages.BackfillResponse(backfill=_backfill(key, order))

    async def ListBackfills(self, request: messages.ListBackfillsRequest, context: Any) -> Any:
        limit = _limit(request.page_size)
        found = await self._answering.backfills(
            _filter(request.filter), before=_token(request.page_token, _id_token), limit=limit + 1
        )
        response = messages.ListBackfillsResponse(backfills=[_backfill(key, order) for key, order in found[:limit]])
        if len(found) > limit:
            response.next_page_token = _as_token(found[limit - 1][1].id)
        return response

    async def Pause(self, request: messages.PauseRequest, context: Any) -> Any:
        pause = await self._answering.pause(request.project, request.domain, request.name, request.reason)
        return messages.PauseResponse(pause=_pause(pause))

    async def Resume(self, request: messages.ResumeRequest, context: Any) -> Any:
        await self._answering.resume(request.project, request.domain, request.name)
        return messages.ResumeResponse()

    async def ListDecisions(self, request: messages.ListDecisionsRequest, context: Any) -> Any:
        known = set(messages.Outcome.values()) - {messages.OUTCOME_UNSPECIFIED}
        if not set(request.outcomes) <= known:
            raise InvalidArgument("outcomes holds one that is not known")
        limit = _limit(request.page_size)
        found = await self._answering.decisions(
            _filter(request.filter),
            list(request.outcomes),
            before=_token(request.page_token, _id_token),
            limit=limit + 1,
        )
        response = messages.ListDecisionsResponse(decisions=[_decision(each) for each in found[:limit]])
        if len(found) > limit:
            response.next_page_token = _as_token(found[limit - 1].id)
        return response


def _schedule(view: View) -> messages.Schedule:
    known, plan = view.known, view.known.plan
    message = messages.Schedule(
        launch_plan=_version(plan.key),
        expression=plan.expression,
        time_zone=view.zone,
        kickoff_time_input_arg=plan.kickoff_arg,
        active=plan.active,
        activated_at=_timestamp(plan.activated_at),
        last_execution_name=known.last_execution,
        last_error=known.last_error,
        problem=known.problem,
        pauses=[_pause(each) for each in view.pauses],
        misfire_policy="" if view.policy is None else view.policy.misfire.value,
        decided_until=_timestamp(known.decided_until),
        last_decisions=[_decision(each) for each in view.decisions],
    )
    if plan.period is not None:
        message.period.FromTimedelta(plan.period)
    for field, at in (
        ("next_slot", view.next_slot),
        ("last_slot", known.last_slot),
        ("last_fired_at", known.last_fired_at),
    ):
        if at is not None:
            getattr(message, field).CopyFrom(_timestamp(at))
    return message


def _decision(known: KnownDecision) -> messages.Decision:
    decision = known.decision
    message = messages.Decision(
        id=known.id,
        launch_plan=_version(known.key),
        outcome=messages.Outcome.ValueType(decision.outcome.value),
        origin=messages.Origin.ValueType(decision.origin.value),
        slots=decision.slots,
        execution_name=decision.execution_name,
        reason=decision.reason,
        decided_at=_timestamp(decision.decided_at),
    )
    if decision.slot is not None:
        message.slot.CopyFrom(_timestamp(decision.slot))
        message.last_slot.CopyFrom(_timestamp(decision.last_slot or decision.slot))
    return message


def _backfill(key: Key, order: BackfillOrder) -> messages.Backfill:
    message = messages.Backfill(
        id=order.id,
        launch_plan=_version(key),
        start=_timestamp(order.start),
        end=_timestamp(order.end),
        slots=order.slots,
        fired=order.fired,
        existed=order.existed,
        failed=order.failed,
        created_at=_timestamp(order.created_at),
    )
    if order.finished_at is not None:
        message.finished_at.CopyFrom(_timestamp(order.finished_at))
    return message


def _pause(pause: Pause) -> messages.Pause:
    return messages.Pause(
        project=pause.project,
        domain=pause.domain,
        name=pause.name,
        reason=pause.reason,
        paused_at=_timestamp(pause.paused_at),
    )


def _version(key: Key) -> messages.LaunchPlanVersion:
    return messages.LaunchPlanVersion(project=key.project, domain=key.domain, name=key.name, version=key.version)


def _filter(message: messages.ScheduleFilter) -> Filter:
    return Filter(message.project, message.domain, message.name, message.version)


def _timestamp(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message


def _datetime(name: str, message: Timestamp) -> datetime:
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{name} is no point in time: {error}") from error


def _timedelta(name: str, message: Duration) -> timedelta:
    try:
        return message.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{name} is no length of time: {error}") from error


def _limit(page_size: int) -> int:
    if page_size > MOST_PAGE:
        raise InvalidArgument(f"page_size is at most {MOST_PAGE}")
    return page_size or PAGE


def _as_token(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _token(text: str, check: Callable[[Any], _T]) -> _T | None:
    if not text:
        return None
    try:
        return check(json.loads(base64.urlsafe_b64decode(text.encode())))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise InvalidArgument("page_token is none that this list gave") from error


def _key_token(value: Any) -> tuple[str, str, str, str]:
    if not (isinstance(value, list) and len(value) == 4 and all(isinstance(each, str) for each in value)):
        raise ValueError(value)
    return value[0], value[1], value[2], value[3]


def _id_token(value: Any) -> int:
    if not (isinstance(value, int) and 0 < value < 2**63):
        raise ValueError(value)
    return value
