"""Each way out, to a real receiver: what it gets, and what becomes of what it says."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiobotocore.session import get_session

from aerodrome.idl.notifier.v1 import notifier_pb2 as messages
from aerodrome.notifier.main import Notifier
from aerodrome.notifier.senders.mail import KEY_HEADER
from aerodrome.notifier.testing import Answer, MailServer, Request, mail_server
from aerodrome.stdlib.logger import capture
from aerodrome.stdlib.pubsub.testing import aws_server

from .conftest import HOOK_SECRET, START, World, ended, notification, smtp

DELIVERED, FAILED = messages.DELIVERY_STATUS_DELIVERED, messages.DELIVERY_STATUS_FAILED
WAITING = messages.DELIVERY_STATUS_WAITING
ROUTING_KEY = "R0UT1NGKEY"


async def deliver(world: World, notifier: Notifier, **fields: Any) -> list[Any]:
    """Tell it of an end, and let it send; the log."""
    await notifier.execution_ended("m", ended(**fields).SerializeToString())
    await notifier.tick()
    return await world.log(notifier)


def channel(world: World, name: str, **config: Any) -> dict[str, Any]:
    """Settings with one channel and one rule that sends everything to it."""
    return {
        "channels": {name: {"url": world.endpoint.url} | config},
        "rules": [{"name": "all", "channels": [name], "phases": ["FAILED", "SUCCEEDED"]}],
    }


# Webhooks


async def test_a_webhook_is_a_signed_cloud_event(world: World) -> None:
    notifier = world.notifier()
    (delivery,) = await deliver(world, notifier)
    (request,) = world.endpoint.requests
    event = json.loads(request.body)
    assert (event["specversion"], event["id"]) == ("1.0", delivery.idempotency_key)
    assert (event["type"], event["source"]) == ("aerodrome.notifier.v1.ExecutionEnded", "/aerodrome/notifier")
    assert (event["subject"], event["time"]) == ("fly/development/run", "2026-03-02T12:01:05Z")
    data = event["data"]
    assert (data["name"], data["phase"], data["rule"]) == ("run", "FAILED", "all")
    assert (data["error"]["code"], data["launchPlan"]["name"], data["labels"]) == (
        "USER:ValueError",
        "lp",
        {"team": "birds"},
    )
    assert data["consoleUrl"] == "https://console.example.org/console/projects/fly/domains/development/executions/run"
    headers = request.headers
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-id"] == headers["idempotency-key"] == delivery.idempotency_key
    assert headers["webhook-timestamp"] == str(int(START.timestamp()))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(HOOK_SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


async def test_a_secret_as_the_specification_writes_it_is_decoded_and_headers_are_added(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"raw bytes").decode() + "\n")
    settings = channel(
        world, "h", type="webhook", secret_path=str(tmp_path / "secret"), headers={"Authorization": "Bearer tok-1234"}
    )
    (delivery,) = await deliver(world, world.notifier(**settings))
    (request,) = world.endpoint.requests
    signed = f"{delivery.idempotency_key}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(b"raw bytes", signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.headers["authorization"] == "Bearer tok-1234"


@pytest.mark.parametrize(
    ("status", "expected"),
    [(204, DELIVERED), (400, FAILED), (401, WAITING), (404, WAITING), (410, FAILED), (429, WAITING), (502, WAITING)],
)
async def test_what_the_other_side_answers_decides(world: World, status: int, expected: int) -> None:
    world.endpoint.answer = lambda _: Answer(status, "")
    (delivery,) = await deliver(world, world.notifier())
    assert delivery.status == expected


async def test_a_pause_that_the_other_side_asks_for_is_kept_to(world: World) -> None:
    world.endpoint.answer = lambda _: Answer(429, "slow down", {"Retry-After": "120"})
    (delivery,) = await deliver(world, world.notifier())
    assert delivery.due_at.seconds - START.timestamp() == 120


async def test_redirects_are_not_followed(world: World) -> None:
    world.endpoint.answer = lambda _: Answer(302, "", {"Location": f"http://127.0.0.1:{world.endpoint.port}/elsewhere"})
    (delivery,) = await deliver(world, world.notifier())
    assert delivery.status == FAILED
    assert "redirects are not followed" in delivery.error
    assert len(world.endpoint.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]"])
async def test_an_address_of_this_machine_is_refused_however_it_is_written(world: World, host: str) -> None:
    url = f"http://{host}:{world.endpoint.port}/x"
    notifier = world.notifier(network={"allow": []}, **channel(world, "h", type="slack", url=url))
    (delivery,) = await deliver(world, notifier)
    assert delivery.status == FAILED
    assert "notifier.network.allow" in delivery.error
    assert world.endpoint.requests == []


async def test_a_name_is_resolved_once_and_the_checked_address_is_called(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers for a name could otherwise say something else to the check than to the connection."""
    loop = asyncio.get_running_loop()
    real, asked = loop.getaddrinfo, []

    async def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "rebinding.example.org":
            return await real(host, *arguments, **options)
        asked.append(host)
        return await real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", *arguments, **options)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = f"http://rebinding.example.org:{world.endpoint.port}/x"
    notifier = world.notifier(**channel(world, "h", type="slack", url=url))
    (delivery,) = await deliver(world, notifier)
    assert (delivery.status, len(asked), len(world.endpoint.requests)) == (DELIVERED, 1, 1)
    world.endpoint.answer = lambda _: Answer(200, "", {"Connection": "close"})
    await notifier.aclose()
    await notifier.execution_ended("m2", ended("two", number=8).SerializeToString())
    await notifier.tick()
    (delivery,) = await world.log(notifier, execution_name="two")
    assert (delivery.status, len(asked)) == (FAILED, 2)
    assert "rebinding.example.org leads to 169.254.169.254 is a link-local address" in delivery.error


