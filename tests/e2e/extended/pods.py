"""Tasks with a pod of their own, for those who have no Kubernetes client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flytekit import PythonFunctionTask
from flytekit.configuration import SerializationSettings
from flytekit.models.task import K8sObjectMetadata, K8sPod


class InPod(PythonFunctionTask[Any]):
    """What a task with a pod template registers."""

    def __init__(self, function: Callable[..., Any], annotations: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(task_config=None, task_function=function, **kwargs)
        self._pod_annotations = annotations or {}

    def get_container(self, settings: SerializationSettings) -> None:
        """There is none but the pod's."""

    def get_k8s_pod(self, settings: SerializationSettings) -> K8sPod:
        """A pod with a primary container, and one that only a cluster would run."""
        main = super().get_container(settings)
        container = {
            "name": "main",
            "image": main.image,
            "args": self.get_command(settings),
            "env": [{"name": "FROM_THE_POD", "value": "1"}],
        }
        if main.resources.limits:
            container["resources"] = {"limits": {"memory": main.resources.limits[0].value}}
        beside = {"name": "logs", "image": "example.org/logs:v1", "command": ["sleep", "inf"]}
        return K8sPod(
            metadata=K8sObjectMetadata(labels={"team": "tests"}, annotations=self._pod_annotations),
            pod_spec={"containers": [beside, container]},
        )

    def get_config(self, settings: SerializationSettings) -> dict[str, str]:
        """Which container is the primary one."""
        return {"primary_container_name": "main"}
