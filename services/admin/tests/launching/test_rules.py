"""The rules of what is acceptable, apart from any database."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.admin.matchable_resource_pb2 import MatchableResource, MatchingAttributes, WorkflowExecutionConfig
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.security_pb2 import Identity
from flyteidl.core.tasks_pb2 import K8sPod, Resources
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.config import AdminConfig, ClustersConfig, FlyteAdminConfig, TaskResourcesConfig
from aerodrome.admin.domain import launching
from aerodrome.admin.domain.attributes import AttributeRow, most_specific
from aerodrome.admin.domain.naming import check_execution_name, namespace, new_execution_name, path_segment
from aerodrome.admin.domain.schedules import check_cron
from aerodrome.admin.domain.task_resources import check_container, check_pod, platform_resources
from aerodrome.admin.domain.validation import check_labels, check_text, label_key_problems
from aerodrome.idl.journal.v1.journal_pb2 import ResolvedResources
from aerodrome.stdlib.config import parse_quantity
from aerodrome.stdlib.errors import AerodromeError, InvalidArgument
from aerodrome.stdlib.rpc.context import Identity as Caller


def complaint(check: Callable[..., None], *args: Any) -> str | None:
    """What a check says; None if it is content."""
    try:
        check(*args)
    except InvalidArgument as error:
        return error.message
    return None


class TestCron:
    @pytest.mark.parametrize(
        "expression",
        ["* * * * *", "0 5 * * MON-FRI", "*/5 0-6/2 1,15 jan,Feb sun", "? ? ? ? ?", "@daily", "@every 1h30m",
         "TZ=Europe/Berlin 0 5 * * *", "CRON_TZ=UTC @hourly", "59 23 31 12 6", "1-5/2 * * * *"],
    )  # fmt: skip
    def test_standard_expressions_are_accepted(self, expression: str) -> None:
        check_cron(expression)

    @pytest.mark.parametrize(
        "expression",
        ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7",
         "5-1 * * * *", "*/0 * * * *", "x * * * *", "-1 * * * *", "1,,2 * * * *", "@never", "@every",
         "@every x", "@every 0s",
         "TZ=Moon/Crater * * * * *", "TZ=UTC", "1/ * * * *", "0 5 * * ? *", "٣ * * * *"],
    )  # fmt: skip
    def test_others_are_refused_with_a_reason(self, expression: str) -> None:
        with pytest.raises(InvalidArgument, match=r"^Invalid cron expression: ."):
            check_cron(expression)

    @given(st.text(max_size=40))
    def test_no_text_is_answered_otherwise(self, expression: str) -> None:
        said = complaint(check_cron, expression)
        assert said is None or said.startswith("Invalid cron expression: ")


class TestTexts:
    @given(st.text(st.characters(exclude_categories=())))
    def test_what_passes_can_be_stored(self, text: str) -> None:
        said = complaint(check_text, "name", text)
        if said is not None:
            assert said.startswith("name ")
        else:
            assert "\x00" not in text
            assert len(text.encode()) <= 510
            assert len(text) <= 255

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_a_segment_is_one_element_of_a_path(self, text: str) -> None:
        segment = path_segment(text)
        assert "/" not in segment
        assert "\x00" not in segment
        assert segment.strip(".") or not text
        assert len(segment) <= 200

    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2, unique=True))
    def test_different_texts_have_different_segments(self, texts: list[str]) -> None:
        assert path_segment(texts[0]) != path_segment(texts[1])

    @given(st.from_regex(r"[a-zA-Z0-9_.=-]{1,150}", fullmatch=True).filter(lambda text: text.strip(".") != ""))
    def test_ordinary_names_stay_as_they_are(self, text: str) -> None:
        assert path_segment(text) == text

    def test_made_up_names_are_names(self) -> None:
        for _ in range(100):
            name = new_execution_name()
            check_execution_name(name)
            assert len(name) == 20

    def test_only_exact_placeholders_are_replaced(self) -> None:
        assert namespace("{{ project }}-{{ domain }}-{{domain}}", "p", "d") == "p-d-{{domain}}"


class TestLabels:
    @pytest.mark.parametrize("key", ["a", "A.b-c_9", "example.com/x", "x" * 63, "a.b/" + "y" * 63])
    def test_qualified_names_are_keys(self, key: str) -> None:
        assert label_key_problems(key) == []

    @pytest.mark.parametrize("key", ["", "-a", "a-", "a b", "/x", "Upper.com/x", "x" * 64, "a/b/c", "é", "a\n", "x/"])
    def test_others_are_not(self, key: str) -> None:
        assert label_key_problems(key)
        with pytest.raises(InvalidArgument, match=re.escape(f"invalid label key [{key}]: ")):
            check_labels({key: ""})

    @pytest.mark.parametrize("value", ["x" * 64, "-", "a b", "a\n", "é"])
    def test_values_are_checked_too(self, value: str) -> None:
        with pytest.raises(InvalidArgument, match="invalid label value"):
            check_labels({"k": value})

    def test_there_are_at_most_sixteen(self) -> None:
        check_labels({f"k{at}": "" for at in range(16)})
        with pytest.raises(InvalidArgument, match=r"^labels map cannot exceed 16 entries$"):
            check_labels({f"k{at}": "" for at in range(17)})


QUANTITIES = st.one_of(
    st.integers(0, 5000).map(lambda value: f"{value}m"),
    st.integers(0, 64).map(str),
    st.integers(0, 64).map(lambda value: f"{value}Gi"),
)
TASK = Identifier(name="t")


def container(requests: dict[str, str], limits: dict[str, str]) -> Resources:
    resources = Resources()
    for entries, target in ((requests, resources.requests), (limits, resources.limits)):
        for name, value in entries.items():
            target.add(name=name, value=value)
    return resources


def accepted(resources: Resources, platform: ResolvedResources) -> bool:
    try:
        check_container(TASK, resources, platform)
    except InvalidArgument:
        return False
    return True


class TestTaskResources:
    @given(st.sampled_from(["CPU", "MEMORY", "EPHEMERAL_STORAGE"]), QUANTITIES, st.none() | QUANTITIES, QUANTITIES)
    def test_rounded_up_values_decide(self, name: str, request: str, limit: str | None, ceiling: str) -> None:
        platform = ResolvedResources()
        if parse_quantity(ceiling):
            platform.limits[{"CPU": "cpu", "MEMORY": "memory"}.get(name, "ephemeral-storage")] = ceiling
        up = [math.ceil(parse_quantity(each)) for each in (request, limit or request)]
        fits = up[0] <= up[1] and (not parse_quantity(ceiling) or up[1] <= math.ceil(parse_quantity(ceiling)))
        limits = {} if limit is None else {name: limit}
        assert accepted(container({name: request}, limits), platform) == fits

    def test_a_limit_alone_is_not_compared(self) -> None:
        assert accepted(container({}, {"CPU": "64"}), ResolvedResources(limits={"cpu": "1"}))

    def test_gpus_are_whole_and_equal(self) -> None:
        none = ResolvedResources()
        assert accepted(container({"GPU": "2"}, {"GPU": "2"}), none)
        assert not accepted(container({"GPU": "1"}, {"GPU": "2"}), none)
        assert not accepted(container({"GPU": "1500m"}, {}), none)
        assert not accepted(container({"GPU": "2"}, {}), ResolvedResources(limits={"gpu": "1"}))

    def test_a_resource_is_named_once(self) -> None:
        resources = container({"CPU": "1"}, {})
        resources.requests.add(name="CPU", value="1")
        with pytest.raises(InvalidArgument, match="can't specify CPU limit for task"):
            check_container(TASK, resources, ResolvedResources())

    def test_storage_is_ignored(self) -> None:
        assert accepted(container({"STORAGE": "nonsense"}, {}), ResolvedResources())

    def test_pods_are_held_to_the_same_and_stay_as_they_are(self) -> None:
        pod = K8sPod()
        ParseDict(
            {"containers": [{"name": "a"}, {"resources": {"requests": {"cpu": 3, "example.com/x": "9"}}}]}, pod.pod_spec
        )
        before = pod.SerializeToString(deterministic=True)
        check_pod(TASK, pod, ResolvedResources(limits={"cpu": "3"}))
        with pytest.raises(InvalidArgument, match=r"Requested CPU default \[3\] is greater than current limit"):
            check_pod(TASK, pod, ResolvedResources(limits={"cpu": "2"}))
        assert pod.SerializeToString(deterministic=True) == before

    def test_a_row_replaces_the_settings_whole(self) -> None:
        row = ParseDict(
            {"task_resource_attributes": {"limits": {"cpu": "4", "gpu": "0", "memory": "junk"}}}, MatchingAttributes()
        )
        assert platform_resources(row.task_resource_attributes, TaskResourcesConfig()) == ResolvedResources(
            limits={"cpu": "4"}
        )

    def test_settings_merge_key_by_key(self) -> None:
        config = AdminConfig.model_validate({"task_resources": {"limits": {"cpu": 8}, "defaults": {"memory": "0"}}})
        assert platform_resources(None, config.task_resources) == ResolvedResources(
            defaults={"cpu": "2"}, limits={"cpu": "8", "memory": "1Gi", "gpu": "1"}
        )

    @given(st.text(max_size=12))
    def test_no_quantity_is_a_defect(self, text: str) -> None:
        said = complaint(check_container, TASK, container({"CPU": text}, {"MEMORY": text}), ResolvedResources())
        if said is None:
            assert parse_quantity(text).is_finite()
        else:
            assert "request failed for value" in said


KEYS = st.sampled_from(["", "x", "y"])


class TestAttributes:
    @given(st.lists(st.tuples(KEYS, KEYS, KEYS, KEYS, st.integers(0, 5)), max_size=12))
    def test_the_highest_priority_among_matches_wins(self, keys: list[tuple[str, str, str, str, int]]) -> None:
        rows = [
            AttributeRow(
                *key[:4], "EXECUTION_CLUSTER_LABEL", key[4],
                ParseDict({"execution_cluster_label": {"value": str(at)}}, MatchingAttributes()).SerializeToString(),
            )
            for at, key in enumerate(keys)
        ]  # fmt: skip
        found = most_specific(
            rows, MatchableResource.EXECUTION_CLUSTER_LABEL, project="x", domain="x", workflow="x", launch_plan="y"
        )
        matching = [at for at, key in enumerate(keys) if all(k in ("", w) for k, w in zip(key, "xxxy", strict=False))]
        if not matching:
            assert found is None
        else:
            assert found is not None
            best = max(matching, key=lambda at: keys[at][4])
            assert keys[int(found.execution_cluster_label.value)][4] == keys[best][4]
        assert most_specific(rows, MatchableResource.TASK_RESOURCE, project="x") is None


SOURCES = st.lists(
    st.builds(
        lambda parallelism, label, interruptible, overwrite, role: ParseDict(
            {
                "max_parallelism": parallelism,
                "labels": {"values": {label: label} if label else {}},
                **({} if interruptible is None else {"interruptible": interruptible}),
                "overwrite_cache": overwrite,
                "security_context": {"run_as": {"iam_role": role}},
            },
            WorkflowExecutionConfig(),
        ),
        st.integers(-2, 3), st.sampled_from(["", "a", "b"]), st.none() | st.booleans(), st.booleans(),
        st.sampled_from(["", "r", "s"]),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


class TestMerging:
    @given(SOURCES, st.none() | st.just(Identity(iam_role="old")))
    def test_the_first_that_says_something_wins(
        self, sources: list[WorkflowExecutionConfig], fallback: Identity | None
    ) -> None:
        merged = launching.merge_configs(sources, fallback)
        assert merged.max_parallelism == next((s.max_parallelism for s in sources if s.max_parallelism > 0), 0)
        assert merged.labels == next((s.labels for s in sources if s.labels.values), WorkflowExecutionConfig().labels)
        said = [s.interruptible.value for s in sources if s.HasField("interruptible")]
        assert merged.HasField("interruptible") == bool(said)
        assert not said or merged.interruptible.value == said[0]
        assert merged.overwrite_cache == any(s.overwrite_cache for s in sources)
        roles = [s.security_context.run_as.iam_role for s in sources]
        if fallback is not None:
            roles[-1] = "old"
        assert merged.security_context.run_as.iam_role == next((role for role in roles if role), "")

    def test_settings_are_the_last_source(self) -> None:
        config = FlyteAdminConfig(max_parallelism=4, labels={"a": "b"}, k8s_service_account="svc", envs={"K": "V"})
        application = launching.application_config(config)
        merged = launching.merge_configs([ExecutionSpec(), application], None)
        spec = ExecutionSpec()
        launching.resolve_spec(spec, merged, Caller(user_id="u"))
        assert spec.labels.values == {"a": "b"}
        assert spec.security_context.run_as == Identity(k8s_service_account="svc", execution_identity="u")
        assert [(each.key, each.value) for each in spec.envs.values] == [("K", "V")]
        assert not spec.HasField("interruptible")

    def test_identity_is_annotated_only_where_configured(self) -> None:
        config = FlyteAdminConfig(inject_identity_annotations=True, identity_annotation_keys=("sub", "email", "odd"))
        assert launching.identity_annotations(FlyteAdminConfig(), Caller(user_id="u")) == {}
        assert launching.identity_annotations(config, Caller()) == {}
        assert launching.identity_annotations(config, Caller(user_id="u")) == {"flyte.org/user-sub": "u"}
        assert launching.identity_annotations(config, Caller(user_id="u", app_id="a")) == {
            "flyte.org/app-sub": "a", "flyte.org/app-email": "a",
        }  # fmt: skip


class TestClusters:
    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=6), st.sampled_from(["", "l", "m"]))
    def test_only_enabled_clusters_are_chosen_and_always_the_same(
        self, clusters: list[tuple[str, bool]], label: str
    ) -> None:
        config = ClustersConfig.model_validate(
            {
                "clusterConfigs": [{"name": name, "enabled": enabled} for name, enabled in clusters],
                "labelClusterMap": {"l": [{"id": "a", "weight": 0}, {"id": "b", "weight": 0}]},
            }
        )
        try:
            chosen = launching.choose_cluster(config, label, "e1")
        except AerodromeError:
            return
        assert chosen == launching.choose_cluster(config, label, "e1")
        if clusters:
            assert (chosen, True) in clusters
        else:
            assert chosen == "local"
