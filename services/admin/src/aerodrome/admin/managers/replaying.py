"""Fold a journal anew and compare with the rows: what the API shows is the fold of the journal, always.

For tests, chaos runs and operators who want to know; nothing here changes anything.  Source: design.md section 5, I8.
"""

from __future__ import annotations

from collections.abc import Iterable

from flyteidl.admin.execution_pb2 import ExecutionClosure
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.admin.domain.attempts import fold_task, fold_task_state
from aerodrome.admin.domain.folding import (
    abort_workflow,
    fold_items,
    fold_node,
    fold_node_state,
    fold_workflow,
    force_abort_nodes,
    force_abort_workflow,
)
from aerodrome.admin.domain.phases import NODE_NAMES, TASK_NAMES, WORKFLOW_NAMES, WorkflowPhase, Writer
from aerodrome.admin.domain.rows import ABSENT, ExecutionRow, Folded, NodeRow
from aerodrome.admin.domain.verdicts import ACCEPTED, Verdict
from aerodrome.admin.managers.changes import ItemsReport, NodeReport, Report, TaskReport, decode
from aerodrome.admin.managers.recording import look_around
from aerodrome.admin.repositories.folded import FoldedRepository
from aerodrome.admin.repositories.journal import EntryKind, JournalRepository
from aerodrome.idl.journal.v1.journal_pb2 import Control, Transition
from aerodrome.stdlib.postgres.database import Connection, Record

_PAGE = 1000
_ANY_ITEMS = 2**31 - 1


async def differences(connection: Connection, execution_id: int) -> list[str]:
    """How an execution's rows differ from the fold of its journal, in words; empty if they agree.

    Call it in a `repeatable_read` transaction while the execution is in progress.  Where a dynamic workflow was stored
    is not compared, and neither are details of map items other than phase and attempt.
    """
    found = await JournalRepository(connection).read([execution_id])
    if not found:
        return [f"execution {execution_id} does not exist"]
    lease, stored = found[0]
    rows = FoldedRepository(connection)
    folded = _beginning(stored)
    wrong: list[str] = []
    last = 0
    while entries := await JournalRepository(connection).list_entries(execution_id, last, _PAGE):
        for entry in entries:
            if entry["sequence"] != last + 1:
                wrong.append(f"entry {last + 1} is followed by entry {entry['sequence']}")
            last = entry["sequence"]
            wrong += await _replay(rows, folded, entry)
    if last != lease.last_sequence:
        wrong.append(f"the journal ends at {last}, the lease says {lease.last_sequence}")
    if last:  # one that failed to launch has no journal
        wrong += _compare("execution", _own_facts(stored.own), _own_facts(folded.own))
    node_ids = await rows.list_node_ids(execution_id)
    wrong += _compare_sets("nodes", node_ids, folded.nodes)
    actual = await rows.load_nodes([(execution_id, node_id) for node_id in node_ids])
    for (_, node_id), node in actual.items():
        replayed = folded.nodes.get(node_id)
        if replayed is None:
            continue
        wrong += _compare(f"node {node_id}", _node_facts(node), _node_facts(replayed))
        wrong += _compare_sets(f"attempts of node {node_id}", node.tasks, replayed.tasks)
        for key, task in node.tasks.items():
            other = replayed.tasks.get(key)
            if other is not None:
                facts = [
                    (TASK_NAMES[row.phase], row.phase_version, _plain(row.closure), row.input_uri, row.started_at,
                     row.task_execution_created_at, row.task_execution_updated_at, row.duration, row.engine_state)
                    for row in (task, other)
                ]  # fmt: skip
                wrong += _compare(f"attempt {key.retry_attempt} of node {node_id}", *facts)
    for (_, node_id), items in (await rows.load_items([(execution_id, each) for each in node_ids])).items():
        expected = folded.items.get(node_id)
        pairs = {} if expected is None else dict(enumerate(zip(expected.phases, expected.attempts, strict=True)))
        present = dict(enumerate(zip(items.phases, items.attempts, strict=True)))
        wrong += _compare(f"items of node {node_id}", _known(present), _known(pairs))
    return wrong


