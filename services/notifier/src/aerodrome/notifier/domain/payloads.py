"""What is written to each kind of recipient.  It is kept with the delivery, so it is the same at each attempt.

Sources: Slack's block kit; the adaptive cards that workflows of Microsoft Teams take; PagerDuty's Events API v2;
CloudEvents 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from google.protobuf.json_format import MessageToDict

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded
from aerodrome.stdlib.pubsub.cloudevents import CloudEvent

SOURCE = "/aerodrome/notifier"
EVENT_TYPE = "aerodrome.notifier.v1.ExecutionEnded"
SUBJECT = "[{{ domain }}] {{ launch_plan.name }} {{ phase }}"
"""What a message is headed with where nobody says otherwise."""

_EMOJI = {"SUCCEEDED": ":white_check_mark:", "FAILED": ":x:", "TIMED_OUT": ":hourglass:", "ABORTED": ":octagonal_sign:"}
_COLOUR = {"SUCCEEDED": "Good", "FAILED": "Attention", "TIMED_OUT": "Attention", "ABORTED": "Warning"}
_SEVERITY = {"SUCCEEDED": "info", "FAILED": "error", "TIMED_OUT": "error", "ABORTED": "warning"}
_SLACK_CHARS = 2_900
_EXCERPT_CHARS = 1_500


def mail(subject: str, body: str, recipients: list[str]) -> str:
    """An HTML mail; `recipients` are all whom its header names."""
    return json.dumps({"subject": subject, "html": body, "to": recipients})


def slack(ended: ExecutionEnded, subject: str, text: str, console_url: str) -> str:
    """A message of blocks, with a plain text for notifications and old clients."""
    head = f"{_EMOJI.get(ended.phase, '')} *{_slack_text(subject)}*".strip()
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": {"type": "mrkdwn", "text": head}},
        {
            "type": "section",
            "fields": [
                {"type": "mrkdwn", "text": f"*{name}*\n{_slack_text(value)[:1_900]}"} for name, value in _facts(ended)
            ],
        },
    ]
    if text:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": _slack_text(text)[:_SLACK_CHARS]}})
    if ended.error.message:
        excerpt = _slack_text(_excerpt(ended.error.message)).replace("```", "'''")
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": f"```{excerpt[:_SLACK_CHARS]}```"}})
    if console_url:
        button = {"type": "button", "text": {"type": "plain_text", "text": "Open in the console"}, "url": console_url}
        blocks.append({"type": "actions", "elements": [button]})
    return json.dumps({"text": _slack_text(subject), "blocks": blocks})


def teams(ended: ExecutionEnded, subject: str, text: str, console_url: str) -> str:
    """An adaptive card."""
    body: list[dict[str, Any]] = [
        {
            "type": "TextBlock", "size": "Medium", "weight": "Bolder", "wrap": True, "text": subject,
            "color": _COLOUR.get(ended.phase, "Default"),
        },
        {"type": "FactSet", "facts": [{"title": name, "value": value} for name, value in _facts(ended)]},
    ]  # fmt: skip
    if text:
        body.append({"type": "TextBlock", "wrap": True, "text": text[:_EXCERPT_CHARS]})
    if ended.error.message:
        body.append({"type": "TextBlock", "wrap": True, "fontType": "Monospace", "text": _excerpt(ended.error.message)})
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if console_url:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open in the console", "url": console_url}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return json.dumps({"type": "message", "attachments": [attachment]})


def pagerduty(ended: ExecutionEnded, key: str, subject: str, text: str, console_url: str) -> str:
    """An alert whose dedup_key is the delivery's key; its routing key is added when it is sent."""
    where = f"{ended.project}/{ended.domain}"
    event: dict[str, Any] = {
        "event_action": "trigger",
        "dedup_key": key,
        "client": "Aerodrome",
        "payload": {
            "summary": subject[:1_024],
            "source": f"{where}/{ended.name}",
            "severity": _SEVERITY.get(ended.phase, "error"),
            "component": ended.launch_plan.name or ended.workflow.name,
            "group": where,
            "class": ended.phase,
            "custom_details": {name.lower().replace(" ", "_"): value for name, value in _facts(ended)}
            | ({"error": _excerpt(ended.error.message)} if ended.error.message else {})
            | ({"text": text[:_EXCERPT_CHARS]} if text else {}),
        },
    }
    if ended.HasField("ended_at"):
        event["payload"]["timestamp"] = MessageToDict(ended)["endedAt"]
    if console_url:
        event["client_url"] = console_url
        event["links"] = [{"href": console_url, "text": "Open in the console"}]
    return json.dumps(event)


def webhook(ended: ExecutionEnded, key: str, rule: str, subject: str, text: str, console_url: str) -> str:
    """A CloudEvent in its JSON form, whose id is the delivery's key; its data is what is known of the end."""
    data: Mapping[str, Any] = MessageToDict(ended)
    kept = {name: value for name, value in data.items() if name not in ("notifications", "annotations")}
    told = kept | {"rule": rule, "message": subject}
    if text:
        told["text"] = text
    if console_url:
        told["consoleUrl"] = console_url
    event = CloudEvent(
        id=key,
        source=SOURCE,
        type=EVENT_TYPE,
        subject=f"{ended.project}/{ended.domain}/{ended.name}",
        time=ended.ended_at.ToDatetime(UTC) if ended.HasField("ended_at") else None,
        data=json.dumps(told).encode(),
        data_content_type="application/json",
    )
    return event.to_json().decode()


def _facts(ended: ExecutionEnded) -> list[tuple[str, str]]:
    facts = [
        ("Execution", f"{ended.project}/{ended.domain}/{ended.name}"),
        ("Phase", ended.phase.lower().replace("_", " ")),
        ("Workflow", _versioned(ended.workflow.name, ended.workflow.version)),
        ("Launch plan", _versioned(ended.launch_plan.name, ended.launch_plan.version)),
        ("Principal", ended.principal),
        ("Aborted because", ended.abort_cause),
    ]
    return [(name, value) for name, value in facts if value]


def _versioned(name: str, version: str) -> str:
    return f"{name} ({version})" if name and version else name


def _excerpt(text: str) -> str:
    """The end of a long text: of a traceback, that is where the cause stands."""
    text = text.replace("\0", "").strip()
    return text if len(text) <= _EXCERPT_CHARS else f"…{text[-_EXCERPT_CHARS:]}"


def _slack_text(text: str) -> str:
    """Text that is no markup.  Source: Slack's "Formatting text", section on escaping."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
