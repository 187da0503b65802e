"""The cluster's pod template: what administrators lay under the pods of tasks.

Source: spec/data-plane.md, section 2.7 (default pod template).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aerodrome.plugins.api import PodTemplates, TaskContext, V1Pod, bad_task
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.pods.documents import laid_over


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """A Kubernetes PodTemplate's `template`."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def container(self, name: str, *, primary: bool = False, init: bool = False) -> dict[str, Any]:
        """What the template says of the container `name`: its entry `default`, under `primary`, under `name`.

        `primary` is for the primary container only; those of init containers are `default-init` and `primary-init`.
        """
        if not self.spec:
            return {}
        entries = {entry["name"]: entry for entry in self.spec.get("initContainers" if init else "containers", ())}
        suffix = "-init" if init else ""
        layers = [f"default{suffix}"]
        if primary:
            layers.append(f"primary{suffix}")
        layers.append(name)
        base: dict[str, Any] = {}
        for layer in dict.fromkeys(layers):
            base = laid_over(base, entries.get(layer, {}))
        base.pop("name", None)
        return base


def find_template(
    context: TaskContext, config: K8sPluginConfig, templates: PodTemplates, platform_namespace: str
) -> PodTemplate:
    """The template that the task or the configuration names, from the execution's namespace, else from the platform's.

    Empty if nobody names one, or if only the configuration does and there is none.  Raises PluginError if the task
    names one that does not exist.
    """
    wanted = context.task.metadata.pod_template_name
    name = wanted or config.default_pod_template_name
    if not name:
        return PodTemplate()
    found = templates(context.namespace, name) or templates(platform_namespace, name)
    if found is None:
        if not wanted:
            return PodTemplate()
        raise bad_task(
            f"{context.describe()}: it names the pod template {wanted!r}, which is neither in the namespace "
            f"{context.namespace!r} nor in {platform_namespace!r}"
        )
    template = found.get("template", {})
    metadata = template.get("metadata", {})
    return PodTemplate(template.get("spec", {}), metadata.get("labels", {}), metadata.get("annotations", {}))


def lay_over_template(template: PodTemplate, spec: V1Pod, primary: str, helpers: frozenset[str]) -> V1Pod:
    """`spec` merged over `template`: lists are appended, single values are the task's.

    Each container lies over what the template says of it; containers that only the template has are left out.
    `helpers` are containers of the platform, which the template does not change.
    """
    if not template.spec:
        return spec
    groups = ("containers", "initContainers")
    merged: V1Pod = laid_over(
        {member: value for member, value in template.spec.items() if member not in groups},
        {member: value for member, value in spec.items() if member not in groups},
    )
    for group in groups:
        containers = [
            copy.deepcopy(container)
            if container["name"] in helpers
            else laid_over(
                template.container(
                    container["name"], primary=container["name"] == primary, init=group == "initContainers"
                ),
                container,
            )
            for container in spec.get(group, ())
        ]
        if containers:
            merged[group] = containers
    return merged
