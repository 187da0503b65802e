"""Where an execution's files are: the contract between engine, task containers, data proxy and console.

Inputs lie in a node's data directory, shared by its attempts; outputs, errors and decks in a directory per attempt.
Where no process is given these directories, inputs and outputs lie among the values that the nodes of the execution
share, under names that follow from their content.  Source: spec/data-plane.md, 2.1.
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
SHARED = "shared"
"""Directory of the values that nodes share.  A node of that name has no files in it, only directories."""


class Layout:
    """The paths of one execution."""

    def __init__(self, *, execution: str, data_dir: str, raw_base: str) -> None:
        """`data_dir` is the workflow's, `raw_base` what raw output prefixes start with; neither ends with a slash."""
        self.execution = execution
        self.data_dir = data_dir
        self.raw_base = raw_base
        self._shared_inputs: dict[str, bytes] = {}
        self._shared_outputs: dict[str, bytes] = {}

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
        if elsewhere is not None:
            return elsewhere
        shared = self._shared_inputs.get(node.unique_id)
        return f"{self.node_data(node)}/{INPUTS}" if shared is None else self.shared(shared)

    def item_id(self, node: NodeState, index: int) -> str:
        """Identity of an item of an array."""
        return names.item_id(node.unique_id, node.attempts, index)

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
        shared = self._shared_outputs.get(node.unique_id)
        if shared is not None and (attempt is None or attempt == node.attempts):
            return self.shared(shared)
        return f"{self.output_dir(node, attempt)}/{OUTPUTS}"

    def shared(self, digest: bytes) -> str:
        """Where a value is that nodes share, by the digest of its content."""
        return f"{self.data_dir}/{SHARED}/{digest.hex()}.pb"

    def share(self, node_id: str, *, inputs: bytes | None = None, outputs: bytes | None = None) -> None:
        """Remember that these of a node (by its unique id) are among the shared values; None changes nothing."""
        if inputs is not None:
            self._shared_inputs[node_id] = inputs
        if outputs is not None:
            self._shared_outputs[node_id] = outputs

    def shares(self, node_id: str) -> tuple[bytes, bytes]:
        """By which the inputs and the outputs of a node are found among the shared values; empty if they are not."""
        return self._shared_inputs.get(node_id, b""), self._shared_outputs.get(node_id, b"")

    def begin(self, node_id: str) -> None:
        """An attempt begins: whatever outputs an earlier one gave are not the node's."""
        self._shared_outputs.pop(node_id, None)

    def keep_apart(self, node_id: str) -> None:
        """The node has its inputs in its own directory (again)."""
        self._shared_inputs.pop(node_id, None)

    def generated_name(self, node: NodeState, attempt: int) -> str:
        if "element" in node.memo:  # of an item
            return names.item_generated_name(self.execution, node.unique_id, attempt)
        return names.generated_name(self.execution, node.unique_id, attempt)

    def raw_prefix(self, node: NodeState, attempt: int) -> str:
        generated = self.generated_name(node, attempt)
        return f"{self.raw_base}/{names.raw_output_shard(generated)}/{generated}"

    def checkpoints(self, node: NodeState, attempt: int) -> str:
        return f"{self.raw_prefix(node, attempt)}/_flytecheckpoints"
