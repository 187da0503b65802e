"""Launching executions: what they run with, who wins a race, and what a data plane is handed."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from flyteidl.admin import common_pb2, execution_pb2, launch_plan_pb2, matchable_resource_pb2, project_pb2
from flyteidl.core import execution_pb2 as core_execution_pb2
from flyteidl.core import literals_pb2, types_pb2
from flyteidl.core.identifier_pb2 import NodeExecutionIdentifier, ResourceType
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from aerodrome.admin.config import AdminConfig
from aerodrome.idl.journal.v1.journal_pb2 import Assignment, LeaseRequest, OpenSessionRequest, ResolvedResources

CODE = grpc.StatusCode
TASK, LAUNCH_PLAN = ResourceType.TASK, ResourceType.LAUNCH_PLAN


async def refused(call: Any, code: grpc.StatusCode) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    return caught.value


@pytest.fixture
async def ready(platform: Any, build: Any) -> Any:
    """A platform with a task, a workflow and its launch plan."""
    await platform.stub.CreateTask(build.task_request())
    await platform.stub.CreateWorkflow(build.workflow_request())
    await platform.stub.CreateLaunchPlan(build.launch_plan_request())
    return platform


async def get(platform: Any, build: Any, name: str) -> execution_pb2.Execution:
    return await platform.stub.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=build.key(name)))


async def inputs_of(platform: Any, name: str, column: str = "inputs_uri") -> dict[str, int]:
    uri = await platform.database.fetchval(f"SELECT {column} FROM executions WHERE execution_name = $1", name)
    literals = literals_pb2.LiteralMap.FromString(await platform.storage.read(uri))
    return {key: value.scalar.primitive.integer for key, value in literals.literals.items()}


async def assigned(platform: Any, cluster: str = "local") -> Assignment:
    """The next execution that a data plane of `cluster` is handed."""
    holder = uuid.uuid4().hex  # not one that comes back: that would free what it held
    session = await platform.journal.OpenSession(OpenSessionRequest(cluster=cluster, holder=holder))
    call = platform.journal.Lease(LeaseRequest(session_id=session.session_id, capacity=1))
    async with asyncio.timeout(10):
        response = await call.read()
    call.cancel()
    return response.assignment


async def counts(platform: Any) -> list[int]:
    tables = ("executions", "leases", "execution_tags")
    rows = [await platform.database.fetchval(f"SELECT count(*) FROM {table}") for table in tables]
    return [*rows, len([reference async for reference, _ in platform.storage.list(platform.storage.join("metadata"))])]


class TestLaunchPlans:
    async def test_an_execution_is_there_at_once(self, ready: Any, build: Any) -> None:
        request = build.execution_request("e1", a=7)
        answer = await ready.stub.CreateExecution(request)
        assert answer.id == build.key("e1")
        execution = await get(ready, build, "e1")
        assert execution.spec.launch_plan == build.identifier(LAUNCH_PLAN, "lp")
        assert execution.spec.metadata.system_metadata.namespace == "flytesnacks-development"
        assert execution.spec.max_parallelism == 25
        assert execution.spec.security_context.HasField("run_as")
        assert execution.closure.phase == core_execution_pb2.WorkflowExecution.UNDEFINED
        assert execution.closure.workflow_id == build.identifier(ResourceType.WORKFLOW, "w")
        assert execution.closure.created_at.seconds == ready.clock.now().timestamp()
        details = execution.closure.state_change_details
        assert details.state == execution_pb2.EXECUTION_ACTIVE
        assert details.occurred_at == execution.closure.created_at
        assert await inputs_of(ready, "e1") == {"a": 7}

    async def test_a_data_plane_is_handed_everything_it_needs(self, ready: Any, build: Any) -> None:
        await build.attribute(
            ready,
            "TASK_RESOURCE",
            {"task_resource_attributes": {"defaults": {"cpu": "1", "gpu": "0"}, "limits": {"memory": "4Gi"}}},
            domain="development",
        )
        overrides = {"overrides": [{"task_type": "spark", "plugin_id": ["x"]}]}
        await build.attribute(
            ready, "PLUGIN_OVERRIDE", {"plugin_overrides": overrides}, domain="development", workflow="w"
        )
        request = build.execution_request("e1", a=7)
        request.spec.envs.values.add(key="K", value="V")
        request.spec.interruptible.value = False
        await ready.stub.CreateExecution(request)
        assignment = await assigned(ready)
        assert (assignment.project, assignment.domain, assignment.name) == ("flytesnacks", "development", "e1")
        spec = execution_pb2.ExecutionSpec.FromString(assignment.spec)
        assert spec.envs == request.spec.envs
        assert spec.HasField("interruptible")
        assert assignment.resources == ResolvedResources(defaults={"cpu": "1"}, limits={"memory": "4Gi"})
        found = matchable_resource_pb2.PluginOverrides.FromString(assignment.plugin_overrides)
        assert found.overrides[0].plugin_id == ["x"]
        assert literals_pb2.LiteralMap.FromString(await ready.storage.read(assignment.inputs_reference)).literals
        assert await ready.storage.head(assignment.workflow_closure_reference)

    async def test_configured_resources_apply_without_attributes(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateExecution(build.execution_request())
        assert (await assigned(ready)).resources == ResolvedResources(
            defaults={"cpu": "2", "memory": "200Mi"}, limits={"cpu": "2", "memory": "1Gi", "gpu": "1"}
        )

    async def test_names_are_made_up_when_none_is_given(self, ready: Any, build: Any) -> None:
        names = set()
        for _ in range(3):
            answer = await ready.stub.CreateExecution(build.execution_request(""))
            assert len(answer.id.name) == 20
            assert answer.id.name.startswith("a")
            names.add(answer.id.name)
        assert len(names) == 3

    async def test_a_used_name_already_exists_and_its_inputs_stay(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateExecution(build.execution_request("e1", a=1))
        before = await counts(ready)
        await refused(ready.stub.CreateExecution(build.execution_request("e1", a=2)), CODE.ALREADY_EXISTS)
        assert await counts(ready) == before
        assert await inputs_of(ready, "e1") == {"a": 1}

    async def test_of_many_launches_under_one_name_one_wins(self, ready: Any, build: Any) -> None:
        results = await asyncio.gather(
            *(ready.stub.CreateExecution(build.execution_request("e1", a=at)) for at in range(16)),
            return_exceptions=True,
        )
        won = [at for at, each in enumerate(results) if not isinstance(each, Exception)]
        assert len(won) == 1
        assert {each.code() for each in results if isinstance(each, grpc.aio.AioRpcError)} == {CODE.ALREADY_EXISTS}
        assert await inputs_of(ready, "e1") == {"a": won[0]}
        assert (await counts(ready))[:2] == [1, 1]
        assert (await counts(ready))[3] == 2  # the workflow's closure, and the inputs

    async def test_the_name_of_a_deleted_execution_stays_taken(self, ready: Any, build: Any) -> None:
        await ready.database.execute(
            "INSERT INTO execution_tombstones VALUES ('flytesnacks', 'development', 'gone', 1)"
        )
        await refused(ready.stub.CreateExecution(build.execution_request("gone")), CODE.ALREADY_EXISTS)

    async def test_labels_and_tags_of_the_request_become_tags(self, ready: Any, build: Any) -> None:
        labelled = project_pb2.Project(id="flytesnacks", labels=common_pb2.Labels(values={"team": "x", "own": "no"}))
        await ready.stub.UpdateProject(labelled)
        request = build.execution_request()
        request.spec.labels.values["own"] = "yes"
        request.spec.tags.extend(["first", "second", "first"])
        await ready.stub.CreateExecution(request)
        rows = await ready.database.fetch("SELECT key, value FROM execution_tags ORDER BY key")
        assert [tuple(row) for row in rows] == [("first", ""), ("own", "yes"), ("second", "")]
        assert (await get(ready, build, "e1")).spec.labels.values == {"own": "yes", "team": "x"}

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (lambda r: r.ClearField("project"), "missing project"),
            (lambda r: r.ClearField("domain"), "missing domain"),
            (lambda r: setattr(r, "name", "e" * 64), "size of name exceeded length 63 : "),
            (lambda r: setattr(r, "name", "Upper"), "invalid name format: Upper, does not match regex "),
            (lambda r: setattr(r, "name", "9e"), "invalid name format: 9e, "),
            (lambda r: setattr(r, "domain", "moon"), "domain [moon] is unrecognized by system"),
            (lambda r: setattr(r, "project", "none"), "failed to validate that project [none] and domain"),
            (lambda r: r.ClearField("spec"), "missing spec"),
            (lambda r: r.spec.ClearField("launch_plan"), "missing id"),
            (lambda r: r.spec.launch_plan.ClearField("version"), "missing version"),
            (
                lambda r: setattr(r.spec.launch_plan, "resource_type", ResourceType.WORKFLOW),
                "Invalid reference entity resource type [WORKFLOW], only [LAUNCH_PLAN, TASK] allowed",
            ),
            (lambda r: r.inputs.literals["z"].CopyFrom(r.inputs.literals["a"]), "invalid input z"),
            (lambda r: r.inputs.ClearField("literals"), "expected_inputs a missing"),
            (lambda r: r.inputs.literals["a"].Clear(), "missing valid literal in inputs a"),
            (
                lambda r: setattr(r.inputs.literals["a"].scalar.primitive, "string_value", "x"),
                "invalid a input wrong type. Expected int, but got str",
            ),
            (lambda r: r.spec.labels.values.update({"k": "!"}), "invalid label value [!]"),
            (lambda r: r.spec.notifications.notifications.add(), "invalid value for notification type"),
            (lambda r: r.spec.tags.append("\x00"), "tag must not contain NUL characters"),
            (
                lambda r: r.spec.envs.values.add(key="k", value="v" * 2**20),
                "specification too large: ",
            ),
        ],
    )
    async def test_what_is_wrong_is_named_and_nothing_is_left(
        self, spoil: Any, text: str, ready: Any, build: Any
    ) -> None:
        request = build.execution_request()
        spoil(request)
        before = await counts(ready)
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert text in error.details()
        assert await counts(ready) == before

    async def test_a_missing_launch_plan_is_not_found(self, ready: Any, build: Any) -> None:
        request = build.execution_request(launch=build.identifier(LAUNCH_PLAN, "no"))
        error = await refused(ready.stub.CreateExecution(request), CODE.NOT_FOUND)
        assert error.details().startswith("missing entity of type LAUNCH_PLAN with identifier ")

    async def test_an_inactive_project_says_so_in_a_detail(self, ready: Any, build: Any) -> None:
        await ready.stub.UpdateProject(project_pb2.Project(id="flytesnacks", state=project_pb2.Project.ARCHIVED))
        error = await refused(ready.stub.CreateExecution(build.execution_request()), CODE.INVALID_ARGUMENT)
        assert error.details() == "project [flytesnacks] is not active"
        (packed,) = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details
        reason = project_pb2.InactiveProject()
        assert isinstance(packed, AnyMessage)
        assert packed.Unpack(reason)
        assert reason.id == "flytesnacks"

    async def test_defaults_and_fixed_values_are_filled_in(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateLaunchPlan(build.launch_plan_request("defaulted", default=5))
        fixed = build.launch_plan_request("fixed")
        fixed.spec.fixed_inputs.literals["a"].CopyFrom(build.integer(9))
        await ready.stub.CreateLaunchPlan(fixed)
        for name, given, expected in (("defaulted", None, 5), ("defaulted", 6, 6), ("fixed", None, 9)):
            execution = f"e-{name}-{given or 0}"
            request = build.execution_request(execution, build.identifier(LAUNCH_PLAN, name), a=given)
            await ready.stub.CreateExecution(request)
            assert await inputs_of(ready, execution) == {"a": expected}
            assert await inputs_of(ready, execution, "user_inputs_uri") == ({} if given is None else {"a": given})
        request = build.execution_request("no", build.identifier(LAUNCH_PLAN, "fixed"), a=1)
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "invalid input a"

    async def test_the_deprecated_inputs_are_still_taken(self, ready: Any, build: Any) -> None:
        request = build.execution_request(a=None)
        request.spec.inputs.literals["a"].CopyFrom(build.integer(4))
        await ready.stub.CreateExecution(request)
        assert await inputs_of(ready, "e1") == {"a": 4}


class TestLargeInputs:
    async def test_they_are_checked_elsewhere_with_the_same_outcome(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateTask(build.task_request("st", simple=types_pb2.STRING))
        await ready.stub.CreateWorkflow(build.workflow_request("sw", task="st", simple=types_pb2.STRING))
        await ready.stub.CreateLaunchPlan(build.launch_plan_request("slp", workflow="sw"))
        request = build.execution_request(launch=build.identifier(LAUNCH_PLAN, "slp"), a=None)
        request.inputs.literals["a"].scalar.primitive.string_value = "x" * 200_000
        await ready.stub.CreateExecution(request)
        uri = await ready.database.fetchval("SELECT inputs_uri FROM executions")
        assert literals_pb2.LiteralMap.FromString(await ready.storage.read(uri)) == request.inputs
        request.name = "e2"
        request.inputs.literals["a"].CopyFrom(build.integer(1))
        request.inputs.literals["b"].scalar.primitive.string_value = "x" * 200_000
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "invalid input b"
        request.inputs.literals["b"].Clear()
        request.inputs.literals["c" * 200_000].CopyFrom(build.integer(1))
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "missing valid literal in inputs b"

    async def test_too_large_ones_are_refused(self, ready: Any, build: Any) -> None:
        request = build.execution_request()
        request.inputs.literals["a"].scalar.primitive.string_value = "x" * 3 * 2**20
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert error.details().startswith("inputs too large: 3145")


class TestConfiguration:
    async def test_request_wins_over_launch_plan_over_attributes_over_settings(self, ready: Any, build: Any) -> None:
        plan = build.launch_plan_request("full")
        plan.spec.max_parallelism = 7
        plan.spec.labels.values["from"] = "plan"
        plan.spec.raw_output_data_config.output_location_prefix = "s3://plan"
        plan.spec.auth_role.assumable_iam_role = "plan-role"
        await ready.stub.CreateLaunchPlan(plan)
        for domain, workflow, parallelism in (("", "", 3), ("development", "", 4), ("development", "w", 5)):
            await build.attribute(
                ready,
                "WORKFLOW_EXECUTION_CONFIG",
                {
                    "workflow_execution_config": {
                        "max_parallelism": parallelism,
                        "annotations": {"values": {"from": f"attribute {parallelism}"}},
                        **({"interruptible": True} if not domain else {}),
                    }
                },
                domain=domain,
                workflow=workflow,
            )
        await ready.stub.CreateExecution(build.execution_request("bare"))
        bare = (await get(ready, build, "bare")).spec
        assert bare.max_parallelism == 5
        assert bare.annotations.values == {"from": "attribute 5"}
        assert bare.interruptible.value  # the second look, at the project's own row
        launch = build.identifier(LAUNCH_PLAN, "full")
        await ready.stub.CreateExecution(build.execution_request("planned", launch))
        planned = (await get(ready, build, "planned")).spec
        assert planned.max_parallelism == 7
        assert planned.labels.values == {"from": "plan"}
        assert planned.raw_output_data_config.output_location_prefix == "s3://plan"
        assert planned.security_context.run_as.iam_role == "plan-role"
        request = build.execution_request("asked", launch)
        request.spec.max_parallelism = 9
        request.spec.labels.values["other"] = "request"
        request.spec.security_context.run_as.k8s_service_account = "asked"
        request.spec.interruptible.value = False
        await ready.stub.CreateExecution(request)
        asked = (await get(ready, build, "asked")).spec
        assert asked.max_parallelism == 9
        assert asked.labels.values == {"other": "request"}
        assert asked.security_context.run_as.iam_role == ""
        assert asked.HasField("interruptible")
        assert not asked.interruptible.value

    async def test_notifications_come_from_the_request_or_the_plan(self, ready: Any, build: Any) -> None:
        plan = build.launch_plan_request("loud")
        plan.spec.entity_metadata.notifications.add(phases=["FAILED"]).email.recipients_email.append("plan@x")
        await ready.stub.CreateLaunchPlan(plan)
        launch = build.identifier(LAUNCH_PLAN, "loud")
        requests = [build.execution_request(name, launch) for name in ("plan", "none", "own")]
        requests[1].spec.disable_all = True
        own = requests[2].spec.notifications.notifications.add(phases=["ABORTED"])
        own.slack.recipients_email.append("own@x")
        for request in requests:
            await ready.stub.CreateExecution(request)
        told = [
            [
                (*each.email.recipients_email, *each.slack.recipients_email)
                for each in (await get(ready, build, name)).closure.notifications
            ]
            for name in ("plan", "none", "own")
        ]
        assert told == [[("plan@x",)], [], [("own@x",)]]


class TestClusters:
    @pytest.fixture
    def config(self) -> AdminConfig:
        clusters = [{"name": f"c{at}", "enabled": at < 3} for at in range(1, 4)]
        labels = {"gpu": [{"id": "c2", "weight": 1}], "off": [{"id": "c3", "weight": 1}]}
        return AdminConfig.model_validate(
            {
                "clusters": {"clusterConfigs": clusters, "labelClusterMap": labels},
                "clusterPools": {"clusterPoolAssignments": {"development": {"pool": "blue"}}},
            }
        )

    async def test_a_label_chooses_and_the_name_decides(self, ready: Any, build: Any) -> None:
        chosen = set()
        for at in range(12):
            await ready.stub.CreateExecution(build.execution_request(f"e{at}"))
            spec = (await get(ready, build, f"e{at}")).spec
            chosen.add(spec.metadata.system_metadata.execution_cluster)
        assert chosen == {"c1", "c2"}
        request = build.execution_request("gpu")
        request.spec.execution_cluster_label.value = "gpu"
        await ready.stub.CreateExecution(request)
        spec = (await get(ready, build, "gpu")).spec
        assert spec.metadata.system_metadata.execution_cluster == "c2"
        names = set()
        rows = await ready.database.fetchval("SELECT count(*) FROM leases WHERE cluster = 'c2'")
        for _ in range(rows):
            names.add((await assigned(ready, "c2")).name)
        assert "gpu" in names

    async def test_attributes_choose_where_the_request_does_not(self, ready: Any, build: Any) -> None:
        await build.attribute(
            ready, "EXECUTION_CLUSTER_LABEL", {"execution_cluster_label": {"value": "gpu"}}, domain="development"
        )
        for at in range(6):
            await ready.stub.CreateExecution(build.execution_request(f"e{at}"))
        clusters = await ready.database.fetch("SELECT DISTINCT cluster FROM executions")
        assert [row["cluster"] for row in clusters] == ["c2"]

    async def test_a_launch_that_fails_is_recorded(self, ready: Any, build: Any) -> None:
        request = build.execution_request()
        request.spec.execution_cluster_label.value = "off"
        await ready.stub.CreateExecution(request)
        execution = await get(ready, build, "e1")
        assert execution.closure.phase == core_execution_pb2.WorkflowExecution.FAILED
        assert execution.closure.error.code == "FailedPrecondition"
        assert execution.closure.error.kind == core_execution_pb2.ExecutionError.SYSTEM
        assert "[off]" in execution.closure.error.message
        row = await ready.database.fetchrow(
            "SELECT phase, error_kind, error_code, e.cluster, l.state "
            "FROM executions e JOIN leases l USING (execution_id)"
        )
        assert tuple(row) == ("FAILED", "SYSTEM", "FailedPrecondition", "", "closed")

    async def test_a_single_task_that_cannot_be_launched_is_refused(self, ready: Any, build: Any) -> None:
        request = build.execution_request(launch=build.identifier(TASK, "t"))
        request.spec.execution_cluster_label.value = "off"
        await refused(ready.stub.CreateExecution(request), CODE.FAILED_PRECONDITION)
        assert (await counts(ready))[0] == 0

    async def test_pools_may_not_contradict(self, ready: Any, build: Any) -> None:
        request = build.execution_request()
        request.spec.cluster_assignment.cluster_pool_name = "red"
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert error.details() == (
            'execution with project "flytesnacks" and domain "development" cannot run on cluster pool "red", '
            'because its configured to run on pool "blue"'
        )


async def test_a_label_without_clusters_fails_the_launch_for_the_user(ready: Any, build: Any) -> None:
    request = build.execution_request()
    request.spec.execution_cluster_label.value = "gpu"
    await ready.stub.CreateExecution(request)
    error = (await get(ready, build, "e1")).closure.error
    assert (error.code, error.kind) == ("InvalidArgument", core_execution_pb2.ExecutionError.USER)


class TestConcurrency:
    async def test_no_more_run_than_the_launch_plan_permits(self, ready: Any, build: Any) -> None:
        for version in ("v1", "v2"):
            plan = build.launch_plan_request("few", version)
            plan.spec.concurrency_policy.max = 3
            plan.spec.concurrency_policy.behavior = launch_plan_pb2.CONCURRENCY_LIMIT_BEHAVIOR_SKIP
            await ready.stub.CreateLaunchPlan(plan)
        requests = [
            build.execution_request(f"e{at}", build.identifier(LAUNCH_PLAN, "few", f"v{1 + at % 2}"))
            for at in range(10)
        ]
        results = await asyncio.gather(
            *(ready.stub.CreateExecution(request) for request in requests), return_exceptions=True
        )
        lost = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        assert len(lost) == 7
        assert {(each.code(), each.details()) for each in lost} == {
            (CODE.ALREADY_EXISTS, "concurrency limit (3) reached for launch plan few; skipping execution")
        }
        assert (await counts(ready))[0] == 3
        await ready.database.execute(
            "UPDATE executions SET phase = 'SUCCEEDED' WHERE execution_id = (SELECT min(execution_id) FROM executions)"
        )
        await ready.stub.CreateExecution(build.execution_request("later", build.identifier(LAUNCH_PLAN, "few")))


class TestSingleTasks:
    async def test_a_task_runs_in_a_workflow_of_its_own(self, ready: Any, build: Any) -> None:
        launch = build.identifier(TASK, "t")
        await ready.stub.CreateExecution(build.execution_request("e1", launch, a=3))
        execution = await get(ready, build, "e1")
        assert execution.spec.launch_plan == launch
        assert execution.closure.workflow_id.name == ".flytegen.t"
        row = await ready.database.fetchrow("SELECT launch_entity, task_id, launch_plan_id FROM executions")
        assert row["launch_entity"] == "task"
        assert row["task_id"] is not None
        assert row["launch_plan_id"] is None
        workflow = await ready.stub.GetWorkflow(common_pb2.ObjectGetRequest(id=execution.closure.workflow_id))
        template = workflow.closure.compiled_workflow.primary.template
        assert [node.id for node in template.nodes][2:] == ["t"]
        assert template.interface.inputs.variables["a"].type.simple == types_pb2.INTEGER
        for kind in (ResourceType.WORKFLOW, LAUNCH_PLAN):
            name = common_pb2.NamedEntityGetRequest(resource_type=kind, id=build.name(".flytegen.t"))
            metadata = (await ready.stub.GetNamedEntity(name)).metadata
            assert metadata.state == common_pb2.SYSTEM_GENERATED
        assert (await assigned(ready)).name == "e1"

    async def test_first_launches_at_the_same_time_share_it(self, ready: Any, build: Any) -> None:
        launch = build.identifier(TASK, "t")
        await asyncio.gather(
            *(ready.stub.CreateExecution(build.execution_request(f"e{at}", launch)) for at in range(8))
        )
        assert await ready.database.fetchval("SELECT count(DISTINCT workflow_id) FROM executions") == 1
        assert await ready.database.fetchval("SELECT count(*) FROM launch_plans WHERE name = '.flytegen.t'") == 1

    async def test_its_inputs_are_checked(self, ready: Any, build: Any) -> None:
        request = build.execution_request("e1", build.identifier(TASK, "t"), a=None)
        before = await ready.database.fetchval("SELECT count(*) FROM workflows"), await counts(ready)
        error = await refused(ready.stub.CreateExecution(request), CODE.INVALID_ARGUMENT)
        assert error.details() == "expected_inputs a missing"
        assert (await ready.database.fetchval("SELECT count(*) FROM workflows"), await counts(ready)) == before

    async def test_a_missing_task_is_not_found(self, ready: Any, build: Any) -> None:
        request = build.execution_request(launch=build.identifier(TASK, "no"))
        error = await refused(ready.stub.CreateExecution(request), CODE.NOT_FOUND)
        assert error.details().startswith("missing entity of type TASK with identifier ")


async def parent_of(platform: Any, build: Any, phase: str = "RUNNING") -> NodeExecutionIdentifier:
    """A node of a running execution `parent`, as the journal leaves it behind."""
    request = build.execution_request("parent")
    request.spec.metadata.nesting = 2
    request.spec.execution_cluster_label.value = ""
    await platform.stub.CreateExecution(request)
    await platform.database.execute(
        """UPDATE executions SET "user" = 'her', phase = $1 WHERE execution_name = 'parent'""", phase
    )
    await platform.database.execute(
        "INSERT INTO node_executions (execution_id, node_id, phase, closure, node_execution_metadata) "
        "SELECT execution_id, 'n0', 'RUNNING', '', '' FROM executions WHERE execution_name = 'parent'"
    )
    return NodeExecutionIdentifier(node_id="n0", execution_id=build.key("parent"))


class TestChildren:
    async def test_a_child_belongs_to_its_parent(self, ready: Any, build: Any) -> None:
        node = await parent_of(ready, build)
        request = build.execution_request("child")
        request.spec.metadata.mode = execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
        request.spec.metadata.parent_node_execution.CopyFrom(node)
        await ready.stub.CreateExecution(request)
        metadata = (await get(ready, build, "child")).spec.metadata
        assert metadata.principal == "her"
        assert metadata.nesting == 3
        row = await ready.database.fetchrow(
            "SELECT c.parent_execution_id = p.execution_id AS same, c.source_execution_id = p.execution_id AS source, "
            "c.parent_node_id FROM executions c, executions p "
            "WHERE c.execution_name = 'child' AND p.execution_name = 'parent'"
        )
        assert tuple(row) == (True, True, "n0")

    async def test_an_unknown_parent_is_not_found(self, ready: Any, build: Any) -> None:
        request = build.execution_request("child")
        node = NodeExecutionIdentifier(node_id="n0", execution_id=build.key("nobody"))
        request.spec.metadata.parent_node_execution.CopyFrom(node)
        error = await refused(ready.stub.CreateExecution(request), CODE.NOT_FOUND)
        assert error.details().startswith("missing entity of type node execution with identifier ")

    async def test_a_parent_that_is_over_launches_no_more(self, ready: Any, build: Any) -> None:
        node = await parent_of(ready, build, phase="ABORTED")
        request = build.execution_request("child")
        request.spec.metadata.mode = execution_pb2.ExecutionMetadata.CHILD_WORKFLOW
        request.spec.metadata.parent_node_execution.CopyFrom(node)
        await refused(ready.stub.CreateExecution(request), CODE.FAILED_PRECONDITION)


class TestAgain:
    async def test_a_relaunch_takes_the_users_inputs(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateLaunchPlan(build.launch_plan_request("defaulted", default=5))
        first = build.execution_request("first", build.identifier(LAUNCH_PLAN, "defaulted"), a=8)
        first.spec.overwrite_cache = True
        first.spec.labels.values.update({f"k{at}": "v" for at in range(16)})
        await ready.stub.UpdateProject(
            project_pb2.Project(id="flytesnacks", labels=common_pb2.Labels(values={"one": "more"}))
        )
        await ready.stub.CreateExecution(first)
        answer = await ready.stub.RelaunchExecution(
            execution_pb2.ExecutionRelaunchRequest(id=build.key("first"), name="again")
        )
        assert answer.id == build.key("again")
        spec = (await get(ready, build, "again")).spec
        assert spec.metadata.mode == execution_pb2.ExecutionMetadata.RELAUNCH
        assert spec.metadata.reference_execution == build.key("first")
        assert not spec.overwrite_cache
        assert len(spec.labels.values) == 17
        assert await inputs_of(ready, "again") == {"a": 8}
        source = await ready.database.fetchval(
            "SELECT a.source_execution_id = f.execution_id FROM executions a, executions f "
            "WHERE a.execution_name = 'again' AND f.execution_name = 'first'"
        )
        assert source

    async def test_a_recovery_names_what_it_recovers_from(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateExecution(build.execution_request("first"))
        assert (await assigned(ready)).name == "first"
        await ready.stub.RecoverExecution(execution_pb2.ExecutionRecoverRequest(id=build.key("first"), name="again"))
        spec = (await get(ready, build, "again")).spec
        assert spec.metadata.mode == execution_pb2.ExecutionMetadata.RECOVERED
        await ready.database.execute("UPDATE leases SET state = 'closed', session_id = NULL WHERE state = 'held'")
        assignment = await assigned(ready)
        assert assignment.name == "again"
        assert assignment.recovered_execution == build.key("first").SerializeToString()

    async def test_an_unknown_execution_is_not_found(self, ready: Any, build: Any) -> None:
        request = execution_pb2.ExecutionRelaunchRequest(id=build.key("no"))
        error = await refused(ready.stub.RelaunchExecution(request), CODE.NOT_FOUND)
        assert error.details().startswith("missing entity of type execution with identifier ")
        recover = execution_pb2.ExecutionRecoverRequest(id=build.key("no"))
        await refused(ready.stub.RecoverExecution(recover), CODE.NOT_FOUND)


class TestArchiving:
    async def test_an_archived_execution_is_hidden_and_can_come_back(self, ready: Any, build: Any) -> None:
        await ready.stub.CreateExecution(build.execution_request())
        scope = common_pb2.NamedEntityIdentifier(project="flytesnacks", domain="development")
        everything = common_pb2.ResourceListRequest(id=scope, limit=10)
        for state, shown in ((execution_pb2.EXECUTION_ARCHIVED, 0), (execution_pb2.EXECUTION_ACTIVE, 1)):
            await ready.clock.advance(10)
            await ready.stub.UpdateExecution(execution_pb2.ExecutionUpdateRequest(id=build.key("e1"), state=state))
            assert len((await ready.stub.ListExecutions(everything)).executions) == shown
            details = (await get(ready, build, "e1")).closure.state_change_details
            assert details.state == state
            assert details.occurred_at.seconds == ready.clock.now().timestamp()

    async def test_an_unknown_execution_is_not_found(self, ready: Any, build: Any) -> None:
        request = execution_pb2.ExecutionUpdateRequest(id=build.key("no"))
        await refused(ready.stub.UpdateExecution(request), CODE.NOT_FOUND)


async def test_calls_are_counted_under_the_names_of_dashboards(ready: Any, build: Any) -> None:
    await ready.stub.CreateExecution(build.execution_request())
    await refused(ready.stub.CreateExecution(build.execution_request()), CODE.ALREADY_EXISTS)
    metrics = ready.telemetry.metrics
    assert metrics.counter("flyte:admin:admin:create_execution:success").value() == 1
    assert metrics.counter("flyte:admin:admin:create_execution:errors").value() == 1
    assert metrics.counter("flyte:admin:admin:create_execution:codes:AlreadyExists").value() == 1
    assert metrics.counter("flyte:admin:execution_manager:executions_created").value() == 1
    assert b"flyte:admin:admin:create_execution:duration_ms" in ready.telemetry.render()
