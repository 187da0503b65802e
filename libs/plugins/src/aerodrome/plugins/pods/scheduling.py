"""Where a pod may run: tolerations, node selectors, affinity, and what else the platform sets for every pod.

Source: spec/data-plane.md, section 2.7 (tolerations, node selector, affinity; step 6).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from aerodrome.plugins.api import V1Pod
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.pods.documents import containers_of

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"


def schedule(spec: V1Pod, *, interruptible: bool, config: K8sPluginConfig) -> None:
    """Complete `spec` with the platform's scheduling rules."""
    tolerations = [toleration for name in _requested(spec) for toleration in config.resource_tolerations.get(name, ())]
    if interruptible:
        tolerations.extend(config.interruptible_tolerations)
    tolerations.extend(config.default_tolerations)
    tolerations.extend(spec.get("tolerations", ()))
    if tolerations:
        spec["tolerations"] = copy.deepcopy(tolerations)

    selector = {
        **config.default_node_selector,
        **(config.interruptible_node_selector if interruptible else {}),
        **spec.get("nodeSelector", {}),
    }
    if selector:
        spec["nodeSelector"] = selector

    if config.default_affinity and not spec.get("affinity"):
        spec["affinity"] = copy.deepcopy(config.default_affinity)
    requirement = (
        config.interruptible_node_selector_requirement
        if interruptible
        else config.non_interruptible_node_selector_requirement
    )
    if requirement:
        require_node(spec, requirement)

    settings = {
        "schedulerName": config.scheduler_name,
        "securityContext": config.default_pod_security_context,
        "dnsConfig": config.default_pod_dns_config,
    }
    for member, value in settings.items():
        if value and not spec.get(member):
            spec[member] = copy.deepcopy(value)
    if config.enable_host_networking_pod is not None:
        spec["hostNetwork"] = config.enable_host_networking_pod


def require_node(spec: V1Pod, requirement: Mapping[str, Any]) -> None:
    """Add a node-selector requirement to every term of the pod's required node affinity, or make its first term."""
    required = _child(_child(_child(spec, "affinity"), "nodeAffinity"), _REQUIRED)
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = terms
    for term in terms:
        expressions = term.get("matchExpressions") or []
        term["matchExpressions"] = [*expressions, copy.deepcopy(dict(requirement))]


def tolerate(spec: V1Pod, toleration: Mapping[str, Any]) -> None:
    """Add a toleration to the pod unless it has it already."""
    tolerations = spec.get("tolerations", [])
    if toleration not in tolerations:
        spec["tolerations"] = [*tolerations, dict(toleration)]


def _child(document: dict[str, Any], member: str) -> dict[str, Any]:
    """The object `document[member]`, copied so that documents which share it do not change."""
    child: dict[str, Any] = copy.deepcopy(document.get(member) or {})
    document[member] = child
    return child


def _requested(spec: V1Pod) -> list[str]:
    """Names of the resources that any container requests, each once."""
    names: dict[str, None] = {}
    for container in containers_of(spec):
        names.update(dict.fromkeys(container.get("resources", {}).get("requests", {})))
    return list(names)
