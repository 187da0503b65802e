"""aerodrome.notifier.v1.NotifierService."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.idl.notifier.v1 import notifier_pb2 as messages
from aerodrome.idl.notifier.v1.notifier_pb2_grpc import NotifierServiceServicer
from aerodrome.notifier.domain.deliveries import Delivery, Status
from aerodrome.notifier.managers.answering import AnsweringManager
from aerodrome.notifier.repositories.deliveries import Filter
from aerodrome.stdlib.errors import InvalidArgument

PAGE = 100
MOST_PAGE = 1_000


class NotifierRpcs(NotifierServiceServicer):
    """The servicer of aerodrome.notifier.v1.NotifierService."""

    def __init__(self, answering: AnsweringManager) -> None:
        self._answering = answering

    async def ListDeliveries(self, request: messages.ListDeliveriesRequest, context: Any) -> Any:
        if request.page_size > MOST_PAGE:
            raise InvalidArgument(f"page_size is at most {MOST_PAGE}")
        limit = request.page_size or PAGE
        before = _token(request.page_token)
        found = await self._answering.deliveries(_filter(request.filter), before=before, limit=limit + 1)
        response = messages.ListDeliveriesResponse(deliveries=[_delivery(each) for each in found[:limit]])
        if len(found) > limit:
            text = json.dumps(found[limit - 1].id)
            response.next_page_token = base64.urlsafe_b64encode(text.encode()).decode()
        return response

    async def RetryDelivery(self, request: messages.RetryDeliveryRequest, context: Any) -> Any:
        return messages.RetryDeliveryResponse(delivery=_delivery(await self._answering.retry(request.id)))

    async def SendTest(self, request: messages.SendTestRequest, context: Any) -> Any:
        if not request.channel and not request.email:
            raise InvalidArgument("missing channel or email")
        made = await self._answering.send_test(request.channel, request.email)
        return messages.SendTestResponse(deliveries=[_delivery(each) for each in made])


def _delivery(found: Delivery) -> Any:
    planned = found.planned
    message = messages.Delivery(
        id=found.id,
        idempotency_key=planned.key,
        project=planned.project,
        domain=planned.domain,
        execution_name=planned.execution,
        phase=planned.phase,
        rule=planned.rule,
        channel=planned.channel,
        kind=planned.kind,
        recipient=planned.recipient,
        subject=planned.subject,
        status=messages.DeliveryStatus.ValueType(found.status.value),
        attempt_count=found.attempt_count,
        created_at=_timestamp(found.created_at),
        error=found.error,
    )
    if found.finished_at is not None:
        message.finished_at.CopyFrom(_timestamp(found.finished_at))
    if found.status is Status.WAITING:
        message.due_at.CopyFrom(_timestamp(found.due_at))
    for each in found.attempts:
        attempt = message.attempts.add(
            number=each.number,
            outcome=messages.AttemptOutcome.ValueType(each.outcome.value),
            started_at=_timestamp(each.started_at),
            answer=each.answer,
            error=each.error,
        )
        if each.finished_at is not None:
            attempt.finished_at.CopyFrom(_timestamp(each.finished_at))
    return message


def _filter(message: messages.DeliveryFilter) -> Filter:
    known = set(messages.DeliveryStatus.values()) - {messages.DELIVERY_STATUS_UNSPECIFIED}
    if not set(message.statuses) <= known:
        raise InvalidArgument("statuses holds one that is not known")
    texts = (message.project, message.domain, message.execution_name, message.rule, message.channel)
    if any("\0" in text for text in texts):
        raise InvalidArgument("a filter holds a character that no name has")
    return Filter(message.id, *texts, tuple(message.statuses))


def _timestamp(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message


def _token(text: str) -> int | None:
    if not text:
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(text.encode()))
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
            raise ValueError(value)
    except (ValueError, RecursionError, binascii.Error) as error:
        raise InvalidArgument("page_token is none that this list gave") from error
    return value
