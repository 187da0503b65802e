"""Every error ends with what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.api import ErrorKind, Failure
from aerodrome.plugins.catalogue import (
    ENTRIES,
    MAX_MESSAGE,
    NEXT_STEP,
    NOT_FAILURES,
    advised,
    bounded,
    explain,
    main,
    render,
)

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"
FAILURES = st.builds(
    Failure,
    code=st.text(max_size=20) | st.sampled_from([entry.code for entry in ENTRIES]),
    message=st.text() | st.sampled_from(["container c exited with code 3", "x " * MAX_MESSAGE]),
    kind=st.sampled_from(ErrorKind),
    retryable=st.booleans(),
)


def test_the_page_is_what_the_catalogue_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m aerodrome.plugins.catalogue docs/errors.md"


def test_the_page_is_written_to_the_file_that_is_named(tmp_path: Path) -> None:
    assert main([str(tmp_path / "errors.md")]) == 0
    assert (tmp_path / "errors.md").read_text(encoding="utf-8") == render()
    assert main([]) == 2


@given(FAILURES.filter(lambda failure: failure.code not in NOT_FAILURES))
def test_any_failure_gets_one_next_step_at_its_end_and_stays_bounded(failure: Failure) -> None:
    said = advised(failure)
    *_, last = said.message.split("\n")
    assert last.startswith(NEXT_STEP)
    assert last.endswith(".")
    assert len(said.message) <= MAX_MESSAGE
    assert advised(said) == said
    assert (said.code, said.kind, said.retryable) == (failure.code, failure.kind, failure.retryable)


@given(st.text(), st.integers(min_value=100, max_value=200))
def test_a_bounded_text_keeps_head_and_tail(text: str, most: int) -> None:
    said = bounded(text * 20, most)
    assert len(said) <= most
    assert said[:10] == (text * 20)[:10]
    assert said[-10:] == (text * 20)[-10:]


def test_what_was_ended_on_request_needs_no_advice() -> None:
    assert advised(Failure("Task Aborted", "not needed", ErrorKind.UNKNOWN, False)).message == "not needed"


@pytest.mark.parametrize(
    ("code", "kind", "message", "step"),
    [
        ("OOMKilled", ErrorKind.USER, "container c was ended by SIGKILL (exit code 137): OOMKilled", "task's memory"),
        ("RetriesExhausted|OOMKilled", ErrorKind.USER, "[1/1] attempts done.", "task's memory"),
        ("Interrupted", ErrorKind.SYSTEM, "container c was ended by SIGKILL (exit code 137)", "who did"),
        ("Interrupted", ErrorKind.SYSTEM, "its process vanished", "retried from the system's budget"),
        ("Error", ErrorKind.USER, "container c was ended by SIGSEGV (exit code 139)", "PYTHONFAULTHANDLER"),
        ("Error", ErrorKind.USER, "container c was ended by SIGTERM (exit code 143)", "who sends that signal"),
        ("Error", ErrorKind.USER, "container c exited with code 127\nsh: 1: frob: not found", "install the command"),
        ("Error", ErrorKind.USER, "container c exited with code 126", "executable"),
        ("Error", ErrorKind.USER, "container c exited with code 3\nwrong", "last lines of its log"),
        ("TimeoutExpired", ErrorKind.USER, "attempt 0 took longer than 2 s", "raise `timeout`"),
        ("TimedOut", ErrorKind.USER, "the node's time for all attempts is up", "timeout"),
        ("ContainersNotReady|ImagePullBackOff", ErrorKind.USER, "x|y", "image and its tag"),
        ("USER:RuntimeError", ErrorKind.USER, "ModuleNotFoundError: No module named 'torch'", "install the package"),
        ("USER:RuntimeError", ErrorKind.USER, "ZeroDivisionError: division by zero", "last lines of the traceback"),
        ("USER:RuntimeError", ErrorKind.USER, "TypeTransformerFailedError: a str", "annotation"),
        ("SYSTEM", ErrorKind.SYSTEM, "TypeTransformerFailedError: a str", "annotation"),
        ("OutputsNotFound", ErrorKind.UNKNOWN, "no outputs", "return instead"),
        ("OutputSizeExceeded", ErrorKind.UNKNOWN, "too large", "FlyteFile"),
        ("OutputsCorrupt", ErrorKind.SYSTEM, "no literal map", "nothing but flytekit"),
        ("ErrorFileBadFormat", ErrorKind.SYSTEM, "bad", "nothing but flytekit"),
        ("StartError", ErrorKind.USER, "the image 'x' selects the Python environment /p", "--image"),
        ("StartError", ErrorKind.USER, "there is no executable 'frob' on this machine", "install it"),
        ("StartError", ErrorKind.USER, "the environment of /p cannot run pyflyte-execute: no", "install flytekit"),
        ("UnsatisfiableResources", ErrorKind.USER, "1 x nvidia.com/gpu", "remove the request"),
        ("PluginNotFound", ErrorKind.USER, "no plugin", "connector"),
        ("42", ErrorKind.USER, "whatever the task said", "correct what the message names"),
        ("42", ErrorKind.SYSTEM, "whatever", "platform's log"),
    ],
)
def test_the_cause_is_recognised(code: str, kind: ErrorKind, message: str, step: str) -> None:
    assert step in explain(Failure(code, message, kind, retryable=False)).next_step


def test_a_traceback_of_megabytes_is_searched_at_its_ends_only() -> None:
    message = "x" * 5_000_000 + "\nModuleNotFoundError: No module named 'torch'"
    assert "install the package" in advised(Failure("USER:X", message, ErrorKind.USER, False)).message
