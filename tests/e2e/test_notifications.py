"""Notifications as users have them: an execution ends, and a real mail server and a real HTTP endpoint get exactly what
was asked for, whatever was down meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest
from flyteidl.admin.launch_plan_pb2 import LaunchPlanCreateRequest
from flyteidl.admin.task_pb2 import TaskCreateRequest
from flyteidl.admin.workflow_pb2 import WorkflowCreateRequest
from flyteidl.core.execution_pb2 import WorkflowExecution
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.service.admin_pb2_grpc import AdminServiceStub

from aerodrome.idl.notifier.v1 import notifier_pb2 as messages
from aerodrome.idl.notifier.v1.notifier_pb2_grpc import NotifierServiceStub
from aerodrome.notifier.testing import Answer, Endpoint, MailServer, Request, endpoint, mail_server

from .conftest import DOMAIN, PROJECT
from .instance import Instance, kill, running, wait_until, wait_until_dead

DELIVERED, WAITING = messages.DELIVERY_STATUS_DELIVERED, messages.DELIVERY_STATUS_WAITING
INTERRUPTED = messages.ATTEMPT_OUTCOME_INTERRUPTED


@dataclass
class Told:
    """A platform of its own, and those who hear from it."""

    instance: Instance
    endpoint: Endpoint
    mails: MailServer

    def admin(self, channel: grpc.Channel) -> Any:
        make: Any = AdminServiceStub
        return make(channel)

    def end(self, name: str, launch_plan: str = "breaks", *, quiet: bool = False) -> None:
        """Run it; it ends by itself."""
        request = ExecutionCreateRequest(project=PROJECT, domain=DOMAIN, name=name)
        request.spec.launch_plan.CopyFrom(identifier(ResourceType.LAUNCH_PLAN, launch_plan))
        request.spec.labels.values["team"] = "birds"
        request.spec.disable_all = quiet
        with grpc.insecure_channel(self.instance.endpoint) as channel:
            self.admin(channel).CreateExecution(request)

    def log(self, name: str) -> list[Any]:
        """What is known of the notifications of an execution, the oldest first."""
        request = messages.ListDeliveriesRequest(filter=messages.DeliveryFilter(execution_name=name))
        with grpc.insecure_channel(self.instance.endpoint) as channel:
            make: Any = NotifierServiceStub
            return list(reversed(make(channel).ListDeliveries(request).deliveries))

    def delivered(self, name: str, count: int) -> list[Any]:
        """The log once so many are delivered."""

        def look() -> list[Any] | None:
            found = self.log(name)
            done = [each for each in found if each.status == DELIVERED]
            return found if len(done) == len(found) == count else None

        return wait_until(f"{count} deliveries of {name}", look, every=0.05)

    def requests(self, name: str) -> list[Request]:
        """What the endpoint was told of an execution."""
        return [each for each in self.endpoint.requests if json.loads(each.body)["data"]["name"] == name]


def identifier(kind: Any, name: str) -> Identifier:
    return Identifier(resource_type=kind, project=PROJECT, domain=DOMAIN, name=name, version="v1")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    base = tmp_path_factory.mktemp("notifications")
    with endpoint() as hook, mail_server() as mails:
        config = base / "config.yaml"
        settings = {
            "notifications": {
                "emailer": {
                    "emailServerConfig": {"serviceName": "smtp", "smtpServer": "127.0.0.1", "smtpPort": mails.port},
                    "sender": "flyte@example.org",
                    "subject": "[{{ domain }}] {{ launch_plan.name }} {{ phase }}",
                    "body": "{{ project }}/{{ domain }}/{{ name }} ended as {{ phase }}.{{ error }} {{ console_url }}",
                }
            },
            "notifier": {
                "channels": {"hook": {"type": "webhook", "url": hook.url, "secret": "signed-with-this"}},
                "rules": [
                    {"name": "birds", "channels": ["hook"], "domains": ["dev*"], "labels": {"team": "b*"}},
                    {"name": "others", "channels": ["hook"], "projects": ["other"]},
                ],
                "network": {"allow": ["127.0.0.0/8"]},
                "retry": {"first": "200ms", "longest": "1s"},
                "timeout": "1s",
            },
        }
        config.write_text(json.dumps(settings))  # JSON is YAML
        instance = Instance(base / "the data", base / "home", arguments=["--config", str(config)])
        with running(instance):
            told = Told(instance, hook, mails)
            register(told)
            yield told


def register(told: Told) -> None:
    """A task that fails, and one that does not; each with a launch plan that asks for mails."""
    with grpc.insecure_channel(told.instance.endpoint) as channel:
        admin = told.admin(channel)
        for name, command in (("breaks", "false"), ("works", "true")):
            task = TaskCreateRequest(id=identifier(ResourceType.TASK, name))
            task.spec.template.type = "raw-container"
            task.spec.template.metadata.runtime.version = "1.0"
            task.spec.template.interface.SetInParent()
            task.spec.template.container.image = "any"
            task.spec.template.container.command.append(command)
            admin.CreateTask(task)
            workflow = WorkflowCreateRequest(id=identifier(ResourceType.WORKFLOW, name))
            workflow.spec.template.interface.SetInParent()
            workflow.spec.template.nodes.add(id="n0").task_node.reference_id.CopyFrom(task.id)
            admin.CreateWorkflow(workflow)
            plan = LaunchPlanCreateRequest(id=identifier(ResourceType.LAUNCH_PLAN, name))
            plan.spec.workflow_id.CopyFrom(workflow.id)
            for phase, recipient in ((WorkflowExecution.FAILED, "ann"), (WorkflowExecution.SUCCEEDED, "bob")):
                asked = plan.spec.entity_metadata.notifications.add(phases=[phase])
                asked.email.recipients_email.append(f"{recipient}@example.org")
            admin.CreateLaunchPlan(plan)


def test_a_failed_execution_is_told_to_exactly_those_who_asked(told: Told) -> None:
    told.end("failed")
    mail, hook = sorted(told.delivered("failed", 2), key=lambda each: each.kind)
    assert (mail.rule, mail.recipient, mail.attempt_count) == ("notification 1", "ann@example.org", 1)
    assert (hook.rule, hook.channel, hook.attempts[0].answer) == ("birds", "hook", "200 ok")

    (got,) = told.mails.mails
    assert (got.sender, got.recipients) == ("flyte@example.org", ("ann@example.org",))
    assert got.message["Subject"] == f"[{DOMAIN}] breaks failed"
    text = got.message.get_content()
    assert text.startswith(f"{PROJECT}/{DOMAIN}/failed ended as failed. The execution failed with error: [")
    link = f"{told.instance.url}/console/projects/{PROJECT}/domains/{DOMAIN}/executions/failed"
    assert text.strip().endswith(link)

    (request,) = told.requests("failed")
    event = json.loads(request.body)
    assert event["id"] == request.headers["webhook-id"] == hook.idempotency_key
    assert event["subject"] == f"{PROJECT}/{DOMAIN}/failed"
    assert (event["data"]["phase"], event["data"]["launchPlan"]["name"]) == ("FAILED", "breaks")
    assert (event["data"]["labels"], event["data"]["consoleUrl"]) == ({"team": "birds"}, link)
    assert event["data"]["error"]["message"]
    assert "signed-with-this" not in told.instance.log
    assert "its-secret-path" not in told.instance.log


def test_one_that_succeeds_or_wants_silence_is_told_to_others(told: Told) -> None:
    told.end("quiet", quiet=True)
    told.end("fine", launch_plan="works")
    (hook,) = told.delivered("quiet", 1)
    assert hook.rule == "birds"
    (mail,) = told.delivered("fine", 1)
    assert mail.recipient == "bob@example.org"
    assert told.requests("fine") == []
    assert told.mails.mails[-1].message["Subject"] == f"[{DOMAIN}] works succeeded"


def test_an_endpoint_that_is_down_for_a_while_gets_it_later(told: Told) -> None:
    told.endpoint.stop()
    try:
        told.end("down")

        def tried() -> bool:
            return any(each.status == WAITING and each.attempt_count >= 3 for each in told.log("down"))

        wait_until("it was tried some times", tried, every=0.05)
    finally:
        told.endpoint.start()
    _, hook = sorted(told.delivered("down", 2), key=lambda each: each.kind)
    (request,) = told.requests("down")
    assert request.headers["idempotency-key"] == hook.idempotency_key
    assert hook.attempt_count == len(hook.attempts) >= 4
    assert all("Cannot connect" in each.error for each in hook.attempts[:-1])


@pytest.mark.timeout(120)
def test_killed_between_sending_and_recording_it_is_sent_again_under_the_same_key(told: Told) -> None:
    victim = told.instance.pid
    killed = threading.Event()

    def answer(request: Request) -> Answer:
        if not killed.is_set():
            assert kill(victim)
            killed.set()
        return Answer()

    told.endpoint.answer = answer
    told.end("killed")
    assert killed.wait(60)
    wait_until_dead([victim])
    told.instance.up()
    _, hook = sorted(told.delivered("killed", 2), key=lambda each: each.kind)
    requests = told.requests("killed")
    assert len(requests) >= 2
    assert {each.headers["idempotency-key"] for each in requests} == {hook.idempotency_key}
    assert len({each.body for each in requests}) == 1
    assert hook.attempts[0].outcome == INTERRUPTED
    assert hook.attempts[-1].outcome == messages.ATTEMPT_OUTCOME_DELIVERED
    assert hook.attempt_count == len(hook.attempts) >= len(requests)
