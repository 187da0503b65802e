from flyteidl.core.identifier_pb2 import Identifier, ResourceType


async def test_smoke(platform, build):
    s = platform.stub
    await s.CreateTask(build.task_request())
    await s.CreateWorkflow(build.workflow_request())
    await s.CreateLaunchPlan(build.launch_plan_request())
    r = await s.CreateExecution(build.execution_request())
    print(r)
    from flyteidl.admin import execution_pb2

    e = await s.GetExecution(execution_pb2.WorkflowExecutionGetRequest(id=r.id))
    print(e)
    r = await s.CreateExecution(build.execution_request(name="e2", launch=build.identifier(ResourceType.TASK, "t")))
    print(r)
    assert platform.announced.clusters == ["local", "local"]
