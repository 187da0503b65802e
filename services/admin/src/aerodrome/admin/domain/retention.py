"""What is kept for how long, and which objects belong to one execution and to nobody else.

Where an execution's objects are is a contract of several parts: inputs and offloaded data lie under the execution's
number, what the data plane reads and writes under `<project>-<domain>-<name>`, and raw outputs under names made of the
execution's name, a node and an attempt, without project and domain.  The latter two can coincide for different
executions; the functions here tell which others to look for.  Source: design.md section 2, "Keys";
spec/control-plane.md 13; spec/data-plane.md 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from aerodrome.admin.domain.offloading import part
from aerodrome.admin.domain.validation import invalid_value
from aerodrome.plugins.names import generated_name, item_generated_name, item_id, pod_name, raw_output_shard
from aerodrome.stdlib.errors import InvalidArgument

MAX_DAYS = 36_500
"""Longest time in a policy: a hundred years, which is meant as for ever."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long something is kept, in days after its end; None: for ever.  Empty `project` or `domain`: any."""

    project: str
    domain: str
    keep_executions_days: int | None
    keep_blobs_days: int | None
    updated_at: datetime | None = None
    updated_by: str = ""

    def executions_before(self, now: datetime) -> datetime | None:
        """Executions that ended before this are due; None: none is."""
        return _days_before(now, self.keep_executions_days)

    def blobs_before(self, now: datetime) -> datetime | None:
        """Blobs of executions that ended before this are due; None: none are."""
        return _days_before(now, self.keep_blobs_days)


def check_policy(policy: Policy) -> None:
    """A policy says something, and nothing that cannot be meant.  Raises InvalidArgument."""
    if policy.domain and not policy.project:
        raise InvalidArgument("a policy for a domain needs a project: set project, or leave domain empty as well")
    if policy.keep_executions_days is None and policy.keep_blobs_days is None:
        raise InvalidArgument(
            "the policy keeps everything for ever: set keep_executions_days or keep_blobs_days, or delete the policy"
        )
    for name, days in (
        ("keep_executions_days", policy.keep_executions_days),
        ("keep_blobs_days", policy.keep_blobs_days),
    ):
        if days is not None and not 1 <= days <= MAX_DAYS:
            error = invalid_value(name)
            raise InvalidArgument(f"{error.message}: {days} is not between 1 and {MAX_DAYS} days")
    executions, blobs = policy.keep_executions_days, policy.keep_blobs_days
    if executions is not None and blobs is not None and blobs > executions:
        raise InvalidArgument(
            f"keep_blobs_days is {blobs}, but executions go with their blobs after {executions} days already: "
            "set keep_blobs_days to at most keep_executions_days"
        )


def effective(policies: Iterable[Policy], project: str, domain: str) -> Policy | None:
    """The policy that counts for a project and domain: the most specific one; policies are not merged."""
    by_place: Mapping[tuple[str, str], Policy] = {(each.project, each.domain): each for each in policies}
    for place in ((project, domain), (project, ""), ("", "")):
        if place in by_place:
            return by_place[place]
    return None


@dataclass(frozen=True, slots=True)
class Stored:
    """An execution whose objects are looked for."""

    execution_id: int
    project: str
    domain: str
    name: str

    @property
    def identity(self) -> str:
        """What the data plane calls it."""
        return f"{self.project}-{self.domain}-{self.name}"


def own_directories(stored: Stored) -> list[tuple[str, ...]]:
    """Elements of the paths below which only objects of this execution lie: they end with its number."""
    number = str(stored.execution_id)
    plain = ("metadata", stored.project, stored.domain, stored.name, number)
    safe = ("metadata", part(stored.project), part(stored.domain), part(stored.name), number)
    return list(dict.fromkeys((plain, safe)))


def dynamic_directory(stored: Stored, prefix: Iterable[str]) -> tuple[str, ...]:
    """Elements of the path below which the workflows lie that its dynamic nodes made."""
    return (*prefix, part(stored.project), part(stored.domain), part(stored.name), str(stored.execution_id))


def namesakes(stored: Stored) -> list[tuple[str, str, str]]:
    """Other (project, domain, name) that the data plane would call the same, and so give the same directory."""
    pieces = stored.identity.split("-")
    own = (stored.project, stored.domain, stored.name)
    found = (
        ("-".join(pieces[:first]), "-".join(pieces[first:second]), "-".join(pieces[second:]))
        for first in range(1, len(pieces) - 1)
        for second in range(first + 1, len(pieces))
    )
    return [each for each in found if all(each) and each != own]


@dataclass(frozen=True, slots=True)
class AttemptName:
    """What the data plane calls an attempt of a task or a map item, and what it leaves is called after."""

    name: str
    hashed: bool
    """The name is a short hash, which an attempt of another execution may share."""

    @property
    def raw_output(self) -> str:
        """Where it puts its raw outputs, below the raw output prefix: `<shard>/<name>`."""
        return f"{raw_output_shard(self.name)}/{self.name}"

    @property
    def pod(self) -> str:
        """The name of its pod."""
        return pod_name(self.name)


def attempts_of_node(execution: str, node_id: str, attempts: int) -> Iterator[AttemptName]:
    """The first `attempts` attempts of a node of the execution of that name."""
    return _attempts(execution, (generated_name(execution, node_id, attempt) for attempt in range(attempts)))


def attempts_of_item(execution: str, node_id: str, index: int, attempts: int) -> Iterator[AttemptName]:
    """The first `attempts` attempts of an item of an array node, whose own attempt is always the first."""
    item = item_id(node_id, 0, index)
    return _attempts(execution, (item_generated_name(execution, item, attempt) for attempt in range(attempts)))


def _attempts(execution: str, names: Iterable[str]) -> Iterator[AttemptName]:
    return (AttemptName(name, not name.startswith(f"{execution}-")) for name in names)


def _days_before(now: datetime, days: int | None) -> datetime | None:
    return None if days is None else now - timedelta(days=days)