async def test_no_secret_is_in_a_row_a_log_or_an_answer(world: World, tmp_path: Path) -> None:
    """Neither when the other side repeats everything that it was sent."""
    secrets = ["its-secret-path", HOOK_SECRET, "Bearer tok-1234", ROUTING_KEY, "only-in-a-file"]
    (tmp_path / "url").write_text(f"http://127.0.0.1:{world.endpoint.port}/only-in-a-file")
    channels = {
        "hook": {
            "type": "webhook", "url": world.endpoint.url, "secret": HOOK_SECRET,
            "headers": {"Authorization": "Bearer tok-1234"},
        },
        "pager": {"type": "pagerduty", "url": world.endpoint.url, "routing_key": ROUTING_KEY},
        "room": {"type": "slack", "url_path": str(tmp_path / "url")},
        "gone": {"type": "slack", "url": "http://127.0.0.1:9/services/its-secret-path"},
        "lost": {"type": "slack", "url_path": str(tmp_path / "missing")},
    }  # fmt: skip
    notifier = world.notifier(channels=channels, rules=[{"name": "r", "channels": list(channels)}])

    def secret_of(request: Request) -> str:
        return HOOK_SECRET if "webhook-signature" in request.headers else ""

    world.endpoint.answer = lambda request: Answer(
        500, f"{request.path} {secret_of(request)} {request.headers} {request.body!r} {world.endpoint.url}"[:4000]
    )
    with capture() as lines:
        log = await deliver(world, notifier)
    rows = await world.database.fetch(
        "SELECT d::text AS d, a::text AS a FROM notifier_deliveries d, notifier_attempts a"
    )
    everything = f"{log} {lines} {[(row['d'], row['a']) for row in rows]} {notifier.config}"
    assert [secret for secret in secrets if secret in everything] == []
    assert {each.channel: each.status for each in log} == dict.fromkeys(channels, WAITING)
    assert {each.channel: each.error for each in log}["lost"].endswith("cannot be read: No such file or directory")
    assert len(world.endpoint.requests) == 3


# Slack, Teams, PagerDuty


async def test_slack_gets_blocks_with_a_link(world: World) -> None:
    (delivery,) = await deliver(world, world.notifier(**channel(world, "room", type="slack")))
    (request,) = world.endpoint.requests
    message = json.loads(request.body)
    assert (request.path, delivery.status) == ("/services/its-secret-path", DELIVERED)
    assert message["text"] == "[development] lp failed"
    kinds = [block["type"] for block in message["blocks"]]
    assert kinds == ["section", "section", "section", "actions"]
    assert message["blocks"][0]["text"]["text"] == ":x: *[development] lp failed*"
    assert {field["text"] for field in message["blocks"][1]["fields"]} >= {"*Phase*\nfailed", "*Launch plan*\nlp (v1)"}
    assert message["blocks"][2]["text"]["text"] == "```&lt;b&gt;no&lt;/b&gt; {{ project }}```"
    assert message["blocks"][3]["elements"][0]["url"].endswith("/domains/development/executions/run")


