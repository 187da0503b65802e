"""Registering tasks, workflows and launch plans, as clients depend on it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, launch_plan_pb2, schedule_pb2, workflow_pb2
from flyteidl.core import types_pb2
from flyteidl.core.identifier_pb2 import ResourceType
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from aerodrome.admin.config import AdminConfig

CODE = grpc.StatusCode
TASK, WORKFLOW, LAUNCH_PLAN = ResourceType.TASK, ResourceType.WORKFLOW, ResourceType.LAUNCH_PLAN


async def refused(call: Any, code: grpc.StatusCode) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    return caught.value


def detail(error: Any, kind: Any) -> Any:
    """The one detail of an error."""
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    (packed,) = Status.FromString(raw).details
    message = kind()
    assert isinstance(packed, AnyMessage)
    assert packed.Unpack(message)
    return message


class TestTasks:
    async def test_a_registered_task_can_be_read(self, platform: Any, build: Any) -> None:
        request = build.task_request()
        request.spec.description.short_description = "what it does"
        await platform.stub.CreateTask(request)
        task = await platform.stub.GetTask(common_pb2.ObjectGetRequest(id=request.id))
        assert task.id == request.id
        assert task.closure.compiled_task.template.id == request.id
        assert task.closure.compiled_task.template.container.image == "python:3.11"
        assert task.closure.created_at.ToDatetime().year == 2026
        assert task.short_description == "what it does"
        link = await platform.database.fetchrow("SELECT resource_type, short_description FROM description_entities")
        assert (link["resource_type"], link["short_description"]) == (1, "what it does")

    async def test_the_resource_type_may_be_left_out_when_reading(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        wanted = build.identifier(ResourceType.UNSPECIFIED, "t")
        assert (await platform.stub.GetTask(common_pb2.ObjectGetRequest(id=wanted))).id.resource_type == TASK

    async def test_the_same_again_already_exists(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        await platform.clock.advance(3600)
        error = await refused(platform.stub.CreateTask(build.task_request()), CODE.ALREADY_EXISTS)
        assert error.details() == "task with identical structure already exists"

    async def test_another_structure_is_refused_and_says_what_differs(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        other = build.task_request()
        other.spec.template.container.image = "python:3.12"
        error = await refused(platform.stub.CreateTask(other), CODE.INVALID_ARGUMENT)
        first, rest = error.details().split("\n", 1)
        assert first == ("t task with different structure already exists. (Please register a new version of the task):")
        assert "python:3.11" in rest
        assert "python:3.12" in rest

    async def test_of_many_at_once_one_wins_and_the_others_are_told(self, platform: Any, build: Any) -> None:
        results = await asyncio.gather(
            *(platform.stub.CreateTask(build.task_request()) for _ in range(8)), return_exceptions=True
        )
        lost = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        assert len(lost) == 7
        assert {each.code() for each in lost} == {CODE.ALREADY_EXISTS}
        assert {each.details() for each in lost} == {"task with identical structure already exists"}

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (lambda t: t.ClearField("type"), "missing type"),
            (lambda t: t.ClearField("metadata"), "missing metadata"),
            (lambda t: t.metadata.runtime.ClearField("version"), "missing runtime version"),
            (lambda t: t.ClearField("interface"), "missing typed interface"),
            (lambda t: t.container.ClearField("image"), "missing image"),
            (lambda t: t.container.resources.requests.add(name="CPU", value="two"), "Parsing of CPU request failed"),
            (lambda t: t.container.resources.requests.add(name="GPU", value="500m"), "must be a whole number"),
            (
                lambda t: t.container.resources.requests.add(name="CPU", value="3"),
                "Requested CPU default [3] is greater than current limit set in the platform configuration [2]",
            ),
            (lambda t: t.k8s_pod.SetInParent(), "pod tasks should specify their target as a K8sPod"),
            (lambda t: t.container.ClearField("args"), "task failed compilation with "),
        ],
    )
    async def test_what_is_wrong_is_named(self, spoil: Any, text: str, platform: Any, build: Any) -> None:
        request = build.task_request()
        spoil(request.spec.template)
        error = await refused(platform.stub.CreateTask(request), CODE.INVALID_ARGUMENT)
        assert text in error.details()

    async def test_limits_of_the_project_replace_the_configured_ones(self, platform: Any, build: Any) -> None:
        await build.attribute(platform, "TASK_RESOURCE", {"task_resource_attributes": {"limits": {"cpu": "64"}}})
        request = build.task_request()
        request.spec.template.container.resources.requests.add(name="CPU", value="48")
        request.spec.template.container.resources.requests.add(name="MEMORY", value="400Gi")
        await platform.stub.CreateTask(request)

    async def test_unknown_places_are_refused(self, platform: Any, build: Any) -> None:
        request = build.task_request()
        request.id.project = "nowhere"
        error = await refused(platform.stub.CreateTask(request), CODE.INVALID_ARGUMENT)
        assert error.details() == (
            "failed to validate that project [nowhere] and domain [development] are registered, "
            "err: [project [nowhere] not found]"
        )
        request.id.project, request.id.domain = "flytesnacks", "moon"
        error = await refused(platform.stub.CreateTask(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "domain [moon] is unrecognized by system"

    async def test_missing_tasks_are_not_found(self, platform: Any, build: Any) -> None:
        error = await refused(
            platform.stub.GetTask(common_pb2.ObjectGetRequest(id=build.identifier(TASK, "no"))), CODE.NOT_FOUND
        )
        assert error.details().startswith("missing entity of type TASK with identifier ")

    async def test_large_tasks_are_compiled_elsewhere(self, platform: Any, build: Any) -> None:
        request = build.task_request()
        request.spec.template.config["long"] = "x" * 100_000
        await platform.stub.CreateTask(request)
        found = await platform.stub.GetTask(common_pb2.ObjectGetRequest(id=request.id))
        assert found.closure.compiled_task.template.config == request.spec.template.config
        request.id.version = "v2"
        request.spec.template.container.ClearField("args")
        error = await refused(platform.stub.CreateTask(request), CODE.INVALID_ARGUMENT)
        assert error.details().startswith("task failed compilation with Collected Errors: 1")


class TestWhitelist:
    @pytest.fixture
    def config(self) -> AdminConfig:
        return AdminConfig.model_validate(
            {"task_type_whitelist": {"python-task": [{"project": "other"}], "spark": [{"project": "flytesnacks"}]}}
        )

    async def test_only_listed_projects_may_use_a_listed_type(self, platform: Any, build: Any) -> None:
        request = build.task_request()
        error = await refused(platform.stub.CreateTask(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "task type must be whitelisted before use"
        request.spec.template.type = "spark"
        await platform.stub.CreateTask(request)
        request = build.task_request("u")
        request.spec.template.type = "anything"
        await platform.stub.CreateTask(request)


class TestWorkflows:
    async def test_a_registered_workflow_can_be_read_with_its_closure(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        await platform.clock.advance(5)
        request = build.workflow_request()
        await platform.stub.CreateWorkflow(request)
        workflow = await platform.stub.GetWorkflow(common_pb2.ObjectGetRequest(id=request.id))
        compiled = workflow.closure.compiled_workflow
        assert [node.id for node in compiled.primary.template.nodes] == ["start-node", "end-node", "n0"]
        assert list(compiled.primary.connections.downstream["start-node"].ids) == ["n0"]
        assert [each.template.id.name for each in compiled.tasks] == ["t"]
        assert workflow.closure.created_at.seconds == platform.clock.now().timestamp()
        row = await platform.database.fetchrow("SELECT remote_closure_identifier FROM workflows")
        place = f"{platform.storage.base}/metadata/admin/flytesnacks/development/w/v1/"
        assert row["remote_closure_identifier"].startswith(place)

    async def test_the_same_again_already_exists_with_a_detail(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        await platform.stub.CreateWorkflow(build.workflow_request())
        await platform.clock.advance(60)
        error = await refused(platform.stub.CreateWorkflow(build.workflow_request()), CODE.ALREADY_EXISTS)
        assert error.details() == "workflow with identical structure already exists"
        reason = detail(error, workflow_pb2.CreateWorkflowFailureReason)
        assert reason.exists_identical_structure.id == build.identifier(WORKFLOW, "w")

    async def test_another_structure_is_refused_with_a_detail(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        await platform.stub.CreateWorkflow(build.workflow_request())
        other = build.workflow_request()
        other.spec.template.nodes[0].metadata.name = "renamed"
        error = await refused(platform.stub.CreateWorkflow(other), CODE.INVALID_ARGUMENT)
        assert error.details().startswith(
            "w workflow with different structure already exists. (Please register a new version of the workflow):\n"
        )
        assert "renamed" in error.details()
        reason = detail(error, workflow_pb2.CreateWorkflowFailureReason)
        assert reason.exists_different_structure.id == build.identifier(WORKFLOW, "w")

    async def test_racing_registrations_leave_the_winners_closure_alone(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        requests = []
        for at in range(8):
            request = build.workflow_request()
            request.spec.template.nodes[0].metadata.name = f"variant {at % 4}"
            requests.append(request)
        results = await asyncio.gather(
            *(platform.stub.CreateWorkflow(each) for each in requests), return_exceptions=True
        )
        won = [each for each, result in zip(requests, results, strict=True) if not isinstance(result, Exception)]
        assert len(won) == 1
        name = won[0].spec.template.nodes[0].metadata.name
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, grpc.aio.AioRpcError):
                same = request.spec.template.nodes[0].metadata.name == name
                assert result.code() is (CODE.ALREADY_EXISTS if same else CODE.INVALID_ARGUMENT)
        stored = await platform.stub.GetWorkflow(common_pb2.ObjectGetRequest(id=won[0].id))
        assert stored.closure.compiled_workflow.primary.template.nodes[2].metadata.name == name
        left = [reference async for reference, _ in platform.storage.list(platform.storage.join("metadata"))]
        assert len(left) == 1

    async def test_a_missing_task_is_an_invalid_argument(self, platform: Any, build: Any) -> None:
        error = await refused(platform.stub.CreateWorkflow(build.workflow_request()), CODE.INVALID_ARGUMENT)
        assert error.details().startswith("failed to compile workflow for [")
        assert "missing entity of type TASK with identifier " in error.details()

    async def test_a_reference_of_no_known_type_is_an_invalid_argument(self, platform: Any, build: Any) -> None:
        request = build.workflow_request()
        request.spec.template.nodes[0].task_node.reference_id.resource_type = 77
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert "missing entity of type 77 with identifier " in error.details()

    async def test_compile_errors_are_told_whole(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        request = build.workflow_request()
        request.spec.template.interface.inputs.variables["a"].type.simple = types_pb2.STRING
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert "Collected Errors: 1\n\tError 0: Code: MismatchingTypes, Node Id: n0" in error.details()

    async def test_names_that_are_paths_stay_inside_their_own_place(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        names = [("..", ".."), ("../../../x", "v/1"), ("a/b", "c"), ("a", "b/c"), ("n" * 255, "v" * 255)]
        for name, version in names:
            request = build.workflow_request(name, version)
            await platform.stub.CreateWorkflow(request)
        for name, version in names:
            found = await platform.stub.GetWorkflow(
                common_pb2.ObjectGetRequest(id=build.identifier(WORKFLOW, name, version))
            )
            assert found.closure.compiled_workflow.primary.template.id.name == name

    async def test_large_workflows_are_compiled_elsewhere(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        request = build.workflow_request()
        for at in range(1, 4_000):
            node = request.spec.template.nodes.add()
            node.CopyFrom(request.spec.template.nodes[0])
            node.id = f"node-{at}"
        assert request.spec.ByteSize() > platform.config.registration.inline_compile_bytes
        await platform.stub.CreateWorkflow(request)
        found = await platform.stub.GetWorkflow(common_pb2.ObjectGetRequest(id=request.id))
        assert len(found.closure.compiled_workflow.primary.template.nodes) == 4_002
        error = await refused(platform.stub.CreateWorkflow(request), CODE.ALREADY_EXISTS)
        assert error.details() == "workflow with identical structure already exists"
        request.spec.template.nodes[7].id = "other"
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert "different structure" in error.details()
        request.spec.template.nodes[7].task_node.reference_id.name = "unknown"
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert "missing entity of type TASK" in error.details()
        request.spec.template.nodes[7].CopyFrom(request.spec.template.nodes[8])
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert "Collected Errors: 1\n\tError 0: Code: DuplicateId, Node Id: node-8" in error.details()


class TestLimits:
    @pytest.fixture
    def config(self) -> AdminConfig:
        return AdminConfig.model_validate({"registration": {"maxWorkflowNodes": 1, "workflowSizeLimit": "5k"}})

    async def test_too_many_nodes_are_refused(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        request = build.workflow_request()
        await platform.stub.CreateWorkflow(request)
        request = build.workflow_request(version="v2")
        request.spec.template.nodes.add().CopyFrom(request.spec.template.nodes[0])
        request.spec.template.nodes[1].id = "n1"
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert error.details().startswith("number of nodes in workflow [")
        assert error.details().endswith("] exceeds limit (2 > 1)")

    async def test_too_large_closures_are_refused(self, platform: Any, build: Any) -> None:
        await platform.stub.CreateTask(build.task_request())
        request = build.workflow_request()
        request.spec.template.nodes[0].metadata.name = "x" * 5_000
        error = await refused(platform.stub.CreateWorkflow(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "Workflow closure size exceeds max limit [5k]"


@pytest.fixture
async def registered(platform: Any, build: Any) -> Any:
    """A platform with a task and a workflow."""
    await platform.stub.CreateTask(build.task_request())
    await platform.stub.CreateWorkflow(build.workflow_request())
    return platform


class TestLaunchPlans:
    async def test_what_is_expected_is_computed_and_shown(self, registered: Any, build: Any) -> None:
        await registered.stub.CreateLaunchPlan(build.launch_plan_request())
        found = await registered.stub.GetLaunchPlan(common_pb2.ObjectGetRequest(id=build.identifier(LAUNCH_PLAN, "lp")))
        assert found.spec.default_inputs.parameters["a"].required
        assert found.closure.expected_inputs == found.spec.default_inputs
        assert found.closure.expected_outputs.variables["o"].type.simple == types_pb2.INTEGER
        assert found.closure.state == launch_plan_pb2.INACTIVE
        assert found.closure.created_at.seconds == registered.clock.now().timestamp()

    async def test_a_missing_workflow_is_not_found(self, registered: Any, build: Any) -> None:
        error = await refused(
            registered.stub.CreateLaunchPlan(build.launch_plan_request(workflow="no")), CODE.NOT_FOUND
        )
        assert error.details().startswith("missing entity of type WORKFLOW with identifier ")

    async def test_repeats_are_judged_by_their_structure(self, registered: Any, build: Any) -> None:
        await registered.stub.CreateLaunchPlan(build.launch_plan_request(default=1))
        error = await refused(
            registered.stub.CreateLaunchPlan(build.launch_plan_request(default=1)), CODE.ALREADY_EXISTS
        )
        assert error.details() == "launch plan with identical structure already exists"
        error = await refused(
            registered.stub.CreateLaunchPlan(build.launch_plan_request(default=2)), CODE.INVALID_ARGUMENT
        )
        assert error.details().startswith("lp launch plan with different structure already exists. ")

    async def test_of_many_at_once_one_wins(self, registered: Any, build: Any) -> None:
        results = await asyncio.gather(
            *(registered.stub.CreateLaunchPlan(build.launch_plan_request()) for _ in range(8)), return_exceptions=True
        )
        lost = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        assert len(lost) == 7
        assert {each.code() for each in lost} == {CODE.ALREADY_EXISTS}

    async def test_large_launch_plans_are_checked_elsewhere(self, registered: Any, build: Any) -> None:
        request = build.launch_plan_request(default=1)
        request.spec.annotations.values["long"] = "x" * 100_000
        await registered.stub.CreateLaunchPlan(request)
        found = await registered.stub.GetLaunchPlan(common_pb2.ObjectGetRequest(id=request.id))
        assert found.spec.default_inputs == request.spec.default_inputs
        request.id.version = "v2"
        request.spec.fixed_inputs.literals["z"].CopyFrom(build.integer(1))
        error = await refused(registered.stub.CreateLaunchPlan(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "unexpected fixed_input z"

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (lambda s, b: s.fixed_inputs.literals["z"].CopyFrom(b.integer(1)), "unexpected fixed_input z"),
            (lambda s, b: s.fixed_inputs.literals["a"].SetInParent(), "missing valid literal in fixed_inputs a"),
            (
                lambda s, b: s.default_inputs.parameters["a"].SetInParent(),
                "The Variable component of the Parameter a in default_inputs either is missing, or has a missing Type",
            ),
            (
                lambda s, b: s.default_inputs.parameters["a"].var.CopyFrom(b.variable(types_pb2.INTEGER)),
                "Invalid variable a in default_inputs - variable has neither default, nor is required. "
                "One must be specified",
            ),
            (
                lambda s, b: (
                    s.default_inputs.parameters["a"].artifact_query.SetInParent()
                    or s.default_inputs.parameters["a"].var.CopyFrom(b.variable(types_pb2.INTEGER))
                ),
                "artifact mode not enabled but query found default_inputs a",
            ),
            (lambda s, b: s.labels.values.update({"-": "x"}), "invalid label key [-]"),
            (lambda s, b: s.labels.values.update({f"k{i}": "" for i in range(17)}), "labels map cannot exceed 16"),
            (lambda s, b: s.entity_metadata.notifications.add(), "invalid value for notification type"),
            (lambda s, b: s.entity_metadata.notifications.add().email.SetInParent(), "missing recipients"),
            (
                lambda s, b: s.entity_metadata.notifications.add(phases=["RUNNING"]).email.recipients_email.append("x"),
                "invalid value for phase",
            ),
            (lambda s, b: s.entity_metadata.launch_conditions.SetInParent(), "Launch condition must be empty, found"),
            (
                lambda s, b: s.entity_metadata.schedule.rate.SetInParent(),
                "Cannot create a launch plan with a schedule if there is an unbound required input. [a] is required",
            ),
        ],
    )
    async def test_what_is_wrong_is_named(self, spoil: Any, text: str, registered: Any, build: Any) -> None:
        request = build.launch_plan_request()
        spoil(request.spec, build)
        error = await refused(registered.stub.CreateLaunchPlan(request), CODE.INVALID_ARGUMENT)
        assert text in error.details()


class TestActivation:
    async def test_one_version_is_active_and_schedules_follow(self, registered: Any, build: Any) -> None:
        stub = registered.stub
        for version in ("v1", "v2"):
            request = build.launch_plan_request(version=version, default=1)
            request.spec.entity_metadata.schedule.rate.value = 5
            request.spec.entity_metadata.schedule.rate.unit = schedule_pb2.HOUR
            await stub.CreateLaunchPlan(request)
        with pytest.raises(grpc.aio.AioRpcError, match="No active launch plan could be found: flytesnacks:"):
            await stub.GetActiveLaunchPlan(launch_plan_pb2.ActiveLaunchPlanRequest(id=build.name("lp")))
        for version in ("v1", "v2", "v2"):
            await stub.UpdateLaunchPlan(
                launch_plan_pb2.LaunchPlanUpdateRequest(
                    id=build.identifier(LAUNCH_PLAN, "lp", version), state=launch_plan_pb2.ACTIVE
                )
            )
            active = await stub.GetActiveLaunchPlan(launch_plan_pb2.ActiveLaunchPlanRequest(id=build.name("lp")))
            assert active.id.version == version
            assert active.closure.state == launch_plan_pb2.ACTIVE
            assert await schedules(registered) == [(version, 5, schedule_pb2.HOUR)]
        await stub.UpdateLaunchPlan(
            launch_plan_pb2.LaunchPlanUpdateRequest(id=build.identifier(LAUNCH_PLAN, "lp", "v2"))
        )
        assert await schedules(registered) == []
        announced = await registered.database.fetch("SELECT topic, key, payload FROM outbox ORDER BY id")
        changes = [launch_plan_pb2.LaunchPlanUpdateRequest.FromString(row["payload"]) for row in announced]
        assert [(each.id.version, each.state) for each in changes] == [
            ("v1", 1), ("v1", 0), ("v2", 1), ("v2", 1), ("v2", 0),
        ]  # fmt: skip
        assert {(row["topic"], row["key"]) for row in announced} == {
            ("launch_plans.changed", "flytesnacks:development:lp")
        }

    async def test_both_forms_of_cron_are_scheduled(self, registered: Any, build: Any) -> None:
        for version, schedule in (
            ("v1", schedule_pb2.Schedule(cron_expression="0 5 * * *")),
            ("v2", schedule_pb2.Schedule(cron_schedule=schedule_pb2.CronSchedule(schedule="@daily"))),
        ):
            request = build.launch_plan_request(version=version, default=1)
            request.spec.entity_metadata.schedule.CopyFrom(schedule)
            await registered.stub.CreateLaunchPlan(request)
            await registered.stub.UpdateLaunchPlan(
                launch_plan_pb2.LaunchPlanUpdateRequest(id=request.id, state=launch_plan_pb2.ACTIVE)
            )
        rows = await registered.database.fetch("SELECT cron_expression, active FROM schedulable_entities ORDER BY 1")
        assert [tuple(row) for row in rows] == [("0 5 * * *", False), ("@daily", True)]
        types = await registered.database.fetch(
            "SELECT DISTINCT schedule_type, launch_condition_type FROM launch_plans"
        )
        assert [tuple(row) for row in types] == [("CRON", "SCHED")]

    async def test_activations_at_the_same_time_leave_one_active(self, registered: Any, build: Any) -> None:
        versions = [f"v{at}" for at in range(8)]
        for version in versions:
            request = build.launch_plan_request(version=version, default=1)
            request.spec.entity_metadata.schedule.rate.value = 1
            await registered.stub.CreateLaunchPlan(request)
        await asyncio.gather(
            *(
                registered.stub.UpdateLaunchPlan(
                    launch_plan_pb2.LaunchPlanUpdateRequest(
                        id=build.identifier(LAUNCH_PLAN, "lp", version), state=launch_plan_pb2.ACTIVE
                    )
                )
                for version in versions
            )
        )
        active = await registered.database.fetchval("SELECT array_agg(version) FROM launch_plans WHERE state = 1")
        assert len(active) == 1
        assert [version for version, *_ in await schedules(registered)] == active

    async def test_unknown_launch_plans_are_not_found(self, registered: Any, build: Any) -> None:
        request = launch_plan_pb2.LaunchPlanUpdateRequest(id=build.identifier(LAUNCH_PLAN, "no"), state="ACTIVE")
        await refused(registered.stub.UpdateLaunchPlan(request), CODE.NOT_FOUND)


async def schedules(platform: Any) -> list[tuple[str, int, int]]:
    rows = await platform.database.fetch(
        "SELECT version, fixed_rate_value, unit FROM schedulable_entities WHERE active ORDER BY version"
    )
    return [tuple(row) for row in rows]


class TestNames:
    async def test_metadata_belongs_to_the_name(self, registered: Any, build: Any) -> None:
        get = common_pb2.NamedEntityGetRequest(resource_type=TASK, id=build.name("t"))
        assert (await registered.stub.GetNamedEntity(get)).metadata == common_pb2.NamedEntityMetadata()
        metadata = common_pb2.NamedEntityMetadata(description="about", state=common_pb2.NAMED_ENTITY_ARCHIVED)
        await registered.stub.UpdateNamedEntity(
            common_pb2.NamedEntityUpdateRequest(resource_type=TASK, id=build.name("t"), metadata=metadata)
        )
        assert (await registered.stub.GetNamedEntity(get)).metadata == metadata

    async def test_a_name_without_versions_is_not_found(self, registered: Any, build: Any) -> None:
        update = common_pb2.NamedEntityUpdateRequest(
            resource_type=WORKFLOW, id=build.name("no"), metadata=common_pb2.NamedEntityMetadata(description="x")
        )
        error = await refused(registered.stub.UpdateNamedEntity(update), CODE.NOT_FOUND)
        assert error.details() == "entry not found"
        get = common_pb2.NamedEntityGetRequest(resource_type=ResourceType.DATASET, id=build.name("t"))
        await refused(registered.stub.GetNamedEntity(get), CODE.INVALID_ARGUMENT)
        update.resource_type = ResourceType.DATASET
        update.metadata.state = common_pb2.NAMED_ENTITY_ARCHIVED
        error = await refused(registered.stub.UpdateNamedEntity(update), CODE.INVALID_ARGUMENT)
        assert error.details() == "Resource [DATASET] cannot have its state updated"
