"""The bound on nesting.

Protobuf parsers refuse messages that are nested deeper than 100 levels.  A template travels back to clients inside
other messages, so that it has to be flatter than what could be sent.  What is deeper is refused when it comes in,
with an error that says so, instead of failing every reader later.  The bound is checked by the parser itself: the
message is parsed inside the deepest message that ever carries it.
"""

from typing import Any

from flyteidl.admin.event_pb2 import NodeExecutionEventRequest
from flyteidl.core.compiler_pb2 import CompiledWorkflowClosure
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import WorkflowTemplate
from google.protobuf.message import DecodeError, EncodeError

from aerodrome.compiler.errors import START_NODE, Code, CompileError, CompileErrors

_TO_CLOSURE = ("event", "task_node_metadata", "dynamic_workflow", "compiled_workflow")
_CARRIERS: dict[str, tuple[str, ...]] = {
    CompiledWorkflowClosure.DESCRIPTOR.full_name: _TO_CLOSURE,
    WorkflowTemplate.DESCRIPTOR.full_name: (*_TO_CLOSURE, "primary", "template"),
    TaskTemplate.DESCRIPTOR.full_name: (*_TO_CLOSURE, "tasks", "template"),
}
"""For each checked message, the fields that lead to it from a NodeExecutionEventRequest."""

_LENGTH_DELIMITED = 2


def check_depth(message: WorkflowTemplate | TaskTemplate | CompiledWorkflowClosure, node_id: str = START_NODE) -> None:
    """Raises CompileErrors if `message` is nested so deeply that clients could not read it back."""
    numbers: list[int] = []
    descriptor: Any = NodeExecutionEventRequest.DESCRIPTOR
    for name in _CARRIERS[message.DESCRIPTOR.full_name]:
        field = descriptor.fields_by_name[name]
        numbers.append(field.number)
        descriptor = field.message_type
    try:
        content = message.SerializeToString()
        for number in reversed(numbers):
            content = _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content
        NodeExecutionEventRequest.FromString(content)
    except (DecodeError, EncodeError) as why:
        raise too_deep(node_id) from why


def too_deep(node_id: str = START_NODE) -> CompileErrors:
    """The error for what is nested too deeply."""
    return CompileErrors(
        [
            CompileError(
                Code.INVALID_VALUE.value,
                node_id,
                "Types, literals, bindings or branches are nested too deeply: clients read some 90 levels of messages.",
            )
        ]
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
