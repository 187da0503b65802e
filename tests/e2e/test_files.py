"""Files, directories, data frames and pickled objects between tasks, from the client and back to it."""

from __future__ import annotations

from pathlib import Path

from flyteidl.core import execution_pb2 as phases
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset

from .conftest import Registered

NAMES = ["below/two.txt", "one.txt"]


def test_files_directories_frames_and_pickles_travel_between_tasks(registered: Registered) -> None:
    execution = registered.run("files.produce_and_read", {"text": "between"})
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.error
    assert execution.outputs["text"] == "between"
    assert execution.outputs["names"] == NAMES
    assert execution.outputs["total"] == 6


def test_the_client_downloads_what_tasks_made(registered: Registered, tmp_path: Path) -> None:
    execution = registered.run("files.make", {"text": "made there"})
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.error
    assert execution.outputs["value"] == 42

    registered.remote.download(execution.outputs, download_to=str(tmp_path / "all"))
    texts = {path.name: path.read_text() for path in (tmp_path / "all").rglob("*.txt")}
    assert texts == {"made.txt": "made there", "one.txt": "made there", "two.txt": "made there"}
    assert list((tmp_path / "all").rglob("0000*")), "the data frame did not come"


def test_the_client_opens_what_tasks_made(registered: Registered) -> None:
    import pandas as pd

    outputs = registered.run("files.make", {"text": "opened"}).outputs
    file = outputs.get("file", as_type=FlyteFile)
    directory = outputs.get("directory", as_type=FlyteDirectory)
    frame = outputs.get("frame", as_type=StructuredDataset).open(pd.DataFrame).all()
    assert Path(file.download()).read_text() == "opened"
    root = Path(directory.download())
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*.txt")) == NAMES
    assert list(frame["n"]) == [1, 2, 3]


def test_what_the_client_has_is_uploaded_as_an_input(registered: Registered, tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "given.txt").write_text("from the client")
    (tmp_path / "given").mkdir()  # flat: the client puts the files of directories below it beside the others
    (tmp_path / "given" / "one.txt").write_text("1")
    (tmp_path / "given" / "two.txt").write_text("2")
    inputs = {
        "file": FlyteFile(str(tmp_path / "given.txt")),
        "directory": FlyteDirectory(str(tmp_path / "given")),
        "frame": StructuredDataset(dataframe=pd.DataFrame({"n": [10, 20]})),
    }
    execution = registered.run("files.given", inputs)
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.error
    assert execution.outputs["text"] == "from the client"
    assert execution.outputs["names"] == ["one.txt", "two.txt"]
    assert execution.outputs["total"] == 30


def test_a_consumer_cannot_change_what_a_producer_made(registered: Registered) -> None:
    execution = registered.run("files.tampering", {"text": "as it was"})
    assert execution.closure.phase == phases.WorkflowExecution.SUCCEEDED, execution.error
    assert execution.outputs["attempts"] == [
        "append: PermissionError",
        "overwrite: PermissionError",
        "truncate: PermissionError",
    ]
    assert execution.outputs["text"] == "as it was"
    assert Path(execution.outputs.get("file", as_type=FlyteFile).download()).read_text() == "as it was"
