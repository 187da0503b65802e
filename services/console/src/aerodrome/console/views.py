"""What the templates show, made of messages: texts, no protobuf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from flyteidl.core import execution_pb2, identifier_pb2

from aerodrome.console import literals
from aerodrome.console.reading import Node

_GROUPS = {
    "SUCCEEDED": "good",
    "RECOVERED": "good",
    "SUCCEEDING": "busy",
    "RUNNING": "busy",
    "DYNAMIC_RUNNING": "busy",
    "INITIALIZING": "busy",
    "FAILING": "bad",
    "FAILED": "bad",
    "TIMED_OUT": "bad",
    "ABORTING": "off",
    "ABORTED": "off",
    "SKIPPED": "off",
}
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_OURS = ("/console/", "/data/v1/")

_SHOWN = {"UNDEFINED": "ACCEPTED", "DYNAMIC_RUNNING": "RUNNING", "WAITING_FOR_RESOURCES": "WAITING"}

TERMINAL = frozenset(("SUCCEEDED", "FAILED", "ABORTED", "TIMED OUT"))
"""Phases of an execution that stay, as they are shown."""

OVER = TERMINAL | {"SKIPPED", "RECOVERED"}
"""Phases of a node or task that stay, as they are shown."""

MAX_ERROR_CHARACTERS = 20_000
MAX_ITEMS = 500
"""Of the parts of a map task that are shown; those that did not succeed first."""

_CACHE = {1: "cache miss", 2: "from cache", 3: "cached", 4: "cache lookup failed", 5: "caching failed", 6: "", 7: ""}


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase, and which colour it has."""

    name: str
    group: str


@dataclass(frozen=True, slots=True)
class Problem:
    """An error to show."""

    title: str
    message: str


@dataclass(frozen=True, slots=True)
class Link:
    """A name with an address, which is empty if it is only a name."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Item:
    """One part of a map task."""

    index: int
    phase: Phase
    retry: int
    logs: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a task."""

    number: int
    """Counted from one."""
    phase: Phase
    task: Link
    task_type: str
    started: str
    took: str
    reasons: tuple[str, ...]
    problem: Problem | None
    logs: tuple[Link, ...]
    items: tuple[Item, ...]
    items_by_phase: tuple[tuple[Phase, int], ...]
    more_items: int


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A line of the tree of nodes."""

    node_id: str
    name: str
    depth: int
    kind: str
    phase: Phase
    attempts: int
    started: str
    took: str
    problem: Problem | None
    logs: tuple[Link, ...]
    has_deck: bool
    cache: str
    url: str
    child: Link | None


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """A line of a list of executions."""

    name: str
    url: str
    phase: Phase
    workflow: str
    launch_plan: str
    started: str
    took: str
    error: str


@dataclass(frozen=True, slots=True)
class ExecutionView:
    """The head of an execution's page."""

    project: str
    domain: str
    name: str
    phase: Phase
    terminal: bool
    facts: tuple[tuple[str, str | Link], ...]
    problem: Problem | None


def place_url(project: str, domain: str) -> str:
    """The page with the executions of a domain."""
    return f"/console/projects/{_quoted(project)}/domains/{_quoted(domain)}/executions"


def execution_url(execution_id: Any) -> str:
    """The page of an execution."""
    return f"{place_url(execution_id.project, execution_id.domain)}/{_quoted(execution_id.name)}"


def node_url(node_id: Any) -> str:
    """The page of a node execution."""
    return f"{execution_url(node_id.execution_id)}/nodes/{_quoted(node_id.node_id)}"


def entity_link(kind: str, identifier: Any) -> Link:
    """The page of a workflow, task or launch plan, under its name; without a name nothing."""
    if not identifier.name:
        return Link("", "")
    parts = [_quoted(each) for each in (identifier.project, identifier.domain, identifier.name, identifier.version)]
    url = f"/console/projects/{parts[0]}/domains/{parts[1]}/{kind}/{parts[2]}/version/{parts[3]}"
    return Link(_identifier(identifier), url)


