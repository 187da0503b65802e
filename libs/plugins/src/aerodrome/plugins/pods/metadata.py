"""Name, owner, labels and annotations of a task's pod.  Source: spec/data-plane.md, section 2.7 (object metadata)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aerodrome.plugins import names
from aerodrome.plugins.api import TaskContext
from aerodrome.plugins.config import K8sPluginConfig
from aerodrome.plugins.pods.secrets import INJECT_LABEL, requested_secrets, secret_annotations

FINALIZER: Final = "flyte.org/finalizer-k8s"


def object_metadata(
    context: TaskContext,
    config: K8sPluginConfig,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    """The pod's `metadata`; `labels` and `annotations` are the object's own, of the target and the pod template."""
    secrets = requested_secrets(context)
    task = context.task.metadata.metadata
    merged_labels = {
        **config.default_labels,
        **labels,
        **task.labels,
        **context.labels,
        **identity_labels(context),
        **({INJECT_LABEL: "true"} if secrets else {}),
    }
    merged_annotations = {
        **config.default_annotations,
        **annotations,
        **task.annotations,
        **context.annotations,
        **secret_annotations(secrets),
    }
    metadata: dict[str, Any] = {
        "name": names.pod_name(context.generated_name),
        "namespace": context.namespace,
        "labels": merged_labels,
        "annotations": merged_annotations,
    }
    if context.owner is not None:
        metadata["ownerReferences"] = [{**context.owner, "controller": True, "blockOwnerDeletion": True}]
    if config.inject_finalizer:
        metadata["finalizers"] = [FINALIZER]
    return metadata


def identity_labels(context: TaskContext) -> dict[str, str]:
    """The labels by which an execution's objects are found; no user label replaces them."""
    execution = context.execution_id
    labels = {
        "execution-id": execution.name,
        "project": execution.project,
        "domain": execution.domain,
        "workflow-name": names.sanitize_label(context.workflow_id.name),
        "shard-key": str(names.shard_key(execution.name)),
        "node-id": names.sanitize_label(context.node_id),
        "task-name": names.sanitize_label(context.task.id.name),
        "interruptible": "true" if context.interruptible else "false",
    }
    if identity := context.security_context.run_as.execution_identity:
        labels["execution-identity"] = names.sanitize_label(identity)
    return labels
