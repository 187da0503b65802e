"""Every kind of task that needs no cluster: by flytekit, on a platform of their own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin import execution_pb2
from flyteidl.core import execution_pb2 as phases
from flyteidl.core import identifier_pb2, types_pb2

from .instance import wait_until
from .plugged import Plugged

_T = phases.TaskExecution
_W = phases.WorkflowExecution
EARLY: Mapping[str, Mapping[str, Any]] = {
    "echoed": {"a": 1, "b": "x"},
    "added": {"a": 20, "b": 22},
    "nobody": {"a": 1},
    "through_files": {"number": 3, "ratio": 0.5, "flag": True, "text": "hello", "many": [4, 5]},
    "by_template": {"a": 3, "b": "two words; $(and) more"},
    "raw_without_output": {},
    "raw_with_wrong_output": {},
    "raw_that_says_why": {},
    "raw_without_command": {},
    "raw_that_exits": {},
    "in_a_pod": {"a": 3},
    "by_shell": {"text": "words"},
    "by_sql": {"least": 1},
    "with_a_bad_policy": {},
    "eating": {"mib": 300},
    "grown": {"mib": 400},
}


@pytest.fixture(scope="module")
def launched(plugged: Plugged) -> dict[str, identifier_pb2.WorkflowExecutionIdentifier]:
    """All of `EARLY`, and one that is patient, under way before the first test looks."""
    inputs = {**EARLY, "patient": {"marker": str(plugged.instance.home / "marker")}}
    return {name: plugged.launch(name, **given) for name, given in inputs.items()}


@pytest.fixture
def ended(plugged: Plugged, launched: dict[str, identifier_pb2.WorkflowExecutionIdentifier]) -> Any:
    """Waits for the end of one of them."""

    def wait(name: str) -> execution_pb2.Execution:
        return plugged.finish(launched[name])

    return wait


def job(folder: Path, name: str, *, go: bool = True) -> str:
    """The folder of a connector's job, which may end at once if `go`."""
    path = folder / name
    path.mkdir()
    if go:
        (path / "go").touch()
    return str(path)


@pytest.mark.parametrize(
    ("workflow", "outputs"),
    [
        ("echoed", [1, "x"]),
        ("added", [42]),
        ("by_template", ["3 and two words; $(and) more"]),
        ("in_a_pod", ["3 1"]),
        ("by_shell", ["words\nWORDS"]),
        ("by_sql", [42]),
        ("grown", [400]),
    ],
)
def test_it_gives_its_outputs(plugged: Plugged, ended: Any, workflow: str, outputs: list[Any]) -> None:
    given = [value.strip() if isinstance(value, str) else value for value in plugged.values(ended(workflow))]
    assert given == outputs


def test_an_echo_makes_no_process(plugged: Plugged, ended: Any) -> None:
    execution = ended("echoed")
    (attempt,) = plugged.attempts(execution.id)
    assert attempt.closure.phase == _T.SUCCEEDED
    assert attempt.closure.metadata.plugin_identifier == "echo"
    assert not list(plugged.instance.data_dir.glob(f"runtime/logs/*/{execution.id.name}*"))


def test_a_raw_container_reads_and_writes_files(plugged: Plugged, ended: Any) -> None:
    execution = ended("through_files")
    number, ratio, flag, text, file, folder, listing, again = plugged.values(execution)
    assert (number, ratio, flag, text) == (3, 0.5, True, "hello")
    assert Path(file).read_text() == "HELLO"
    assert {path.name: path.read_text() for path in Path(folder).iterdir()} == {"0": "4", "1": "5"}
    assert listing == "file flag inputs.json inputs.pb many number ratio text"
    assert again == "[4, 5]"
    outputs = plugged.outputs(execution)
    assert outputs["o5"].scalar.blob.metadata.type.dimensionality == types_pb2.BlobType.MULTIPART
    assert not Path(file).stat().st_mode & 0o222, "what succeeded can still be changed"


def test_nothing_of_a_raw_container_stays_in_its_volumes(plugged: Plugged, ended: Any) -> None:
    execution = ended("through_files")
    volumes = plugged.instance.data_dir / "runtime" / "volumes"
    wait_until("its volumes are gone", lambda: not list(volumes.glob(f"*/{execution.id.name}*")))


@pytest.mark.parametrize(
    ("workflow", "code", "says"),
    [
        ("nobody", "PluginNotFound", "'nobody-runs-this'"),
        ("raw_without_output", "OutputUploadFailed", "did not write number into its output directory"),
        ("raw_with_wrong_output", "OutputUploadFailed", "'many' is no integer"),
        ("raw_that_says_why", "RawContainerError", "no luck today"),
        ("raw_without_command", "StartError", "there is no executable './no-such-command'"),
        ("raw_that_exits", "Error", "exited with code 3"),
        ("with_a_bad_policy", "BadTaskSpecification", "aerodrome.retry.backoff: 'soon'"),
        ("eating", "OOMKilled", "its limit is 100 MiB"),
    ],
)
def test_it_fails_saying_what_to_do(ended: Any, workflow: str, code: str, says: str) -> None:
    error = ended(workflow).closure.error
    assert error.code.rpartition("|")[2] == code
    assert says in error.message
    assert error.message.rpartition("\n")[2].startswith("Next step: ")


