"""Deliveries on a real database and a manual clock: kept once, sent at least once, or visibly given up."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import grpc
import pytest

from aerodrome.idl.notifier.v1 import notifier_pb2 as messages
from aerodrome.notifier.managers.delivering import GRACE
from aerodrome.notifier.repositories.deliveries import DeliveryRepository
from aerodrome.notifier.testing import Answer, Request
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.logger import capture

from .conftest import START, World, ended, notification, until


async def test_an_end_is_delivered_and_the_log_says_who_what_when_and_what_was_answered(world: World) -> None:
    notifier = world.notifier()
    assert await notifier.execution_ended("m1", ended().SerializeToString()) == 1
    assert await notifier.tick() == 1
    (request,) = world.endpoint.requests
    (delivery,) = await world.log(notifier)
    assert (delivery.project, delivery.domain, delivery.execution_name) == ("fly", "development", "run")
    assert (delivery.rule, delivery.channel, delivery.kind, delivery.recipient) == (
        "all",
        "hook",
        "webhook",
        "127.0.0.1",
    )
    assert delivery.status == messages.DELIVERY_STATUS_DELIVERED
    assert delivery.finished_at.ToDatetime() == START.replace(tzinfo=None)
    (attempt,) = delivery.attempts
    assert (attempt.number, attempt.outcome, attempt.answer) == (1, messages.ATTEMPT_OUTCOME_DELIVERED, "200 ok")
    assert request.headers["idempotency-key"] == delivery.idempotency_key


async def test_a_message_that_is_repeated_makes_nothing_new_even_at_once_and_under_other_rules(world: World) -> None:
    one, two = world.notifier(), world.notifier()
    body = ended().SerializeToString()
    made = await asyncio.gather(*(each.execution_ended("m1", body) for each in (one, two) * 8))
    assert sum(made) == 1
    hook = {"type": "webhook", "url": world.endpoint.url, "secret": "x"}
    changed = world.notifier(channels={"h": hook}, rules=[{"name": "another", "channels": ["h"]}])
    assert await changed.execution_ended("m1", body) == 0
    await asyncio.gather(one.tick(), two.tick())
    assert len(world.endpoint.requests) == 1


async def test_an_end_of_which_nobody_wants_to_hear_leaves_no_trace(world: World) -> None:
    notifier = world.notifier()
    assert await notifier.execution_ended("m1", ended(phase="SUCCEEDED").SerializeToString()) == 0
    assert await world.database.fetchval("SELECT count(*) FROM notifier_messages") == 0


async def test_while_the_endpoint_is_down_it_is_tried_with_growing_pauses_and_one_key(world: World) -> None:
    notifier = world.notifier()
    world.endpoint.answer = lambda _: Answer(503, "later")
    await notifier.execution_ended("m1", ended().SerializeToString())
    pauses = []
    for number in range(6):
        assert await notifier.tick() == 1
        (delivery,) = await world.log(notifier)
        assert (delivery.status, delivery.attempt_count) == (messages.DELIVERY_STATUS_WAITING, number + 1)
        assert "it answered 503" in delivery.error
        pause = delivery.due_at.ToDatetime() - world.clock.now().replace(tzinfo=None)
        pauses.append(pause.total_seconds())
        assert 0.5 * 2**number <= pauses[-1] <= 2**number
        await world.clock.advance(pause - timedelta(milliseconds=1))
        assert await notifier.tick() == 0
        await world.clock.advance(timedelta(milliseconds=1))
    world.endpoint.stop()  # nobody listens at all
    assert await notifier.tick() == 1
    world.endpoint.start()
    world.endpoint.answer = lambda _: Answer()
    await world.clock.advance(timedelta(hours=1))
    assert await notifier.tick() == 1
    (delivery,) = await world.log(notifier)
    assert delivery.status == messages.DELIVERY_STATUS_DELIVERED
    assert [each.outcome for each in delivery.attempts] == [messages.ATTEMPT_OUTCOME_POSTPONED] * 7 + [
        messages.ATTEMPT_OUTCOME_DELIVERED
    ]
    assert {each.headers["idempotency-key"] for each in world.endpoint.requests} == {delivery.idempotency_key}
    assert len({each.body for each in world.endpoint.requests}) == 1


async def test_killed_between_sending_and_recording_it_is_sent_again_under_the_same_key(world: World) -> None:
    notifier = world.notifier()
    await notifier.execution_ended("m1", ended().SerializeToString())
    now = world.clock.now()
    async with world.database.transaction() as conn:  # as a process does that is then gone
        claimed = await DeliveryRepository(conn).claim(now, now + timedelta(seconds=10) + GRACE, 5)
    assert len(claimed) == 1
    assert await notifier.tick() == 0  # it may still be alive
    await world.clock.advance(timedelta(seconds=10) + GRACE)
    assert await notifier.tick() == 1
    (delivery,) = await world.log(notifier)
    assert delivery.status == messages.DELIVERY_STATUS_DELIVERED
    assert [each.outcome for each in delivery.attempts] == [
        messages.ATTEMPT_OUTCOME_INTERRUPTED, messages.ATTEMPT_OUTCOME_DELIVERED,
    ]  # fmt: skip
    assert claimed[0].delivery.key == world.endpoint.requests[0].headers["idempotency-key"]


async def test_one_that_was_only_slow_still_counts_if_it_delivered(world: World) -> None:
    slow, other = world.notifier(), world.notifier()
    world.endpoint.answer = lambda _: Answer(503)
    await slow.execution_ended("m1", ended().SerializeToString())
    now = world.clock.now()
    async with world.database.transaction() as conn:
        (claimed,) = await DeliveryRepository(conn).claim(now, now + GRACE, 1)
    await world.clock.advance(GRACE)
    assert await other.tick() == 1  # fails, and is to be tried again
    world.endpoint.answer = lambda _: Answer()
    await slow._delivering.attempt(claimed)
    (delivery,) = await world.log(slow)
    assert delivery.status == messages.DELIVERY_STATUS_DELIVERED
    assert [each.outcome for each in delivery.attempts] == [
        messages.ATTEMPT_OUTCOME_DELIVERED, messages.ATTEMPT_OUTCOME_POSTPONED,
    ]  # fmt: skip
    await world.clock.advance(timedelta(hours=1))
    assert await other.tick() == 0


async def test_after_too_many_attempts_it_has_failed_visibly_and_can_be_retried(world: World) -> None:
    notifier = world.notifier(retry={"attempts": 3})
    world.endpoint.answer = lambda _: Answer(500, "broken")
    await notifier.execution_ended("m1", ended().SerializeToString())
    with capture() as lines:
        for _ in range(5):
            await notifier.tick()
            await world.clock.advance(timedelta(minutes=1))
    (delivery,) = await world.log(notifier, statuses=[messages.DELIVERY_STATUS_FAILED])
    assert (delivery.attempt_count, delivery.attempts[-1].answer) == (3, "500 broken")
    assert delivery.error.startswith("given up after 3 attempts: it answered 500")
    assert [each for each in lines if each["msg"] == "notification failed for good"]

    world.endpoint.answer = lambda _: Answer()
    ask = world.ask(notifier)
    again = (await ask.RetryDelivery(messages.RetryDeliveryRequest(id=delivery.id))).delivery
    assert (again.status, again.idempotency_key) == (messages.DELIVERY_STATUS_WAITING, delivery.idempotency_key)
    assert await notifier.tick() == 1
    (delivery,) = await world.log(notifier)
    assert (delivery.status, delivery.attempt_count, delivery.error) == (messages.DELIVERY_STATUS_DELIVERED, 4, "")
    assert len({each.headers["idempotency-key"] for each in world.endpoint.requests}) == 1
    with pytest.raises(grpc.aio.AioRpcError, match="was delivered"):
        await ask.RetryDelivery(messages.RetryDeliveryRequest(id=delivery.id))
    for unknown in (0, -4, 999, 2**63 - 1):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask.RetryDelivery(messages.RetryDeliveryRequest(id=unknown))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_past_its_age_it_is_given_up(world: World) -> None:
    notifier = world.notifier(retry={"max_age": "30s", "first": "20s"})
    world.endpoint.answer = lambda _: Answer(503)
    await notifier.execution_ended("m1", ended().SerializeToString())
    await notifier.tick()
    await world.clock.advance(timedelta(seconds=25))
    await notifier.tick()
    (delivery,) = await world.log(notifier)
    assert delivery.status == messages.DELIVERY_STATUS_FAILED
    assert "not delivered within 30 s" in delivery.error


async def test_without_a_provider_it_is_visibly_not_sent_and_sent_once_there_is_one(world: World) -> None:
    notifier = world.notifier(rules=[])
    own = [notification("email", "ann@example.org")]
    await notifier.execution_ended("m1", ended(notifications=own).SerializeToString())
    with capture() as lines:
        assert await notifier.tick() == 1
    (line,) = [each for each in lines if "no provider" in each["msg"]]
    assert (line["msg"], line["recipient"]) == ("notification not sent: no provider", "ann@example.org")
    (delivery,) = await world.log(notifier)
    assert delivery.status == messages.DELIVERY_STATUS_NOT_SENT
    assert delivery.error.startswith("not sent: no provider")
    await world.clock.advance(timedelta(hours=3))
    assert await notifier.tick() == 0


async def test_the_log_is_filtered_and_paged_and_refuses_what_makes_no_sense(world: World) -> None:
    notifier = world.notifier()
    for number in range(5):
        await notifier.execution_ended(f"m{number}", ended(f"run{number}", number=number).SerializeToString())
    ask = world.ask(notifier)
    seen, token = [], ""
    while True:
        page = await ask.ListDeliveries(messages.ListDeliveriesRequest(page_size=2, page_token=token))
        seen += [each.execution_name for each in page.deliveries]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["run4", "run3", "run2", "run1", "run0"]
    assert [each.execution_name for each in await world.log(notifier, execution_name="run2")] == ["run2"]
    assert await world.log(notifier, project="other") == []
    assert await world.log(notifier, statuses=[messages.DELIVERY_STATUS_DELIVERED]) == []
    for request in (
        messages.ListDeliveriesRequest(page_size=1001),
        messages.ListDeliveriesRequest(page_token="bm8="),
        messages.ListDeliveriesRequest(page_token="\xff"),
        messages.ListDeliveriesRequest(filter=messages.DeliveryFilter.FromString(b"\x3a\x01\x09")),
        messages.ListDeliveriesRequest(filter=messages.DeliveryFilter(rule="\0")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask.ListDeliveries(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_that_cannot_be_read_is_refused(world: World) -> None:
    notifier = world.notifier()
    for body in (b"\xff\xff", b"", b"\x12\x03abc"):
        with pytest.raises(InvalidArgument):
            await notifier.execution_ended("m", body)


async def test_what_is_in_the_log_can_hold_no_character_that_a_database_refuses(world: World) -> None:
    notifier = world.notifier()
    world.endpoint.answer = lambda _: Answer(500, "a\0b")
    own = [notification("email", "a\0@x.org")]
    message = ended(notifications=own, error={"message": "nul \0 here"})
    assert await notifier.execution_ended("m", message.SerializeToString()) == 2
    assert await notifier.tick() == 2


async def test_a_channel_that_does_not_answer_leaves_room_for_others(world: World) -> None:
    release = threading.Event()

    def answer(request: Request) -> Answer:
        if request.path == "/stuck":
            release.wait(20)
        return Answer()

    world.endpoint.answer = answer
    base = f"http://127.0.0.1:{world.endpoint.port}"
    channels = {name: {"type": "webhook", "url": f"{base}/{name}", "secret": "x"} for name in ("stuck", "well")}
    rules = [
        {"name": "stuck", "channels": ["stuck"], "labels": {"to": "stuck"}},
        {"name": "well", "channels": ["well"], "labels": {"to": "well"}},
    ]
    notifier = world.notifier(channels=channels, rules=rules, concurrency=8)
    for number in range(30):
        await notifier.execution_ended(f"s{number}", ended(f"s{number}", labels={"to": "stuck"}).SerializeToString())
    await notifier.execution_ended("w", ended("w", labels={"to": "well"}).SerializeToString())
    running = asyncio.create_task(notifier.run())
    try:
        await until(lambda: [each for each in world.endpoint.requests if each.path == "/well"])
        assert len(world.endpoint.requests) <= 8
        release.set()
        await asyncio.to_thread(world.endpoint.wait, 31)
    finally:
        release.set()
        running.cancel()
        await asyncio.wait([running])
    assert len(await world.log(notifier, statuses=[messages.DELIVERY_STATUS_DELIVERED])) == 31


async def test_a_stop_lets_what_has_begun_finish(world: World) -> None:
    asked, release = threading.Event(), threading.Event()

    def answer(_: Request) -> Answer:
        asked.set()
        release.wait(20)
        return Answer()

    world.endpoint.answer = answer
    notifier = world.notifier()
    running = asyncio.create_task(notifier.run())
    await notifier.execution_ended("m", ended().SerializeToString())
    assert await asyncio.to_thread(asked.wait, 20)
    running.cancel()
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.wait([running])
    (delivery,) = await world.log(notifier)
    assert delivery.status == messages.DELIVERY_STATUS_DELIVERED


async def test_what_was_finished_long_ago_is_forgotten(world: World) -> None:
    notifier = world.notifier(deliveries_kept="24h")
    await notifier.execution_ended("m1", ended().SerializeToString())
    await notifier.tick()
    await world.clock.advance(timedelta(hours=25))
    world.endpoint.answer = lambda _: Answer(503)
    await notifier.execution_ended("m2", ended("late", number=8).SerializeToString())
    await notifier.tick()
    await notifier.prune()
    assert [each.execution_name for each in await world.log(notifier)] == ["late"]
    assert await world.database.fetchval("SELECT count(*) FROM notifier_messages") == 1
