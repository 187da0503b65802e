"""Texts with places for what is known of an execution's end, such as `{{ project }}` or `{{project}}`.

Replacement is plain: one pass, so that what is put in is never read as a template; an unknown name stays as it is.
Source: spec/datacatalog-scheduler-notifier.md, section C.3.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded

MAX_TEXT_CHARS = 64 * 1024
"""Longer texts are cut."""

_PLACE = re.compile(r"\{\{ ?([A-Za-z_][A-Za-z0-9_./-]*) ?\}\}")


def variables(ended: ExecutionEnded, console_url: str = "") -> dict[str, str]:
    """What a template may name.

    `error` is a sentence that begins with a blank, or empty if nothing failed.  Beyond the reference's names:
    `console_url` (of the execution), `started_at`, `ended_at`, `duration`, `principal`, `mode`, `labels.<key>`.
    """
    found = {
        "project": ended.project,
        "domain": ended.domain,
        "name": ended.name,
        "phase": ended.phase.lower(),
        "error": f" The execution failed with error: [{ended.error.message}]." if ended.HasField("error") else "",
        "console_url": console_url,
        "started_at": _time(ended, "started_at"),
        "ended_at": _time(ended, "ended_at"),
        "duration": _duration(ended),
        "principal": ended.principal,
        "mode": ended.mode.lower(),
    }
    for prefix, entity in (("workflow", ended.workflow), ("launch_plan", ended.launch_plan)):
        found |= {
            f"{prefix}.project": entity.project,
            f"{prefix}.domain": entity.domain,
            f"{prefix}.name": entity.name,
            f"{prefix}.version": entity.version,
        }
    return found | {f"labels.{key}": value for key, value in ended.labels.items()}


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with its places filled in."""
    return _cut(_PLACE.sub(lambda place: values.get(place[1], place[0]), template))


def render_html(template: str, values: Mapping[str, str]) -> str:
    """As `render`, for a template that is HTML: what is put in is text, whatever it holds."""
    return render(template, {name: html.escape(value) for name, value in values.items()})


def render_line(template: str, values: Mapping[str, str], most: int = 400) -> str:
    """As `render`, on one line of at most `most` characters: a subject."""
    line = " ".join(render(template, values).replace("\0", "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _cut(text: str) -> str:
    text = text.replace("\0", "")
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}… ({len(text)} characters)"


def _time(ended: ExecutionEnded, field: str) -> str:
    found = _at(ended, field)
    return "" if found is None else found.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _at(ended: ExecutionEnded, field: str) -> datetime | None:
    """A time of the message; None if it is absent or no time that can be told."""
    if not ended.HasField(field):  # type: ignore[arg-type]  # the stubs want one of the names, literally
        return None
    try:
        found: datetime = getattr(ended, field).ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None
    return found


def _duration(ended: ExecutionEnded) -> str:
    begun, end = _at(ended, "started_at") or _at(ended, "created_at"), _at(ended, "ended_at")
    if begun is None or end is None:
        return ""
    seconds = max(end - begun, timedelta()).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f}s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{left}s"