def test_what_a_failed_container_said_last_is_in_its_error(ended: Any) -> None:
    assert "last words" in ended("raw_that_exits").closure.error.message


def test_a_retry_after_an_out_of_memory_kill_has_more(plugged: Plugged, ended: Any) -> None:
    first, second = plugged.attempts(ended("grown").id)
    assert first.closure.error.code == "OOMKilled"
    assert "its limit is 200 MiB" in first.closure.error.message
    assert second.closure.phase == _T.SUCCEEDED


def test_retries_wait_as_their_task_says(plugged: Plugged, ended: Any) -> None:
    assert plugged.values(ended("patient")) == [1]
    begun = [float(line) for line in (plugged.instance.home / "marker").read_text().split()]
    pauses = [after - before for before, after in itertools.pairwise(begun)]
    assert pauses[0] >= 1.0
    assert pauses[1] >= 2.0


# Connectors


def test_a_job_elsewhere_is_followed_to_its_end(plugged: Plugged, tmp_path: Path) -> None:
    folder = job(tmp_path, "job", go=False)
    execution = plugged.launch("slow", folder=folder, order="well")

    def link() -> list[str]:
        return [log.uri for each in plugged.attempts(execution) for log in each.closure.logs]

    wait_until("its log link is shown while it runs", link)
    (attempt,) = plugged.attempts(execution)
    assert attempt.closure.phase == _T.RUNNING
    (Path(folder) / "go").touch()
    over = plugged.finish(execution)
    assert plugged.values(over) == ["done well"]
    (attempt,) = plugged.attempts(execution)
    assert attempt.closure.custom_info["x"] == 1
    assert attempt.closure.metadata.plugin_identifier == "connector-service"
    assert [log.uri for log in attempt.closure.logs] == ["http://jobs.example.org/1"]
    assert not (Path(folder) / "deleted").exists()


def test_a_connectors_failures_are_retried_if_it_says_so(plugged: Plugged, tmp_path: Path) -> None:
    flaky, broken = job(tmp_path, "flaky"), job(tmp_path, "broken")
    lucky = plugged.run("slow", folder=flaky, order="flaky")
    assert plugged.values(lucky) == ["done flaky"]
    assert (Path(flaky) / "created").read_text() == "0\n1\n"
    failed = plugged.run("slow", folder=broken, order="fail")
    assert failed.closure.error.code == "TaskFailedWithError"
    assert "the job broke" in failed.closure.error.message
    assert (Path(broken) / "created").read_text() == "0\n"


def test_what_a_connector_refuses_shows_its_words(plugged: Plugged, tmp_path: Path) -> None:
    refused = plugged.run("slow", folder=job(tmp_path, "refused"), order="refuse").closure.error
    assert refused.code == "RetriesExhausted|TaskFailedWithError"
    assert "this job is refused" in refused.message
    negative = plugged.run("added", a=-1, b=1).closure.error
    assert "negative numbers are not added here" in negative.message


def test_an_abort_ends_the_job_elsewhere(plugged: Plugged, tmp_path: Path) -> None:
    folder = job(tmp_path, "hanging", go=False)
    execution = plugged.launch("slow", folder=folder, order="hang")
    wait_until("the job was made", (Path(folder) / "created").exists)
    plugged.terminate(execution)
    assert plugged.finish(execution).closure.phase == _W.ABORTED
    assert (Path(folder) / "deleted").exists()


def test_a_restart_goes_on_with_the_same_job(plugged: Plugged, tmp_path: Path) -> None:
    folder = job(tmp_path, "surviving", go=False)
    execution = plugged.launch("slow", folder=folder, order="on")
    wait_until("it runs", lambda: [a for a in plugged.attempts(execution) if a.closure.phase == _T.RUNNING])
    plugged.close()
    plugged.instance.down()
    (Path(folder) / "go").touch()
    plugged.instance.up()
    assert plugged.values(plugged.finish(execution)) == ["done on"]
    assert (Path(folder) / "created").read_text() == "0\n", "it was made twice"


def test_a_connector_that_is_down_is_named_and_its_return_noticed(plugged: Plugged, tmp_path: Path) -> None:
    plugged.stop_connector()
    failed = plugged.run("added", a=1, b=2).closure.error
    assert failed.code.rpartition("|")[2] == "ConnectorUnavailable"
    assert "connector slow" in failed.message
    assert "endpoint" in failed.message
    plugged.start_connector()
    wait_until("it adds again", lambda: plugged.run("added", a=1, b=2).closure.phase == _W.SUCCEEDED)
