"""Secrets reach the tasks that ask for them, and are nowhere else (invariant I16)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import asyncpg
from flyteidl.core import execution_pb2 as phases

from aerodrome.stdlib.postgres.embedded import EmbeddedPostgres

from .instance import Instance, free_port
from .plugged import PASSWORD, TOKEN, Plugged


def test_a_task_finds_its_secrets_by_every_way_of_the_sdk(plugged: Plugged) -> None:
    (lengths,) = plugged.values(plugged.run("keeping"))
    assert lengths == [len(PASSWORD), len(PASSWORD), len(TOKEN), len(TOKEN)]


def test_a_raw_container_has_its_secrets(plugged: Plugged) -> None:
    assert plugged.values(plugged.run("raw_keeping")) == [len(TOKEN)]


def test_an_error_shows_the_name_of_a_secret_and_not_its_value(plugged: Plugged) -> None:
    execution = plugged.run("telling")
    assert execution.closure.phase == phases.WorkflowExecution.FAILED
    assert "[secret db/password]" in execution.closure.error.message
    assert PASSWORD not in str(execution)
    assert PASSWORD not in str(plugged.attempts(execution.id))


def test_a_missing_secret_fails_at_once_and_says_where_it_belongs(plugged: Plugged) -> None:
    execution = plugged.run("without_secret")
    assert execution.closure.error.code == "SecretNotFound"
    assert f"{plugged.instance.home}/secrets/db/nowhere" in execution.closure.error.message
    assert "FLYTE_SECRET_DB_NOWHERE" in execution.closure.error.message
    assert len(plugged.attempts(execution.id)) == 1


def test_no_value_lies_in_the_data_directory(plugged: Plugged) -> None:
    execution = plugged.run("keeping")
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED
    command = ["grep", "-rlaF", "-e", PASSWORD, "-e", TOKEN, "--", str(plugged.instance.data_dir)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    # What a task says by itself is its own: its log, and the error that it writes.
    assert not [path for path in found if not _said_by_the_task_itself(Path(path))]
    assert not list(Path("/dev/shm").glob(f"aerodrome-*/*/*{execution.id.name}*"))


async def test_no_row_has_a_value(plugged: Plugged) -> None:
    plugged.run("keeping")
    plugged.run("telling")
    database = EmbeddedPostgres(plugged.instance.data_dir / "postgres")
    await database.start()  # finds the one that runs
    connection = await asyncpg.connect(database.dsn("aerodrome"))
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        )
        assert any(column["data_type"] == "bytea" for column in columns)
        for column in columns:
            name, table = column["column_name"], column["table_name"]
            text = f'"{name}"' if column["data_type"] == "bytea" else f"convert_to(\"{name}\"::text, 'UTF8')"
            holds = f"position($1::bytea in {text}) > 0 OR position($2::bytea in {text}) > 0"
            found = await connection.fetchval(
                f'SELECT count(*) FROM "{table}" WHERE {holds}',
                PASSWORD.encode(),
                TOKEN.encode(),
            )
            assert found == 0, f"{table}.{name} has a secret"
    finally:
        await connection.close()


def _said_by_the_task_itself(path: Path) -> bool:
    if path.name == "error.pb":
        return True
    return path.parents[1].name == "logs" and b"the password is" in path.read_bytes()


def test_secrets_that_others_can_read_keep_the_platform_from_starting(tmp_path: Path) -> None:
    secret = tmp_path / "secrets" / "db" / "password"
    secret.parent.mkdir(parents=True)
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    instance = Instance(tmp_path / "data", tmp_path / "home", port=free_port())
    refused = instance.aerodrome(
        "up", "--detach", "--port", str(instance.port), "--secrets-dir", str(secret.parents[1])
    )
    try:
        assert refused.returncode != 0
        assert f"{secret} (644)" in refused.stdout + refused.stderr
        assert "chmod" in refused.stdout + refused.stderr
        assert PASSWORD not in refused.stdout + refused.stderr
    finally:
        instance.kill_all()
