"""The control plane's half of the journal without a database: the real folding, and what the next holder is handed.

The folding is that of `aerodrome.admin`, whose rules are pure.  Which columns become a snapshot is said there in SQL
(`repositories/leases.sql`) and here once more; tests on a real database hold both to the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.core import identifier_pb2

from aerodrome.admin.domain import phases
from aerodrome.admin.domain.attempts import fold_task, fold_task_state
from aerodrome.admin.domain.folding import abort_workflow, fold_items, fold_node, fold_node_state, fold_workflow
from aerodrome.admin.domain.phases import NODE_NAMES, NODE_TERMINAL, WORKFLOW_NAMES, Writer
from aerodrome.admin.domain.rows import ABSENT, ExecutionRow, Folded, NodeRow
from aerodrome.admin.domain.verdicts import ACCEPTED, Refused, Verdict, refuse
from aerodrome.admin.managers.changes import ItemsReport, NodeReport, Report, TaskReport, decode
from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.propeller import transcript
from aerodrome.propeller.engine.state import SavedWorkflow
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.transcript import Transcript

EXECUTION = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="e0")
LAYOUT_ROOT = "s3://b/meta/p-d-e0"
_ITEM_ERRORS = 10
_WITH_ITEMS = ("QUEUED", "RUNNING", "TIMED_OUT")


def writer(*, item_nodes: bool = False) -> Transcript:
    """A transcript of the execution that this module keeps."""
    layout = Layout(execution="e0", data_dir=LAYOUT_ROOT, raw_base="s3://b/raw")
    return Transcript(
        EXECUTION,
        layout,
        output_uri=f"{LAYOUT_ROOT}/out.pb",
        plugin_names={"python-task": "container"},
        item_nodes=item_nodes,
    )


class ControlPlane:
    """One execution's journal and rows."""

    def __init__(self) -> None:
        self.entries: list[journal_pb2.Transition | str] = []
        """What was accepted, in order; a text is the cause of an abort."""
        self.folded = _beginning()
        self.workflow_state = b""
        self.abort_cause = ""
        self.node_items: dict[str, dict[int, journal_pb2.ItemRange]] = {}

    @classmethod
    def replayed(cls, entries: Iterable[journal_pb2.Transition | str]) -> ControlPlane:
        """The fold of a journal, or of any beginning of one."""
        plane = cls()
        for entry in entries:
            if isinstance(entry, str):
                plane.abort(entry)
            else:
                (verdict,) = plane.append([entry])
                assert verdict is ACCEPTED, f"{entry} was accepted, and is not when it is told again: {verdict}"
        return plane

    def append(self, transitions: Sequence[journal_pb2.Transition]) -> list[Verdict]:
        """Fold what a holder reports, and what comes of each."""
        verdicts: list[Verdict] = []
        for report in decode(transitions, max_items=1_000):
            verdict = self._fold(report)
            if verdict is ACCEPTED:
                self.entries.append(report.transition)
            verdicts.append(verdict)
        return verdicts

    def abort(self, cause: str) -> None:
        """Somebody wants the execution to end."""
        abort_workflow(self.folded.own, cause, "somebody")
        self.abort_cause = cause
        self.entries.append(cause)

    def _fold(self, report: Report) -> Verdict:
        folded = self.folded
        if isinstance(report, NodeReport):
            if report.event is None:
                return fold_node_state(folded, report.node_id, report.state)
            return fold_node(folded, report.event, Writer.LEASE, report.around, report.state)
        if isinstance(report, TaskReport):
            if report.event is None:
                return fold_task_state(folded, report.node_id, report.attempt, report.state)
            return fold_task(folded, report.event, Writer.LEASE, report.state)
        if isinstance(report, ItemsReport):
            verdict = fold_items(folded, report.node_id, report.changes)
            if verdict is ACCEPTED:
                self._put_items(report.node_id, report.transition.items.ranges)
            return verdict
        if report.event is None:
            if folded.is_over:
                return refuse(f"the execution is {WORKFLOW_NAMES[folded.phase]}")
            self.workflow_state = report.state
            return ACCEPTED
        verdict = fold_workflow(folded.own, report.event, Writer.LEASE)
        if verdict is ACCEPTED and report.state:
            self.workflow_state = report.state
        return verdict

    def _put_items(self, node_id: str, ranges: Iterable[journal_pb2.ItemRange]) -> None:
        known = self.node_items.setdefault(node_id, {})
        for told in ranges:
            for index in range(told.first, told.last + 1):
                before = known.get(index)
                one = known[index] = journal_pb2.ItemRange()
                one.CopyFrom(told)
                one.first = one.last = index
                if not told.error and before is not None:
                    one.error = before.error  # the last one stays; only that of a failed item is handed out

    def saved(self) -> SavedWorkflow:
        """What the next holder of the lease reads."""
        assignment = journal_pb2.Assignment(workflow_state=self.workflow_state)
        for node_id, row in self.folded.nodes.items():
            assert row is not None
            assignment.nodes.append(self._snapshot(node_id, row))
        return transcript.read(assignment)

    def _snapshot(self, node_id: str, row: NodeRow) -> journal_pb2.NodeSnapshot:
        snapshot = journal_pb2.NodeSnapshot(node_id=node_id, phase=NODE_NAMES[row.phase], state=row.engine_state)
        if row.tasks:
            snapshot.attempt_state = max(row.tasks.values(), key=lambda task: task.key.retry_attempt).engine_state
        if snapshot.phase == "FAILED":
            snapshot.error = row.closure.error.SerializeToString()
        errors = 0
        if snapshot.phase in _WITH_ITEMS:
            for _, known in sorted(self.node_items.get(node_id, {}).items()):
                failed = known.phase == phases.TaskPhase.FAILED
                errors += failed
                one = snapshot.items.add()
                one.CopyFrom(known)
                if not failed or errors > _ITEM_ERRORS:
                    one.ClearField("error")
        return snapshot

    @property
    def over(self) -> bool:
        """The execution is in a terminal phase."""
        return self.folded.is_over

    def aborts(self, verdict: Verdict) -> bool:
        """Whether a start was refused because of an abort that the holder has not heard of yet."""
        return isinstance(verdict, Refused) and verdict.aborting

    def rows(self) -> dict[str, NodeRow]:
        """The nodes that the API shows."""
        return {name: row for name, row in self.folded.nodes.items() if row is not None and row.exists}

    def items(self, node_id: str) -> list[tuple[int, int]]:
        """Phase and attempt of the items of a node, those that never began left out."""
        known = self.folded.items.get(node_id)
        if known is None:
            return []
        return [pair for pair in zip(known.phases, known.attempts, strict=True) if pair[0] != ABSENT]

    def all_nodes_over(self) -> bool:
        """Whether every node and attempt that the API shows is over."""
        return all(row.is_over and row.phase in NODE_TERMINAL for row in self.rows().values())


def _beginning() -> Folded:
    own = ExecutionRow(execution_id=1, phase=phases.WorkflowPhase.UNDEFINED, closure=ExecutionClosure())
    return Folded(1, "p", "d", "e0", own, complete=True)
