"""What the control plane tells others: ends of executions on the bus, and events as CloudEvents.

Source: spec/control-plane.md, sections 12.2 and 12.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flyteidl.admin.common_pb2 import Notification
from flyteidl.admin.event_pb2 import NodeExecutionEventRequest
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest
from flyteidl.admin.launch_plan_pb2 import ACTIVE, LaunchPlanUpdateRequest
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.event.cloudevents_pb2 import CloudEventNodeExecution, CloudEventWorkflowExecution
from google.protobuf.json_format import ParseDict
from nats import connect
from nats.errors import Error as NatsError

from aerodrome.idl.messages.v1.messages_pb2 import ExecutionEnded
from aerodrome.stdlib.postgres.testing import ServerForTests
from aerodrome.stdlib.pubsub.bus import Message, Subscription
from aerodrome.stdlib.pubsub.cloudevents import from_message
from aerodrome.stdlib.pubsub.memory import MemoryBus
from aerodrome.stdlib.pubsub.testing import nats_server

from .serving import DOMAIN, PROJECT, Served, identifier, reference, served

NODE = {"id": "a", "taskNode": {"referenceId": reference("TASK", "t")}}


async def next_of(reader: Subscription) -> Message:
    async with asyncio.timeout(20):
        message = await reader.next()
    await reader.ack(message)
    return message


@asynccontextmanager
async def platform(
    server: ServerForTests, directory: Path, bus: MemoryBus, config: Mapping[str, Any] | None = None
) -> AsyncIterator[Served]:
    async with served(server, directory, config, bus) as made:
        await made.register("w", [NODE], tasks=["t"])
        yield made


async def test_the_end_of_an_execution_tells_all_that_a_notifier_needs(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    bus = MemoryBus()
    async with platform(postgres_server, tmp_path, bus) as made, bus.subscribe("executions.terminal", "g") as reader:
        request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name="bad")
        request.spec.launch_plan.CopyFrom(identifier("LAUNCH_PLAN", "w"))
        request.spec.labels.values["team"] = "birds"
        entry = request.spec.notifications.notifications.add()
        entry.phases.append(WorkflowExecution.FAILED)
        entry.email.recipients_email.append("a@example.org")
        request.inputs.SetInParent()
        execution = (await made.admin.CreateExecution(request)).id
        await made.workflow_event(execution, "RUNNING", "00:01")
        error = {"code": "Oops", "message": "x" * 20_000, "kind": "USER"}
        await made.workflow_event(execution, "FAILED", "00:02", error=error)

        message = await next_of(reader)
        event = from_message(message.headers, message.body)
        ended = ExecutionEnded.FromString(event.data)
        assert (event.type, event.subject) == ("aerodrome.messages.v1.ExecutionEnded", f"{PROJECT}/{DOMAIN}/bad")
        assert event.id == message.id
        assert (ended.name, ended.phase, ended.error.code, ended.error.kind) == ("bad", "FAILED", "Oops", "USER")
        assert len(ended.error.message) == 16 * 1024
        assert (ended.launch_plan.name, ended.launch_plan.version, ended.workflow.name) == ("w", "v1", "w")
        assert dict(ended.labels) == {"team": "birds"}
        assert [Notification.FromString(each).email.recipients_email[0] for each in ended.notifications] == [
            "a@example.org"
        ]
        assert ended.ended_at.seconds - ended.started_at.seconds == 1


async def test_an_activated_launch_plan_is_announced(postgres_server: ServerForTests, tmp_path: Path) -> None:
    bus = MemoryBus()
    async with platform(postgres_server, tmp_path, bus) as made, bus.subscribe("launch_plans.changed", "g") as reader:
        await made.admin.UpdateLaunchPlan(LaunchPlanUpdateRequest(id=identifier("LAUNCH_PLAN", "w"), state=ACTIVE))
        told = LaunchPlanUpdateRequest.FromString((await next_of(reader)).body)
        assert (told.id.name, told.state) == ("w", ACTIVE)


async def run(made: Served, name: str) -> None:
    execution = await made.launch("w", name)
    await made.workflow_event(execution, "RUNNING", "00:01")
    await made.node_event(execution, "a", "RUNNING", "00:02")
    await made.task_event(execution, "a", "t", 0, "SUCCEEDED", "00:03")
    await made.node_event(execution, "a", "SUCCEEDED", "00:04")
    await made.workflow_event(execution, "SUCCEEDED", "00:05", outputUri="/somewhere")


async def test_version_1_carries_the_requests_of_the_kinds_asked_for_in_order(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    bus = MemoryBus()
    config = {
        "cloudEvents": {
            "enable": True, "type": "sandbox", "eventsPublisher": {"topicName": "out", "eventTypes": ["node"]},
        }
    }  # fmt: skip
    async with platform(postgres_server, tmp_path, bus, config) as made, bus.subscribe("out", "g") as reader:
        await run(made, "one")
        got = [json.loads((await next_of(reader)).body) for _ in range(2)]
        assert [each["data"]["event"]["phase"] for each in got] == ["RUNNING", "SUCCEEDED"]
        first = got[0]
        assert first["type"] == "com.flyte.resource.flyteidl.admin.NodeExecutionEventRequest"
        assert (first["specversion"], first["time"]) == ("1.0", "2026-01-01T00:00:02Z")
        assert first["id"].endswith(".RUNNING")
        ParseDict(first["data"], NodeExecutionEventRequest())


async def test_version_2_tells_what_an_event_is_about(postgres_server: ServerForTests, tmp_path: Path) -> None:
    bus = MemoryBus()
    config = {
        "cloudEvents": {
            "enable": True, "type": "sandbox", "cloudEventVersion": "v2", "eventsPublisher": {"topicName": "out"},
        }
    }  # fmt: skip
    async with (
        platform(postgres_server, tmp_path, bus, config) as made,
        bus.subscribe("out.cloudevents.WorkflowExecution", "g") as workflows,
        bus.subscribe("out.cloudevents.NodeExecution", "g") as nodes,
    ):
        await run(made, "one")
        _, ended = [json.loads((await next_of(workflows)).body) for _ in range(2)]
        assert ended["type"] == "com.flyte.resource.cloudevents.WorkflowExecution"
        assert ended["source"] == f"{PROJECT}/{DOMAIN}/one/end-node"
        workflow = ParseDict(ended["data"], CloudEventWorkflowExecution())
        assert (workflow.raw_event.output_uri, workflow.launch_plan_id.name) == ("/somewhere", "w")
        _, done = [json.loads((await next_of(nodes)).body) for _ in range(2)]
        node = ParseDict(done["data"], CloudEventNodeExecution())
        assert (node.task_exec_id.task_id.name, node.launch_plan_id.name) == ("t", "w")


async def test_raw_events_go_to_a_subject_of_nats_and_wait_while_it_is_away(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    (tmp_path / "nats").mkdir()
    with nats_server(tmp_path / "nats") as server:
        config = {
            "externalEvents": {
                "enable": True, "type": "nats", "nats": {"servers": [server.url]},
                "eventsPublisher": {"topicName": "flyte.out", "eventTypes": ["workflow"]},
            }
        }  # fmt: skip
        client = await connect(server.url)
        await client.jetstream().add_stream(name="kept", subjects=["flyte.>"])
        reader = await client.jetstream().pull_subscribe("flyte.out", durable="reader")
        async with platform(postgres_server, tmp_path / "store", MemoryBus(), config) as made:
            await run(made, "one")
            got = [(await reader.fetch(1, timeout=20))[0] for _ in range(2)]
            assert [each.headers["key"] for each in got if each.headers] == [
                "flyteidl.admin.WorkflowExecutionEventRequest"
            ] * 2
            server.stop()
            await run(made, "two")
            server.start()
            found = b""
            async with asyncio.timeout(60):
                while found.count(b"two") < 2:
                    with contextlib.suppress(NatsError, TimeoutError):  # it is on its way back
                        found += (await reader.fetch(1, timeout=2))[0].data
        await client.close()


async def test_nothing_is_kept_for_listeners_whom_nobody_configured(
    postgres_server: ServerForTests, tmp_path: Path
) -> None:
    bus = MemoryBus()
    await bus.declare("executions.terminal", "g")  # which keeps the outbox's row, since nobody handles it
    async with platform(postgres_server, tmp_path, bus) as made:
        await run(made, "one")
        assert [row["topic"] for row in await made.database.fetch("SELECT topic FROM outbox")] == [
            "executions.terminal"
        ]
