"""A connector of somebody else, by flytekit's own means: one type whose jobs take a while, one that answers at once.

A job is a folder: what the connector was asked to do, and what becomes of it, are files in it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import FlyteContextManager
from flytekit.configuration import SerializationSettings
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    AsyncConnectorExecutorMixin,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
    SyncConnectorExecutorMixin,
)
from flytekit.models.core.execution import TaskLog
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate


@dataclass
class Job(ResourceMeta):
    """What identifies a job: the folder, and what it is to do."""

    folder: str
    order: str


def _values(inputs: LiteralMap, **types: type) -> dict[str, Any]:
    context = FlyteContextManager.current_context()
    return dict(TypeEngine.literal_map_to_kwargs(context, inputs, types))


class SlowConnector(AsyncConnectorBase):
    """Runs `slow-job` tasks."""

    name = "Slow Connector"

    def __init__(self) -> None:
        super().__init__(task_type_name="slow-job", metadata_type=Job)

    def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: LiteralMap | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **kwargs: Any,
    ) -> Job:
        """Begin; a job whose order is `refuse` is not taken."""
        assert inputs is not None
        assert task_execution_metadata is not None
        values = _values(inputs, folder=str, order=str)
        folder = Path(values["folder"])
        with (folder / "created").open("a") as file:
            file.write(f"{task_execution_metadata.task_execution_id.retry_attempt}\n")
        if values["order"] == "refuse":
            raise ValueError("this job is refused")
        return Job(**values)

    def get(self, resource_meta: Job, **kwargs: Any) -> Resource:
        """Running until somebody writes the file `go`, which says how it ends."""
        folder = Path(resource_meta.folder)
        link = TaskLog(uri="http://jobs.example.org/1", name="Job")
        go = folder / "go"
        if not go.exists() or resource_meta.order == "hang":
            return Resource(TaskExecution.RUNNING, message="it runs", log_links=[link.to_flyte_idl()])
        match resource_meta.order:
            case "fail":
                return Resource(TaskExecution.FAILED, message="the job broke")
            case "once" if (folder / "created").read_text().count("\n") < 2:
                return Resource(TaskExecution.FAILED, message="the job broke")
            case "flaky" if (folder / "created").read_text().count("\n") < 2:
                return Resource(TaskExecution.RETRYABLE_FAILED, message="the job had no luck")
        return Resource(TaskExecution.SUCCEEDED, outputs={"o0": f"done {resource_meta.order}"}, custom_info={"x": 1})

    def delete(self, resource_meta: Job, **kwargs: Any) -> None:
        """End it."""
        (Path(resource_meta.folder) / "deleted").touch()


class AddingConnector(SyncConnectorBase):
    """Runs `add-two` tasks."""

    name = "Adding Connector"

    def __init__(self) -> None:
        super().__init__(task_type_name="add-two")

    def do(
        self, task_template: TaskTemplate, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> Resource:
        """Add, or complain."""
        assert inputs is not None
        values = _values(inputs, a=int, b=int)
        if values["a"] < 0:
            raise ValueError("negative numbers are not added here")
        return Resource(TaskExecution.SUCCEEDED, outputs={"o0": values["a"] + values["b"]})


class NotingConnector(SyncConnectorBase):
    """Runs `note-down` tasks."""

    name = "Noting Connector"

    def __init__(self) -> None:
        super().__init__(task_type_name="note-down")

    def do(
        self, task_template: TaskTemplate, output_prefix: str, inputs: LiteralMap | None = None, **kwargs: Any
    ) -> Resource:
        """Note that it was asked; answer late, not the first time, or at once."""
        assert inputs is not None
        values = _values(inputs, folder=str, order=str)
        with (Path(values["folder"]) / "sync").open("a+") as file:
            file.write("asked\n")
            file.seek(0)
            asked = len(file.readlines())
        if values["order"] == "late":
            time.sleep(4)
        if values["order"] == "once" and asked < 2:
            raise ValueError("not the first time")
        return Resource(TaskExecution.SUCCEEDED, outputs={"o0": asked})


ConnectorRegistry.register(SlowConnector(), override=True)
ConnectorRegistry.register(NotingConnector(), override=True)
ConnectorRegistry.register(AddingConnector(), override=True)


class SlowJob(AsyncConnectorExecutorMixin, PythonTask[Any]):
    """A task for the first."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        interface = Interface({"folder": str, "order": str}, {"o0": str})
        super().__init__(task_type="slow-job", name=name, interface=interface, **kwargs)

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        """Whatever the connector should know."""
        return json.loads("{}")


class AddTwo(SyncConnectorExecutorMixin, PythonTask[Any]):
    """A task for the second."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(
            task_type="add-two", name=name, interface=Interface({"a": int, "b": int}, {"o0": int}), **kwargs
        )


class NoteDown(SyncConnectorExecutorMixin, PythonTask[Any]):
    """A task for the third."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        interface = Interface({"folder": str, "order": str}, {"o0": int})
        super().__init__(task_type="note-down", name=name, interface=interface, **kwargs)


class OfNoType(PythonTask[Any]):
    """A task of a type that nobody runs."""

    def __init__(self, name: str) -> None:
        super().__init__(task_type="nobody-runs-this", name=name, interface=Interface({"a": int}, {"o0": int}))


__all__ = ["AddTwo", "NoteDown", "OfNoType", "SlowJob"]
