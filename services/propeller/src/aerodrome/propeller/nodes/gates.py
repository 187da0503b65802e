"""Gate nodes: wait for a while, for a value, or for somebody's approval.

A signal is made known to the control plane when its node starts; its value comes with that answer, with the lease, or
later as a decision.  Source: spec/data-plane.md, 3.8.
"""

from __future__ import annotations

from flyteidl.admin import signal_pb2
from flyteidl.core import identifier_pb2, literals_pb2, types_pb2

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.nodes.admin_client import AdminClient, patiently
from aerodrome.propeller.nodes.handler import Coordinating, Observation, Run, storage_failure
from aerodrome.stdlib.errors import AerodromeError

_BOOLEAN = types_pb2.LiteralType(simple=types_pb2.BOOLEAN)


class GateHandler(Coordinating):
    """Holds the workflow up until its condition is met."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    async def prepare(self, run: Run, node: NodeState) -> Observation:
        inputs = await run.inputs(node)
        await run.literals.write(run.layout.inputs(node), inputs)
        return lambda engine, now: engine.prepared(node, now)

    async def start(self, run: Run, node: NodeState, attempt: int) -> None:
        gate = node.spec.template.gate_node
        try:
            match gate.WhichOneof("condition"):
                case "sleep":
                    await run.literals.write(run.layout.outputs(node, attempt), literals_pb2.LiteralMap())
                    seconds = gate.sleep.duration.seconds + gate.sleep.duration.nanos / 1e9
                    run.post(lambda engine, now: engine.sleep(node, attempt, node.attempt_at + seconds, now))
                case "approve":
                    await self._wait(run, node, attempt, gate.approve.signal_id, _BOOLEAN)
                case "signal":
                    await self._wait(run, node, attempt, gate.signal.signal_id, gate.signal.type)
                case _:
                    failure = Failure(
                        "BadSpecificationError",
                        f"gate node {node.spec.id} waits for nothing: it has neither a duration nor a signal",
                        ErrorKind.USER,
                        retryable=False,
                    )
                    run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
        except AerodromeError as error:
            refused = Failure("RuntimeExecutionError", f"gate node {node.spec.id}: {error.message}",
                              ErrorKind.SYSTEM, retryable=False)  # fmt: skip
            run.post(lambda engine, now: engine.failed(node, attempt, refused, now))

    async def collect(self, run: Run, node: NodeState) -> Observation:
        raise AssertionError("a gate nests nothing")

    async def _wait(
        self, run: Run, node: NodeState, attempt: int, signal_id: str, type_: types_pb2.LiteralType
    ) -> None:
        request = signal_pb2.SignalGetOrCreateRequest(
            id=identifier_pb2.SignalIdentifier(signal_id=signal_id, execution_id=run.id), type=type_
        )
        signal = await patiently("find a signal", lambda: self._admin.get_or_create_signal(request))
        if signal.HasField("value") and signal.value.WhichOneof("value") is not None:
            run.signals.set(signal_id, signal.value.SerializeToString())

        def seen(value: literals_pb2.Literal) -> None:
            if node.attempts == attempt and node.live:
                run.spawn(self._open(run, node, attempt, value))

        run.signals.when_set(signal_id, seen)

    async def _open(self, run: Run, node: NodeState, attempt: int, value: literals_pb2.Literal) -> None:
        """The signal has come: the node's end follows from its value."""
        gate = node.spec.template.gate_node
        try:
            if gate.WhichOneof("condition") == "signal":
                outputs = literals_pb2.LiteralMap(literals={gate.signal.output_variable_name: value})
            elif value.scalar.primitive.boolean:
                outputs = await run.literals.read(run.layout.inputs(node))
            else:
                rejected = Failure(
                    "ReceivedRejectSignal",
                    f"signal {gate.approve.signal_id} was rejected",
                    ErrorKind.USER,
                    retryable=False,
                )
                run.post(lambda engine, now: engine.failed(node, attempt, rejected, now))
                return
            await run.literals.write(run.layout.outputs(node, attempt), outputs)
        except AerodromeError as error:
            failure = storage_failure(error, "OutputsUnreadable")
            run.post(lambda engine, now: engine.failed(node, attempt, failure, now))
            return
        run.post(lambda engine, now: engine.succeeded(node, attempt, now))
