"""flytekit's clients as they come: the command and FlyteRemote, registration, launching, watching, fetching."""

from __future__ import annotations

import re
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core import execution_pb2 as phases
from flytekit.exceptions.user import FlyteEntityNotExistException, FlyteInvalidInputException
from flytekit.remote import FlyteRemote

from .conftest import DOMAIN, PROJECT, Registered
from .instance import DEFAULT_PORT, Instance


def execution_name(said: str) -> str:
    """The execution whose link a command printed."""
    found = re.search(r"/executions/([a-z0-9]+)", said)
    assert found, said
    return found.group(1)


def test_clients_need_no_configuration(instance: Instance) -> None:
    if instance.port != DEFAULT_PORT:
        pytest.skip(f"somebody else listens on port {DEFAULT_PORT}, so that clients had to be told another one")
    assert not [name for name in instance.environment if name.startswith("FLYTE")]
    assert not list(instance.home.glob(".flyte/*"))


def test_register_says_what_it_registered(registered: Registered) -> None:
    assert "Successfully registered" in registered.said
    for name in ("kinds.everything", "files.make", "failures.retrying"):
        plan = registered.remote.fetch_launch_plan(name=name, version=registered.version)
        assert plan.id.name == name


def test_run_remote_takes_every_plain_type_on_the_command_line(
    instance: Instance, registered: Registered, project_folder: Path
) -> None:
    inputs = {
        "integer": "41",
        "number": "0.5",
        "text": "hello world",
        "moment": "2024-02-28T12:00:00",
        "span": "90m",
        "numbers": "[3, 4]",
        "counts": '{"b": 2}',
        "point": '{"x": 7, "y": 1.5, "tags": ["p"]}',
        "color": "blue",
        "maybe": "5",
        "either": "6",
    }
    arguments = [part for name, value in inputs.items() for part in (f"--{name}", value)] + ["--no-flag"]
    done = instance.pyflyte(
        "run", "--remote", "--wait", "--poll-interval", "1", "kinds.py", "everything", *arguments, cwd=project_folder
    )
    assert done.returncode == 0, done.stdout + done.stderr

    remote = registered.remote
    execution = registered.finish(remote.fetch_execution(name=execution_name(done.stdout)))
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED
    expected = {
        "integer": 42,
        "number": 1.0,
        "text": "hello world!",
        "flag": True,
        "moment": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "span": timedelta(hours=3),
        "numbers": [3, 4, 0],
        "counts": {"b": 2, "more": 1},
        "maybe": 5,
        "either": 6,
    }
    check_outputs(execution.outputs, expected, point=(8, 1.5, ["p", "seen"]), color="blue")


def test_defaults_of_a_launch_plan_stand_in_for_inputs(registered: Registered) -> None:
    execution = registered.run("kinds.everything", {"text": "given"})

    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED
    expected = {
        "integer": 2,
        "number": 5.0,
        "text": "given!",
        "flag": False,
        "moment": datetime(2024, 3, 1, 12, 30, tzinfo=UTC),
        "span": timedelta(hours=2),
        "numbers": [1, 2, 0],
        "counts": {"a": 1, "more": 1},
        "maybe": None,
        "either": "u",
    }
    check_outputs(execution.outputs, expected, point=(2, 2.5, ["t", "seen"]), color="red")


def check_outputs(outputs: Any, expected: dict[str, Any], *, point: tuple[int, float, list[str]], color: str) -> None:
    """Compare named outputs; what the SDK has to guess a class for is compared by its fields."""
    types = {
        "integer": int, "number": float, "text": str, "flag": bool, "moment": datetime, "span": timedelta,
        "numbers": list[int], "counts": dict[str, int], "maybe": int | None, "either": int | str,
    }  # fmt: skip
    for name, value in expected.items():
        assert outputs.get(name, as_type=types[name]) == value, name
    guessed = outputs["point"]
    assert (guessed.x, guessed.y, guessed.tags) == point
    assert getattr(outputs["color"], "value", outputs["color"]) == color


