"""What the answer to creating an object in Kubernetes means for its task.

Source: spec/data-plane.md, section 5.3 (create results).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aerodrome.plugins import quantity
from aerodrome.plugins.api import ErrorKind, Failure, Phase, PhaseInfo, failed

_QUOTA: Final = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>.*), used: (?P<used>.*), limited: (?P<limited>.*)",
    re.IGNORECASE,
)
_OVERLOAD: Final = frozenset({"TooManyRequests", "ServerTimeout"})


@dataclass(frozen=True, slots=True)
class Answer:
    """The API server's `Status`: the HTTP code, its machine-readable reason, and its message."""

    code: int
    reason: str = ""
    message: str = ""


def judge_submission(name: str, answer: Answer) -> PhaseInfo | None:
    """The phase of a task after its object `name` was submitted.

    None if the answer says nothing about the task, so that the engine has to try again.
    """
    described = f"creating {name}: {answer.message or answer.reason or answer.code}"
    if answer.code < 300 or answer.reason == "AlreadyExists":
        return PhaseInfo(Phase.QUEUED, reason="task submitted to the cluster")
    if answer.code == 403 and "exceeded quota" in answer.message.lower():
        if hopeless := beyond_quota(answer.message):
            problem = "; ".join(f"{resource}: {why}" for resource, why in hopeless.items())
            return failed(
                Failure(
                    "ResourceRequestsExceedLimits",
                    f"{described}. It asks for more than the quota can ever give: {problem}",
                    ErrorKind.USER,
                    retryable=False,
                )
            )
        return PhaseInfo(Phase.WAITING_FOR_RESOURCES, reason=answer.message)
    if answer.code == 429 or answer.reason in _OVERLOAD or "etcdserver: too many requests" in answer.message:
        return PhaseInfo(Phase.WAITING_FOR_RESOURCES, reason=described)
    match answer.code:
        case 403:
            return failed(Failure("RuntimeFailure", described, ErrorKind.USER, retryable=True))
        case 400 | 422:
            return failed(Failure("BadTaskFormat", described, ErrorKind.USER, retryable=False))
        case 413:
            return failed(Failure("EntityTooLarge", described, ErrorKind.USER, retryable=False))
    return None


def beyond_quota(message: str) -> Mapping[str, str]:
    """The resources of a refused object that alone exceed the quota's hard limit, with an explanation of each.

    `message` is the API server's.  Empty if it can be satisfied once others have finished, or cannot be read.
    """
    match = _QUOTA.search(message)
    if match is None:
        return {}
    requested, limited = _amounts(match["requested"]), _amounts(match["limited"])
    beyond = {}
    for resource, amount in requested.items():
        limit = limited.get(resource)
        try:
            if limit is not None and quantity.compare(amount, limit) > 0:
                beyond[resource] = f"{amount} requested, {limit} at most"
        except ValueError:
            continue
    return beyond


def _amounts(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): value.strip() for name, _, value in pairs if value}