async def _replay(rows: FoldedRepository, folded: Folded, entry: Record) -> list[str]:
    kind, body = entry["kind"], entry["body"]
    if kind == EntryKind.CONTROL:
        _replay_control(folded, Control.FromString(body), entry)
        return []
    writer = Writer.EVENTS if kind == EntryKind.EVENT else Writer.LEASE
    (report,) = decode([Transition.FromString(body)], max_items=_ANY_ITEMS)
    if isinstance(report, NodeReport):
        await look_around(rows, folded, report, writer)
    verdict = _fold(folded, report, writer)
    return [] if verdict is ACCEPTED else [f"entry {entry['sequence']} is not acceptable: {verdict}"]


def _fold(folded: Folded, report: Report, writer: Writer) -> Verdict:
    if isinstance(report, ItemsReport):
        return fold_items(folded, report.node_id, report.changes)
    if isinstance(report, NodeReport):
        if report.event is None:
            return fold_node_state(folded, report.node_id, report.state)
        return fold_node(folded, report.event, writer, report.around, report.state)
    if isinstance(report, TaskReport):
        if report.event is None:
            return fold_task_state(folded, report.node_id, report.attempt, report.state)
        return fold_task(folded, report.event, writer, report.state)
    return ACCEPTED if report.event is None else fold_workflow(folded.own, report.event, writer)


def _replay_control(folded: Folded, control: Control, entry: Record) -> None:
    decision = control.WhichOneof("decision")
    if decision == "abort":
        abort_workflow(folded.own, control.abort.cause, control.abort.principal)
    elif decision == "force_abort":
        at = Timestamp()
        at.FromDatetime(entry["recorded_at"])
        force_abort_workflow(folded.own, control.force_abort.cause, at)
        force_abort_nodes(folded, control.force_abort.cause, at)
        for items in folded.items.values():
            items.abort()


def _beginning(stored: Folded) -> Folded:
    """The execution as it was before anything was reported of it."""
    closure = ExecutionClosure()
    closure.CopyFrom(stored.own.closure)
    for name in ("started_at", "duration", "outputs", "error", "abort_metadata", "output_data", "abort_cause"):
        closure.ClearField(name)
    closure.phase = WorkflowPhase.UNDEFINED
    closure.updated_at.CopyFrom(closure.created_at)
    own = ExecutionRow(
        execution_id=stored.execution_id,
        phase=WorkflowPhase.UNDEFINED,
        closure=closure,
        cluster=stored.own.cluster,
        execution_updated_at=stored.own.execution_updated_at,
    )
    return Folded(stored.execution_id, stored.project, stored.domain, stored.name, own)


def _own_facts(row: ExecutionRow) -> tuple[object, ...]:
    return (
        WORKFLOW_NAMES[row.phase], _plain(row.closure), row.started_at, row.duration, row.abort_cause, row.error_kind,
        row.error_code,
    )  # fmt: skip


def _node_facts(row: NodeRow) -> tuple[object, ...]:
    return (
        NODE_NAMES[row.phase], _plain(row.closure), _plain(row.metadata), row.input_uri, row.started_at,
        row.node_execution_created_at, row.node_execution_updated_at, row.duration, row.parent_node_id,
        row.parent_task_execution_id, row.error_kind, row.error_code, row.cache_status, row.event_version,
        row.engine_state,
    )  # fmt: skip


def _plain(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _known(items: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    return {index: item for index, item in items.items() if item[0] != ABSENT}


def _compare(what: str, stored: object, replayed: object) -> list[str]:
    return [] if stored == replayed else [f"{what}: stored as {stored}, folded to {replayed}"]


def _compare_sets(what: str, stored: Iterable[object], replayed: Iterable[object]) -> list[str]:
    return _compare(what, sorted(map(str, stored)), sorted(map(str, replayed)))
