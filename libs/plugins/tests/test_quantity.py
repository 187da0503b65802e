"""Kubernetes quantities and the bounds on what tasks ask for."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"), ("2", "2"), ("+3", "3"), ("-1", "-1"), ("500m", "0.5"), ("1.5", "1.5"), (".5", "0.5"), ("5.", "5"),
        ("1Ki", "1024"), ("1.5Gi", "1610612736"), ("1k", "1000"), ("2M", "2000000"), ("1E", "1e18"), ("1e3", "1000"),
        ("1E3", "1000"), ("12e-1", "1.2"), ("100u", "0.0001"), ("1n", "1e-9"), (" 1Gi ", "1073741824"),
    ],
)  # fmt: skip
def test_quantities_have_their_kubernetes_value(text: str, value: str) -> None:
    assert quantity.parse(text) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1gi", "one", "1e", "1e+", "0x10", "1,5", "١", "1" * 65, "NaN", "1mm"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        quantity.parse(text)


def test_the_range_is_that_of_kubernetes() -> None:
    assert quantity.parse("1e999") == 2**63 - 1
    assert quantity.parse("-8Ei") == -(2**63 - 1)
    assert quantity.parse("1e-12") == Decimal("1e-9")
    assert quantity.parse("0e-999") == 0


@pytest.mark.parametrize(("text", "units"), [("1.5", 2), ("500m", 1), ("0", 0), ("1Ki", 1024), ("1n", 1), ("-1.5", -1)])
def test_whole_units_round_up(text: str, units: int) -> None:
    assert quantity.whole(text) == units


def test_equal_values_compare_equal_in_every_notation() -> None:
    assert quantity.compare("1", "1000m") == 0
    assert quantity.compare("1Gi", "1G") == 1
    assert quantity.compare("100m", "0.2") == -1
    assert quantity.smaller("1000m", "1") == "1000m"


quantities = st.builds(
    lambda number, suffix: f"{number}{suffix}",
    st.integers(1, 5000),
    st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e2"]),
)
optional = st.none() | st.just("0") | quantities


@given(quantities, quantities, quantities)
def test_comparison_is_a_total_order(a: str, b: str, c: str) -> None:
    assert quantity.compare(a, b) == -quantity.compare(b, a)
    if quantity.compare(a, b) <= 0 and quantity.compare(b, c) <= 0:
        assert quantity.compare(a, c) <= 0


@given(optional, optional, optional, optional)
def test_adjusted_bounds_are_ordered_and_within_the_maximum(
    request: str | None, limit: str | None, default: str | None, maximum: str | None
) -> None:
    low, high = quantity.adjust(request, limit, default, maximum)
    assert (low is None) == (high is None)
    if low is None or high is None:
        assert not any(quantity.is_given(text) for text in (request, limit, default))
        return
    assert quantity.compare(low, high) <= 0
    if quantity.is_given(maximum):
        assert quantity.compare(high, str(maximum)) <= 0
    assert quantity.adjust(low, high, default, maximum) == (low, high)


@given(st.none() | quantities, st.none() | quantities, optional)
def test_clamping_adds_nothing_and_raises_nothing(request: str | None, limit: str | None, maximum: str | None) -> None:
    low, high = quantity.clamp(request, limit, maximum)
    for before, after in ((request, low), (limit, high)):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert quantity.compare(after, before) <= 0


@pytest.mark.parametrize(
    ("request_", "limit", "default", "maximum", "expected"),
    [
        (None, None, "1", None, ("1", "1")),
        (None, "2", "1", None, ("2", "2")),
        ("500m", None, "1", None, ("500m", "500m")),
        ("3", None, "1", "2", ("2", "2")),
        ("1", "4", "1", "2", ("1", "2")),
        ("4", "1", None, None, ("1", "1")),
        ("0", "0", "1", None, ("1", "1")),
        (None, None, None, "2", (None, None)),
        (None, None, "3", "2", ("2", "2")),
        ("1", "1", None, "0", ("1", "1")),
    ],
)
def test_adjustment_table(
    request_: str | None, limit: str | None, default: str | None, maximum: str | None, expected: tuple[str | None, ...]
) -> None:
    assert quantity.adjust(request_, limit, default, maximum) == expected