async def test_teams_gets_an_adaptive_card(world: World) -> None:
    await deliver(world, world.notifier(**channel(world, "team", type="teams")))
    (attachment,) = json.loads(world.endpoint.requests[0].body)["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["body"][0]["text"], card["body"][0]["color"]) == (
        "AdaptiveCard", "[development] lp failed", "Attention",
    )  # fmt: skip
    assert {"title": "Phase", "value": "failed"} in card["body"][1]["facts"]
    assert card["actions"][0]["url"].startswith("https://console.example.org/console/")


async def test_pagerduty_gets_an_alert_with_the_same_dedup_key_at_each_attempt(world: World) -> None:
    answers = iter([Answer(500), Answer(202, '{"status": "success"}')])
    world.endpoint.answer = lambda _: next(answers)
    notifier = world.notifier(**channel(world, "pager", type="pagerduty", routing_key=ROUTING_KEY))
    (delivery,) = await deliver(world, notifier)
    await world.clock.advance(60)
    await notifier.tick()
    first, second = (json.loads(request.body) for request in world.endpoint.requests)
    assert first == second
    assert (first["routing_key"], first["event_action"]) == (ROUTING_KEY, "trigger")
    assert first["dedup_key"] == delivery.idempotency_key
    payload = first["payload"]
    assert (payload["summary"], payload["severity"]) == ("[development] lp failed", "error")
    assert (payload["source"], payload["timestamp"]) == ("fly/development/run", "2026-03-02T12:01:05Z")
    assert first["links"][0]["href"].startswith("https://console.example.org/console/")


# Mail


async def test_mails_are_exactly_what_notifications_and_rules_say(world: World, mails: MailServer) -> None:
    notifier = world.notifier(
        smtp(mails),
        channels={"ops": {"type": "email", "recipients": ["ops@example.org"]}},
        rules=[{"name": "r", "channels": ["ops"], "subject": "{{ name }} broke", "body": "<i>{{ console_url }}</i>"}],
    )
    own = [
        notification("email", "ann@example.org", "bob@example.org"),
        notification("slack", "room@slack.example.org", template="<h1>{{ name }}{{ error }}</h1>"),
        notification("pager_duty", "pager@example.org", phases=("SUCCEEDED",)),
    ]
    log = await deliver(world, notifier, notifications=own)
    assert [each.status for each in log] == [DELIVERED] * 4
    got = {mail.recipients: mail.message for mail in mails.mails}
    assert set(got) == {(f"{who}@example.org",) for who in ("ann", "bob", "ops")} | {("room@slack.example.org",)}
    assert {mail.sender for mail in mails.mails} == {"flyte@example.org"}
    ann = got[("ann@example.org",)]
    assert (ann["To"], ann["From"]) == ("ann@example.org, bob@example.org", "Flyte <flyte@example.org>")
    assert ann["Subject"] == "[development] lp failed"
    assert ann.get_content_type() == "text/html"
    assert ann.get_content().strip() == (
        "<p>fly/development/run ended as failed. The execution failed with error: "
        "[&lt;b&gt;no&lt;/b&gt; {{ project }}].</p>"
    )
    keys = {each.recipient: each.idempotency_key for each in log}
    assert ann["Message-ID"] == f"<{keys['ann@example.org']}@notifier.aerodrome>"
    assert ann[KEY_HEADER] == keys["ann@example.org"]
    room = got[("room@slack.example.org",)]
    assert room.get_content().startswith("<h1>run The execution failed with error: [&lt;b&gt;")
    ops = got[("ops@example.org",)]
    assert ops["Subject"] == "run broke"
    assert "executions/run</i>" in ops.get_content()


async def test_one_refused_recipient_does_not_keep_it_from_the_others(world: World, mails: MailServer) -> None:
    said = {"gone@example.org": "550 no such mailbox", "full@example.org": "452 mailbox full"}
    mails.refuse = said.get
    own = [notification("email", *said, "ann@example.org", "no address", "a\r\nBcc: x@example.org")]
    log = await deliver(world, world.notifier(smtp(mails), rules=[]), notifications=own)
    status = {each.recipient: (each.status, each.error) for each in log}
    assert status["gone@example.org"] == (FAILED, "mail server: 550 no such mailbox")
    assert status["full@example.org"] == (WAITING, "mail server: 452 mailbox full")
    assert status["ann@example.org"] == (DELIVERED, "")
    assert {status["no address"][0], status["a\r\nBcc: x@example.org"][0]} == {FAILED}
    assert [mail.recipients for mail in mails.mails] == [("ann@example.org",)]


