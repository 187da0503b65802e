"""Which ends of executions a rule of the configuration is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded

PHASES = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")
UNSUCCESSFUL = ("FAILED", "TIMED_OUT", "ABORTED")


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns are those of a shell (`*`, `?`, `[ab]`) and look at letter case; no pattern at all means: any."""

    name: str
    channels: tuple[str, ...]
    phases: frozenset[str] = frozenset(UNSUCCESSFUL)
    projects: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    launch_plans: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None
    """A pattern for the value of each label that the execution must have."""
    children: bool = True
    """Whether executions count that another execution launched."""
    subject: str = ""
    body: str = ""

    def matches(self, ended: ExecutionEnded) -> bool:
        """Whether the rule is about this end."""
        return (
            ended.phase in self.phases
            and (self.children or not ended.parent.name)
            and _any(self.projects, ended.project)
            and _any(self.domains, ended.domain)
            and _any(self.workflows, ended.workflow.name)
            and _any(self.launch_plans, ended.launch_plan.name)
            and all(
                key in ended.labels and fnmatchcase(ended.labels[key], pattern)
                for key, pattern in (self.labels or {}).items()
            )
        )


def _any(patterns: tuple[str, ...], value: str) -> bool:
    return not patterns or any(fnmatchcase(value, pattern) for pattern in patterns)
