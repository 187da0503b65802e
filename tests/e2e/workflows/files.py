"""Files, directories, data frames and pickled objects, made by one task and read by another."""

import os
from pathlib import Path
from typing import NamedTuple

from flytekit import task, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset


class Opaque:
    """Nothing that flytekit knows, so it travels as a pickle."""

    def __init__(self, value: int) -> None:
        self.value = value


class Read(NamedTuple):
    text: str
    names: list[str]
    total: int


class Made(NamedTuple):
    file: FlyteFile
    directory: FlyteDirectory
    frame: StructuredDataset
    value: int


class Tampered(NamedTuple):
    attempts: list[str]
    text: str
    file: FlyteFile


@task
def make_file(text: str) -> FlyteFile:
    path = Path("made.txt")
    path.write_text(text)
    return FlyteFile(str(path))


@task
def make_directory(text: str) -> FlyteDirectory:
    Path("made/below").mkdir(parents=True)
    Path("made/one.txt").write_text(text)
    Path("made/below/two.txt").write_text(text)
    return FlyteDirectory("made")


@task
def make_frame() -> StructuredDataset:
    import pandas as pd

    return StructuredDataset(dataframe=pd.DataFrame({"n": [1, 2, 3]}))


@task
def make_opaque(value: int) -> Opaque:
    return Opaque(value)


@task
def read_opaque(opaque: Opaque) -> int:
    return opaque.value


@task
def read(file: FlyteFile, directory: FlyteDirectory, frame: StructuredDataset) -> Read:
    import pandas as pd

    root = Path(directory.download())
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    total = int(frame.open(pd.DataFrame).all()["n"].sum())
    return Read(Path(file.download()).read_text(), names, total)


@workflow
def make(text: str = "content") -> Made:
    value = read_opaque(opaque=make_opaque(value=42))
    return Made(make_file(text=text), make_directory(text=text), make_frame(), value)


@workflow
def given(file: FlyteFile, directory: FlyteDirectory, frame: StructuredDataset) -> Read:
    return read(file=file, directory=directory, frame=frame)


@workflow
def produce_and_read(text: str = "content") -> Read:
    return read(file=make_file(text=text), directory=make_directory(text=text), frame=make_frame())


@task
def tamper(file: FlyteFile) -> list[str]:
    """Try to change the file that another task made, and say how each try went."""
    path = Path(file.download())
    tries = {
        "append": lambda: path.open("a").write("changed"),
        "overwrite": lambda: path.write_text("changed"),
        "truncate": lambda: os.truncate(path, 0),
    }
    said = []
    for name, attempt in tries.items():
        try:
            attempt()
        except OSError as error:
            said.append(f"{name}: {type(error).__name__}")
        else:
            said.append(f"{name}: done")
    return said


@task
def read_after(file: FlyteFile, attempts: list[str]) -> str:
    return Path(file.download()).read_text()


@workflow
def tampering(text: str = "content") -> Tampered:
    file = make_file(text=text)
    attempts = tamper(file=file)
    return Tampered(attempts, read_after(file=file, attempts=attempts), file)