def test_a_launch_plan_brings_default_and_fixed_inputs(registered: Registered) -> None:
    with_defaults = registered.run("kinds.summary_of_three", {})
    assert with_defaults.outputs["total"] == 6
    assert with_defaults.outputs["label"] == "FIXED"
    assert registered.run("kinds.summary_of_three", {"numbers": [10]}).outputs["total"] == 10
    with pytest.raises(FlyteInvalidInputException):
        registered.launch("kinds.summary_of_three", {"label": "another"})


def test_the_links_that_clients_print_show_the_execution_and_its_log(registered: Registered) -> None:
    execution = registered.run("kinds.summary", {"numbers": [1, 2, 3, 4]})
    link = registered.remote.generate_console_url(execution)
    with urllib.request.urlopen(link, timeout=30) as page:
        shown = page.read().decode()
    assert execution.id.name in shown
    assert "SUCCEEDED" in shown.upper()
    (attempt,) = execution.node_executions["n0"].task_executions
    with urllib.request.urlopen(attempt.closure.logs[0].uri, timeout=30) as log:
        assert "4 numbers are summed up" in log.read().decode()


def test_a_single_task_can_be_run(registered: Registered) -> None:
    task = registered.remote.fetch_task(name="kinds.summarize", version=registered.version)
    execution = registered.finish(registered.remote.execute(task, inputs={"numbers": [4, 5], "label": "t"}))
    assert execution.outputs["total"] == 9


def test_recent_executions_begin_with_the_latest(registered: Registered) -> None:
    execution = registered.run("kinds.summary", {"numbers": [7]})
    recent = registered.remote.recent_executions(limit=20)
    names = [each.id.name for each in recent]
    assert execution.id.name in names
    created = [each.closure.created_at for each in recent]
    assert created == sorted(created, reverse=True)


def test_sync_shows_nodes_and_their_data(registered: Registered) -> None:
    execution = registered.remote.sync(registered.run("kinds.summary", {"numbers": [2, 3]}), sync_nodes=True)
    node = execution.node_executions["n0"]
    assert node.closure.phase == phases.NodeExecution.SUCCEEDED
    assert node.inputs["numbers"] == [2, 3]
    assert node.outputs["total"] == 5
    (attempt,) = node.task_executions
    assert attempt.closure.phase == phases.TaskExecution.SUCCEEDED
    assert attempt.closure.logs
    assert attempt.closure.logs[0].uri.startswith("http")


def test_a_launch_of_the_same_name_is_the_same_execution(registered: Registered) -> None:
    name = "again" + datetime.now(UTC).strftime("%H%M%S%f")
    first = registered.launch("kinds.summary", {"numbers": [1]}, execution_name=name)
    second = registered.launch("kinds.summary", {"numbers": [2]}, execution_name=name)
    assert first.id == second.id
    assert registered.finish(second).outputs["total"] == 1


def test_fetch_brings_outputs_to_the_command_line(instance: Instance, registered: Registered, tmp_path: Path) -> None:
    execution = registered.run("files.make", {"text": "fetched"})
    target = tmp_path / "fetched"
    uri = f"flyte://v1/{PROJECT}/{DOMAIN}/{execution.id.name}/n2/o"
    done = instance.pyflyte("fetch", "--recursive", uri, str(target), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetched" in [path.read_text() for path in target.rglob("*") if path.is_file()], done.stdout


def test_an_unknown_workflow_is_said_to_be_unknown(instance: Instance, remote: FlyteRemote) -> None:
    with pytest.raises(FlyteEntityNotExistException):
        remote.fetch_launch_plan(name="nobody.registered.this", version="v1")


def test_a_workflow_that_fails_makes_the_waiting_command_fail(
    instance: Instance, project_folder: Path, tmp_path: Path
) -> None:
    done = instance.pyflyte(
        "run", "--remote", "--wait", "--poll-interval", "1",
        "failures.py", "failing", "--marker", str(tmp_path / "marker"),
        cwd=project_folder,
    )  # fmt: skip
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert done.returncode != 0
