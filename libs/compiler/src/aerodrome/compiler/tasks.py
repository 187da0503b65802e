"""Task templates in, compiled tasks out.  Source: control-plane specification, section 2.2."""

import re

from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.interface_pb2 import TypedInterface, VariableMap
from flyteidl.core.tasks_pb2 import Container, K8sPod, TaskTemplate
from google.protobuf.message import DecodeError

from aerodrome.compiler.depth import check_depth, too_deep
from aerodrome.compiler.errors import Code, Collector, clip

_QUANTITY = re.compile(
    r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?[0-9]{1,9})?", re.ASCII
)
"""A Kubernetes quantity, such as `500m` or `1.5Gi`."""

_MAX_QUANTITY_CHARS = 64

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
"""A DNS-1123 label, as names of containers are."""


def compile_task(template: TaskTemplate) -> CompiledTask:
    """The compiled form of a task: the template with both maps of its interface present.

    Raises CompileErrors if a variable has no type, a container cannot be started (no image, nothing to run although
    there are inputs or outputs, a resource value that is no quantity) or a pod has no spec or a wrongly named
    container.
    """
    check_depth(template, clip(template.id.name))
    errors = Collector()
    compiled = CompiledTask()
    try:
        compiled.template.CopyFrom(template)
    except DecodeError as why:
        raise too_deep(clip(template.id.name)) from why
    node_id = template.id.name
    normalize_interface(compiled.template.interface)
    check_variables(errors, node_id, "input", compiled.template.interface.inputs)
    check_variables(errors, node_id, "output", compiled.template.interface.outputs)
    match template.WhichOneof("target"):
        case "container":
            interface = compiled.template.interface
            typed = bool(interface.inputs.variables or interface.outputs.variables)
            _check_container(errors, node_id, template.container, typed)
        case "k8s_pod":
            _check_pod(errors, node_id, template.k8s_pod)
        case _:
            pass
    errors.check()
    return compiled


def normalize_interface(interface: TypedInterface) -> None:
    """Make both maps of an interface present, in place."""
    interface.inputs.SetInParent()
    interface.outputs.SetInParent()


def check_variables(errors: Collector, node_id: str, kind: str, variables: VariableMap) -> None:
    """Record an error for each variable without a name or a type; `kind` is `input` or `output`."""
    for name in sorted(variables.variables):
        if not name:
            errors.add(Code.VALUE_REQUIRED, node_id, f"An {kind} variable has no name.")
        if variables.variables[name].type.WhichOneof("type") is None:
            errors.add(Code.VALUE_REQUIRED, node_id, f"The {kind} variable [{clip(name)}] has no type.")


def _check_container(errors: Collector, node_id: str, container: Container, typed: bool) -> None:
    if not container.image:
        errors.add(Code.VALUE_REQUIRED, node_id, "Container.Image is required.")
    if typed and not container.command and not container.args:
        errors.add(
            Code.VALUE_REQUIRED, node_id, "Container.Command or Container.Args is required: the task has an interface."
        )
    for kind, entries in (("request", container.resources.requests), ("limit", container.resources.limits)):
        for entry in entries:
            if len(entry.value) > _MAX_QUANTITY_CHARS or not _QUANTITY.fullmatch(entry.value):
                errors.add(
                    Code.INVALID_VALUE,
                    node_id,
                    f"The resource {kind} [{clip(entry.value)}] is not a Kubernetes quantity such as 500m or 1Gi.",
                )


def _check_pod(errors: Collector, node_id: str, pod: K8sPod) -> None:
    if not pod.HasField("pod_spec"):
        errors.add(Code.VALUE_REQUIRED, node_id, "K8sPod.PodSpec is required.")
        return
    fields = pod.pod_spec.fields
    containers = fields["containers"].list_value.values if "containers" in fields else ()
    for container in containers:
        named = container.struct_value.fields
        name = named["name"].string_value if "name" in named else ""
        if not _DNS_LABEL.fullmatch(name):
            errors.add(
                Code.INVALID_VALUE,
                node_id,
                f"The container name [{clip(name)}] is no DNS label: lower-case letters, digits and `-`, at most 63.",
            )
