"""The control plane's half of the journal without a database: the real folding, and what the next holder is handed.

The folding is that of `aerodrome.admin`, whose rules are pure.  Which columns become a snapshot is said there in SQL
(`repositories/leases.sql`) and here once more; tests on a real database hold both to the same.  `kept` has the same
journal without the messages, for those who try very many executions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flyteidl.admin.execution_pb2 import ExecutionClosure
from flyteidl.core import identifier_pb2
from flyteidl.core.execution_pb2 import ExecutionError
from kept import ITEM_ERRORS, WITH_ITEMS, Attempted, Told, changed_ms_ago, failed_ms_ago

from aerodrome.admin.domain import phases
from aerodrome.admin.domain.attempts import fold_task, fold_task_state
from aerodrome.admin.domain.folding import abort_workflow, fold_items, fold_node, fold_node_state, fold_workflow
from aerodrome.admin.domain.phases import NODE_NAMES, TASK_NAMES, WORKFLOW_NAMES, Writer
from aerodrome.admin.domain.rows import ABSENT, ExecutionRow, Folded, NodeRow
from aerodrome.admin.domain.verdicts import ACCEPTED, Verdict, refuse
from aerodrome.admin.managers.changes import ItemsReport, NodeReport, Report, TaskReport, decode
from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.propeller import transcript
from aerodrome.propeller.engine.state import SavedWorkflow
from aerodrome.propeller.layout import Layout
from aerodrome.propeller.transcript import ItemsTransition, Transcript, Written

EXECUTION = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="e0")
LAYOUT_ROOT = "s3://b/meta/p-d-e0"


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

    has_references = True

    def __init__(self) -> None:
        self.entries: list[journal_pb2.Transition | str] = []
        """What was accepted, in order; a text is the cause of an abort."""
        self.folded = _beginning()
        self.workflow_state = b""
        self.abort_cause = ""
        self.node_items: dict[str, dict[int, journal_pb2.ItemRange]] = {}
        self._changed: dict[tuple[str, int], float] = {}
        """When items changed last, where it is known, in seconds since 1970."""

    @classmethod
    def replayed(cls, entries: Iterable[journal_pb2.Transition | str]) -> ControlPlane:
        """The fold of a journal, or of any beginning of one."""
        plane = cls()
        for entry in entries:
            if isinstance(entry, str):
                plane.abort(entry)
            else:
                (verdict,) = plane.take([entry])
                assert verdict is ACCEPTED, f"{entry} was accepted, and is not when it is told again: {verdict}"
        return plane

    def append(self, writer: Transcript, transitions: Sequence[Written]) -> list[Verdict]:
        """Fold what a holder reports, and what comes of each."""
        verdicts = self.take(writer.write(transitions))
        for transition, verdict in zip(transitions, verdicts, strict=True):
            if isinstance(transition, ItemsTransition) and verdict is ACCEPTED:
                for index, change in transition.changes.items():
                    self._changed[transition.node.unique_id, index] = change.at
        return verdicts

    def take(self, transitions: Sequence[journal_pb2.Transition]) -> list[Verdict]:
        """Fold what a holder has written, and what comes of each."""
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

    def saved(self, now: float) -> SavedWorkflow:
        """What the next holder of the lease reads at that instant."""
        assignment = journal_pb2.Assignment(workflow_state=self.workflow_state)
        for node_id, row in self.folded.nodes.items():
            assert row is not None
            assignment.nodes.append(self._snapshot(node_id, row, now))
        return transcript.read(assignment)

    def _snapshot(self, node_id: str, row: NodeRow, now: float) -> journal_pb2.NodeSnapshot:
        snapshot = journal_pb2.NodeSnapshot(node_id=node_id, phase=NODE_NAMES[row.phase], state=row.engine_state)
        if row.tasks:
            snapshot.attempt_state = max(row.tasks.values(), key=lambda task: task.key.retry_attempt).engine_state
        if snapshot.phase == "FAILED":
            snapshot.error = row.closure.error.SerializeToString()
        errors = 0
        if snapshot.phase in WITH_ITEMS:
            for index, known in sorted(self.node_items.get(node_id, {}).items()):
                failed = known.phase == phases.TaskPhase.FAILED
                errors += failed
                one = snapshot.items.add()
                one.CopyFrom(known)
                at = self._changed.get((node_id, index), now)
                one.failed_ms_ago = failed_ms_ago(known.phase, known.attempt, at, now)
                one.changed_ms_ago = changed_ms_ago(known.phase, at, now)
                if not failed or errors > ITEM_ERRORS:
                    one.ClearField("error")
        return snapshot

    @property
    def over(self) -> bool:
        """The execution is in a terminal phase."""
        return self.folded.is_over

    @property
    def phase(self) -> str:
        """The execution's, as the API shows it."""
        return WORKFLOW_NAMES[self.folded.phase]

    @property
    def outputs(self) -> str:
        """Where those of the execution are."""
        return self.folded.own.closure.outputs.uri

    def rows(self) -> dict[str, NodeRow]:
        """The nodes that the API shows."""
        return {name: row for name, row in self.folded.nodes.items() if row is not None and row.exists}

    def told(self) -> dict[str, Told]:
        """The nodes that the API shows, as anybody sees them."""
        return {name: self._told(name, row) for name, row in self.rows().items()}

    def _told(self, name: str, row: NodeRow) -> Told:
        attempts = tuple(
            Attempted(key.retry_attempt, TASK_NAMES[task.phase], task.closure.error.kind == ExecutionError.SYSTEM)
            for key, task in sorted(row.tasks.items())
        )
        group = row.metadata.retry_group
        return Told(
            NODE_NAMES[row.phase],
            row.is_over,
            row.parent_node_id,
            int(group) if group else None,
            row.metadata.is_array,
            row.metadata.is_dynamic,
            attempts,
            tuple(self.items(name)),
            row.closure.output_uri,
        )

    def items(self, node_id: str) -> list[tuple[int, int]]:
        """Phase and attempt of the items of a node, those that never began left out."""
        known = self.folded.items.get(node_id)
        if known is None:
            return []
        return [pair for pair in zip(known.phases, known.attempts, strict=True) if pair[0] != ABSENT]

    def check_fold(self) -> None:
        """Raises AssertionError unless the rows are the fold of the journal (I8)."""
        again = ControlPlane.replayed(self.entries)
        assert again.rows().keys() == self.rows().keys(), "the journal gives other nodes than the rows have"
        for name, row in self.rows().items():
            other = again.rows()[name]
            assert (row.phase, row.closure, row.metadata, row.engine_state) == (
                other.phase, other.closure, other.metadata, other.engine_state,
            ), f"the journal gives another row of node {name}"  # fmt: skip
        assert again.saved(0.0) == self.saved(0.0), "the journal gives another past than the rows have"


def _beginning() -> Folded:
    own = ExecutionRow(execution_id=1, phase=phases.WorkflowPhase.UNDEFINED, closure=ExecutionClosure())
    return Folded(1, "p", "d", "e0", own, complete=True)
