"""The container plugin: phases with links to logs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flyteidl.core import execution_pb2

from aerodrome.plugins.api import Phase, PodPlugin, Reason
from aerodrome.plugins.config import LogConfig, LogTemplateConfig
from aerodrome.plugins.container import ContainerPlugin
from aerodrome.plugins.logs import LogLinks
from aerodrome.stdlib.clock import ManualClock

Make = Callable[..., Any]
NAME = "f0123456789abcdef012-n0-0"


def plugin(log_uri: Any = None, **logs: Any) -> ContainerPlugin:
    clock = ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
    return ContainerPlugin(links=LogLinks(LogConfig(**logs), log_uri), clock=clock)


def started(pod: dict[str, Any], **annotations: str) -> dict[str, Any]:
    """`pod` as the cluster shows it while it runs."""
    pod["metadata"].update(uid="u1", creationTimestamp="2026-01-01T11:00:00Z")
    pod["metadata"]["annotations"].update(annotations)
    pod["spec"].update(nodeName="node1", hostname="host1")
    state = {"running": {"startedAt": "2026-01-01T11:00:30Z"}}
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [{"name": NAME, "containerID": "containerd://abc", "state": state}],
    }
    return pod


def test_it_is_a_pod_plugin_for_the_container_family() -> None:
    assert isinstance(plugin(), PodPlugin)
    assert plugin().task_types == {"container", "python-task", "raw-container", "sidecar"}


def test_a_cluster_pod_links_to_its_dashboard(make_context: Make) -> None:
    context, container = make_context(), plugin(kubernetes_url="http://dash/")
    info = container.phase(context, started(container.build(context)))
    assert (info.phase, info.version) == (Phase.RUNNING, 1)
    assert info.occurred_at == datetime(2026, 1, 1, 11, 0, 30, tzinfo=UTC)
    assert [(log.name, log.uri) for log in info.logs] == [
        (
            "Kubernetes Logs (User)",
            f"http://dash/#!/log/shop-development/{NAME}/pod?namespace=shop-development",
        )
    ]


def test_a_local_pod_links_to_its_log_file_and_to_nothing_of_a_cluster(make_context: Make) -> None:
    context = make_context()
    container = plugin(lambda given, path: f"http://here/logs/{given.node_id}{path}")
    info = container.phase(context, started(container.build(context), **{"aerodrome/log-path": "/d/n.log"}))
    assert [(log.name, log.uri) for log in info.logs] == [("Logs", "http://here/logs/n0/d/n.log")]
    assert container.phase(context, container.build(context)).logs == ()
    nobody_serves = plugin()
    assert nobody_serves.phase(context, started(container.build(context), **{"aerodrome/log-path": "/d"})).logs == ()


def test_what_the_runtime_could_not_do_as_asked_is_told(make_context: Make) -> None:
    context, container = make_context(), plugin()
    info = container.phase(context, started(container.build(context), **{"aerodrome/warning": "clamped to 8 GiB"}))
    assert info.additional_reasons == (Reason("clamped to 8 GiB"),)


def test_other_log_services_are_linked(make_context: Make) -> None:
    context = make_context()
    container = plugin(
        kubernetes_enabled=False,
        cloudwatch_enabled=True,
        cloudwatch_region="eu",
        cloudwatch_log_group="g",
        stackdriver_enabled=True,
        gcp_project="gp",
        stackdriver_logresourcename="k8s",
    )
    cloudwatch, stackdriver = container.phase(context, started(container.build(context))).logs
    assert cloudwatch.name == "Cloudwatch Logs (User)"
    assert f"region=eu#logEventViewer:group=g;stream=var.log.containers.{NAME}_shop-development_" in cloudwatch.uri
    assert cloudwatch.uri.endswith("-abc.log")
    assert stackdriver.uri.startswith("https://console.cloud.google.com/logs/viewer?project=gp&")
    assert stackdriver.uri.endswith(f"pod_name%3D{NAME}")


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("{{ .podName }}|{{ $PODUID }}|{{.namespace}}", f"{NAME}|u1|shop-development"),
        ("{{.containerName}}|{{.containerId}}|{{.hostname}}|{{.nodeName}}", f"{NAME}|abc|host1|node1"),
        ("{{.podRFC3339StartTime}}|{{.podRFC3339FinishTime}}", "2026-01-01T11:00:00Z|2026-01-01T12:00:00Z"),
        ("{{.podUnixStartTime}}|{{.podUnixFinishTime}}", "1767265200|1767268800"),
        ("{{.taskID}}|{{.taskVersion}}|{{.taskProject}}|{{.taskDomain}}", "app.Train|v7|shop|development"),
        ("{{.taskRetryAttempt}}|{{.nodeID}}|{{.generatedName}}", f"0|n0|{NAME}"),
        (
            "{{.executionName}}|{{.executionProject}}|{{.executionDomain}}",
            "f0123456789abcdef012|shop|development",
        ),
        ("{{.taskConfig.port}}|{{.unknown}}", "{{.taskConfig.port}}|{{.unknown}}"),
    ],
)
def test_templates_are_rendered(make_task: Make, make_context: Make, template: str, uri: str) -> None:
    context = make_context(make_task(config={"port": "8080"}))
    container = plugin(
        kubernetes_enabled=False,
        templates=[LogTemplateConfig(display_name="Mine", template_uris=[template], message_format="json")],
    )
    (log,) = container.phase(context, started(container.build(context))).logs
    assert (log.name, log.uri, log.message_format) == ("Mine (User)", uri, execution_pb2.TaskLog.JSON)


def test_a_task_chooses_links_and_its_config_is_part_of_them(make_task: Make, make_context: Make) -> None:
    links = {
        "vscode": LogTemplateConfig(
            display_name="VSCode", dynamic_template_uris=["h:{{ .taskConfig.port }}"], show_while_pending=True
        ),
        "other": LogTemplateConfig(display_name="Other", template_uris=["x"]),
    }
    container = plugin(kubernetes_enabled=False, dynamic_log_links=links)
    context = make_context(make_task(config={"link_type": "vscode, unknown", "port": "8080"}))
    (log,) = container.phase(context, container.build(context)).logs
    assert (log.uri, log.ShowWhilePending, log.HideOnceFinished) == ("h:8080", True, False)
    assert plugin(kubernetes_enabled=False, dynamic_log_links=links).phase(make_context(), {}).logs == ()


def test_links_exist_while_the_pod_is_pending(make_context: Make) -> None:
    context, container = make_context(), plugin()
    info = container.phase(context, container.build(context))
    assert info.phase is Phase.QUEUED
    assert len(info.logs) == 1


def test_the_log_context_names_pods_containers_and_times(make_context: Make) -> None:
    context, container = make_context(), plugin()
    log_context = container.phase(context, started(container.build(context))).log_context
    assert log_context is not None
    assert log_context.primary_pod_name == NAME
    (pod,) = log_context.pods
    assert (pod.namespace, pod.primary_container_name) == ("shop-development", NAME)
    process = pod.containers[0].process
    assert process.container_start_time.seconds == 1767265230
    assert not process.HasField("container_end_time")
