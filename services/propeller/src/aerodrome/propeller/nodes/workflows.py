"""Start, end, sub-workflow and branch nodes: they run nothing themselves, and move literals.

Source: spec/data-plane.md, 3.2, 3.4, 3.5.
"""

from __future__ import annotations

from aerodrome.plugins.api import Failure
from aerodrome.propeller.engine.graph import END
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.layout import OUTPUTS
from aerodrome.propeller.nodes.branches import choose
from aerodrome.propeller.nodes.handler import Coordinating, Observation, Run


class EndHandler(Coordinating):
    """The outputs of a workflow are what its end node is bound to."""

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        outputs = await run.inputs(node)
        await run.literals.write(run.layout.inputs(node), outputs)
        await run.literals.write(run.layout.outputs(node), outputs)
        return lambda engine, now: engine.prepared(node, now)

    async def collect(self, run: Run, node: NodeState) -> Observation:
        raise AssertionError("an end node nests nothing")


class SubWorkflowHandler(Coordinating):
    """A workflow inside the workflow: its start node gives the node's inputs, its end node the node's outputs."""

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        inputs = await run.inputs(node)
        await run.literals.write(run.layout.inputs(node), inputs)
        await run.literals.write(f"{run.layout.output_dir(node)}/start-node/0/{OUTPUTS}", inputs)
        return lambda engine, now: engine.prepared(node, now)

    async def collect(self, run: Run, node: NodeState) -> Observation:
        assert node.inner is not None
        outputs = await run.literals.read(run.layout.outputs(node.inner.node(END)))
        await run.literals.write(run.layout.outputs(node), outputs)
        return lambda engine, now: engine.collected(node, now)


class BranchHandler(Coordinating):
    """Evaluates the conditions on the branch's own inputs; the taken arm's outputs become the branch's."""

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        inputs = await run.inputs(node)
        await run.literals.write(run.layout.inputs(node), inputs)
        choice = choose(node.spec, inputs)
        if isinstance(choice, Failure):
            return lambda engine, now: engine.prepare_failed(node, choice, now)
        return lambda engine, now: engine.prepared(node, now, choice=choice)

    async def collect(self, run: Run, node: NodeState) -> Observation:
        assert node.inner is not None
        arm = node.inner.nodes[node.choice]
        outputs = await run.outputs(node.inner, arm.spec.id)
        await run.literals.write(run.layout.outputs(node), outputs)
        return lambda engine, now: engine.collected(node, now)
