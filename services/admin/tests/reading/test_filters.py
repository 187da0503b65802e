"""The filter language, without a database."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aerodrome.admin.domain.filters import (
    COLUMNS,
    JOINABLE,
    MAX_EXPRESSIONS,
    MAX_VALUES,
    Entity,
    Expression,
    Function,
    Kind,
    join,
    parse,
    sort_kind,
    split,
)
from aerodrome.stdlib.errors import InvalidArgument

PRIMARIES = sorted(JOINABLE, key=lambda entity: entity.code)
plain = st.text(st.characters(exclude_characters="+(),\n", exclude_categories=["Cs"]), min_size=1)
values = st.text(st.characters(exclude_characters="+,\n)", exclude_categories=["Cs"]), min_size=1).filter(
    lambda value: value[0] not in " \t\f\r"
)
expressions = st.builds(Expression, function=plain, field=plain, value=values.filter(lambda value: "(" not in value))


@given(st.lists(expressions, min_size=1, max_size=MAX_EXPRESSIONS))
def test_what_was_joined_is_split_again(written: list[Expression]) -> None:
    assert split(join(written)) == tuple(written)


@given(st.text(), st.sampled_from(PRIMARIES))
@example("((((,,,,", Entity.EXECUTION)
@example("eq(a,b)\n", Entity.EXECUTION)
@example("eq(user,\ud800)", Entity.EXECUTION)
@example("eq(state," + "9" * 5000 + ")", Entity.EXECUTION)
@example("eq(duration," + "9" * 5000 + "h)", Entity.EXECUTION)
@example("eq(duration,1e999999999)", Entity.EXECUTION)
@example("eq(created_at,0001-01-01T00:00:00-23:59)", Entity.EXECUTION)
@example("eq(created_at,9999-12-31T23:59:59-23:59)", Entity.EXECUTION)
def test_any_text_is_understood_or_refused(text: str, primary: Entity) -> None:
    try:
        parse(text, primary)
    except InvalidArgument as error:
        assert len(error.message) < 1000  # noqa: PT017


@given(st.data())
def test_fields_of_the_allow_list_take_values_of_their_kind(data: st.DataObject) -> None:
    primary = data.draw(st.sampled_from([each for each in PRIMARIES if JOINABLE[each]]))
    entity = data.draw(st.sampled_from(JOINABLE[primary]))
    column = data.draw(st.sampled_from(sorted(COLUMNS[entity])))
    kind = COLUMNS[entity][column]
    value = {
        Kind.TEXT: "text",
        Kind.INTEGER: "-12",
        Kind.INSTANT: "2026-01-02T03:04:05.678901234Z",
        Kind.DURATION: "1h0.5s",
    }[kind]
    function = data.draw(st.sampled_from([each for each in Function if not each.matches_pattern or kind is Kind.TEXT]))
    prefix = f"{entity.prefix}." if entity is not primary or data.draw(st.booleans()) else ""
    if entity is Entity.DESCRIPTION_ENTITY:
        prefix = ""
    (found,) = parse(f"{function.value}({prefix}{column},{value})", primary)
    assert (found.entity, found.column, found.function) == (entity, column, function)
    assert found.operands == (
        {
            Kind.TEXT: "text",
            Kind.INTEGER: -12,
            Kind.INSTANT: datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            Kind.DURATION: 3_600_500_000_000,
        }[kind],
    )


@pytest.mark.parametrize(
    ("text", "function", "field", "value"),
    [
        ("eq(a,b)", "eq", "a", "b"),
        ("eq(a, b)", "eq", "a", "b"),
        ("eq(a,  b )", "eq", "a", " b "),
        ("eq(a,b,c)", "eq", "a,b", "c"),
        ("eq(a(b),c)", "eq(a", "b)", "c"),
        ("eq(a,f(x))", "eq", "a", "f(x)"),
        ("eq(a,b) and more", "eq", "a", "b"),
        ("eq(a, )", "eq", "a", " "),
    ],
)
def test_a_field_ends_at_the_last_comma_and_a_value_at_the_last_parenthesis(
    text: str, function: str, field: str, value: str
) -> None:
    assert split(text) == (Expression(function, field, value),)


@pytest.mark.parametrize(
    "text", ["eq", "eq(a)", "eq(,a)", "(a,b)", "eq(a,)", "eq a,b)", "eq(a,b", "+", "eq(a,b)+", "eq(a,b\n)"]
)
def test_malformed_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid value for filters$"):
        split(text)


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        ("2.5", 2_500_000_000), ("-3", -3_000_000_000), ("1e3", 1_000_000_000_000), (".5", 500_000_000),
        ("300ms", 300_000_000), ("1h2m3s", 3_723_000_000_000), ("-1.5h", -5_400_000_000_000), ("1us", 1_000),
        ("1µs2ns", 1_002), ("+5m", None),
    ],
)  # fmt: skip
def test_durations_are_seconds_or_as_go_writes_them(value: str, nanoseconds: int | None) -> None:
    if nanoseconds is None:  # `+` separates expressions
        with pytest.raises(InvalidArgument):
            parse(f"eq(duration,{value})", Entity.EXECUTION)
        return
    assert parse(f"eq(duration,{value})", Entity.EXECUTION)[0].operands == (nanoseconds,)


@pytest.mark.parametrize(
    "value", ["", "h", "1", "1x", "1 h", "1h ", "nan", "inf", "1_000", "１s", "1h1", "9999999999999s"]
)
def test_other_durations_are_refused(value: str) -> None:
    if value == "1":
        assert parse("eq(duration,1)", Entity.EXECUTION)[0].operands == (10**9,)
        return
    with pytest.raises(InvalidArgument):
        parse(f"eq(duration,{value})", Entity.EXECUTION)


def test_lists_are_for_the_functions_that_take_them() -> None:
    assert parse("value_in(phase,A;B;)", Entity.EXECUTION)[0].operands == ("A", "B", "")
    with pytest.raises(InvalidArgument, match="takes one value"):
        parse("eq(phase,A;B)", Entity.EXECUTION)
    with pytest.raises(InvalidArgument, match="too many values"):
        parse(f"value_in(phase,{';' * MAX_VALUES})", Entity.EXECUTION)


def test_there_is_a_limit_to_how_much_is_asked() -> None:
    assert len(split("+".join(["eq(a,b)"] * MAX_EXPRESSIONS))) == MAX_EXPRESSIONS
    with pytest.raises(InvalidArgument, match="too many filters"):
        split("+".join(["eq(a,b)"] * (MAX_EXPRESSIONS + 1)))
    with pytest.raises(InvalidArgument, match="filters are too long"):
        split("x" * 2_000_000)


@pytest.mark.parametrize(
    ("primary", "text", "message"),
    [
        (Entity.EXECUTION, "eq(project,x)", "'e.project' is invalid filter"),
        (Entity.EXECUTION, "eq(a.b,x)", "'e.a.b' is invalid filter"),
        (Entity.EXECUTION, "eq(execution.spec,x)", "'e.spec' is invalid filter"),
        (Entity.TASK, "eq(workflow.name,x)", "'w' entity is not allowed in filters"),
        (Entity.NODE_EXECUTION, "eq(task.name,x)", "'t' entity is not allowed in filters"),
        (Entity.NODE_EXECUTION, "eq(name,x)", "'ne.name' is invalid filter"),
        (Entity.IDENTIFIER, "eq(name,x)", "'id' entity is not allowed in filters"),
        (Entity.EXECUTION, "contains(duration,1)", "contains compares texts"),
        (Entity.EXECUTION, "eq(mode,1.5)", r"\[1.5\] is not a whole number"),
        (Entity.EXECUTION, "eq(mode,99999999999999999999)", "is not a whole number"),
        (Entity.EXECUTION, "eq(created_at,yesterday)", r"\[yesterday\] is not an instant"),
    ],
)
def test_each_refusal_names_its_reason(primary: Entity, text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(text, primary)


def test_sort_keys_are_columns_of_what_is_listed() -> None:
    assert sort_kind(Entity.EXECUTION, "started_at") is Kind.INSTANT
    for key in ("startedAt", "launch_plan.name", "spec", "", "x" * 10_000):
        with pytest.raises(InvalidArgument, match=r"^invalid sort key '"):
            sort_kind(Entity.EXECUTION, key)
