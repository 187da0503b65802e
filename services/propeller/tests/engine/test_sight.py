"""The model sees what it is there to see: engines and records with one defect each, which it has to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import simulated
from cases import ENGINE, run
from simulated import Broken

from aerodrome.propeller.engine import engine as engines
from aerodrome.propeller.engine import items
from aerodrome.propeller.engine.budget import Retry
from aerodrome.propeller.engine.engine import Engine
from aerodrome.propeller.engine.state import After, Finalize, NodeState, SavedNode, Start

Patch = pytest.MonkeyPatch


def _forgets_to_start_again(patch: Patch) -> None:
    resume = Engine._resume

    def without(self: Engine, node: NodeState, now: float) -> None:
        resume(self, node, now)
        self._step.permitted = [each for each in self._step.permitted if not isinstance(each, Start)]

    patch.setattr(Engine, "_resume", without)


def _forgets_attempts(patch: Patch) -> None:
    remember = engines._remember

    def without(node: NodeState, known: SavedNode) -> None:
        remember(node, known)
        node.attempts = 0

    patch.setattr(engines, "_remember", without)


def _forgets_system_failures(patch: Patch) -> None:
    remember = engines._remember

    def without(node: NodeState, known: SavedNode) -> None:
        remember(node, known)
        node.system_failures = 0

    patch.setattr(engines, "_remember", without)


def _tries_without_end(patch: Patch) -> None:
    patch.setattr(engines, "decide", lambda *_, **__: Retry(spends_system=False))


def _lets_aborted_nodes_run(patch: Patch) -> None:
    abort = Engine._abort_node

    def without(self: Engine, node: NodeState, after: After, reason: str) -> None:
        abort(self, node, after, reason)
        if node.inner is None and node.items is None:
            self._step.permitted.pop()
            self.aborted(node, node.attempts, 0.0)

    patch.setattr(Engine, "_abort_node", without)


def _gives_back_too_early(patch: Patch) -> None:
    task_phase = Engine.task_phase

    def also(self: Engine, node: NodeState, attempt: int, *rest: object) -> None:
        task_phase(self, node, attempt, *rest)  # type: ignore[arg-type]
        self._step.permitted.append(Finalize(node, attempt))

    patch.setattr(Engine, "task_phase", also)


def _tears_what_belongs_together(patch: Patch) -> None:
    patch.setattr(simulated, "together", lambda *_: False)


def _forgets_items(patch: Patch) -> None:
    patch.setattr(items.Items, "restore", lambda *_: None)


DEFECTS: Mapping[str, Callable[[Patch], None]] = {
    name.removeprefix("_").replace("_", " "): defect
    for name, defect in globals().items()
    if callable(defect) and getattr(defect, "__annotations__", {}).get("patch")
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found_soon(defect: str, monkeypatch: Patch) -> None:
    DEFECTS[defect](monkeypatch)
    found: BaseException | None = None
    for seed in range(20, 220):
        try:
            run(seed, ENGINE)
        except Broken as broken:
            found = broken.__cause__
            break
    assert isinstance(found, AssertionError), f"found {found!r}, which is not what an invariant says"
