"""Digests of registered entities, and the text that says how two versions of one differ.

Only equality inside one deployment is promised: a digest is SHA-256 over the deterministic serialisation, independent
of the order of maps and of anything that is not structure (creation times, state).  Where digests of an old release
differ, compare the structures.  Source: control-plane specification, section 1.4.
"""

import hashlib
from collections.abc import Collection, Iterator
from typing import Any

from flyteidl.admin.launch_plan_pb2 import LaunchPlanSpec
from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflowClosure
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import ParameterMap, VariableMap
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from aerodrome.compiler.errors import clip
from aerodrome.compiler.identity import key_of

MAX_DIFF_ENTRIES = 20
"""Differences that `structural_diff` lists."""
MAX_DIFF_VALUE_CHARS = 160
"""Length of one side of a difference."""
MAX_DIFF_PATH_CHARS = 200
"""Length of the path of a difference."""


def digest_task(task: CompiledTask) -> bytes:
    """32 bytes that are equal exactly for compiled tasks of the same structure."""
    return _digest((task,))


def digest_workflow(closure: CompiledWorkflowClosure) -> bytes:
    """32 bytes that are equal exactly for closures of the same structure; the order of sub-workflows does not count."""
    sub_workflows = sorted(closure.sub_workflows, key=lambda one: key_of(one.template.id))
    return _digest((closure.primary,), sub_workflows, closure.tasks, closure.launch_plans)


def digest_launch_plan(
    identifier: Identifier, spec: LaunchPlanSpec, expected_inputs: ParameterMap, expected_outputs: VariableMap
) -> bytes:
    """32 bytes that are equal exactly for launch plans of the same structure.

    `spec` is the stored form, whose default inputs were replaced by the expected inputs.
    """
    return _digest((identifier, spec, expected_inputs, expected_outputs))


def _digest(*groups: Collection[Message]) -> bytes:
    digest = hashlib.sha256()
    for messages in groups:
        digest.update(len(messages).to_bytes(8, "big"))
        for message in messages:
            content = message.SerializeToString(deterministic=True)
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
    return digest.digest()


def structural_diff(old: Message, new: Message) -> str:
    """The differences between two messages of one type, for people to read; empty if there are none.

    One entry per JSON-pointer path: the path, then `- <old>` and `+ <new>` on lines of their own; `<absent>` stands for
    what one side does not have.  At most `MAX_DIFF_ENTRIES` entries, then a line that says that there are more.
    """
    lines: list[str] = []
    for count, (path, before, after) in enumerate(_differences("", old, new)):
        if count == MAX_DIFF_ENTRIES:
            lines.append("... and more")
            break
        lines.append(f"{clip(path, MAX_DIFF_PATH_CHARS)}\n\t- {before}\n\t+ {after}")
    return "\n".join(lines)


def _differences(path: str, old: Message, new: Message) -> Iterator[tuple[str, str, str]]:
    if old == new:
        return
    fields = {f.number: f for f, _ in (*old.ListFields(), *new.ListFields())}
    for number in sorted(fields):
        field = fields[number]
        here = f"{path}/{field.json_name}"
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.is_repeated:
            yield from _item_differences(here, field, before, after)
        elif field.message_type is not None:
            if old.HasField(field.name) and new.HasField(field.name):
                yield from _differences(here, before, after)
            else:
                yield here, _shown(old.HasField(field.name), before), _shown(new.HasField(field.name), after)
        elif before != after:
            yield here, _scalar(field, before), _scalar(field, after)


def _item_differences(path: str, field: FieldDescriptor, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    value_type = field.message_type
    mapping = value_type is not None and value_type.GetOptions().map_entry
    if value_type is not None and mapping:
        value_type = value_type.fields_by_name["value"].message_type
    names = sorted({*old, *new}) if mapping else range(max(len(old), len(new)))
    for name in names:
        has_old, has_new = (name in old, name in new) if mapping else (name < len(old), name < len(new))
        here = f"{path}/{clip(str(name)).replace('~', '~0').replace('/', '~1')}"
        if has_old and has_new and old[name] == new[name]:
            continue
        if has_old and has_new and value_type is not None:
            yield from _differences(here, old[name], new[name])
        else:
            yield here, _shown(has_old, old[name] if has_old else None), _shown(has_new, new[name] if has_new else None)


def _scalar(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    return _shown(True, value)


def _shown(present: bool, value: Any) -> str:
    if not present:
        return "<absent>"
    if isinstance(value, Message):
        if value.ByteSize() > 64 * MAX_DIFF_VALUE_CHARS:
            return f"<{value.DESCRIPTOR.name} of {value.ByteSize()} bytes>"
        return clip(" ".join(str(value).split()) or "{}", MAX_DIFF_VALUE_CHARS)
    if isinstance(value, bytes):
        return clip(value[:MAX_DIFF_VALUE_CHARS].hex(), MAX_DIFF_VALUE_CHARS)
    return clip(str(value), MAX_DIFF_VALUE_CHARS)
