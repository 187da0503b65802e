"""Launching what is in `workflows/mix.py`, and what each of it has to come to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from flyteidl.admin import execution_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2, literals_pb2

from .chores import DOMAIN, PROJECT, VERSION, Client, Name, Side

LAUNCH_SECONDS = 30.0
_PHASE = phases.WorkflowExecution


@dataclass(frozen=True)
class Kind:
    """A workflow of the mix."""

    name: str
    phase: int
    """What it ends in."""
    output: int | None
    user_failures: tuple[int, int] = (0, 0)
    """Fewest and most failures that are the user's."""


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("chain", _PHASE.SUCCEEDED, 3),
        Kind("fan", _PHASE.SUCCEEDED, 10),
        Kind("mapped", _PHASE.SUCCEEDED, 14),
        Kind("nested", _PHASE.SUCCEEDED, 6),
        Kind("made", _PHASE.SUCCEEDED, 6),
        Kind("chosen", _PHASE.SUCCEEDED, 2),
        Kind("retried", _PHASE.SUCCEEDED, 7, (0, 1)),  # none if it was killed right after it had noted that it fails
        Kind("failing", _PHASE.FAILED, None, (2, 2)),
        Kind("cached", _PHASE.SUCCEEDED, 8),
        Kind("aborted", _PHASE.ABORTED, None),
    )
}


@dataclass(frozen=True)
class Launched:
    """An execution of a round."""

    kind: Kind
    id: Name
    side: Side


def launch(client: Client, kind: Kind, name: str, side: Path, *, key: str, seconds: float) -> Launched:
    """Start a workflow under a name, again and again until the platform has said that it exists."""
    plan = identifier_pb2.Identifier(
        resource_type=identifier_pb2.LAUNCH_PLAN,
        project=PROJECT,
        domain=DOMAIN,
        name=f"mix.{kind.name}",
        version=VERSION,
    )
    values = {
        "side": literals_pb2.Primitive(string_value=str(side)),
        "seconds": literals_pb2.Primitive(float_value=seconds),
    }
    if kind.name == "cached":
        values["key"] = literals_pb2.Primitive(string_value=key)
    inputs = {key: literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=value)) for key, value in values.items()}
    request = execution_pb2.ExecutionCreateRequest(
        project=PROJECT,
        domain=DOMAIN,
        name=name,
        spec=execution_pb2.ExecutionSpec(launch_plan=plan),
        inputs=literals_pb2.LiteralMap(literals=inputs),
    )
    deadline = time.monotonic() + LAUNCH_SECONDS
    while True:
        try:
            client.call(client.stub.CreateExecution, request)
            break
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:  # an answer that was lost, to the same request
                break
            if error.code() is not grpc.StatusCode.INTERNAL or time.monotonic() > deadline:  # the storage had trouble
                raise
    return Launched(
        kind, identifier_pb2.WorkflowExecutionIdentifier(project=PROJECT, domain=DOMAIN, name=name), Side(side)
    )


def abort(client: Client, name: Name) -> None:
    """End an execution; it may have ended by itself."""
    request = execution_pb2.ExecutionTerminateRequest(id=name, cause="the round wants it")
    try:
        client.call(client.stub.TerminateExecution, request)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