async def test_a_mail_server_that_is_away_is_tried_again_and_connections_are_used_again(
    world: World, mails: MailServer
) -> None:
    notifier = world.notifier(smtp(mails), rules=[])
    for number in range(3):
        own = [notification("email", "ann@example.org")]
        await notifier.execution_ended(
            f"m{number}", ended(f"r{number}", number=number, notifications=own).SerializeToString()
        )
        await notifier.tick()
        assert len(mails.mails) == number + 1
    mails.stop()
    (delivery,) = [each for each in await deliver(world, notifier, notifications=own) if each.execution_name == "run"]
    assert (delivery.status, delivery.error.split(":")[0]) == (WAITING, "mail server")


async def test_a_login_uses_the_secret_and_a_wrong_one_shows_nowhere(world: World, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("wrong-password")
    with mail_server(user="flyte", password="right-password") as server:
        notifier = world.notifier(smtp(server, smtp_username="flyte", smtp_password_path=str(path)), rules=[])
        own = [notification("email", "ann@example.org")]
        (delivery,) = await deliver(world, notifier, notifications=own)
        assert (delivery.status, server.mails) == (WAITING, [])
        assert "wrong-password" not in str(delivery)
        path.write_text("right-password\n")
        await world.clock.advance(60)
        await notifier.tick()
        assert [mail.user for mail in server.mails] == ["flyte"]


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with aws_server() as address:
        yield address


async def test_mail_goes_over_ses(world: World, aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    notifications = {
        "type": "aws", "aws": {"region": "us-east-1", "endpoint": aws}, "emailer": {"sender": "flyte@example.org"},
    }  # fmt: skip
    notifier = world.notifier(notifications, rules=[])
    own = [notification("email", "ann@example.org")]
    (delivery,) = await deliver(world, notifier, notifications=own)
    assert delivery.status == WAITING  # SES knows no such sender yet
    assert "MessageRejected" in delivery.error or "not verified" in delivery.error
    async with get_session().create_client("ses", region_name="us-east-1", endpoint_url=aws) as client:
        await client.verify_email_identity(EmailAddress="flyte@example.org")
    await world.clock.advance(60)
    await notifier.tick()
    (delivery,) = await world.log(notifier)
    assert delivery.status == DELIVERED
    async with aiohttp.ClientSession() as session, session.get(f"{aws}/moto-api/data.json") as response:
        assert response.status == 200


# Tests


async def test_a_test_message_goes_out_at_once_and_tells_what_came_of_it(world: World, mails: MailServer) -> None:
    ask = world.ask(world.notifier(smtp(mails)))
    sent = await ask.SendTest(messages.SendTestRequest(channel="hook"))
    (delivery,) = sent.deliveries
    assert (delivery.status, delivery.rule, delivery.attempts[0].answer) == (DELIVERED, "test", "200 ok")
    assert json.loads(world.endpoint.requests[0].body)["data"]["message"] == "Test message of Aerodrome"
    (delivery,) = (await ask.SendTest(messages.SendTestRequest(email="me@example.org"))).deliveries
    assert delivery.status == DELIVERED
    assert mails.mails[0].message["Subject"] == "Test message of Aerodrome"
    world.endpoint.answer = lambda _: Answer(503)
    (delivery,) = (await ask.SendTest(messages.SendTestRequest(channel="hook"))).deliveries
    assert (delivery.status, delivery.error) == (FAILED, "it answered 503 Service Unavailable")
    assert len({request.headers["idempotency-key"] for request in world.endpoint.requests}) == 2


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"channel": "none"}, grpc.StatusCode.NOT_FOUND),
        ({"email": "nobody"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"email": "a@b\r\nBcc: c@d"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"email": "a" * 400 + "@b"}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_test_that_makes_no_sense_is_refused(world: World, request_fields: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.ask(world.notifier()).SendTest(messages.SendTestRequest(**request_fields))
    assert refused.value.code() is code
