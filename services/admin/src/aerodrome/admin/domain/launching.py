"""How an execution is configured when it is created: what wins over what, and where it runs.

Everything here is pure: requests, registered entities, attributes and settings in; values or `InvalidArgument` out.
Source: spec/control-plane.md, sections 4.1 and 4.3 to 4.10.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Protocol

from flyteidl.admin.cluster_assignment_pb2 import ClusterAssignment
from flyteidl.admin.common_pb2 import Annotations, Envs, Labels, Notification, RawOutputDataConfig
from flyteidl.admin.execution_pb2 import ExecutionCreateRequest, ExecutionSpec
from flyteidl.admin.launch_plan_pb2 import LaunchPlanSpec
from flyteidl.admin.matchable_resource_pb2 import WorkflowExecutionConfig
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import ResourceType
from flyteidl.core.literals_pb2 import KeyValuePair, LiteralMap
from flyteidl.core.security_pb2 import Identity, SecurityContext
from google.protobuf.wrappers_pb2 import BoolValue

from aerodrome.admin.config import ClustersConfig, FlyteAdminConfig
from aerodrome.admin.domain.literals import check_literals
from aerodrome.admin.domain.naming import check_execution_name
from aerodrome.admin.domain.validation import (
    check_labels,
    check_notifications,
    check_text,
    dns_subdomain_problems,
    missing,
    resource_type_name,
    shown,
)
from aerodrome.stdlib.errors import AerodromeError, FailedPrecondition, InvalidArgument, Kind

LAUNCHABLE = (ResourceType.LAUNCH_PLAN, ResourceType.TASK)
"""The kinds of entities that can be launched."""


class Caller(Protocol):
    """Who asks; empty texts without authentication."""

    @property
    def user_id(self) -> str: ...
    @property
    def app_id(self) -> str: ...


# The request


def check_address(request: ExecutionCreateRequest) -> None:
    """Project, domain and name of the new execution are given as they should be."""
    if not request.project:
        raise missing("project")
    if not request.domain:
        raise missing("domain")
    check_text("project", request.project)
    check_text("domain", request.domain)
    if request.name:
        check_execution_name(request.name)


def check_spec(request: ExecutionCreateRequest, inputs: LiteralMap, *, again: bool = False) -> None:
    """The specification and `inputs` are well formed; `again`: it is that of an earlier execution, with its labels."""
    if not request.HasField("spec"):
        raise missing("spec")
    spec = request.spec
    if not spec.HasField("launch_plan"):
        raise missing("id")
    for field in ("project", "domain", "name", "version"):
        value = getattr(spec.launch_plan, field)
        if not value:
            raise missing(field)
        check_text(field, value)
    if spec.launch_plan.resource_type not in LAUNCHABLE:
        raise InvalidArgument(
            f"Invalid reference entity resource type [{resource_type_name(spec.launch_plan.resource_type)}], "
            f"only [{', '.join(resource_type_name(each) for each in LAUNCHABLE)}] allowed"
        )
    check_literals("inputs", inputs)
    check_notifications(spec.notifications.notifications)
    if not again:
        check_labels(spec.labels.values)
    for tag in spec.tags:
        if not tag:
            raise missing("tag")
        check_text("tag", tag)


def tags_of(spec: ExecutionSpec) -> list[tuple[str, str]]:
    """The tags of an execution as (key, value): its own labels, and its tags with an empty value."""
    return sorted({*spec.labels.values.items(), *((tag, "") for tag in spec.tags)})


# Configuration


class ConfigSource(Protocol):
    """What execution specs, launch plan specs and attributes have in common."""

    max_parallelism: int
    overwrite_cache: bool

    @property
    def security_context(self) -> SecurityContext: ...
    @property
    def raw_output_data_config(self) -> RawOutputDataConfig: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def annotations(self) -> Annotations: ...
    @property
    def envs(self) -> Envs: ...
    @property
    def interruptible(self) -> BoolValue: ...
    def HasField(self, name: str) -> bool: ...


def application_config(config: FlyteAdminConfig) -> WorkflowExecutionConfig:
    """The last source of all: what the service's own settings say."""
    result = WorkflowExecutionConfig(max_parallelism=config.max_parallelism, overwrite_cache=config.overwrite_cache)
    if config.assumable_iam_role or config.k8s_service_account:
        result.security_context.run_as.iam_role = config.assumable_iam_role
        result.security_context.run_as.k8s_service_account = config.k8s_service_account
    if config.output_location_prefix:
        result.raw_output_data_config.output_location_prefix = config.output_location_prefix
    result.labels.values.update(config.labels)
    result.annotations.values.update(config.annotations)
    result.envs.values.extend(KeyValuePair(key=key, value=value) for key, value in sorted(config.envs.items()))
    if config.interruptible:
        result.interruptible.value = True
    return result


def merge_configs(sources: Iterable[ConfigSource], fallback_identity: Identity | None) -> WorkflowExecutionConfig:
    """Field by field the first of `sources` that says something; the last one is the application's.

    `fallback_identity` comes from deprecated fields and counts right before the last source.
    """
    ordered = list(sources)
    result = WorkflowExecutionConfig()
    for at, source in enumerate(ordered):
        last = at == len(ordered) - 1
        if not result.max_parallelism and source.max_parallelism > 0:
            result.max_parallelism = source.max_parallelism
        if not result.HasField("security_context"):
            if last and fallback_identity is not None:
                result.security_context.run_as.CopyFrom(fallback_identity)
            elif _names_somebody(source.security_context.run_as):
                result.security_context.CopyFrom(source.security_context)
        if not result.HasField("raw_output_data_config") and source.raw_output_data_config.output_location_prefix:
            result.raw_output_data_config.CopyFrom(source.raw_output_data_config)
        if not result.labels.values and source.labels.values:
            result.labels.CopyFrom(source.labels)
        if not result.annotations.values and source.annotations.values:
            result.annotations.CopyFrom(source.annotations)
        if not result.envs.values and source.envs.values:
            result.envs.CopyFrom(source.envs)
        if not result.HasField("interruptible") and source.HasField("interruptible"):
            result.interruptible.CopyFrom(source.interruptible)
        result.overwrite_cache = result.overwrite_cache or source.overwrite_cache
    return result


