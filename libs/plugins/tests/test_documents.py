"""Copies of JSON documents."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.pods.documents import copied

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=30,
)


@given(DOCUMENTS)
def test_a_copy_is_equal_and_shares_nothing_that_can_change(document: object) -> None:
    def parts(value: object) -> list[int]:
        below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [] if below is None else [id(value), *(part for each in below for part in parts(each))]

    copy = copied(document)
    assert copy == document
    assert not set(parts(copy)) & set(parts(document))


def test_what_is_no_json_is_copied_too() -> None:
    given_pair: tuple[dict[str, list[int]], dict[str, str]] = ({"a": [1]}, MappingProxyType({}).copy())
    assert copied([given_pair]) == [given_pair]
    assert copied([given_pair])[0][0] is not given_pair[0]
