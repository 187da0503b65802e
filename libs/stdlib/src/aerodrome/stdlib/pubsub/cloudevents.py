"""CloudEvents 1.0: binary mode on the bus (attributes as headers, the data as the body), and the JSON form for HTTP.

Source: the CloudEvents specification, sections 3.1 and 3.2 of its JSON and protocol bindings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aerodrome.stdlib.errors import InvalidArgument

SPEC_VERSION = "1.0"
_PREFIX = "ce-"
_CONTENT_TYPE = "content-type"


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event: `source` and `id` together name it, also when it is repeated."""

    id: str
    source: str
    type: str
    data: bytes
    subject: str = ""
    time: datetime | None = None
    data_content_type: str = "application/protobuf"
    data_schema: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Further attributes; names are lower-case letters and digits."""

    def attributes(self) -> dict[str, str]:
        """Every attribute that is set but the data's content type, by its name in the specification."""
        found = {"specversion": SPEC_VERSION, "id": self.id, "source": self.source, "type": self.type}
        if self.subject:
            found["subject"] = self.subject
        if self.time is not None:
            found["time"] = self.time.isoformat().replace("+00:00", "Z")
        if self.data_schema:
            found["dataschema"] = self.data_schema
        return found | dict(self.extensions)

    def headers(self) -> dict[str, str]:
        """As headers of a message whose body is `data`."""
        return {_PREFIX + name: value for name, value in self.attributes().items()} | {
            _CONTENT_TYPE: self.data_content_type
        }

    def to_json(self) -> bytes:
        """The structured form: one JSON document, the data in it as JSON if that is what it is, else as base64."""
        document: dict[str, Any] = self.attributes() | {"datacontenttype": self.data_content_type}
        if self.data_content_type == "application/json":
            document["data"] = json.loads(self.data)
        else:
            document["data_base64"] = base64.b64encode(self.data).decode()
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def from_message(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """The event that a message carries; raises InvalidArgument if it carries none."""
    attributes = {name[len(_PREFIX) :]: value for name, value in headers.items() if name.lower().startswith(_PREFIX)}
    missing = [name for name in ("id", "source", "type") if not attributes.get(name)]
    if attributes.pop("specversion", "") != SPEC_VERSION or missing:
        raise InvalidArgument("the message is not a CloudEvent 1.0" + (f": it lacks {missing[0]}" if missing else ""))
    time = attributes.pop("time", "")
    try:
        at = datetime.fromisoformat(time) if time else None
    except ValueError:
        raise InvalidArgument(f"the CloudEvent's time is not a time: {time}") from None
    return CloudEvent(
        id=attributes.pop("id"),
        source=attributes.pop("source"),
        type=attributes.pop("type"),
        subject=attributes.pop("subject", ""),
        time=at,
        data=body,
        data_content_type=headers.get(_CONTENT_TYPE, ""),
        data_schema=attributes.pop("dataschema", ""),
        extensions=attributes,
    )
