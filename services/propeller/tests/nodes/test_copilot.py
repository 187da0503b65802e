"""What the co-pilot does where there is no co-pilot: inputs as files, files as outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from flyteidl.core import interface_pb2, literals_pb2, types_pb2
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.plugins.templating import render_literal
from aerodrome.propeller.nodes.copilot import (
    CoPilotError,
    Download,
    Upload,
    download,
    download_of,
    own_error,
    simple_literal,
    upload,
    upload_of,
)
from aerodrome.stdlib.clock import SystemClock
from aerodrome.stdlib.storage.memory import MemStorage

RAW = "mem://store/raw"


@pytest.fixture
def storage() -> MemStorage:
    return MemStorage("store", clock=SystemClock())


def primitive(**value: Any) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(**value)))


def blob(uri: str, *, many: bool = False) -> literals_pb2.Literal:
    literal = literals_pb2.Literal()
    literal.scalar.blob.uri = uri
    literal.scalar.blob.metadata.type.dimensionality = (
        types_pb2.BlobType.MULTIPART if many else types_pb2.BlobType.SINGLE
    )
    return literal


def collection(*literals: literals_pb2.Literal) -> literals_pb2.Literal:
    return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=literals))


async def laid(storage: MemStorage, place: Path, form: str = "JSON", /, **inputs: literals_pb2.Literal) -> Path:
    reference = "mem://store/inputs.pb"
    await storage.write(reference, literals_pb2.LiteralMap(literals=inputs).SerializeToString())
    await download(storage, Download("v", reference, form), place / "in")
    return place / "in"


async def test_inputs_are_laid_out_by_their_type(storage: MemStorage, tmp_path: Path) -> None:
    await storage.write("mem://store/file", b"content")
    await storage.write("mem://store/folder/a", b"A")
    await storage.write("mem://store/folder/sub/b", b"B")
    struct = literals_pb2.Literal()
    struct.scalar.generic["key"] = 1
    folder = await laid(
        storage,
        tmp_path,
        number=primitive(integer=3),
        flag=primitive(boolean=True),
        text=primitive(string_value="two\nlines"),
        file=blob("mem://store/file"),
        folder=blob("mem://store/folder", many=True),
        many=collection(primitive(integer=1), collection(primitive(integer=2))),
        mapped=literals_pb2.Literal(map=literals_pb2.LiteralMap(literals={"k": primitive(integer=4)})),
        struct=struct,
    )
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    described = json.loads(found.pop("inputs.json"))
    assert literals_pb2.LiteralMap.FromString(found.pop("inputs.pb")).literals["number"] == primitive(integer=3)
    assert json.loads(found.pop("struct")) == {"key": 1}
    assert found == {
        "number": b"3",
        "flag": b"true",
        "text": b"two\nlines",
        "file": b"content",
        "folder/a": b"A",
        "folder/sub/b": b"B",
        "many/0": b"1",
        "many/1/0": b"2",
        "mapped/k": b"4",
    }
    assert described["number"] == 3
    assert described["many"] == [1, [2]]
    assert described["file"] == str(folder / "file")


async def test_the_form_of_the_description_is_chosen(storage: MemStorage, tmp_path: Path) -> None:
    folder = await laid(storage, tmp_path, "YAML", x=primitive(float_value=float("inf")), y=primitive(integer=1))
    assert yaml.safe_load((folder / "inputs.yaml").read_text()) == {"x": "+Inf", "y": 1}
    folder = await laid(storage, tmp_path, "PROTO", y=primitive(integer=1))
    assert sorted(path.name for path in folder.iterdir()) == ["inputs.pb", "y"], "what was there before is gone"


@pytest.mark.parametrize(
    ("name", "literal", "why"),
    [
        ("x", blob("mem://store/nothing"), "nothing at mem://store/nothing"),
        ("x", blob("mem://store/nothing", many=True), "nothing below"),
        ("../x", primitive(integer=1), "cannot be the name of a file"),
        ("x", literals_pb2.Literal(map=literals_pb2.LiteralMap(literals={"a/b": primitive(integer=1)})), "'a/b'"),
        ("x", literals_pb2.Literal(), "no value"),
        ("x", blob("s3://elsewhere/x"), "elsewhere"),
    ],
)
async def test_an_input_that_cannot_be_laid_out_is_named(
    storage: MemStorage, tmp_path: Path, name: str, literal: literals_pb2.Literal, why: str
) -> None:
    with pytest.raises(CoPilotError, match=why) as raised:
        await laid(storage, tmp_path, **{name: literal})
    assert raised.value.failure.code == "InputDownloadFailed"
    assert f"input {name!r}" in raised.value.failure.message
    assert raised.value.failure.retryable


def interface(**outputs: types_pb2.LiteralType) -> interface_pb2.TypedInterface:
    variables = {name: interface_pb2.Variable(type=kind) for name, kind in outputs.items()}
    return interface_pb2.TypedInterface(outputs=interface_pb2.VariableMap(variables=variables))


def simple(kind: int) -> types_pb2.LiteralType:
    return types_pb2.LiteralType(simple=kind)  # type: ignore[arg-type]


FILE = types_pb2.LiteralType(blob=types_pb2.BlobType(format="csv"))


async def test_outputs_are_read_by_their_declared_type(storage: MemStorage, tmp_path: Path) -> None:
    (tmp_path / "number").write_text(" 42\n")
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "file").write_bytes(b"a,b")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "one").write_bytes(b"1")
    (tmp_path / "folder" / "sub" / "two").write_bytes(b"2")
    order = Upload(
        "v", RAW, interface(number=simple(types_pb2.INTEGER), text=simple(types_pb2.STRING), file=FILE, folder=FILE)
    )
    outputs = await upload(storage, order, tmp_path)
    assert outputs.literals["number"] == primitive(integer=42)
    assert outputs.literals["text"] == primitive(string_value="hello")
    assert outputs.literals["file"].scalar.blob.uri == f"{RAW}/file"
    assert outputs.literals["file"].scalar.blob.metadata.type.format == "csv"
    assert await storage.read(f"{RAW}/file") == b"a,b"
    assert outputs.literals["folder"].scalar.blob.metadata.type.dimensionality == types_pb2.BlobType.MULTIPART
    assert await storage.read(f"{RAW}/folder/two") == b"2", "folders in it are flattened"


@pytest.mark.parametrize(
    ("kind", "files", "why"),
    [
        (simple(types_pb2.INTEGER), {}, "did not write x into its output directory, which has nothing"),
        (simple(types_pb2.INTEGER), {"y": "1"}, "which has y"),
        (simple(types_pb2.INTEGER), {"x.a": "1", "x.b": "2"}, "did not write x"),
        (simple(types_pb2.INTEGER), {"x": "many"}, "'many' is no integer"),
        (simple(types_pb2.BOOLEAN), {"x": "yes"}, "neither true nor false"),
        (simple(types_pb2.DATETIME), {"x": "yesterday"}, "is no datetime"),
        (simple(types_pb2.STRUCT), {"x": "[1]"}, "is no struct"),
        (simple(types_pb2.STRING), {"x": "x" * 1025}, "1025 bytes"),
        (types_pb2.LiteralType(collection_type=simple(types_pb2.INTEGER)), {"x": "1"}, "declare a file"),
        (FILE, {}, "did not write x"),
    ],
)
async def test_what_is_not_as_declared_is_named(
    storage: MemStorage, tmp_path: Path, kind: types_pb2.LiteralType, files: dict[str, str], why: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CoPilotError, match="output 'x'") as raised:
        await upload(storage, Upload("v", RAW, interface(x=kind)), tmp_path)
    assert why in raised.value.failure.message
    assert raised.value.failure.code == "OutputUploadFailed"


async def test_two_files_of_one_name_are_refused(storage: MemStorage, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "x" / folder).mkdir(parents=True)
        (tmp_path / "x" / folder / "same").touch()
    with pytest.raises(CoPilotError, match="two files in x have one name"):
        await upload(storage, Upload("v", RAW, interface(x=FILE)), tmp_path)


def test_a_task_may_say_itself_that_it_failed(tmp_path: Path) -> None:
    assert own_error(tmp_path) is None
    (tmp_path / "_ERROR").write_text("no luck\n")
    failure = own_error(tmp_path)
    assert failure is not None
    assert (failure.code, failure.message, failure.retryable) == ("RawContainerError", "no luck", True)


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans())
def test_a_value_is_read_back_from_its_text(value: float) -> None:
    kind, field = {
        bool: (types_pb2.BOOLEAN, "boolean"),
        int: (types_pb2.INTEGER, "integer"),
        float: (types_pb2.FLOAT, "float_value"),
    }[type(value)]
    literal = primitive(**{field: value})
    assert simple_literal(kind, render_literal(literal).encode()) == literal


@given(st.binary(max_size=40), st.sampled_from(types_pb2.SimpleType.values()))
def test_whatever_is_in_a_file_is_a_value_or_refused(content: bytes, kind: int) -> None:
    try:
        literal = simple_literal(kind, content)
    except ValueError:
        return
    assert literal.WhichOneof("value") == "scalar"


def test_a_pod_without_helpers_orders_nothing() -> None:
    pod = {"spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i", "command": ["sh"]}]}}
    assert download_of(pod) is None
    assert upload_of(pod) is None
