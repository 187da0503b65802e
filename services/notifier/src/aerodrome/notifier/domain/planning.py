"""Which messages follow from the end of an execution: those that it asked for itself, and those of the rules.

Source: spec/datacatalog-scheduler-notifier.md, sections C.1 to C.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from flyteidl.admin.common_pb2 import Notification
from flyteidl.core.execution_pb2 import WorkflowExecution
from google.protobuf.message import DecodeError

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded
from aerodrome.notifier.domain import payloads
from aerodrome.notifier.domain.deliveries import Planned, idempotency_key
from aerodrome.notifier.domain.rules import Rule
from aerodrome.notifier.domain.templates import render, render_html, render_line, variables
from aerodrome.stdlib.errors import InvalidArgument

EMAIL = "email"
"""The channel of notifications that executions ask for themselves."""
TEST = "test"
"""The rule of test messages."""


MAX_DELIVERIES = 2_000
"""Most messages of one end; whoever wants to reach more gives them one address."""
_NAMED_IN_HEADER = 20
"""More recipients than these do not see each other."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What planning has to know of a channel."""

    kind: str
    recipients: tuple[str, ...]
    """Of a mail all addresses; otherwise the host that is called."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What mails say where nobody says otherwise."""

    subject: str
    body: str


def read(body: bytes) -> ExecutionEnded:
    """The end that a message of the bus tells of, without times that are none.  Raises InvalidArgument."""
    try:
        ended = ExecutionEnded.FromString(body)
    except DecodeError as error:
        raise InvalidArgument(f"this is no message of an execution's end ({len(body)} bytes): {error}") from error
    if not ended.name or not ended.phase:
        raise InvalidArgument("a message of an execution's end lacks its name or phase")
    for field in ("created_at", "started_at", "ended_at"):
        try:
            getattr(ended, field).ToJsonString()
        except (ValueError, OverflowError):
            ended.ClearField(field)
    return ended


def plan(
    ended: ExecutionEnded, rules: Sequence[Rule], channels: Mapping[str, Channel], texts: Texts, console: str = ""
) -> list[Planned]:
    """Every message that is due because of this end, in a stable order; `console` is where the console is."""
    link = console_link(ended, console)
    values = variables(ended, link)
    found: dict[str, Planned] = {}
    for each in (*_own(ended, values, texts), *_by_rules(ended, rules, channels, values, texts, link)):
        found.setdefault(each.key, each)
    return list(found.values())


def plan_test(
    name: str, channel: Channel, unique: str, console: str, texts: Texts, ended: ExecutionEnded
) -> list[Planned]:
    """The messages of a test of a channel; `unique` tells this test from all others."""
    link = console_link(ended, console)
    rule = Rule(TEST, (name,), subject="Test message of Aerodrome", body="This is a test: no execution ended.")
    made = _messages(ended, rule, name, channel, variables(ended, link), texts, link, unique)
    return [replace(each, project="", domain="", execution="", phase="") for each in made]


def console_link(ended: ExecutionEnded, console: str) -> str:
    """The execution's page; empty if it is not known where the console is."""
    if not console:
        return ""
    project, domain, name = (quote(part, safe="") for part in (ended.project, ended.domain, ended.name))
    return f"{console.rstrip('/')}/console/projects/{project}/domains/{domain}/executions/{name}"


def _own(ended: ExecutionEnded, values: Mapping[str, str], texts: Texts) -> Iterator[Planned]:
    """What the execution asked for: all kinds are mails, to gateways of the services that the kinds are named for."""
    phase = _phase_number(ended.phase)
    for number, text in enumerate(ended.notifications, start=1):
        try:
            notification = Notification.FromString(text)
        except DecodeError:
            continue  # the control plane wrote it and reads it the same way; nothing else could be made of it
        kind = notification.WhichOneof("type")
        if kind is None or phase not in notification.phases:
            continue
        details = getattr(notification, kind)
        subject = render_line(texts.subject, values)
        body = render_html(details.template or texts.body, values)
        recipients = [each for each in (_text(each) for each in details.recipients_email) if each]
        for recipient in dict.fromkeys(recipients):
            yield _planned(
                ended,
                rule=f"notification {number}" + ("" if kind == "email" else f" ({kind})"),
                channel=EMAIL,
                kind="email",
                recipient=recipient,
                subject=subject,
                content=payloads.mail(subject, body, _named(recipients, recipient)),
                key=_key(ended, f"notification {number}", EMAIL, recipient),
            )


def _by_rules(
    ended: ExecutionEnded,
    rules: Sequence[Rule],
    channels: Mapping[str, Channel],
    values: Mapping[str, str],
    texts: Texts,
    link: str,
) -> Iterator[Planned]:
    for rule in rules:
        if rule.matches(ended):
            for name in rule.channels:
                yield from _messages(ended, rule, name, channels[name], values, texts, link)


def _messages(
    ended: ExecutionEnded,
    rule: Rule,
    name: str,
    channel: Channel,
    values: Mapping[str, str],
    texts: Texts,
    link: str,
    unique: str = "",
) -> list[Planned]:
    subject = render_line(rule.subject or texts.subject, values)
    text = render(rule.body, values)
    found = []
    for recipient in dict.fromkeys(channel.recipients):
        key = _key(ended, f"rule {rule.name}", name, recipient, unique)
        match channel.kind:
            case "email":
                body = render_html(rule.body or texts.body, values)
                content = payloads.mail(subject, body, _named(channel.recipients, recipient))
            case "slack":
                content = payloads.slack(ended, subject, text, link)
            case "teams":
                content = payloads.teams(ended, subject, text, link)
            case "pagerduty":
                content = payloads.pagerduty(ended, key, subject, text, link)
            case _:
                content = payloads.webhook(ended, key, rule.name, subject, text, link)
        found.append(
            _planned(
                ended,
                rule=rule.name,
                channel=name,
                kind=channel.kind,
                recipient=recipient,
                subject=subject,
                content=content,
                key=key,
            )
        )
    return found


def _planned(
    ended: ExecutionEnded, *, rule: str, channel: str, kind: str, recipient: str, subject: str, content: str, key: str
) -> Planned:
    return Planned(
        key=key,
        project=_text(ended.project),
        domain=_text(ended.domain),
        execution=_text(ended.name),
        phase=_text(ended.phase),
        rule=rule,
        channel=channel,
        kind=kind,
        recipient=recipient,
        subject=subject,
        content=content,
    )


def _key(ended: ExecutionEnded, rule: str, channel: str, recipient: str, unique: str = "") -> str:
    """An execution ends once; its number and the time tell it from one of that name on another database."""
    return idempotency_key(
        ended.project, ended.domain, ended.name, str(ended.execution_id),
        f"{ended.ended_at.seconds}.{ended.ended_at.nanos}", ended.phase, rule, channel, recipient, unique,
    )  # fmt: skip


def _named(recipients: Sequence[str], own: str) -> list[str]:
    """Whom the header of a mail names."""
    return list(recipients) if len(recipients) <= _NAMED_IN_HEADER else [own]


def _phase_number(name: str) -> int:
    found = WorkflowExecution.Phase.DESCRIPTOR.values_by_name.get(name)
    return -1 if found is None else int(found.number)


def _text(text: str) -> str:
    """What PostgreSQL can keep."""
    return text.replace("\0", "")
