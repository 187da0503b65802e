import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.stdlib.errors import Internal
from aerodrome.stdlib.postgres.queries import Queries, parse

TEXT = """-- What one needs to know.

-- name: get
SELECT 1
-- with a remark
FROM x;

-- name: put
INSERT INTO x VALUES ($1)
"""


def test_each_name_begins_a_statement_that_reaches_to_the_next() -> None:
    assert parse("x.sql", TEXT) == {"get": "SELECT 1\n-- with a remark\nFROM x", "put": "INSERT INTO x VALUES ($1)"}


def test_an_unknown_name_says_which_there_are() -> None:
    queries = Queries("a/x.sql", parse("x.sql", TEXT))
    assert queries.put == "INSERT INTO x VALUES ($1)"
    with pytest.raises(AttributeError, match=r"a/x\.sql has no query named drop; it has get, put"):
        _ = queries.drop


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1", "precedes the first"),
        ("SELECT 1\n-- name: a\nSELECT 2", "precedes the first"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "two queries named a"),
        ("-- name: a\n\n-- name: b\nSELECT 2", "the query a is empty"),
        ("-- name: a-b\nSELECT 1", "cannot be the name"),
    ],
)
def test_a_file_that_is_not_well_formed_is_refused(text: str, message: str) -> None:
    with pytest.raises(Internal, match=message):
        parse("x.sql", text)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True), st.integers(), max_size=6))
def test_what_is_written_is_read_back(statements: dict[str, int]) -> None:
    text = "\n".join(f"-- name: {name}\nSELECT {number};" for name, number in statements.items())
    assert parse("x.sql", text) == {name: f"SELECT {number}" for name, number in statements.items()}
