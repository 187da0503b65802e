"""The `aerodrome` command: its help, what it refuses before anything starts, and what it says of an instance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from aerodrome.sandbox import instance
from aerodrome.sandbox.cli import main


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aerodrome")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, by its words."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(commands(main)), ids=[" ".join(path) or "aerodrome" for path, _ in commands(main)]
)
def test_every_command_explains_itself_and_its_options(path: tuple[str, ...], command: click.Command) -> None:
    for flag in ("--help", "-h"):
        result = invoke(*path, flag)
        assert result.exit_code == 0
        assert result.output.startswith(f"Usage: {' '.join(('aerodrome', *path))} ")
        assert command.help
        first = " ".join(command.help.splitlines()[0].split())
        assert first in " ".join(result.output.split()), "however its lines are broken"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{parameter.opts[0]} has no help"


@pytest.mark.parametrize("path", [(), ("up",)])
def test_the_way_in_shows_examples(path: tuple[str, ...]) -> None:
    output = invoke(*path, "--help").output
    _, _, examples = output.partition("Examples:\n")
    assert examples.lstrip().startswith("aerodrome up")


def test_the_version_is_told() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.output.split(",")[0]) == (0, "aerodrome")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_an_address_beyond_this_machine_is_refused_unless_insisted_upon(tmp_path: Path, host: str) -> None:
    data_dir = tmp_path / "data"
    result = invoke("up", "--host", host, "--data-dir", str(data_dir))
    assert result.exit_code == 1
    assert f"{host} is beyond this machine" in result.output
    assert "--insecure-bind" in result.output
    assert not data_dir.exists(), "nothing is made before the refusal"


def test_insisting_lets_the_address_through_to_what_is_checked_next(tmp_path: Path) -> None:
    arguments = ("up", "--host", "0.0.0.0", "--insecure-bind", "--image", "wrong", "--data-dir", str(tmp_path / "data"))
    result = invoke(*arguments)
    assert "beyond this machine" not in result.output
    assert "--image" in result.output


@pytest.mark.parametrize("image", ["name", "name=", "=path", "="])
def test_an_image_that_is_not_a_name_and_a_path_is_refused(tmp_path: Path, image: str) -> None:
    data_dir = tmp_path / "data"
    result = invoke("up", "--image", image, "--data-dir", str(data_dir))
    assert result.exit_code == 2
    assert f"--image: '{image}' is not of the form NAME=PATH" in result.output
    assert not data_dir.exists()


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    result = invoke("up", f"--port={port}")
    assert result.exit_code == 2
    assert "--port" in result.output


@pytest.mark.parametrize("option", ["--config", "--python"])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, option: str) -> None:
    result = invoke("up", option, str(tmp_path / "absent"))
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_detaching_onto_a_running_instance_names_it(tmp_path: Path) -> None:
    instance.announce(tmp_path, host="127.0.0.1", port=4321, ready=True)
    result = invoke("up", "--detach", "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert f"belongs to a running instance (process {os.getpid()}, at 127.0.0.1:4321)" in result.output


def test_the_status_of_a_stopped_instance_exits_with_3(tmp_path: Path) -> None:
    result = invoke("status", "--data-dir", str(tmp_path / "nothing"))
    assert result.exit_code == 3
    assert result.output == f"not running (data directory {tmp_path / 'nothing'})\n"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(("ready", "word"), [(True, "ready"), (False, "starting")])
def test_the_status_of_a_running_instance_says_where_it_is(tmp_path: Path, ready: bool, word: str) -> None:
    instance.announce(tmp_path, host="127.0.0.1", port=4321, ready=ready)
    result = invoke("status", "--data-dir", str(tmp_path))
    assert result.exit_code == 0
    assert result.output == (
        f"{word}: http://127.0.0.1:4321/console, process {os.getpid()}, data directory {tmp_path}\n"
    )


def test_a_data_directory_that_is_not_told_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert f"not running (data directory {tmp_path / 'aerodrome'})" in invoke("status").output


def test_stopping_what_does_not_run_is_fine(tmp_path: Path) -> None:
    result = invoke("down", "--data-dir", str(tmp_path))
    assert (result.exit_code, result.output) == (0, f"Nothing runs on {tmp_path}.\n")