def fallback_identity(spec: ExecutionSpec, launch_plan: LaunchPlanSpec | None) -> Identity | None:
    """Whom the deprecated role fields name, if any: the request's, else the launch plan's from new to old."""
    candidates = [(spec.auth_role.assumable_iam_role, spec.auth_role.kubernetes_service_account)]
    if launch_plan is not None:
        candidates += [
            (launch_plan.auth_role.assumable_iam_role, launch_plan.auth_role.kubernetes_service_account),
            (launch_plan.auth.assumable_iam_role, launch_plan.auth.kubernetes_service_account),
            (launch_plan.role, ""),
        ]
    for iam_role, service_account in candidates:
        if iam_role or service_account:
            return Identity(iam_role=iam_role, k8s_service_account=service_account)
    return None


def resolve_spec(spec: ExecutionSpec, config: WorkflowExecutionConfig, caller: Caller) -> None:
    """Write the merged `config` into `spec`, which then says how the execution really runs."""
    for field in ("security_context", "raw_output_data_config", "labels", "annotations", "envs", "interruptible"):
        if config.HasField(field):
            getattr(spec, field).CopyFrom(getattr(config, field))
    spec.overwrite_cache = config.overwrite_cache
    run_as = spec.security_context.run_as
    run_as.SetInParent()
    if not run_as.execution_identity:
        run_as.execution_identity = caller.user_id


def add_missing(values: Mapping[str, str], to: MutableMapping[str, str]) -> None:
    """Add those of `values` to `to` whose keys it does not have."""
    for key, value in values.items():
        to.setdefault(key, value)


def check_entries(what: str, count: int, limit: int) -> None:
    """There are no more than `limit` labels or annotations (0: unlimited)."""
    if 0 < limit < count:
        raise InvalidArgument(f"{what} has too many entries [{count} > {limit}]")


def identity_annotations(config: FlyteAdminConfig, caller: Caller) -> dict[str, str]:
    """The annotations that tell who launched an execution; none unless configured."""
    who = caller.app_id or caller.user_id
    prefix = config.identity_annotation_prefix
    if not config.inject_identity_annotations or not who or dns_subdomain_problems(prefix):
        return {}
    kind, known = ("app", ("email", "sub", "id")) if caller.app_id else ("user", ("sub",))
    return {f"{prefix}/{kind}-{key}": who for key in config.identity_annotation_keys if key in known}


def resolve_notifications(spec: ExecutionSpec, launch_plan: LaunchPlanSpec | None) -> Sequence[Notification]:
    """Whom the end of the execution is told: the request's list, none if it disables all, else the launch plan's."""
    if spec.notifications.notifications:
        return spec.notifications.notifications
    if spec.disable_all or launch_plan is None:
        return ()
    return launch_plan.entity_metadata.notifications


def _names_somebody(identity: Identity) -> bool:
    return bool(identity.k8s_service_account or identity.iam_role or identity.execution_identity)


# Where it runs


def check_pool(requested: ClusterAssignment, configured_pool: str, project: str, domain: str) -> None:
    """The cluster pool of the request is the one that project and domain are bound to, if they are."""
    pool = requested.cluster_pool_name
    if pool and configured_pool and pool != configured_pool:
        raise InvalidArgument(
            f'execution with project "{project}" and domain "{domain}" cannot run on cluster pool "{shown(pool)}", '
            f'because its configured to run on pool "{configured_pool}"'
        )


def choose_cluster(config: ClustersConfig, label: str, execution_name: str) -> str:
    """The cluster that runs the execution; the same for every call with the same name.

    Raises InvalidArgument for a label where no clusters are configured, and FailedPrecondition if none is enabled.
    """
    if not config.cluster_configs:
        if label:
            raise InvalidArgument(
                f"execution cluster label [{shown(label)}] is not known: no clusters are configured (clusterConfigs)"
            )
        return config.default_cluster
    enabled = {cluster.name for cluster in config.cluster_configs if cluster.enabled}
    labels = config.label_cluster_map
    weighted: list[tuple[str, float]] = []
    for candidate in (label, config.default_execution_label):
        if candidate and candidate in labels:
            weighted = [(each.id, each.weight) for each in labels[candidate] if each.id in enabled]
            break
    else:
        weighted = [(name, 1.0) for name in sorted(enabled)]
    if not weighted:
        raise FailedPrecondition(f"no enabled cluster for label [{shown(label)}] exists")
    chance = random.Random(_fnv64a(execution_name))
    if not any(weight for _, weight in weighted):
        return chance.choice(weighted)[0]
    return chance.choices([name for name, _ in weighted], [weight for _, weight in weighted])[0]


def _fnv64a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


# When the launch fails


def launch_error(error: AerodromeError) -> ExecutionError:
    """What an execution says that could not be launched."""
    user = error.kind is Kind.INVALID_ARGUMENT
    return ExecutionError(
        code="".join(word.capitalize() for word in error.kind.name.split("_")),
        message=error.message,
        kind=ExecutionError.USER if user else ExecutionError.SYSTEM,
    )