def here(url: str) -> str:
    """`url` without its origin, if that is this machine and the path is one of ours.

    Addresses of logs and signed URLs name the platform in one way, such as 127.0.0.1; whoever came here by another
    name would be refused there as a visitor from another site.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    ours = parts.scheme == "http" and (parts.hostname or "") in _LOOPBACK and parts.path.startswith(_OURS)
    return parts._replace(scheme="", netloc="").geturl() if ours else url


def phase(kind: Any, value: int) -> Phase:
    """A phase of the enum `kind`; its number where it is not known."""
    known = kind.DESCRIPTOR.values_by_number.get(value)
    name = str(value) if known is None else str(known.name)
    return Phase(_SHOWN.get(name, name).replace("_", " "), _GROUPS.get(name, "idle"))


def is_terminal(execution: Any) -> bool:
    """Whether an execution will not change any more."""
    return phase(execution_pb2.WorkflowExecution.Phase, execution.closure.phase).name in TERMINAL


def execution_row(execution: Any, now: datetime) -> ExecutionRow:
    closure = execution.closure
    return ExecutionRow(
        name=execution.id.name,
        url=execution_url(execution.id),
        phase=phase(execution_pb2.WorkflowExecution.Phase, closure.phase),
        workflow=closure.workflow_id.name,
        launch_plan=execution.spec.launch_plan.name,
        started=_moment(closure, "started_at") or _moment(closure, "created_at"),
        took=_took(closure, is_terminal(execution), now),
        error=closure.error.message[:200] if closure.WhichOneof("output_result") == "error" else "",
    )


def execution_view(execution: Any, now: datetime) -> ExecutionView:
    closure, spec = execution.closure, execution.spec
    metadata = spec.metadata
    facts: list[tuple[str, str | Link]] = [
        ("Workflow", entity_link("workflow", closure.workflow_id)),
        _launched(spec.launch_plan),
        ("Created", _moment(closure, "created_at")),
        ("Started", _moment(closure, "started_at")),
        ("Updated", _moment(closure, "updated_at")),
        ("Duration", _took(closure, is_terminal(execution), now)),
        ("By", metadata.principal),
        ("Mode", _mode(metadata)),
        ("Scheduled for", literals.instant(metadata.scheduled_at) if metadata.HasField("scheduled_at") else ""),
        ("Cluster", metadata.system_metadata.execution_cluster),
        ("Labels", ", ".join(f"{key}={value}" for key, value in sorted(spec.labels.values.items()))),
        ("Tags", ", ".join(spec.tags)),
    ]
    if metadata.HasField("reference_execution"):
        facts.append(("Related to", _execution_link(metadata.reference_execution)))
    if metadata.HasField("parent_node_execution"):
        parent = metadata.parent_node_execution
        facts.append(("Parent", Link(f"{parent.execution_id.name} / {parent.node_id}", node_url(parent))))
    return ExecutionView(
        project=execution.id.project,
        domain=execution.id.domain,
        name=execution.id.name,
        phase=phase(execution_pb2.WorkflowExecution.Phase, closure.phase),
        terminal=is_terminal(execution),
        facts=tuple((name, value) for name, value in facts if value and value != Link("", "")),
        problem=_execution_problem(closure),
    )


def node_rows(nodes: Sequence[Node], now: datetime, depth: int = 0) -> Iterator[NodeRow]:
    """The lines of a tree, each node before those inside of it."""
    for node in nodes:
        yield node_row(node, now, depth)
        yield from node_rows(node.children, now, depth + 1)


def node_row(node: Node, now: datetime, depth: int = 0) -> NodeRow:
    execution = node.execution
    closure, metadata = execution.closure, execution.metadata
    last = node.attempts[-1] if node.attempts else None
    target = closure.WhichOneof("target_metadata")
    child = None
    if target == "workflow_node_metadata" and closure.workflow_node_metadata.executionId.name:
        child = _execution_link(closure.workflow_node_metadata.executionId)
    task = last.id.task_id.name if last is not None else ""
    shown = phase(execution_pb2.NodeExecution.Phase, closure.phase)
    title = node.name or _last_part(task) or metadata.spec_node_id or execution.id.node_id
    return NodeRow(
        node_id=execution.id.node_id,
        name=title,
        depth=depth,
        kind=_kind(metadata, last, child),
        phase=shown,
        attempts=len(node.attempts),
        started=_moment(closure, "started_at"),
        took=_took(closure, shown.name in OVER, now),
        problem=_problem(closure),
        logs=_links(last.closure.logs) if last is not None else (),
        has_deck=bool(closure.deck_uri),
        cache=_CACHE.get(closure.task_node_metadata.cache_status, "") if target == "task_node_metadata" else "",
        url=node_url(execution.id),
        child=child,
    )


def attempt(task_execution: Any, now: datetime) -> Attempt:
    closure = task_execution.closure
    kind = execution_pb2.TaskExecution.Phase
    shown = phase(kind, closure.phase)
    resources = closure.metadata.external_resources
    counts: dict[int, int] = {}
    for each in resources:
        counts[each.phase] = counts.get(each.phase, 0) + 1
    first = sorted(resources, key=lambda each: (each.phase == execution_pb2.TaskExecution.SUCCEEDED, each.index))
    reasons = [f"{literals.instant(each.occurred_at)}  {each.message}" for each in closure.reasons[-50:]]
    return Attempt(
        number=task_execution.id.retry_attempt + 1,
        phase=shown,
        task=entity_link("task", task_execution.id.task_id),
        task_type=closure.task_type,
        started=_moment(closure, "started_at"),
        took=_took(closure, shown.name in OVER, now),
        reasons=tuple(reasons or ([closure.reason] if closure.reason else [])),
        problem=_problem(closure),
        logs=_links(closure.logs),
        items=tuple(
            Item(each.index, phase(kind, each.phase), each.retry_attempt, _links(each.logs))
            for each in first[:MAX_ITEMS]
        ),
        items_by_phase=tuple((phase(kind, value), count) for value, count in sorted(counts.items())),
        more_items=max(0, len(first) - MAX_ITEMS),
    )


def _launched(identifier: Any) -> tuple[str, Link]:
    """What was launched: tasks can be in place of a launch plan."""
    if identifier.resource_type == identifier_pb2.TASK:
        return "Task", entity_link("task", identifier)
    return "Launch plan", entity_link("launch_plan", identifier)


def _execution_problem(closure: Any) -> Problem | None:
    match closure.WhichOneof("output_result"):
        case "abort_metadata":
            by = closure.abort_metadata.principal
            return Problem(f"Aborted by {by}" if by else "Aborted", closure.abort_metadata.cause)
        case "abort_cause":
            return Problem("Aborted", closure.abort_cause)
        case _:
            return _problem(closure)


def _problem(closure: Any) -> Problem | None:
    if closure.WhichOneof("output_result") != "error":
        return None
    error = closure.error
    kinds = {1: "user error", 2: "system error"}
    title = " · ".join(each for each in (error.code, kinds.get(error.kind, "")) if each)
    message = error.message.strip("\n")
    if len(message) > MAX_ERROR_CHARACTERS:
        half = MAX_ERROR_CHARACTERS // 2
        left_out = len(message) - MAX_ERROR_CHARACTERS
        message = f"{message[:half]}\n… {left_out} characters left out …\n{message[-half:]}"
    return Problem(title or "Error", message)


def _links(logs: Sequence[Any]) -> tuple[Link, ...]:
    return tuple(Link(each.name or "log", _safe(each.uri)) for each in logs)


def _safe(url: str) -> str:
    """`url` if a browser may be sent there; tasks choose these, so scripts in URLs are kept out."""
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError:
        return ""
    return here(url) if scheme in ("http", "https") or (not scheme and url.startswith("/") and url[1:2] != "/") else ""


def _kind(metadata: Any, last: Any, child: Link | None) -> str:
    if metadata.is_array:
        return "map"
    if metadata.is_dynamic:
        return "dynamic"
    if child is not None:
        return "launch plan"
    if metadata.is_parent_node:
        return "workflow or branch"
    return str(last.closure.task_type) if last is not None else ""


def _mode(metadata: Any) -> str:
    known = type(metadata).ExecutionMode.DESCRIPTOR.values_by_number.get(metadata.mode)
    return "" if known is None or not metadata.mode else str(known.name).lower().replace("_", " ")


def _identifier(identifier: Any) -> str:
    return f"{identifier.name} @ {identifier.version}" if identifier.version else str(identifier.name)


def _execution_link(execution_id: Any) -> Link:
    return Link(execution_id.name, execution_url(execution_id))


def _last_part(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def _moment(closure: Any, field: str) -> str:
    if not closure.HasField(field):
        return ""
    return literals.second(getattr(closure, field))


def _took(closure: Any, ended: bool, now: datetime) -> str:
    """The duration of what has ended, and how long the rest is at it."""
    if ended:
        if not closure.HasField("duration"):
            return ""
        return literals.span(closure.duration.seconds + closure.duration.nanos / 1e9)
    for field in ("started_at", "created_at"):
        if closure.HasField(field):
            began = getattr(closure, field)
            return literals.span(max(0.0, now.timestamp() - began.seconds - began.nanos / 1e9))
    return ""


def _quoted(text: str) -> str:
    return quote(text, safe="")


def utc_now() -> datetime:
    return datetime.now(UTC)
