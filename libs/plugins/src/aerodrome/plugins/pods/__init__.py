"""Building the pod of a task: one pure function from a task's values and the platform's settings to a V1Pod.

The order of the steps is a contract: later steps see what earlier ones made.  Source: spec/data-plane.md, section 2.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aerodrome.plugins.api import PodTemplates, TaskContext, V1Pod, no_pod_templates
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.pods.copilot import CoPilotStorage, add_helpers
from aerodrome.plugins.pods.documents import containers_of, copied, find_container
from aerodrome.plugins.pods.environment import environment_sources, task_environment
from aerodrome.plugins.pods.extended import extend
from aerodrome.plugins.pods.metadata import object_metadata
from aerodrome.plugins.pods.pod_template import PodTemplate, find_template, lay_over_template
from aerodrome.plugins.pods.resources import (
    defaulted_resources,
    init_resources,
    other_resources,
    primary_resources,
)
from aerodrome.plugins.pods.scheduling import schedule
from aerodrome.plugins.pods.targets import PRIMARY_NAME, RAW_CONTAINER, Target, read_target
from aerodrome.plugins.templating import render

DEFAULTED: Final = "aerodrome/defaulted-resources"
"""Annotation: resources of the primary container that nobody asked for, so that a runtime may size them as it likes."""
GIVES_WAY: Final = "aerodrome/gives-way"
"""Annotation of an eager task: it waits for executions that it launches, which need the place that it would hold."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the platform brings to every pod."""

    config: K8sPluginConfig = field(default_factory=K8sPluginConfig)
    environ: Mapping[str, str] = field(default_factory=dict)
    """Environment of the platform's process, for `default-env-vars-from-env`."""
    pod_templates: PodTemplates = no_pod_templates
    platform_namespace: str = "flyte"
    """Where pod templates are looked for that the execution's namespace does not have."""
    copilot_storage: CoPilotStorage = field(default_factory=CoPilotStorage)


def build_pod(context: TaskContext, settings: PodSettings) -> V1Pod:
    """The pod that runs one attempt of a task.  Raises PluginError if the task cannot be run as it is."""
    config = settings.config
    target = read_target(context)
    template = find_template(context, config, settings.pod_templates, settings.platform_namespace)
    spec: V1Pod = copied(target.spec)
    spec.setdefault("restartPolicy", "Never")
    if not spec.get("serviceAccountName") and context.service_account:
        spec["serviceAccountName"] = context.service_account

    _customise(spec, target.primary, context, settings, template)
    own = {container["name"] for container in containers_of(spec)}
    if target.data_config is not None:
        add_helpers(spec, target.primary, target.data_config, context, config.co_pilot, settings.copilot_storage)
    helpers = frozenset(container["name"] for container in containers_of(spec)) - own
    schedule(spec, interruptible=context.interruptible, config=config)
    spec = lay_over_template(template, spec, target.primary, helpers)
    extend(spec, target.primary, context, config)
    _override_image(spec, target.primary, context)

    annotations = {**template.annotations, **target.annotations}
    if defaulted := _defaulted(target, context, config, template):
        annotations[DEFAULTED] = ",".join(defaulted)
    if context.task.metadata.is_eager:
        annotations[GIVES_WAY] = "true"
    if _ends_with_primary(context, target):
        annotations[PRIMARY_NAME] = target.primary
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": object_metadata(context, config, {**template.labels, **target.labels}, annotations),
        "spec": spec,
    }


def _customise(spec: V1Pod, primary: str, context: TaskContext, settings: PodSettings, template: PodTemplate) -> None:
    """Give every container of the task its final command line, environment, resources and policies."""
    config = settings.config
    variables = task_environment(context, config, settings.environ)
    sources = environment_sources(config)
    init_names = {container["name"] for container in spec.get("initContainers", ())}
    for container in containers_of(spec):
        name = container["name"]
        for member in ("command", "args"):
            if member in container:
                container[member] = render(container[member], context)
        container["env"] = [*container.get("env", ()), *copied(variables)]
        if sources:
            container["envFrom"] = [*container.get("envFrom", ()), *copied(sources)]
        base = template.container(name, primary=name == primary, init=name in init_names)
        if name in init_names:
            resources = init_resources(context, container, base, config)
        elif name == primary:
            resources = primary_resources(context, container, base, config)
        else:
            resources = other_resources(context, container, base, config)
        container["resources"] = {**container.get("resources", {}), **resources}
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
        if config.image_pull_policy:
            container.setdefault("imagePullPolicy", config.image_pull_policy)
        if name == primary and config.default_security_context:
            container.setdefault("securityContext", copied(config.default_security_context))


def _defaulted(target: Target, context: TaskContext, config: K8sPluginConfig, template: PodTemplate) -> list[str]:
    container = find_container(target.spec, target.primary) or {}
    return defaulted_resources(context, container, template.container(target.primary, primary=True), config)


def _override_image(spec: V1Pod, primary: str, context: TaskContext) -> None:
    container: dict[str, Any] | None = find_container(spec, primary)
    if context.overrides is not None and context.overrides.container_image and container is not None:
        container["image"] = context.overrides.container_image


def _ends_with_primary(context: TaskContext, target: Target) -> bool:
    """Whether the end of the primary container ends the task; a raw container's outputs are uploaded after it."""
    return context.task.type != RAW_CONTAINER and target.data_config is None
