import sys
from pathlib import Path

import pytest

from aerodrome.stdlib.errors import AlreadyExists, InvalidArgument
from aerodrome.stdlib.postgres.database import Database
from aerodrome.stdlib.postgres.metering import QueryMeter
from aerodrome.stdlib.postgres.queries import load_queries
from aerodrome.stdlib.telemetry import Metrics

SQL = """
-- name: add
INSERT INTO numbers (number) VALUES ($1);

-- name: list_all
-- with a remark first
SELECT number FROM numbers;

-- name: find
SELECT number FROM numbers WHERE number = $1;

-- name: take
WITH taken AS (DELETE FROM numbers RETURNING number) SELECT count(*) FROM taken;
"""


async def test_statements_are_timed_by_what_they_do(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "bakery" / "ovens"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "numbers.sql").write_text(SQL)
    monkeypatch.syspath_prepend(tmp_path)
    queries = load_queries("bakery.ovens", "numbers.sql")
    metrics = Metrics()
    database.use_meter(QueryMeter(metrics, service="bakery"))
    await database.execute("CREATE TABLE numbers (number integer PRIMARY KEY)")
    for number in (1, 2):
        await database.execute(queries.add, number)
    with pytest.raises(AlreadyExists):
        await database.execute(queries.add, 1)
    assert len(await database.fetch(queries.list_all)) == 2
    async with database.transaction() as conn:
        assert await conn.fetchval(queries.find, 2) == 2
        assert await conn.fetchrow(queries.find, 3) is None
    assert await database.fetchval(queries.take) == 2
    with pytest.raises(InvalidArgument):
        await database.fetch("SELECT 1 FROM nowhere")
    lines = (line.rpartition(" ")[::2] for line in metrics.render().decode().splitlines())
    shown = {name.removeprefix("flyte:"): float(value) for name, value in lines if "{" not in name and "#" not in name}
    counts = {name: value for name, value in shown.items() if name.endswith("_count")}
    assert counts == {
        "ovens:database:numbers:create_ms_count": 3,
        "ovens:database:numbers:list_ms_count": 1,
        "ovens:database:numbers:get_ms_count": 2,
        "ovens:database:numbers:delete_ms_count": 1,
        "bakery:database:other:query_ms_count": 2,
    }
    assert all(shown[name.removesuffix("_count") + "_sum"] > 0 for name in counts)
    errors = {name.rpartition(":")[2]: value for name, value in shown.items() if ":errors:" in name}
    assert errors == {"already_exists": 1, "undefined_table": 1, "postgres_error": 0}
    del sys.modules["bakery.ovens"], sys.modules["bakery"]
