"""The pod of a task: every step of its construction."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from flyteidl.admin.matchable_resource_pb2 import TaskResourceAttributes, TaskResourceSpec
from flyteidl.core import (
    identifier_pb2,
    interface_pb2,
    literals_pb2,
    security_pb2,
    tasks_pb2,
    types_pb2,
    workflow_pb2,
)
from google.protobuf import struct_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aerodrome.plugins import quantity
from aerodrome.plugins.api import Failure, PluginError, TaskContext
from aerodrome.plugins.config import CoPilotConfig, K8sPluginConfig
from aerodrome.plugins.pods import DEFAULTED, GIVES_WAY, PodSettings, build_pod
from aerodrome.plugins.pods.copilot import CoPilotStorage
from aerodrome.plugins.pods.secrets import file_path, secrets_of, variable_name
from aerodrome.stdlib.errors import InvalidArgument

Make = Callable[..., Any]
Resources = tasks_pb2.Resources
NAME = "f0123456789abcdef012-n0-0"


def build(context: TaskContext, settings: PodSettings | None = None, **config: Any) -> dict[str, Any]:
    return build_pod(context, settings or PodSettings(K8sPluginConfig(**config)))


def refusal(context: TaskContext, settings: PodSettings | None = None, **config: Any) -> Failure:
    with pytest.raises(PluginError) as raised:
        build(context, settings, **config)
    return raised.value.failure


def struct(document: Mapping[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    message.update(document)
    return message


def pod_task(make_task: Make, spec: Mapping[str, Any], primary: str = "main", **fields: Any) -> tasks_pb2.TaskTemplate:
    task = make_task(pod=tasks_pb2.K8sPod(pod_spec=struct(spec)), **fields)
    if primary:
        task.config["primary_container_name"] = primary
    assert isinstance(task, tasks_pb2.TaskTemplate)
    return task


def entries(**amounts: str) -> list[tasks_pb2.Resources.ResourceEntry]:
    return [Resources.ResourceEntry(name=name.upper(), value=value) for name, value in amounts.items()]


def only(pod: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def env(container: Mapping[str, Any]) -> dict[str, str]:
    """As the kubelet reads it: the last of a name wins."""
    return {variable["name"]: variable["value"] for variable in container["env"]}


class TestContainerTasks:
    def test_the_pod_runs_the_container_once_under_the_attempts_name(self, make_task: Make, make_context: Make) -> None:
        task = make_task(
            container=tasks_pb2.Container(
                image="image:1",
                command=["sh"],
                args=["--out", "{{.outputPrefix}}"],
                env=[literals_pb2.KeyValuePair(key="A", value="1")],
                ports=[tasks_pb2.ContainerPort(container_port=80)],
            )
        )
        pod = build(make_context(task))
        container = only(pod)
        assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
        assert (pod["metadata"]["name"], pod["metadata"]["namespace"]) == (NAME, "shop-development")
        assert pod["spec"]["restartPolicy"] == "Never"
        assert (container["name"], container["image"], container["command"]) == (NAME, "image:1", ["sh"])
        assert container["args"] == ["--out", "s3://b/meta/n0/data/0"]
        assert container["env"][0] == {"name": "A", "value": "1"}
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        assert "ports" not in container
        assert pod["metadata"]["annotations"]["primary_container_name"] == NAME

    def test_a_name_that_containers_cannot_have_is_replaced_by_one_they_can(self, make_context: Make) -> None:
        pod = build(make_context(generated_name="a.b-n0-0"))
        assert pod["metadata"]["name"] == "a.b-n0-0"
        assert only(pod)["name"].isalnum()
        assert only(pod)["name"] == only(build(make_context(generated_name="a.b-n0-0")))["name"]

    def test_raw_containers_end_with_the_pod_and_have_no_primary_one(self, make_task: Make, make_context: Make) -> None:
        pod = build(make_context(make_task(type="raw-container")))
        assert "primary_container_name" not in pod["metadata"]["annotations"]

    def test_building_twice_gives_equal_documents_that_share_nothing(self, make_context: Make) -> None:
        config = {"default_tolerations": [{"key": "a"}], "default_affinity": {"nodeAffinity": {}}}
        context, settings = make_context(interruptible=True), PodSettings(K8sPluginConfig(**config))
        first, second = build(context, settings), build(context, settings)
        assert first == second
        before = copy.deepcopy(second)
        first["spec"]["tolerations"][0]["key"] = "changed"
        first["spec"]["affinity"]["nodeAffinity"]["x"] = 1
        assert build(context, settings) == before

    def test_a_pod_is_plain_json(self, make_context: Make) -> None:
        pod = build(make_context())
        assert json.loads(json.dumps(pod)) == pod

    def test_policies_come_from_the_configuration_where_the_task_has_none(self, make_context: Make) -> None:
        container = only(
            build(make_context(), image_pull_policy="Always", default_security_context={"runAsNonRoot": True})
        )
        assert container["imagePullPolicy"] == "Always"
        assert container["securityContext"] == {"runAsNonRoot": True}

    def test_a_task_without_anything_to_run_says_what_to_configure(self, make_context: Make) -> None:
        task = tasks_pb2.TaskTemplate(type="bigquery_query_job_task", id=identifier_pb2.Identifier(name="q"))
        failure = refusal(make_context(task))
        assert (failure.code, failure.retryable) == ("PluginNotFound", False)
        assert "'bigquery_query_job_task'" in failure.message
        assert "default-for-task-types" in failure.message


class TestEnvironment:
    def test_the_identity_of_the_execution_and_the_task_is_known(self, make_context: Make) -> None:
        variables = env(only(build(make_context(attempt=2))))
        assert variables == {
            "FLYTE_INTERNAL_EXECUTION_WORKFLOW": "shop:development:app.Daily_Run",
            "FLYTE_INTERNAL_EXECUTION_ID": "f0123456789abcdef012",
            "FLYTE_INTERNAL_EXECUTION_PROJECT": "shop",
            "FLYTE_INTERNAL_EXECUTION_DOMAIN": "development",
            "FLYTE_ATTEMPT_NUMBER": "2",
            "FLYTE_INTERNAL_TASK_PROJECT": "shop",
            "FLYTE_INTERNAL_TASK_DOMAIN": "development",
            "FLYTE_INTERNAL_TASK_NAME": "app.Train",
            "FLYTE_INTERNAL_TASK_VERSION": "v7",
        }

    def test_later_layers_win_and_nothing_is_dropped(self, make_task: Make, make_context: Make) -> None:
        task = make_task(container=tasks_pb2.Container(env=[literals_pb2.KeyValuePair(key="X", value="task")]))
        context = make_context(task, environment={"X": "execution"}, extra_environment={"FLYTE_K8S_ARRAY_INDEX": "3"})
        settings = PodSettings(
            K8sPluginConfig(
                default_env_vars={"X": "platform"}, default_env_vars_from_env={"Y": "HOST_Y", "Z": "NOT_THERE"}
            ),
            environ={"HOST_Y": "y"},
        )
        container = only(build(context, settings))
        values = [variable["value"] for variable in container["env"] if variable["name"] == "X"]
        assert values == ["task", "execution", "platform"]
        assert env(container)["FLYTE_K8S_ARRAY_INDEX"] == "3"
        assert env(container)["Y"] == "y"
        assert "Z" not in env(container)

    def test_offloading_and_the_consoles_address_are_known_where_they_are_used(
        self, make_task: Make, make_context: Make
    ) -> None:
        task = make_task(config={"link_type": "vscode"})
        variables = env(only(build(make_context(task, offload_mb=(10, 1000), console_url="http://h/console/"))))
        assert (variables["_F_L_MIN_SIZE_MB"], variables["_F_L_MAX_SIZE_MB"]) == ("10", "1000")
        assert variables["FLYTE_EXECUTION_URL"] == (
            "http://h/console/projects/shop/domains/development/executions/f0123456789abcdef012/nodeId/n0/nodes"
        )
        assert "FLYTE_EXECUTION_URL" not in env(only(build(make_context(task))))
        assert "FLYTE_EXECUTION_URL" not in env(only(build(make_context(console_url="http://h"))))

    def test_config_maps_and_secrets_are_optional_sources(self, make_context: Make) -> None:
        container = only(build(make_context(), default_env_from_configmaps=["c"], default_env_from_secrets=["s"]))
        assert container["envFrom"] == [
            {"configMapRef": {"name": "c", "optional": True}},
            {"secretRef": {"name": "s", "optional": True}},
        ]


def test_an_eager_task_gives_way_to_what_it_launches(make_task: Make, make_context: Make) -> None:
    eager = make_task(metadata=tasks_pb2.TaskMetadata(is_eager=True))
    assert build(make_context(eager))["metadata"]["annotations"][GIVES_WAY] == "true"
    assert GIVES_WAY not in build(make_context())["metadata"]["annotations"]


class TestResources:
    def test_the_platforms_defaults_fill_what_nobody_asked_for(self, make_context: Make) -> None:
        pod = build(make_context())
        size = {"cpu": "1000m", "memory": "1024Mi"}
        assert only(pod)["resources"] == {"requests": size, "limits": size}
        assert pod["metadata"]["annotations"][DEFAULTED] == "cpu,memory"

    def test_the_executions_defaults_and_limits_win_over_the_configured_ones(
        self, make_task: Make, make_context: Make
    ) -> None:
        task = make_task(container=tasks_pb2.Container(resources=Resources(requests=entries(cpu="8"))))
        platform = TaskResourceAttributes(
            defaults=TaskResourceSpec(cpu="2", memory="1Gi", ephemeral_storage="5Gi"), limits=TaskResourceSpec(cpu="4")
        )
        pod = build(make_context(task, resources=platform))
        assert only(pod)["resources"] == {
            "requests": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "5Gi"},
            "limits": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "5Gi"},
        }
        assert pod["metadata"]["annotations"][DEFAULTED] == "ephemeral-storage,memory"

    def test_the_nodes_override_wins_over_the_task_and_the_task_over_the_template(
        self, make_task: Make, make_context: Make
    ) -> None:
        task = make_task(container=tasks_pb2.Container(resources=Resources(requests=entries(cpu="1", memory="1Gi"))))
        overrides = workflow_pb2.TaskNodeOverrides(resources=Resources(requests=entries(cpu="2")))
        template = {
            "template": {
                "spec": {
                    "containers": [
                        {
                            "name": "default",
                            "resources": {"requests": {"cpu": "7", "memory": "7Gi", "ephemeral-storage": "7Gi"}},
                        }
                    ]
                }
            }
        }
        settings = PodSettings(K8sPluginConfig(default_pod_template_name="t"), pod_templates=lambda *_: template)
        pod = build(make_context(task, overrides=overrides), settings)
        assert only(pod)["resources"]["requests"] == {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "7Gi"}
        assert DEFAULTED not in pod["metadata"]["annotations"]

    def test_gpus_get_their_configured_name_and_request_what_they_are_limited_to(
        self, make_task: Make, make_context: Make
    ) -> None:
        task = make_task(
            container=tasks_pb2.Container(resources=Resources(requests=entries(gpu="1"), limits=entries(gpu="2")))
        )
        resources = only(build(make_context(task), gpu_resource_name="amd.com/gpu"))["resources"]
        assert (resources["requests"]["amd.com/gpu"], resources["limits"]["amd.com/gpu"]) == ("2", "2")
        assert "gpu" not in resources["requests"]

    def test_the_size_of_volumes_is_no_resource_of_a_container(self, make_task: Make, make_context: Make) -> None:
        task = make_task(container=tasks_pb2.Container(resources=Resources(limits=entries(storage="5Gi"))))
        assert set(only(build(make_context(task)))["resources"]["limits"]) == {"cpu", "memory"}

    def test_a_malformed_quantity_is_refused_with_its_place(self, make_task: Make, make_context: Make) -> None:
        task = make_task(container=tasks_pb2.Container(resources=Resources(requests=entries(memory="1 Gig"))))
        failure = refusal(make_context(task))
        assert failure.code == "FailedToBuildResource"
        assert "app.Train" in failure.message
        assert "memory: '1 Gig'" in failure.message

    def test_secondary_containers_are_bounded_but_given_nothing(self, make_task: Make, make_context: Make) -> None:
        spec = {
            "containers": [
                {"name": "main"},
                {"name": "side", "resources": {"requests": {"cpu": 8, "example.com/fpga": 1}}},
                {"name": "plain"},
            ]
        }
        platform = TaskResourceAttributes(limits=TaskResourceSpec(cpu="4"))
        _, side, plain = build(make_context(pod_task(make_task, spec), resources=platform))["spec"]["containers"]
        assert side["resources"] == {"requests": {"cpu": "4", "example.com/fpga": "1"}, "limits": {}}
        assert plain["resources"] == {"requests": {}, "limits": {}}

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        amounts=st.dictionaries(
            st.sampled_from(["cpu", "memory", "gpu", "ephemeral_storage"]),
            st.builds(lambda n, s: f"{n}{s}", st.integers(0, 64), st.sampled_from(["", "m", "Mi", "Gi"])),
        ),
        limits=st.builds(lambda cpu, memory: (f"{cpu}m", f"{memory}Mi"), st.integers(1, 9000), st.integers(1, 9000)),
    )
    def test_no_request_exceeds_its_limit_or_the_platforms(
        self, make_task: Make, make_context: Make, amounts: dict[str, str], limits: tuple[str, str]
    ) -> None:
        task = make_task(container=tasks_pb2.Container(resources=Resources(requests=entries(**amounts))))
        platform = TaskResourceAttributes(limits=TaskResourceSpec(cpu=limits[0], memory=limits[1]))
        resources = only(build(make_context(task, resources=platform)))["resources"]
        assert set(resources["requests"]) == set(resources["limits"])
        for name, limit in resources["limits"].items():
            assert quantity.compare(resources["requests"][name], limit) <= 0
        for name, limit in zip(("cpu", "memory"), limits, strict=True):
            assert quantity.compare(resources["limits"][name], limit) <= 0


class TestPodTasks:
    SPEC: Mapping[str, Any] = {
        "serviceAccountName": "own",
        "initContainers": [{"name": "prepare", "args": ["{{.input}}"]}],
        "containers": [
            {"name": "main", "image": "a", "args": ["{{.inputs.x}}"], "ports": [{"containerPort": 80}]},
            {"name": "side", "image": None, "args": ["{{.outputPrefix}}"]},
        ],
    }

    def test_every_container_is_rendered_and_gets_the_environment(self, make_task: Make, make_context: Make) -> None:
        literal = literals_pb2.Literal(
            scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(string_value="value"))
        )
        context = make_context(
            pod_task(make_task, self.SPEC), inputs=lambda: literals_pb2.LiteralMap(literals={"x": literal})
        )
        pod = build(context)
        main, side = pod["spec"]["containers"]
        (prepare,) = pod["spec"]["initContainers"]
        assert (main["args"], side["args"]) == (["value"], ["s3://b/meta/n0/data/0"])
        assert prepare["args"] == ["s3://b/meta/n0/data/inputs.pb"]
        for container in (main, side, prepare):
            assert env(container)["FLYTE_INTERNAL_EXECUTION_ID"]
        assert main["ports"] == [{"containerPort": 80}]
        assert "image" not in side
        assert prepare["resources"]["requests"] == {"cpu": "1000m", "memory": "1024Mi"}
        assert pod["metadata"]["annotations"]["primary_container_name"] == "main"

    def test_the_pods_service_account_wins_over_the_executions(self, make_task: Make, make_context: Make) -> None:
        plain = {"containers": [{"name": "main"}]}
        own = build(make_context(pod_task(make_task, {**plain, "serviceAccountName": "own"}), service_account="run-as"))
        assert own["spec"]["serviceAccountName"] == "own"
        other = build(make_context(pod_task(make_task, plain), service_account="run-as"))
        assert other["spec"]["serviceAccountName"] == "run-as"
        assert "serviceAccountName" not in build(make_context(pod_task(make_task, plain)))["spec"]

    @pytest.mark.parametrize(
        ("spec", "primary", "why"),
        [
            ({"containers": [{"name": "a"}]}, "", "does not say which container is the primary one"),
            ({"containers": [{"name": "a"}]}, "b", "no container is called 'b', the primary one; containers: a"),
            ({}, "a", "pod_spec.containers is empty"),
            ({"containers": "a"}, "a", "pod_spec.containers has to be a list, it is text"),
            ({"containers": ["a"]}, "a", "pod_spec.containers[0] has to be an object"),
            ({"containers": [{"image": "x"}]}, "a", "pod_spec.containers[0]: the container has no name"),
            ({"containers": [{"name": "a"}, {"name": "a"}]}, "a", "'a' is used twice"),
            ({"containers": [{"name": "a", "args": [1]}]}, "a", "containers[0].args[0] has to be text, it is 1"),
            ({"containers": [{"name": "a", "env": {"A": "1"}}]}, "a", "containers[0].env has to be a list"),
            ({"containers": [{"name": "a", "env": ["A"]}]}, "a", "containers[0].env[0] has to be an object"),
            (
                {"containers": [{"name": "a", "resources": {"limits": [1]}}]},
                "a",
                "resources.limits has to be an object",
            ),
            ({"containers": [{"name": "a"}], "tolerations": {}}, "a", "pod_spec.tolerations has to be a list"),
        ],
    )
    def test_a_malformed_pod_is_refused_with_the_place(
        self, make_task: Make, make_context: Make, spec: Mapping[str, Any], primary: str, why: str
    ) -> None:
        failure = refusal(make_context(pod_task(make_task, spec, primary)))
        assert (failure.code, failure.retryable) == ("BadTaskSpecification", False)
        assert why in failure.message

    def test_a_number_that_json_lacks_is_refused_with_the_place(self, make_task: Make, make_context: Make) -> None:
        spec = {"containers": [{"name": "main"}], "terminationGracePeriodSeconds": float("inf")}
        assert "pod_spec" in refusal(make_context(pod_task(make_task, spec))).message

    @pytest.mark.parametrize("version", [0, 1, 2])
    def test_every_version_of_sidecar_tasks_is_read(self, make_context: Make, version: int) -> None:
        spec = {"containers": [{"name": "main", "image": "a"}, {"name": "side"}]}
        task = tasks_pb2.TaskTemplate(type="sidecar", task_type_version=version)
        match version:
            case 0:
                task.custom.update(
                    {"podSpec": spec, "primaryContainerName": "main", "labels": {"l": "1"}, "annotations": {"a": "2"}}
                )
            case 1:
                task.custom.update(spec)
                task.config["primary_container_name"] = "main"
            case 2:
                task.k8s_pod.pod_spec.update(spec)
                task.k8s_pod.metadata.labels["l"] = "1"
                task.k8s_pod.metadata.annotations["a"] = "2"
                task.config["primary_container_name"] = "main"
        metadata = build(make_context(task))["metadata"]
        assert metadata["annotations"]["primary_container_name"] == "main"
        if version != 1:
            assert (metadata["labels"]["l"], metadata["annotations"]["a"]) == ("1", "2")

    def test_a_sidecar_task_without_a_pod_is_refused(self, make_context: Make) -> None:
        failure = refusal(make_context(tasks_pb2.TaskTemplate(type="sidecar", task_type_version=0)))
        assert "custom.podSpec has to be an object" in failure.message


class TestOverrides:
    def test_the_nodes_image_replaces_that_of_the_primary_container(self, make_task: Make, make_context: Make) -> None:
        spec = {"containers": [{"name": "main", "image": "a"}, {"name": "side", "image": "b"}]}
        overrides = workflow_pb2.TaskNodeOverrides(container_image="new")
        pod = build(make_context(pod_task(make_task, spec), overrides=overrides))
        assert [container["image"] for container in pod["spec"]["containers"]] == ["new", "b"]

    def test_the_nodes_pod_template_replaces_the_spec_and_adds_metadata(
        self, make_task: Make, make_context: Make
    ) -> None:
        override = tasks_pb2.K8sPod(
            pod_spec=struct({"containers": [{"name": "other", "image": "o", "args": ["{{.input}}"]}]}),
            primary_container_name="other",
            metadata=tasks_pb2.K8sObjectMetadata(labels={"l": "1"}, annotations={"a": "2"}),
        )
        pod = build(make_context(overrides=workflow_pb2.TaskNodeOverrides(pod_template=override)))
        assert only(pod)["name"] == "other"
        assert only(pod)["args"] == ["s3://b/meta/n0/data/inputs.pb"]
        assert pod["metadata"]["labels"]["l"] == "1"
        assert pod["metadata"]["annotations"]["a"] == "2"
        assert pod["metadata"]["annotations"]["primary_container_name"] == "other"

    def test_a_pod_template_without_a_spec_keeps_the_tasks(self, make_context: Make) -> None:
        override = tasks_pb2.K8sPod(metadata=tasks_pb2.K8sObjectMetadata(labels={"l": "1"}))
        pod = build(make_context(overrides=workflow_pb2.TaskNodeOverrides(pod_template=override)))
        assert only(pod)["image"] == "image:1"
        assert pod["metadata"]["labels"]["l"] == "1"

    def test_a_pod_template_must_have_the_primary_container(self, make_context: Make) -> None:
        override = tasks_pb2.K8sPod(pod_spec=struct({"containers": [{"name": "other"}]}))
        failure = refusal(make_context(overrides=workflow_pb2.TaskNodeOverrides(pod_template=override)))
        assert failure.code == "BadTaskSpecification"


class TestScheduling:
    def test_tolerations_come_in_order(self, make_task: Make, make_context: Make) -> None:
        spec = {"containers": [{"name": "main"}], "tolerations": [{"key": "own"}]}
        config: dict[str, Any] = {
            "resource_tolerations": {"cpu": [{"key": "cpu"}], "example.com/fpga": [{"key": "fpga"}]},
            "interruptible_tolerations": [{"key": "spot"}],
            "default_tolerations": [{"key": "default"}],
        }
        for interruptible, expected in ((True, ["cpu", "spot", "default", "own"]), (False, ["cpu", "default", "own"])):
            pod = build(make_context(pod_task(make_task, spec), interruptible=interruptible), **config)
            assert [toleration["key"] for toleration in pod["spec"]["tolerations"]] == expected

    def test_node_selectors_merge_and_the_pods_own_wins(self, make_task: Make, make_context: Make) -> None:
        spec = {"containers": [{"name": "main"}], "nodeSelector": {"a": "own"}}
        pod = build(
            make_context(pod_task(make_task, spec), interruptible=True),
            default_node_selector={"a": "default", "b": "default"},
            interruptible_node_selector={"b": "spot"},
        )
        assert pod["spec"]["nodeSelector"] == {"a": "own", "b": "spot"}

    def test_the_interruptible_requirement_joins_every_term(self, make_task: Make, make_context: Make) -> None:
        spot = {"key": "spot", "operator": "In", "values": ["yes"]}
        own = {"key": "zone", "operator": "In", "values": ["a"]}
        spec = {
            "containers": [{"name": "main"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [own]}, {}]
                    }
                }
            },
        }
        config: dict[str, Any] = {
            "interruptible_node_selector_requirement": spot,
            "non_interruptible_node_selector_requirement": {"key": "spot", "operator": "DoesNotExist"},
        }
        assert self.terms(build(make_context(pod_task(make_task, spec), interruptible=True), **config)) == [
            [own, spot],
            [spot],
        ]
        assert self.terms(build(make_context(), **config)) == [[{"key": "spot", "operator": "DoesNotExist"}]]

    @staticmethod
    def terms(pod: Mapping[str, Any]) -> list[Any]:
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        return [term["matchExpressions"] for term in required["nodeSelectorTerms"]]

    def test_other_settings_fill_what_the_pod_lacks_and_host_networking_is_forced(
        self, make_task: Make, make_context: Make
    ) -> None:
        config: dict[str, Any] = {
            "scheduler_name": "batch",
            "default_pod_security_context": {"fsGroup": 1},
            "default_pod_dns_config": {"options": []},
            "default_affinity": {"podAffinity": {"x": 1}},
            "enable_host_networking_pod": False,
        }
        spec = build(make_context(), **config)["spec"]
        assert (spec["schedulerName"], spec["securityContext"]) == ("batch", {"fsGroup": 1})
        assert (spec["dnsConfig"], spec["affinity"]) == ({"options": []}, {"podAffinity": {"x": 1}})
        own = {"containers": [{"name": "main"}], "schedulerName": "own", "hostNetwork": True}
        spec = build(make_context(pod_task(make_task, own)), **config)["spec"]
        assert (spec["schedulerName"], spec["hostNetwork"]) == ("own", False)
        assert "hostNetwork" not in build(make_context())["spec"]


class TestPodTemplates:
    TEMPLATE: Mapping[str, Any] = {
        "template": {
            "metadata": {"labels": {"from": "template"}, "annotations": {"a": "template"}},
            "spec": {
                "dnsPolicy": "None",
                "restartPolicy": "Always",
                "volumes": [{"name": "cache"}],
                "tolerations": [{"key": "template"}],
                "containers": [
                    {
                        "name": "default",
                        "image": "never",
                        "workingDir": "/default",
                        "volumeMounts": [{"name": "cache", "mountPath": "/c"}],
                    },
                    {"name": "primary", "workingDir": "/primary", "env": [{"name": "T", "value": "1"}]},
                    {"name": "side", "image": "side:1"},
                    {"name": "unused", "image": "u"},
                ],
                "initContainers": [{"name": "default-init", "workingDir": "/init"}, {"name": "other-init"}],
            },
        }
    }

    def settings(self, where: str = "flyte", **config: Any) -> PodSettings:
        def find(namespace: str, name: str) -> Mapping[str, Any] | None:
            return self.TEMPLATE if (namespace, name) == (where, "t") else None

        return PodSettings(K8sPluginConfig(**config), pod_templates=find)

    def test_the_task_lies_over_the_template(self, make_task: Make, make_context: Make) -> None:
        spec = {
            "containers": [{"name": "main", "image": "m"}, {"name": "side"}],
            "initContainers": [{"name": "prepare"}],
            "volumes": [{"name": "own"}],
        }
        task = pod_task(make_task, spec)
        pod = build(
            make_context(task), self.settings(default_pod_template_name="t", default_tolerations=[{"key": "d"}])
        )
        main, side = pod["spec"]["containers"]
        (prepare,) = pod["spec"]["initContainers"]
        assert (pod["spec"]["dnsPolicy"], pod["spec"]["restartPolicy"]) == ("None", "Never")
        assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["cache", "own"]
        assert [toleration["key"] for toleration in pod["spec"]["tolerations"]] == ["template", "d"]
        assert (main["name"], main["image"], main["workingDir"]) == ("main", "m", "/primary")
        assert main["env"][0] == {"name": "T", "value": "1"}
        assert main["volumeMounts"] == [{"name": "cache", "mountPath": "/c"}]
        assert (side["name"], side["image"], side["workingDir"]) == ("side", "side:1", "/default")
        assert (prepare["name"], prepare["workingDir"]) == ("prepare", "/init")
        assert pod["metadata"]["labels"]["from"] == "template"

    def test_the_executions_namespace_is_searched_before_the_platforms(
        self, make_task: Make, make_context: Make
    ) -> None:
        task = make_task(metadata=tasks_pb2.TaskMetadata(pod_template_name="t"))
        for where in ("flyte", "shop-development"):
            assert build(make_context(task), self.settings(where))["spec"]["dnsPolicy"] == "None"

    def test_a_template_that_the_task_names_must_exist(self, make_task: Make, make_context: Make) -> None:
        task = make_task(metadata=tasks_pb2.TaskMetadata(pod_template_name="gone"))
        failure = refusal(make_context(task), self.settings())
        assert failure.code == "BadTaskSpecification"
        assert "'gone'" in failure.message
        assert "dnsPolicy" not in build(make_context(), self.settings(default_pod_template_name="gone"))["spec"]


class TestExtendedResources:
    def gpu_task(self, make_task: Make, **accelerator: Any) -> tasks_pb2.TaskTemplate:
        task = make_task(
            container=tasks_pb2.Container(resources=Resources(limits=entries(gpu="1"))),
            extended_resources=tasks_pb2.ExtendedResources(gpu_accelerator=tasks_pb2.GPUAccelerator(**accelerator)),
        )
        assert isinstance(task, tasks_pb2.TaskTemplate)
        return task

    def test_an_accelerator_is_required_and_tolerated(self, make_task: Make, make_context: Make) -> None:
        pod = build(make_context(self.gpu_task(make_task, device="nvidia-a100", partition_size="1g.5gb")))
        device = {"key": "k8s.amazonaws.com/accelerator", "operator": "In", "values": ["nvidia-a100"]}
        part = {"key": "k8s.amazonaws.com/gpu-partition-size", "operator": "In", "values": ["1g.5gb"]}
        assert TestScheduling.terms(pod) == [[device, part]]
        assert pod["spec"]["tolerations"] == [
            {"key": expression["key"], "operator": "Equal", "value": expression["values"][0], "effect": "NoSchedule"}
            for expression in (device, part)
        ]

    def test_a_whole_device_must_not_be_partitioned(self, make_task: Make, make_context: Make) -> None:
        task = self.gpu_task(make_task, device="d", unpartitioned=True)
        label = "k8s.amazonaws.com/gpu-partition-size"
        assert TestScheduling.terms(build(make_context(task)))[0][1] == {"key": label, "operator": "DoesNotExist"}
        requirement, toleration = {"key": "k", "operator": "In", "values": ["none"]}, {"key": "k", "operator": "Exists"}
        pod = build(
            make_context(task),
            gpu_unpartitioned_node_selector_requirement=requirement,
            gpu_unpartitioned_toleration=toleration,
        )
        assert TestScheduling.terms(pod)[0][1] == requirement
        assert toleration in pod["spec"]["tolerations"]

    def test_without_a_gpu_an_accelerator_means_nothing(self, make_task: Make, make_context: Make) -> None:
        task = self.gpu_task(make_task, device="d")
        task.container.ClearField("resources")
        assert "affinity" not in build(make_context(task))["spec"]

    def test_the_nodes_accelerator_wins(self, make_task: Make, make_context: Make) -> None:
        overrides = workflow_pb2.TaskNodeOverrides(
            extended_resources=tasks_pb2.ExtendedResources(gpu_accelerator=tasks_pb2.GPUAccelerator(device="node"))
        )
        pod = build(make_context(self.gpu_task(make_task, device="task"), overrides=overrides))
        assert TestScheduling.terms(pod)[0][0]["values"] == ["node"]

    def test_shared_memory_is_a_volume_in_memory(self, make_task: Make, make_context: Make) -> None:
        shared = tasks_pb2.SharedMemory(size_limit="1Gi")
        task = make_task(extended_resources=tasks_pb2.ExtendedResources(shared_memory=shared))
        pod = build(make_context(task))
        assert pod["spec"]["volumes"] == [
            {"name": "flyte-shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
        ]
        assert only(pod)["volumeMounts"] == [{"name": "flyte-shared-memory", "mountPath": "/dev/shm"}]

    @pytest.mark.parametrize(
        ("spec", "why"),
        [
            ({"volumes": [{"name": "m"}], "containers": [{"name": "main"}]}, "a volume called 'm'"),
            ({"containers": [{"name": "main", "volumeMounts": [{"name": "x", "mountPath": "/m"}]}]}, "mounts 'x' at"),
        ],
    )
    def test_shared_memory_never_replaces_what_is_there(
        self, make_task: Make, make_context: Make, spec: Mapping[str, Any], why: str
    ) -> None:
        shared = tasks_pb2.SharedMemory(mount_name="m", mount_path="/m")
        task = pod_task(make_task, spec, extended_resources=tasks_pb2.ExtendedResources(shared_memory=shared))
        failure = refusal(make_context(task))
        assert failure.code == "BadTaskSpecification"
        assert why in failure.message

    def test_listed_resources_are_tolerated_where_they_are_requested(self, make_task: Make, make_context: Make) -> None:
        config: dict[str, Any] = {"add_tolerations_for_extended_resources": ["nvidia.com/gpu", "example.com/fpga"]}
        pod = build(make_context(self.gpu_task(make_task)), **config)
        assert pod["spec"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


class TestMetadata:
    def test_labels_merge_by_precedence_and_identity_wins(self, make_task: Make, make_context: Make) -> None:
        task = pod_task(
            make_task,
            {"containers": [{"name": "main"}]},
            metadata=tasks_pb2.TaskMetadata(
                metadata=tasks_pb2.K8sObjectMetadata(labels={"c": "task"}, annotations={"z": "task"})
            ),
        )
        task.k8s_pod.metadata.labels.update({"b": "pod", "c": "pod"})
        context = make_context(task, labels={"d": "user", "project": "forged"}, annotations={"y": "user"})
        metadata = build(context, default_labels={"a": "default", "b": "default"})["metadata"]
        assert metadata["labels"] == {
            "a": "default",
            "b": "pod",
            "c": "task",
            "d": "user",
            "execution-id": "f0123456789abcdef012",
            "project": "shop",
            "domain": "development",
            "workflow-name": "app-daily-run",
            "shard-key": "4",
            "node-id": "n0",
            "task-name": "app-train",
            "interruptible": "false",
        }
        assert metadata["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert (metadata["annotations"]["z"], metadata["annotations"]["y"]) == ("task", "user")
        assert "finalizers" not in metadata
        assert "ownerReferences" not in metadata

    def test_the_handle_owns_the_pod_and_a_finalizer_is_set_where_configured(self, make_context: Make) -> None:
        owner = {"apiVersion": "flyte.lyft.com/v1alpha1", "kind": "FlyteWorkflow", "name": "f0", "uid": "u"}
        identity = security_pb2.SecurityContext(run_as=security_pb2.Identity(execution_identity="Jane"))
        metadata = build(make_context(owner=owner, security_context=identity), inject_finalizer=True)["metadata"]
        assert metadata["ownerReferences"] == [{**owner, "controller": True, "blockOwnerDeletion": True}]
        assert metadata["finalizers"] == ["flyte.org/finalizer-k8s"]
        assert metadata["labels"]["execution-identity"] == "jane"

    def test_secrets_are_asked_for_by_name_and_can_be_read_back(self, make_task: Make, make_context: Make) -> None:
        mine = security_pb2.Secret(group="DB", key="Password", mount_requirement=security_pb2.Secret.ENV_VAR)
        theirs = [security_pb2.Secret(group=f"g{index}", key="ü\n") for index in range(11)]
        task = make_task(security_context=security_pb2.SecurityContext(secrets=[mine]))
        pod = build(make_context(task, security_context=security_pb2.SecurityContext(secrets=[mine, *theirs])))
        assert pod["metadata"]["labels"]["inject-flyte-secrets"] == "true"
        assert secrets_of(pod) == [mine, *theirs]
        assert variable_name(mine) == "_FSEC_DB_PASSWORD"
        assert file_path(mine) == "/etc/flyte/secrets/db/password"
        assert set(pod["metadata"]["annotations"]["flyte.secrets/s0"]) <= set("abcdefghijklmnopqrstuvwxyz123456")

    def test_without_secrets_there_is_no_request(self, make_context: Make) -> None:
        pod = build(make_context())
        assert "inject-flyte-secrets" not in pod["metadata"]["labels"]
        assert secrets_of(pod) == []

    @pytest.mark.parametrize("value", ["0", "a", "üü", "aaaaaaaa"])
    def test_a_damaged_request_is_named(self, value: str) -> None:
        with pytest.raises(InvalidArgument, match=r"flyte\.secrets/s3"):
            secrets_of({"metadata": {"annotations": {"flyte.secrets/s3": value}}})


class TestCoPilot:
    def raw_task(self, make_task: Make, **data: Any) -> tasks_pb2.TaskTemplate:
        variable = interface_pb2.Variable(type=types_pb2.LiteralType(simple=types_pb2.INTEGER))
        variables = interface_pb2.VariableMap(variables={"x": variable})
        task = make_task(
            type="raw-container",
            interface=interface_pb2.TypedInterface(inputs=variables, outputs=variables),
            container=tasks_pb2.Container(
                image="i", command=["go"], data_config=tasks_pb2.DataLoadingConfig(enabled=True, **data)
            ),
        )
        assert isinstance(task, tasks_pb2.TaskTemplate)
        return task

    def test_helpers_move_inputs_and_outputs(self, make_task: Make, make_context: Make) -> None:
        storage = CoPilotStorage(("--storage.container=b",), ({"secretRef": {"name": "keys"}},))
        task = self.raw_task(make_task, output_path="/out", format=tasks_pb2.DataLoadingConfig.YAML)
        pod = build(make_context(task), PodSettings(copilot_storage=storage))
        uploader, downloader = pod["spec"]["initContainers"]
        assert (uploader["name"], uploader["restartPolicy"]) == ("flyte-copilot-uploader", "Always")
        assert downloader["name"] == "flyte-copilot-downloader"
        assert uploader["args"][:7] == [
            "sidecar", "--timeout", "3600s", "--to-raw-output", "s3://b/raw/gy/x", "--to-output-prefix",
            "s3://b/meta/n0/data/0",
        ]  # fmt: skip
        assert downloader["args"][:3] == ["download", "--from-remote", "s3://b/meta/n0/data/inputs.pb"]
        assert "YAML" in downloader["args"]
        assert downloader["command"][0] == "/bin/flyte-copilot"
        assert "--storage.container=b" in downloader["command"]
        assert downloader["envFrom"] == [{"secretRef": {"name": "keys"}}]
        assert "env" not in downloader
        assert downloader["resources"]["limits"] == {"cpu": "500m", "memory": "128Mi"}
        assert pod["spec"]["terminationGracePeriodSeconds"] == 3600
        assert only(pod)["volumeMounts"] == [
            {"name": "flyte-inputs", "mountPath": "/var/flyte/inputs"},
            {"name": "flyte-outputs", "mountPath": "/out"},
        ]
        assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["flyte-inputs", "flyte-outputs"]
        assert "primary_container_name" not in pod["metadata"]["annotations"]

    def test_helpers_are_there_only_for_what_the_interface_has(self, make_task: Make, make_context: Make) -> None:
        task = self.raw_task(make_task)
        task.interface.ClearField("outputs")
        spec = build(make_context(task))["spec"]
        assert [container["name"] for container in spec["initContainers"]] == ["flyte-copilot-downloader"]
        assert "terminationGracePeriodSeconds" not in spec
        task.interface.ClearField("inputs")
        assert "initContainers" not in build(make_context(task))["spec"]

    def test_volumes_are_as_large_as_the_node_says(self, make_task: Make, make_context: Make) -> None:
        resources = Resources(requests=entries(storage="1Gi"), limits=entries(storage="2Gi"))
        overrides = workflow_pb2.TaskNodeOverrides(resources=resources)
        volumes = build(make_context(self.raw_task(make_task), overrides=overrides))["spec"]["volumes"]
        assert {volume["emptyDir"]["sizeLimit"] for volume in volumes} == {"2Gi"}
        config = CoPilotConfig(storage="3Gi", timeout=timedelta(minutes=1))
        spec = build(make_context(self.raw_task(make_task)), co_pilot=config)["spec"]
        assert {volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"]} == {"3Gi"}
        assert spec["terminationGracePeriodSeconds"] == 60

    def test_the_cluster_template_leaves_the_helpers_alone(self, make_task: Make, make_context: Make) -> None:
        template = {"template": {"spec": {"initContainers": [{"name": "default-init", "workingDir": "/x"}]}}}
        settings = PodSettings(K8sPluginConfig(default_pod_template_name="t"), pod_templates=lambda *_: template)
        spec = build(make_context(self.raw_task(make_task)), settings)["spec"]
        assert {container["workingDir"] for container in spec["initContainers"]} == {"/"}
