"""Which attributes apply, and how plugin overrides are merged.  Source: spec/control-plane.md, sections 8.2 and 8.3."""

from __future__ import annotations

from typing import Any

from flyteidl.admin.matchable_resource_pb2 import MatchableResource, MatchingAttributes
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.admin.domain.attributes import AttributeRow, Level, merge_plugin_overrides, most_specific

LABEL = MatchableResource.EXECUTION_CLUSTER_LABEL


def matching(attributes: dict[str, Any]) -> MatchingAttributes:
    return ParseDict(attributes, MatchingAttributes())


def label(value: str) -> MatchingAttributes:
    return matching({"executionClusterLabel": {"value": value}})


_parts = st.sampled_from(["", "a", "b"])
_levels = st.builds(lambda domain, workflow: Level("p", domain, workflow if domain else ""), _parts, _parts)


@given(st.dictionaries(_levels, st.integers(0, 1000)), st.sampled_from(["a", "b"]), st.sampled_from(["a", "b"]))
def test_what_applies_is_the_nearest_level_that_has_a_row(rows: dict[Level, int], domain: str, workflow: str) -> None:
    stored = [
        AttributeRow(
            each.project,
            each.domain,
            each.workflow,
            "",
            "EXECUTION_CLUSTER_LABEL",
            each.priority,
            label(str(value)).SerializeToString(),
        )
        for each, value in rows.items()
    ]
    found = most_specific(stored, LABEL, project="p", domain=domain, workflow=workflow)
    chain = [Level("p", domain, workflow), Level("p", domain), Level("p")]
    expected = next((rows[each] for each in chain if each in rows), None)
    assert found == (None if expected is None else label(str(expected)))


_overrides = st.lists(st.tuples(st.sampled_from("abcd"), st.text("xyz", max_size=2)), max_size=6).map(
    lambda pairs: matching(
        {"pluginOverrides": {"overrides": [{"taskType": kind, "pluginId": [plugin]} for kind, plugin in pairs]}}
    )
)


@given(_overrides, _overrides)
def test_a_merge_holds_each_task_type_once_and_the_newest_of_it(
    stored: MatchingAttributes, given_now: MatchingAttributes
) -> None:
    def newest(*each: MatchingAttributes) -> dict[str, list[str]]:
        return {
            entry.task_type: list(entry.plugin_id)
            for attributes in each
            for entry in attributes.plugin_overrides.overrides
        }

    merged = merge_plugin_overrides(stored, given_now)
    assert newest(merged) == newest(stored, given_now)
    assert len(merged.plugin_overrides.overrides) == len(newest(merged))
    assert merge_plugin_overrides(merged, given_now) == merged
