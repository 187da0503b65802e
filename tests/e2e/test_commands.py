"""`aerodrome up`, `down` and `status`: what they say when something is in the way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .instance import Instance, running, wait_until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A platform of these tests' own."""
    base = tmp_path_factory.mktemp("commands")
    with running(Instance(base / "the data", base / "home")) as started:
        yield started


def test_status_says_where_it_is(own: Instance) -> None:
    done = own.aerodrome("status")
    assert done.returncode == 0
    assert done.stdout.startswith("ready")
    for expected in (str(own.port), str(own.pid), str(own.data_dir)):
        assert expected in done.stdout


def test_a_second_platform_on_the_same_directory_is_told_who_has_it(own: Instance) -> None:
    for arguments in (("--detach",), ()):
        done = own.aerodrome("up", "--port", "0", *arguments)
        assert done.returncode != 0
        assert "running instance" in done.stderr
        assert str(own.pid) in done.stderr
        assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    other = Instance(tmp_path / "data", tmp_path / "home")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = other.aerodrome("up", "--detach", "--port", str(port))
    assert done.returncode != 0
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
    wait_until("nothing of it is left", lambda: not other.processes(), seconds=20)


def test_nothing_is_said_to_run_where_nothing_runs(tmp_path: Path) -> None:
    nowhere = Instance(tmp_path / "data", tmp_path / "home")
    assert nowhere.aerodrome("status").returncode == 3
    done = nowhere.aerodrome("down")
    assert done.returncode == 0
    assert "Nothing runs" in done.stdout
