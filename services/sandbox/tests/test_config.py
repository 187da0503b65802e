"""The defaults of a single machine lie below everything that a user says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from aerodrome.sandbox.beginning import is_loopback, surely_embedded
from aerodrome.sandbox.config import SandboxConfig, read
from aerodrome.stdlib.errors import AerodromeError


def written(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content)))
    return path


def reading(
    data_dir: Path, *files: Path, python: Path | None = None, images: Mapping[str, Path] | None = None
) -> SandboxConfig:
    return read(files, data_dir=data_dir, host="127.0.0.1", port=0, python=python, images=images or {})


def test_without_a_file_everything_lies_in_the_data_directory(tmp_path: Path) -> None:
    config = reading(tmp_path)
    for storage in (config.admin.storage, config.propeller.storage):
        assert (storage.type, storage.container) == ("local", str(tmp_path / "store"))
    assert config.propeller.propeller.runtime.directory == tmp_path / "runtime"
    assert config.embedded_database
    assert config.loopback
    assert (config.data_dir, config.host, config.port) == (tmp_path, "127.0.0.1", 0)


def test_environments_of_the_command_line_reach_the_runtime(tmp_path: Path) -> None:
    config = reading(tmp_path, python=Path("/p"), images={"analysis": Path("/a")})
    runtime = config.propeller.propeller.runtime
    assert (runtime.python, runtime.images) == (Path("/p"), {"analysis": Path("/a")})


def test_a_users_file_wins_over_the_defaults_and_leaves_the_rest(tmp_path: Path) -> None:
    user = written(tmp_path / "user.yaml", {"propeller": {"runtime": {"slots": 3, "grace": "1s"}}})
    runtime = reading(tmp_path, user).propeller.propeller.runtime
    assert (runtime.slots, runtime.grace) == (3, timedelta(seconds=1))
    assert runtime.directory == tmp_path / "runtime"
    elsewhere = written(tmp_path / "elsewhere.yaml", {"storage": {"container": str(tmp_path / "other")}})
    config = reading(tmp_path, elsewhere)
    assert config.admin.storage.container == config.propeller.storage.container == str(tmp_path / "other")
    assert config.admin.storage.type == "local"


def test_later_files_win_over_earlier_ones(tmp_path: Path) -> None:
    first = written(tmp_path / "1.yaml", {"propeller": {"runtime": {"slots": 1, "grace": "1s"}}})
    second = written(tmp_path / "2.yaml", {"propeller": {"runtime": {"slots": 2}}})
    runtime = reading(tmp_path, first, second).propeller.propeller.runtime
    assert (runtime.slots, runtime.grace) == (2, timedelta(seconds=1))
    assert reading(tmp_path, second, first).propeller.propeller.runtime.slots == 1


def test_reading_again_forgets_what_the_last_start_was_told(tmp_path: Path) -> None:
    reading(tmp_path, python=Path("/p"), images={"analysis": Path("/a")})
    runtime = reading(tmp_path).propeller.propeller.runtime
    assert (runtime.python, runtime.images) == (None, {})


@pytest.mark.parametrize("address", [{"host": "db.example.org"}, {"host": "localhost", "port": 5433}])
def test_a_database_that_is_named_is_not_embedded(tmp_path: Path, address: Mapping[str, Any]) -> None:
    user = written(tmp_path / "user.yaml", {"database": {"postgres": address}})
    config = reading(tmp_path, user)
    assert not config.embedded_database
    assert config.admin.database.postgres.host == address["host"]


def test_settings_of_a_database_that_name_no_host_leave_it_embedded(tmp_path: Path) -> None:
    user = written(tmp_path / "user.yaml", {"database": {"maxOpenConnections": 7}})
    assert reading(tmp_path, user).embedded_database


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"propeler": {}}, "propeler"),
        ({"propeller": {"runtime": {"slotz": 1}}}, "slotz"),
        ({"propeller": {"runtime": {"slots": "many"}}}, "slots"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, content: Mapping[str, Any], key: str) -> None:
    fine = written(tmp_path / "fine.yaml", {"propeller": {"runtime": {"slots": 1}}})
    user = written(tmp_path / "mistaken.yaml", content)
    with pytest.raises(AerodromeError) as caught:
        reading(tmp_path, fine, user)
    assert key in caught.value.message
    assert "mistaken.yaml" in caught.value.message


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    user = tmp_path / "broken.yaml"
    user.write_text("a: [")
    with pytest.raises(AerodromeError, match=r"broken\.yaml"):
        reading(tmp_path, user)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_only_this_machines_own_addresses_are_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("files", "secrets_dir", "variables", "expected"),
    [
        ([], None, ["PATH", "AERODROME_LOGGER__LEVEL"], True),
        ([Path("config.yaml")], None, [], False),
        ([], Path("secrets"), [], False),
        ([], None, ["AERODROME_DATABASE__POSTGRES__HOST"], False),
        ([], None, ["DATABASE.HOST"], False),
        ([], None, ["AERODROME_DATA_BASE__HOST"], False),
    ],
)
def test_a_database_is_made_ahead_only_if_no_setting_can_say_otherwise(
    files: list[Path], secrets_dir: Path | None, variables: list[str], expected: bool
) -> None:
    assert surely_embedded(files, secrets_dir, variables) is expected
