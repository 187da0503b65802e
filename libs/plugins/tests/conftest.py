"""A task and its attempt, to be varied by tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest
from flyteidl.core import identifier_pb2, tasks_pb2

from aerodrome.plugins.api import TaskContext

EXECUTION = "f0123456789abcdef012"


class MakeContext(Protocol):
    def __call__(self, task: tasks_pb2.TaskTemplate | None = None, **changes: Any) -> TaskContext: ...


MakeTask = Callable[..., tasks_pb2.TaskTemplate]


@pytest.fixture
def make_task() -> MakeTask:
    """A `python-task` in a container; keyword arguments are fields of the template or, first, of its container."""

    def make(
        *, container: tasks_pb2.Container | None = None, pod: tasks_pb2.K8sPod | None = None, **fields: Any
    ) -> tasks_pb2.TaskTemplate:
        task_id = identifier_pb2.Identifier(
            resource_type=identifier_pb2.TASK, project="shop", domain="development", name="app.Train", version="v7"
        )
        task = tasks_pb2.TaskTemplate(**{"id": task_id, "type": "python-task", **fields})
        if pod is not None:
            task.k8s_pod.CopyFrom(pod)
        else:
            task.container.CopyFrom(container or tasks_pb2.Container(image="image:1", args=["run"]))
        return task

    return make


@pytest.fixture
def make_context(make_task: MakeTask) -> MakeContext:
    """The first attempt of node n0; keyword arguments are fields of the context."""

    def make(task: tasks_pb2.TaskTemplate | None = None, **changes: Any) -> TaskContext:
        fields: dict[str, Any] = {
            "execution_id": identifier_pb2.WorkflowExecutionIdentifier(
                project="shop", domain="development", name=EXECUTION
            ),
            "workflow_id": identifier_pb2.Identifier(
                resource_type=identifier_pb2.WORKFLOW, project="shop", domain="development", name="app.Daily_Run"
            ),
            "node_id": "n0",
            "template_node_id": "n0",
            "generated_name": f"{EXECUTION}-n0-0",
            "task": make_task() if task is None else task,
            "namespace": "shop-development",
            "inputs_path": "s3://b/meta/n0/data/inputs.pb",
            "input_prefix": "s3://b/meta/n0/data",
            "output_prefix": "s3://b/meta/n0/data/0",
            "raw_output_prefix": "s3://b/raw/gy/x",
            "checkpoint_prefix": "s3://b/raw/gy/x/_flytecheckpoints",
            "task_template_path": "s3://b/meta/n0/data/task.pb",
        }
        return TaskContext(**{**fields, **changes})

    return make
