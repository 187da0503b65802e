"""Tasks as the real SDK writes them."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from flyteidl.core import literals_pb2, tasks_pb2
from flytekit.configuration import Image, ImageConfig, SerializationSettings

from aerodrome.plugins.api import Phase
from aerodrome.plugins.catalog_key import cache_key
from aerodrome.plugins.container import ContainerPlugin
from aerodrome.plugins.registry import Host, Registry

Make = Callable[..., Any]
flytekit: Any = importlib.import_module("flytekit")  # its types are not made for strict checking
translator: Any = importlib.import_module("flytekit.tools.translator")


@flytekit.task(
    cache=True,
    cache_version="3",
    requests=flytekit.Resources(cpu="2", mem="500Mi", gpu="1"),
    environment={"MODE": "fast"},
    secret_requests=[flytekit.Secret(group="db", key="password")],
    interruptible=True,
)
def double(x: int) -> int:
    return 2 * x


@flytekit.dynamic
def fan_out(n: int) -> list[int]:
    items: list[int] = [double(x=i) for i in range(n)]
    return items


shell = flytekit.ContainerTask(
    name="shell",
    image="alpine",
    inputs={"x": int},
    outputs={"y": int},
    command=["sh", "-c", "echo {{.inputs.x}} > /var/outputs/y"],
    input_data_dir="/var/inputs",
    output_data_dir="/var/outputs",
)


def serialized(entity: Any) -> tasks_pb2.TaskTemplate:
    image = Image(name="default", fqn="registry/app", tag="1")
    settings = SerializationSettings(
        project="shop", domain="development", version="v1", image_config=ImageConfig(default_image=image)
    )
    template = translator.get_serializable(OrderedDict(), settings, entity).template.to_flyte_idl()
    assert isinstance(template, tasks_pb2.TaskTemplate)
    return template


@pytest.mark.parametrize("entity", [double, fan_out], ids=["task", "dynamic"])
def test_a_python_task_becomes_a_complete_pod(make_context: Make, entity: Any) -> None:
    task = serialized(entity)
    plugin = Registry.load(Host()).resolve(task.type)
    assert isinstance(plugin, ContainerPlugin)
    pod = plugin.build(make_context(task))
    (container,) = pod["spec"]["containers"]
    arguments = container["args"]
    assert arguments[0] == "pyflyte-execute"
    assert not any("{{" in argument for argument in arguments)
    assert arguments[arguments.index("--inputs") + 1] == "s3://b/meta/n0/data/inputs.pb"
    assert arguments[arguments.index("--prev-checkpoint") + 1] == '""'
    assert plugin.phase(make_context(task), pod).phase is Phase.QUEUED


def test_what_the_task_asks_for_is_in_the_pod(make_context: Make) -> None:
    pod = ContainerPlugin().build(make_context(serialized(double)))
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "500Mi", "nvidia.com/gpu": "1"}
    assert {"name": "MODE", "value": "fast"} in container["env"]
    assert pod["metadata"]["labels"]["inject-flyte-secrets"] == "true"


def test_a_container_task_gets_its_helpers(make_context: Make) -> None:
    literal = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=7)))
    inputs = literals_pb2.LiteralMap(literals={"x": literal})
    pod = ContainerPlugin().build(make_context(serialized(shell), inputs=lambda: inputs))
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["sh", "-c", "echo 7 > /var/outputs/y"]
    assert [helper["name"] for helper in pod["spec"]["initContainers"]] == [
        "flyte-copilot-uploader",
        "flyte-copilot-downloader",
    ]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/var/inputs", "/var/outputs"]


def test_the_cache_key_does_not_depend_on_descriptions(make_context: Make) -> None:
    task = serialized(double)
    key = cache_key(task, make_context().inputs())
    for variable in task.interface.inputs.variables.values():
        variable.description = "something else"
    assert cache_key(task, make_context().inputs()) == key
    assert key.dataset.version.startswith("3-")
