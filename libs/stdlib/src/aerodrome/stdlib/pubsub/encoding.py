"""How adapters write down what a message has besides its body: JSON of ASCII, which any broker carries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aerodrome.stdlib.pubsub.bus import Message


def fields_of(message: Message, attempt: int | None = None) -> dict[str, Any]:
    """Everything but topic and body; with `attempt`, that of a message that was given up."""
    fields: dict[str, Any] = {
        "id": message.id,
        "key": message.key,
        "published_at": message.published_at.isoformat(),
        "headers": dict(message.headers),
    }
    if attempt is not None:
        fields["attempt"] = attempt
    return fields


def message_of(topic: str, body: bytes, fields: Mapping[str, Any], attempt: int | None = None) -> Message:
    """The message again; a delivery's `attempt` is what the broker counts, of others it is what was written down."""
    return Message(
        fields["id"],
        topic,
        fields["key"],
        body,
        datetime.fromisoformat(fields["published_at"]),
        fields["headers"],
        fields.get("attempt", 1) if attempt is None else attempt,
    )
