"""Deterministic names: the vectors of the specification, and what holds for every name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins import names

EXECUTION = "f0123456789abcdef012"
LETTERS = list("xyzmnyzmnyzmn")


def test_vectors_of_fixed_and_joined_names() -> None:
    assert names.fixed("x" * 24, 20) == "fuaa3aji"
    assert names.join(LETTERS, 15) == "fe63sz6y"
    assert names.join(LETTERS, 15, 64) == "fwp4bky2kucex5"


def test_vectors_of_nodes_pods_and_child_executions() -> None:
    assert names.generated_name(EXECUTION, "n0", 0) == f"{EXECUTION}-n0-0"
    outer = names.unique_node_id("n0", 0, "n1")
    assert outer == "n0-0-n1"
    inner = names.unique_node_id(outer, 0, "dn0-long-node-name")
    assert inner == "ffkao32q"
    assert names.generated_name(EXECUTION, inner, 0) == f"{EXECUTION}-ffkao32q-0"
    assert names.child_execution_name(EXECUTION, "n1", 0) == "fqtxwq5szzusi5"
    assert names.join((EXECUTION, "n1", "0"), 20) == "fkq61ddy"


def test_vectors_of_shards() -> None:
    assert names.shard_key(EXECUTION) == 4
    assert names.raw_output_shard(f"{EXECUTION}-n0-0") == "gy"
    assert names.raw_output_shard(f"{EXECUTION}-ffkao32q-0") == "6r"
    assert names.raw_output_shard(f"{EXECUTION}-n0-0-n3-1") == "54"


def test_a_top_level_node_keeps_its_id_until_it_is_too_long() -> None:
    assert names.unique_node_id("", None, "n0") == "n0"
    assert names.unique_node_id("", None, "x" * 20) == "x" * 20
    assert names.unique_node_id("", None, "x" * 24) == "fuaa3aji"


def test_empty_leading_parts_vanish_and_later_ones_do_not() -> None:
    assert names.join(("", "", "a"), 20) == "a"
    assert names.join(("a", "", "b"), 20) == "a--b"


def test_a_hash_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit into 5"):
        names.fixed("abcdefgh", 5)


@given(st.text(), st.integers(8, 60))
def test_fixed_names_are_bounded_and_deterministic(text: str, limit: int) -> None:
    name = names.fixed(text, limit)
    assert len(name.encode()) <= limit
    assert name == names.fixed(text, limit)
    assert name == text or re.fullmatch(r"f[a-z1-6]{7}", name)


node_ids = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)


@given(node_ids, st.integers(0, 30), node_ids)
def test_unique_ids_and_child_names_have_at_most_20_characters(parent: str, attempt: int, node: str) -> None:
    unique = names.unique_node_id(parent, attempt, node)
    assert len(unique) <= 20
    assert len(names.child_execution_name(EXECUTION, unique, attempt)) <= 20


@pytest.mark.parametrize(
    ("generated", "pod"),
    [
        ("f0-n0-0", "f0-n0-0"),
        ("a.b-c", "a.b-c"),
        ("myNodeName-0", "my-node-name-0"),
        ("HTTPServer", "http-server"),
        ("Node_1", "node1"),
        ("-.x.-", "x"),
        ("ü", "fcgo4isq"),
    ],
)
def test_pod_names_become_dns_names(generated: str, pod: str) -> None:
    assert names.pod_name(generated) == pod


@given(st.text(min_size=1, max_size=300))
def test_every_pod_name_is_a_dns_1123_subdomain(generated: str) -> None:
    pod = names.pod_name(generated)
    assert len(pod) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", pod)
    assert names.pod_name(pod) == pod


def test_long_pod_names_stay_different() -> None:
    assert names.pod_name("A" * 300 + "b") != names.pod_name("A" * 300 + "c")


@pytest.mark.parametrize(
    ("generated", "key"), [("f0-n0-0", "f0_n0_0"), ("0f-n", "af_n"), ("_x", "ax"), ("", ""), ("ä.b", "a_b")]
)
def test_per_retry_keys_are_identifiers(generated: str, key: str) -> None:
    assert names.per_retry_unique_key(generated) == key


@given(st.text(max_size=200))
def test_labels_are_valid_label_values(text: str) -> None:
    assert re.fullmatch(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?", names.sanitize_label(text))


def test_known_values_of_fnv() -> None:
    assert names.fnv1a(b"", 32) == 0x811C9DC5
    assert names.fnv1a(b"a", 32) == 0xE40C292C
    assert names.fnv1a(b"a", 64) == 0xAF63DC4C8601EC8C
