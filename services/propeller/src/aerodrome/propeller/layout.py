"""Where an execution's files are: the contract between engine, task containers, data proxy and console.

Inputs lie in a node's data directory, shared by its attempts; outputs, errors and decks in a directory per attempt.
Source: spec/data-plane.md, 2.1.
"""

from __future__ import annotations

from aerodrome.plugins import names
from aerodrome.propeller.engine.state import NodeState

INPUTS = "inputs.pb"
OUTPUTS = "outputs.pb"
ERROR = "error.pb"
FUTURES = "futures.pb"
DECK = "deck.html"
TASK = "task.pb"


class Layout:
    """The paths of one execution."""

    def __init__(self, *, execution: str, data_dir: str, raw_base: str) -> None:
        """`data_dir` is the workflow's, `raw_base` what raw output prefixes start with; neither ends with a slash."""
        self.execution = execution
        self.data_dir = data_dir
        self.raw_base = raw_base

    def node_data(self, node: NodeState) -> str:
        """The data directory of a node, shared by its attempts."""
        known: str | None = node.memo.get("data_dir")
        if known is None:
            owner = node.scope.owner
            if owner is None:
                known = f"{self.data_dir}/{node.spec.id}/data"
            else:
                known = f"{self.node_data(owner)}/{node.scope.owner_attempt}/{node.spec.id}"
            node.memo["data_dir"] = known
        return known

    def inputs(self, node: NodeState) -> str:
        """Where a node's inputs are; items of arrays may read those of the array, and remember so."""
        elsewhere: str | None = node.memo.get("inputs")
        return elsewhere or f"{self.node_data(node)}/{INPUTS}"

    def item_id(self, node: NodeState, index: int) -> str:
        """Identity of an item of an array; the hash of long ones has 64 bits, as there may be a great many items."""
        return names.join((node.unique_id, str(node.attempts), f"n{index}"), names.MAX_NODE_ID, 64)

    def item_dir(self, node: NodeState, index: int) -> str:
        """What the output directories of an item's attempts are in."""
        return f"{self.node_data(node)}/{node.attempts}/{index}"

    def child_name(self, node: NodeState, attempt: int) -> str:
        """Name of the execution that an attempt of a launch-plan node starts."""
        return names.child_execution_name(self.execution, node.unique_id, attempt)

    def output_dir(self, node: NodeState, attempt: int | None = None) -> str:
        """Where an attempt (the current one by default) leaves its results."""
        return f"{self.node_data(node)}/{node.attempts if attempt is None else attempt}"

    def outputs(self, node: NodeState, attempt: int | None = None) -> str:
        return f"{self.output_dir(node, attempt)}/{OUTPUTS}"

    def generated_name(self, node: NodeState, attempt: int) -> str:
        if "element" in node.memo:  # of an item: there may be too many of them for a hash of 32 bits
            return names.join((self.execution, node.unique_id, str(attempt)), names.MAX_GENERATED_NAME, 64)
        return names.generated_name(self.execution, node.unique_id, attempt)

    def raw_prefix(self, node: NodeState, attempt: int) -> str:
        generated = self.generated_name(node, attempt)
        return f"{self.raw_base}/{names.raw_output_shard(generated)}/{generated}"

    def checkpoints(self, node: NodeState, attempt: int) -> str:
        return f"{self.raw_prefix(node, attempt)}/_flytecheckpoints"
