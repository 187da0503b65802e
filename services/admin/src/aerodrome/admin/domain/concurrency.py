"""How many executions of a launch plan may be in progress at a time, and what becomes of one too many.

flyteidl knows one behaviour, to skip it.  Ours are asked for by an annotation of the launch plan, beside its
`concurrency_policy.max`: `aerodrome/concurrency: wait` lets it wait for room, `replace` aborts the oldest for it.
Source: spec/control-plane.md, section 3.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from flyteidl.admin.launch_plan_pb2 import ConcurrencyLimitBehavior, LaunchPlanSpec
from flyteidl.core.identifier_pb2 import Identifier

from aerodrome.admin.domain.validation import shown
from aerodrome.stdlib.errors import InvalidArgument

ANNOTATION = "aerodrome/concurrency"
"""The launch plan's annotation that says what becomes of one execution too many."""
WAITS_FOR = "aerodrome/waits-for"
"""The annotation under which an execution shows what it waits for, as long as it does."""
_LARGEST = 2**31 - 1


class Behavior(Enum):
    """What becomes of one execution too many."""

    SKIP = "skip"
    WAIT = "wait"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `most` executions at a time, of all versions of the launch plan together."""

    behavior: Behavior
    most: int


def policy_of(spec: LaunchPlanSpec) -> Policy | None:
    """The limit that a launch plan asks for, if it does.  Raises InvalidArgument if that makes no sense."""
    asked = spec.concurrency_policy
    text = spec.annotations.values.get(ANNOTATION, "")
    if not text:
        if asked.behavior == ConcurrencyLimitBehavior.CONCURRENCY_LIMIT_BEHAVIOR_UNSPECIFIED:
            return None
        if asked.behavior != ConcurrencyLimitBehavior.CONCURRENCY_LIMIT_BEHAVIOR_SKIP:
            raise InvalidArgument(
                f"invalid value for concurrency_policy.behavior: {asked.behavior} is not known; use "
                f"CONCURRENCY_LIMIT_BEHAVIOR_SKIP, or the annotation {ANNOTATION} with wait or replace"
            )
        return Policy(Behavior.SKIP, min(asked.max, _LARGEST))
    try:
        behavior = Behavior(text.strip().lower())
    except ValueError:
        known = ", ".join(each.value for each in Behavior)
        raise InvalidArgument(
            f"invalid value for annotations [{ANNOTATION}]: [{shown(text)}] is not known; use one of {known}"
        ) from None
    if not asked.max:
        raise InvalidArgument(
            f"missing concurrency_policy.max: the annotation {ANNOTATION}: {behavior.value} needs to know how many "
            "executions may be in progress at a time, at least 1"
        )
    return Policy(behavior, min(asked.max, _LARGEST))


def waits_for(plan: Identifier, most: int) -> str:
    """What an execution that waits is shown to wait for."""
    return (
        f"room: at most {most} executions of launch plan {plan.project}:{plan.domain}:{plan.name} are in progress at a "
        "time, and those that were created earlier go first"
    )
