"""What makes a request acceptable: identifiers, texts, labels, literals, notifications.

Each check returns nothing and raises `InvalidArgument` with the text that clients know.  An identifier that is absent
and one that is empty are treated alike.  Source: spec/control-plane.md, sections 1.2 and 1.7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from flyteidl.admin.common_pb2 import NamedEntityIdentifier, Notification
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import (
    Identifier,
    NodeExecutionIdentifier,
    ResourceType,
    TaskExecutionIdentifier,
    WorkflowExecutionIdentifier,
)
from google.protobuf import text_format
from google.protobuf.message import Message

from aerodrome.stdlib.errors import InvalidArgument, NotFound

MAX_TEXT_CHARS = 255
"""Longest text of a key column, in characters."""
MAX_TEXT_BYTES = 510
"""Longest text of a key column, in UTF-8 bytes: five of them still fit one index entry of PostgreSQL."""
MAX_SHOWN_CHARS = 400
"""How much of a caller's own text an error message repeats."""
MAX_LABELS = 16
"""Most labels of a project, a launch plan or an execution."""

_TERMINAL_PHASES = frozenset(
    {WorkflowExecution.SUCCEEDED, WorkflowExecution.FAILED, WorkflowExecution.TIMED_OUT, WorkflowExecution.ABORTED}
)
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def missing(field: str) -> InvalidArgument:
    """The error for a required `field` that is empty."""
    return InvalidArgument(f"missing {field}")


def invalid_value(field: str) -> InvalidArgument:
    """The error for a `field` whose value is none of those allowed."""
    return InvalidArgument(f"invalid value for {field}")


def not_found(kind: str, identifier: Message) -> NotFound:
    """The error for an entity that does not exist; `kind` is `TASK`, `WORKFLOW`, `LAUNCH_PLAN`, `execution`, ..."""
    return NotFound(f"missing entity of type {kind} with identifier {proto_text(identifier)}")


def proto_text(message: Message) -> str:
    """The single-line text form of `message`, for error messages; bounded in length."""
    return shown(text_format.MessageToString(message, as_one_line=True), limit_chars=4 * MAX_SHOWN_CHARS)


def shown(text: str, *, limit_chars: int = MAX_SHOWN_CHARS) -> str:
    """`text` as an error message may repeat it: no longer than `limit_chars`."""
    return text if len(text) <= limit_chars else f"{text[:limit_chars]}…"


def check_text(
    field: str, value: str, *, max_bytes: int | None = MAX_TEXT_BYTES, max_chars: int | None = MAX_TEXT_CHARS
) -> None:
    """`value` can be stored: no NUL character, no lone surrogate, and within the limits (None: unlimited)."""
    if "\x00" in value:
        raise InvalidArgument(f"{field} must not contain NUL characters")
    if max_chars is not None and len(value) > max_chars:
        raise InvalidArgument(f"{field} is too long: {len(value)} characters, at most {max_chars} are allowed")
    if value.isascii():
        size_bytes = len(value)
    else:
        try:
            size_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidArgument(f"{field} is not valid Unicode text") from None
    if max_bytes is not None and size_bytes > max_bytes:
        raise InvalidArgument(f"{field} is too long: {size_bytes} bytes, at most {max_bytes} are allowed")


def check_identifier(identifier: Identifier, resource_type: int) -> None:
    """`identifier` is complete and of `resource_type` (a `core.ResourceType`)."""
    if not identifier.ByteSize():
        raise missing("id")
    if identifier.resource_type != resource_type:
        raise InvalidArgument(
            f"unexpected resource type {resource_type_name(identifier.resource_type).lower()} for identifier "
            f"[{proto_text(identifier)}], expected {resource_type_name(resource_type).lower()} instead"
        )
    _check_fields(identifier, ("project", "domain", "name", "version"))


def check_key_texts(identifier: Identifier) -> None:
    """What there is of `identifier` can be looked up; it need not be complete."""
    for field in ("project", "domain", "name", "version"):
        check_text(field, getattr(identifier, field))


def check_size(what: str, size_bytes: int, limit_bytes: int) -> None:
    """A message is not larger than its setting permits (0: any size)."""
    if 0 < limit_bytes < size_bytes:
        raise InvalidArgument(f"{what} too large: {size_bytes} bytes, at most {limit_bytes} are allowed")


