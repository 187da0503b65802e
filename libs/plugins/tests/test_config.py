"""The plugins' settings, as they are written in files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from aerodrome.plugins.config import K8sPluginConfig, LogConfig, TasksConfig
from aerodrome.stdlib.config import ConfigError, Section, load


class PluginsSection(Section):
    k8s: K8sPluginConfig = K8sPluginConfig()
    logs: LogConfig = LogConfig()


class Tree(Section):
    plugins: PluginsSection = PluginsSection()
    tasks: TasksConfig = TasksConfig()


def loaded(tmp_path: Path, text: str) -> Tree:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(Tree, [path], environ={})


def test_the_defaults_are_those_of_flyte() -> None:
    config = K8sPluginConfig()
    assert config.default_annotations == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    assert (config.default_cpus, config.default_memory) == ("1000m", "1024Mi")
    assert config.image_pull_backoff_grace_period == timedelta(minutes=3)
    assert config.create_container_error_grace_period == timedelta(minutes=3)
    assert config.create_container_config_error_grace_period == timedelta(0)
    assert config.gpu_resource_name == "nvidia.com/gpu"
    assert config.co_pilot.timeout == timedelta(hours=1)


def test_settings_are_read_as_flyte_writes_them(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        plugins:
          logs:
            kubernetes-enabled: true
            kubernetes-url: "http://localhost:30082"
            templates:
              - displayName: Mine
                templateUris: ["http://h/{{ .podName }}"]
                messageFormat: json
          k8s:
            default-env-vars:
              - FLYTE_AWS_ENDPOINT: "http://minio.flyte:9000"
              - FLYTE_AWS_ACCESS_KEY_ID: minio
            default-cpus: 100m
            default-memory: 100Mi
            default-labels: {Team_Name: a}
            interruptible-tolerations:
              - {key: spot, operator: Exists, effect: NoSchedule}
            resource-tolerations:
              nvidia.com/gpu:
                - {key: gpu, operator: Exists}
            co-pilot: {timeout: 5m, image: "pilot:1"}
            pod-pending-timeout: 1h30m
            plain-failures-as-system: true
        tasks:
          task-plugins:
            enabled-plugins: [container, spark]
            default-for-task-types:
              - sidecar: pod
        """,
    )
    k8s = config.plugins.k8s
    assert k8s.default_env_vars == {
        "FLYTE_AWS_ENDPOINT": "http://minio.flyte:9000",
        "FLYTE_AWS_ACCESS_KEY_ID": "minio",
    }
    assert k8s.default_labels == {"Team_Name": "a"}
    assert k8s.interruptible_tolerations == ({"key": "spot", "operator": "Exists", "effect": "NoSchedule"},)
    assert k8s.resource_tolerations["nvidia.com/gpu"] == ({"key": "gpu", "operator": "Exists"},)
    assert (k8s.co_pilot.timeout, k8s.pod_pending_timeout) == (timedelta(minutes=5), timedelta(hours=1.5))
    assert k8s.plain_failures_as_system
    assert config.plugins.logs.templates[0].display_name == "Mine"
    assert config.tasks.task_plugins.default_for_task_types == {"sidecar": "pod"}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("default-cpus: lots", "'lots' is not a quantity"),
        ("default-cpuz: 1", "default-cpus"),
        ("pod-pending-timeout: soon", "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, setting: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        loaded(tmp_path, yaml.safe_dump({"plugins": {"k8s": yaml.safe_load(setting)}}))
