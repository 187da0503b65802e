"""The environment variables that every task gets.

Kubernetes keeps the last of several variables of one name, so the order decides: the task's own, the identity of the
execution and the task, the execution's, the platform's.  Source: spec/data-plane.md, section 2.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aerodrome.plugins.api import TaskContext
from aerodrome.plugins.config import K8sPluginConfig

LINK_TYPE = "link_type"
"""Key of a task's config: the dynamic log links that the task wants."""


def task_environment(context: TaskContext, config: K8sPluginConfig, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """Variables to append to a container's own; `environ` is the environment of the platform's process."""
    from_platform = {
        name: environ[source] for name, source in config.default_env_vars_from_env.items() if source in environ
    }
    layers = (
        _identity(context),
        context.environment,
        context.extra_environment,
        config.default_env_vars,
        from_platform,
    )
    return [{"name": name, "value": value} for layer in layers for name, value in layer.items()]


def environment_sources(config: K8sPluginConfig) -> list[dict[str, Any]]:
    """Config maps and secrets that become environment variables where they exist."""
    sources = (("configMapRef", config.default_env_from_configmaps), ("secretRef", config.default_env_from_secrets))
    return [{kind: {"name": name, "optional": True}} for kind, names in sources for name in names]


def execution_url(context: TaskContext) -> str:
    """Where the console shows this node, or nothing if the console's address is not known."""
    if not context.console_url:
        return ""
    execution = context.execution_id
    return (
        f"{context.console_url.rstrip('/')}/projects/{execution.project}/domains/{execution.domain}"
        f"/executions/{execution.name}/nodeId/{context.node_id}/nodes"
    )


def _identity(context: TaskContext) -> dict[str, str]:
    execution, workflow, task = context.execution_id, context.workflow_id, context.task.id
    variables = {
        "FLYTE_INTERNAL_EXECUTION_WORKFLOW": f"{execution.project}:{execution.domain}:{workflow.name}",
        "FLYTE_INTERNAL_EXECUTION_ID": execution.name,
        "FLYTE_INTERNAL_EXECUTION_PROJECT": execution.project,
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": execution.domain,
        "FLYTE_ATTEMPT_NUMBER": str(context.attempt),
        "FLYTE_INTERNAL_TASK_PROJECT": task.project,
        "FLYTE_INTERNAL_TASK_DOMAIN": task.domain,
        "FLYTE_INTERNAL_TASK_NAME": task.name,
        "FLYTE_INTERNAL_TASK_VERSION": task.version,
    }
    if LINK_TYPE in context.task.config and (url := execution_url(context)):
        variables["FLYTE_EXECUTION_URL"] = url
    if context.offload_mb is not None:
        smallest, largest = context.offload_mb
        variables["_F_L_MIN_SIZE_MB"] = str(smallest)
        variables["_F_L_MAX_SIZE_MB"] = str(largest)
    return variables