def check_named_entity_id(identifier: NamedEntityIdentifier) -> None:
    """`identifier` names an entity, whatever its version."""
    if not identifier.ByteSize():
        raise missing("id")
    _check_fields(identifier, ("project", "domain", "name"))


def check_execution_id(identifier: WorkflowExecutionIdentifier) -> None:
    """`identifier` is complete."""
    if not identifier.ByteSize():
        raise missing("id")
    _check_fields(identifier, ("project", "domain", "name"))


def check_node_execution_id(identifier: NodeExecutionIdentifier) -> None:
    """`identifier` is complete."""
    if not identifier.ByteSize():
        raise missing("id")
    if not identifier.HasField("execution_id"):
        raise missing("execution_id")
    if not identifier.node_id:
        raise missing("node_id")
    check_text("node_id", identifier.node_id)
    check_execution_id(identifier.execution_id)


def check_task_execution_id(identifier: TaskExecutionIdentifier) -> None:
    """`identifier` is complete and its task identifier is one of a task."""
    if not identifier.ByteSize():
        raise missing("id")
    if not identifier.HasField("node_execution_id"):
        raise missing("node_execution_id")
    check_node_execution_id(identifier.node_execution_id)
    if not identifier.HasField("task_id"):
        raise missing("task_id")
    check_identifier(identifier.task_id, ResourceType.TASK)
    if identifier.retry_attempt > 2**31 - 1:
        raise invalid_value("retry_attempt")


def check_labels(labels: Mapping[str, str]) -> None:
    """`labels` are few enough, and each is one that Kubernetes accepts."""
    if len(labels) > MAX_LABELS:
        raise InvalidArgument(f"labels map cannot exceed {MAX_LABELS} entries")
    for key in sorted(labels):
        if reasons := label_key_problems(key):
            raise InvalidArgument(f"invalid label key [{shown(key)}]: {'; '.join(reasons)}")
        value = labels[key]
        if len(value) > 63:
            raise InvalidArgument(f"invalid label value [{shown(value)}]: must be no more than 63 characters")
        if value and not _LABEL_NAME.fullmatch(value):
            raise InvalidArgument(
                f"invalid label value [{shown(value)}]: a valid label must be an empty string or consist of "
                "alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
            )


def label_key_problems(key: str) -> list[str]:
    """Why `key` is no qualified name of Kubernetes; empty if it is one."""
    prefix, slash, name = key.rpartition("/")
    problems = []
    if slash:
        problems += [f"prefix part {problem}" for problem in dns_subdomain_problems(prefix)]
    if not name:
        problems.append("name part must be non-empty")
    elif len(name) > 63:
        problems.append("name part must be no more than 63 characters")
    elif not _LABEL_NAME.fullmatch(name):
        problems.append(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character"
        )
    return problems


def dns_subdomain_problems(text: str) -> list[str]:
    """Why `text` is no DNS-1123 subdomain; empty if it is one."""
    if not text:
        return ["must be non-empty"]
    if len(text) > 253:
        return ["must be no more than 253 characters"]
    if not _DNS_SUBDOMAIN.fullmatch(text):
        return ["must consist of lower case alphanumeric characters, '-' or '.'"]
    return []


def dns_label_problems(text: str) -> list[str]:
    """Why `text` is no DNS-1123 label; empty if it is one."""
    problems = []
    if len(text) > 63:
        problems.append("must be no more than 63 characters")
    if not _DNS_LABEL.fullmatch(text):
        problems.append(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character"
        )
    return problems


def check_notifications(notifications: Sequence[Notification]) -> None:
    """Every notification names a way, recipients, and phases that end an execution."""
    for notification in notifications:
        way = notification.WhichOneof("type")
        if way is None:
            raise invalid_value("notification type")
        recipients = getattr(notification, way).recipients_email
        if not recipients:
            raise missing("recipients")
        if not all(recipients):
            raise missing("recipient")
        if not _TERMINAL_PHASES.issuperset(notification.phases):
            raise invalid_value("phase")


def resource_type_name(resource_type: int) -> str:
    """The enum name of a `core.ResourceType`, or its number when it has none."""
    value = ResourceType.DESCRIPTOR.values_by_number.get(resource_type)
    return str(resource_type) if value is None else str(value.name)


def _check_fields(message: Message, fields: Iterable[str]) -> None:
    names = tuple(fields)
    for field in names:
        if not getattr(message, field):
            raise missing(field)
    for field in names:
        check_text(field, getattr(message, field))
