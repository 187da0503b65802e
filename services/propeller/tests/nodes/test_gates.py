"""Gates: each opens by what it waits for, whether that came before or after it was reached.

Source: spec/data-plane.md, 3.8.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from flyteidl.admin import signal_pb2
from flyteidl.core import literals_pb2

from aerodrome.propeller.engine.phases import NodePhase
from aerodrome.propeller.nodes.gates import GateHandler
from aerodrome.stdlib.errors import InvalidArgument

from .launching import ControlPlane, driving


def boolean(value: bool) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(boolean=value)))


@pytest.mark.parametrize("how", ["with the lease", "with the answer", "later", "twice"])
async def test_an_approval_opens_its_gate_whenever_it_comes(tmp_path: Path, how: str) -> None:
    plane = ControlPlane()
    async with driving(tmp_path, plane) as (drive, admin):
        handler, node, signals = GateHandler(admin), drive.ready("ok"), drive.run.signals
        if how == "with the lease":
            signals.set("sure", boolean(True).SerializeToString())
        elif how == "with the answer":
            plane.signals["sure"] = signal_pb2.Signal(value=boolean(True))
        await handler.start(drive.run, node, 0)
        if how in ("later", "twice"):
            assert drive.nothing_posted()
            signals.set("sure", boolean(True).SerializeToString())
            signals.set("sure", boolean(False).SerializeToString())
        if how == "twice":  # as after a restart
            await handler.start(drive.run, node, 0)
        await drive.observe()
        assert node.phase is NodePhase.SUCCEEDED
        outputs = await drive.run.literals.read(drive.run.layout.outputs(node))
        assert outputs.literals["x"].scalar.primitive.integer == 7


async def test_a_rejection_fails_and_a_value_is_the_output(tmp_path: Path) -> None:
    async with driving(tmp_path, ControlPlane()) as (drive, admin):
        handler, approve, value = GateHandler(admin), drive.ready("ok"), drive.ready("value")
        await handler.start(drive.run, value, 0)
        drive.run.signals.set("number", boolean(True).SerializeToString())
        await drive.observe()
        outputs = await drive.run.literals.read(drive.run.layout.outputs(value))
        assert (value.phase, outputs.literals["o0"]) == (NodePhase.SUCCEEDED, boolean(True))
        await handler.start(drive.run, approve, 0)
        drive.run.signals.set("sure", boolean(False).SerializeToString())
        await drive.observe()
        assert approve.failure is not None
        assert approve.failure.code == "ReceivedRejectSignal"


async def test_a_pause_ends_by_the_engines_clock(tmp_path: Path) -> None:
    async with driving(tmp_path, ControlPlane()) as (drive, admin):
        node = drive.ready("pause")  # at 1000
        await GateHandler(admin).start(drive.run, node, 0)
        await drive.observe()
        assert drive.engine.next_deadline() == 1_005.0
        phases = []
        for now in (1_004.9, 1_005.0):
            drive.engine.tick(now)
            phases.append(node.phase)
        assert phases == [NodePhase.RUNNING, NodePhase.SUCCEEDED]


async def test_a_signal_that_is_refused_fails_its_gate(tmp_path: Path) -> None:
    plane = ControlPlane()
    plane.refusals = [InvalidArgument("a signal of that name has another type")]
    async with driving(tmp_path, plane) as (drive, admin):
        node = drive.ready("ok")
        await GateHandler(admin).start(drive.run, node, 0)
        await drive.observe()
        assert node.failure is not None
        assert "another type" in node.failure.message
