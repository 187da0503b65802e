"""What tasks may leave, however odd, ends in a terminal phase with its error, within seconds (invariant I13)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flyteidl.core import execution_pb2 as phases
from flytekit.remote import FlyteWorkflowExecution

from .conftest import Registered

_W = phases.WorkflowExecution
SECONDS = 20.0
"""Bound for all of them together on a busy machine; each takes a fraction of a second more than its task."""
BOUND_CHARACTERS = 110_000
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gigabyte of outputs": ("leaving", {"name": "outputs.pb", "what": "a gigabyte"}),
    "gigabyte of error": ("leaving", {"name": "error.pb", "what": "a gigabyte"}),
    "gigabyte of futures": ("leaving", {"name": "futures.pb", "what": "a gigabyte"}),
    "corrupt outputs": ("leaving", {"name": "outputs.pb", "what": "garbage"}),
    "cut outputs": ("leaving", {"name": "outputs.pb", "what": "a cut message"}),
    "corrupt error": ("leaving", {"name": "error.pb", "what": "garbage"}),
    "corrupt futures": ("leaving", {"name": "futures.pb", "what": "garbage"}),
    "no outputs": ("leaving", {"name": "", "what": "nothing"}),
    "long traceback": ("shouting", {"mib": 5}),
    "nan": ("odd_numbers", {"which": "nan"}),
    "infinity": ("odd_numbers", {"which": "inf"}),
    "infinity in a dict": ("odd_dict", {"which": "inf"}),
    "wrong type": ("wrong_type", {}),
    "missing import": ("importing", {}),
    "exit code": ("ending", {"how": "exit 7"}),
    "segmentation fault": ("ending", {"how": "signal 11"}),
    "killed": ("ending", {"how": "signal 9"}),
}


@pytest.fixture(scope="module")
def launched(registered: Registered) -> tuple[float, dict[str, FlyteWorkflowExecution]]:
    """All of them at once, and when."""
    begun = time.monotonic()
    return begun, {case: registered.launch(f"hostile.{name}", inputs) for case, (name, inputs) in CASES.items()}


@pytest.fixture(scope="module")
def ended(
    registered: Registered, launched: tuple[float, dict[str, FlyteWorkflowExecution]]
) -> dict[str, FlyteWorkflowExecution]:
    """All of them, over."""
    return {case: registered.finish(execution) for case, execution in launched[1].items()}


@pytest.mark.parametrize(
    ("case", "code", "says", "step"),
    [
        ("gigabyte of outputs", "OutputSizeExceeded", "1024.0 MiB", "FlyteFile"),
        ("gigabyte of error", "ErrorFileTooLarge", "error.pb", "shorten"),
        ("gigabyte of futures", "DynamicWorkflowBuildFailed", "more than 67108864 bytes", "dynamic task"),
        ("corrupt outputs", "OutputsCorrupt", "outputs.pb", "nothing but flytekit"),
        ("cut outputs", "OutputsCorrupt", "outputs.pb", "nothing but flytekit"),
        ("corrupt error", "ErrorFileBadFormat", "error.pb", "nothing but flytekit"),
        ("corrupt futures", "", "futures", ""),
        ("no outputs", "OutputsNotFound", "outputs.pb", "return instead"),
        ("long traceback", "USER:RuntimeError", "characters left out", "last lines of the traceback"),
        ("wrong type", "", "not a number", "annotation"),
        ("missing import", "USER:RuntimeError", "a_package_that_nobody_has", "install the package"),
        ("exit code", "Error", "exited with code 7", "last lines of its log"),
        ("segmentation fault", "Error", "SIGSEGV", "PYTHONFAULTHANDLER"),
        ("killed", "Interrupted", "SIGKILL", "who did"),
    ],
)
def test_it_ends_with_its_error_and_what_to_do(
    ended: dict[str, FlyteWorkflowExecution], case: str, code: str, says: str, step: str
) -> None:
    execution = ended[case]
    assert execution.closure.phase == _W.FAILED
    error = execution.error
    assert error.code.rpartition("|")[2] == code or not code
    assert says in error.message
    assert len(error.message) <= BOUND_CHARACTERS
    last = error.message.rpartition("\n")[2]
    assert last.startswith("Next step: ")
    assert step in last


@pytest.mark.parametrize(("case", "value"), [("nan", "nan"), ("infinity", "inf")])
def test_odd_floats_pass_from_task_to_task(ended: dict[str, FlyteWorkflowExecution], case: str, value: str) -> None:
    assert ended[case].closure.phase == _W.SUCCEEDED
    assert str(ended[case].outputs["o0"]) == value


def test_an_infinite_number_where_json_is_needed_ends_one_way_or_the_other(
    ended: dict[str, FlyteWorkflowExecution],
) -> None:
    assert ended["infinity in a dict"].closure.phase in (_W.SUCCEEDED, _W.FAILED)


def test_all_of_them_are_over_within_seconds(
    ended: dict[str, FlyteWorkflowExecution], launched: tuple[float, dict[str, FlyteWorkflowExecution]]
) -> None:
    latest = max(each.closure.updated_at for each in ended.values())
    first = min(each.closure.created_at for each in ended.values())
    assert (latest - first).total_seconds() < SECONDS
