"""The co-pilot's work, done by propeller where a runtime has no helper containers: a raw container's inputs as files,
and what it wrote as literals.

A pod says what is wanted by the helper containers that it carries (`aerodrome.plugins.pods.copilot`), so the same pod
runs on Kubernetes, where the helpers are real.  Source: spec/data-plane.md, section 2.11.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml
from flyteidl.core import interface_pb2, literals_pb2, types_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from aerodrome.plugins.api import ErrorKind, Failure, V1Pod
from aerodrome.plugins.templating import render_literal
from aerodrome.stdlib.config import parse_duration
from aerodrome.stdlib.errors import AerodromeError
from aerodrome.stdlib.storage import Storage

PROGRAM: Final = "/bin/flyte-copilot"
"""What helper containers run, by which they are recognised."""
ERROR_FILE: Final = "_ERROR"
"""File in the output directory by which a raw container says that it failed; its content is the message."""
MAX_SIMPLE_BYTES: Final = 1_024
MAX_ERROR_BYTES: Final = 1 << 20

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_UNREADABLE: Final = "structured datasets, schemas, unions, lists and maps cannot be written by a raw container"


class CoPilotError(Exception):
    """The files of a raw container are not what they have to be; `failure` is what becomes of the attempt."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(code, message, ErrorKind.USER, retryable=True)


@dataclass(frozen=True, slots=True)
class Download:
    """What the downloading helper is asked to do."""

    volume: str
    inputs: str
    """Reference of `inputs.pb`."""
    form: str
    """JSON, YAML or PROTO: how all inputs are written into one file besides."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What the uploading helper is asked to do."""

    volume: str
    raw_prefix: str
    interface: interface_pb2.TypedInterface


def download_of(pod: V1Pod) -> Download | None:
    """The download that a pod asks for, if any."""
    helper = _helper(pod, "download")
    if helper is None:
        return None
    volume, options = helper
    return Download(volume, options["from-remote"], options["format"])


def upload_of(pod: V1Pod) -> Upload | None:
    """The upload that a pod asks for, if any."""
    helper = _helper(pod, "sidecar")
    if helper is None:
        return None
    volume, options = helper
    interface = interface_pb2.TypedInterface.FromString(b64decode(options["interface"]))
    return Upload(volume, options["to-raw-output"], interface)


async def download(storage: Storage, order: Download, folder: Path) -> None:
    """Lay the inputs out in `folder`, which must be this attempt's own.  Raises CoPilotError."""
    try:
        data = await storage.read(order.inputs)
        inputs = literals_pb2.LiteralMap.FromString(data)
        await asyncio.to_thread(_emptied, folder)
        await asyncio.to_thread((folder / "inputs.pb").write_bytes, data)
        plain = {}
        for name, literal in inputs.literals.items():
            try:
                plain[name] = await _lay(storage, literal, folder / _safe(name))
            except (AerodromeError, OSError, ValueError) as error:
                raise CoPilotError("InputDownloadFailed", f"input {name!r}: {error}") from error
        await asyncio.to_thread(_write_all, order.form, plain, folder)
    except (AerodromeError, OSError, DecodeError) as error:
        raise CoPilotError("InputDownloadFailed", f"the inputs at {order.inputs}: {error}") from error


async def upload(storage: Storage, order: Upload, folder: Path) -> literals_pb2.LiteralMap:
    """The outputs that a raw container left in `folder`, its files stored.  Raises CoPilotError."""
    outputs = literals_pb2.LiteralMap()
    for name, variable in sorted(order.interface.outputs.variables.items()):
        try:
            literal = await _output(storage, variable.type, folder, name, f"{order.raw_prefix.rstrip('/')}/{name}")
        except (AerodromeError, OSError, ValueError) as error:
            raise CoPilotError("OutputUploadFailed", f"output {name!r}: {error}") from error
        outputs.literals[name].CopyFrom(literal)
    return outputs


def own_error(folder: Path) -> Failure | None:
    """The failure that a raw container reports in its output directory, if it does.  Blocks."""
    try:
        with (folder / ERROR_FILE).open("rb") as file:
            message = file.read(MAX_ERROR_BYTES).decode(errors="replace").strip()
    except OSError:
        return None
    return Failure("RawContainerError", message or "the task gave no message", ErrorKind.USER, retryable=True)


# Inputs


async def _lay(storage: Storage, literal: literals_pb2.Literal, path: Path) -> Any:
    """Write one value to `path`; its form in JSON.  Raises ValueError for what has no form as a file."""
    match literal.WhichOneof("value"):
        case "collection":
            members = {str(index): each for index, each in enumerate(literal.collection.literals)}
            laid = await _lay_all(storage, members, path)
            return list(laid.values())
        case "map":
            return await _lay_all(storage, literal.map.literals, path)
        case "scalar":
            return await _lay_scalar(storage, literal.scalar, literal, path)
        case "offloaded_metadata":
            data = await storage.read(literal.offloaded_metadata.uri)
            return await _lay(storage, literals_pb2.Literal.FromString(data), path)
    raise ValueError("it has no value")


async def _lay_all(storage: Storage, literals: Mapping[str, literals_pb2.Literal], path: Path) -> dict[str, Any]:
    await asyncio.to_thread(path.mkdir, mode=0o700)
    return {key: await _lay(storage, each, path / _safe(key)) for key, each in literals.items()}


async def _lay_scalar(storage: Storage, scalar: literals_pb2.Scalar, literal: literals_pb2.Literal, path: Path) -> Any:
    plain: Any
    match scalar.WhichOneof("value"):
        case "primitive":
            text, plain = render_literal(literal), _plain(scalar.primitive, literal)
            await asyncio.to_thread(path.write_text, text, "utf-8")
        case "none_type":
            plain = None
            await asyncio.to_thread(path.write_bytes, b"")
        case "generic":
            plain = json_format.MessageToDict(scalar.generic)
            await asyncio.to_thread(path.write_text, json.dumps(plain), "utf-8")
        case "binary":
            plain = str(path)
            await asyncio.to_thread(path.write_bytes, scalar.binary.value)
        case "error":
            plain = scalar.error.message
            await asyncio.to_thread(path.write_text, plain, "utf-8")
        case "union":
            return await _lay(storage, scalar.union.value, path)
        case "blob":
            plain = str(path)
            parts = scalar.blob.metadata.type.dimensionality == types_pb2.BlobType.MULTIPART
            await _fetch(storage, scalar.blob.uri, path, many=parts)
        case "schema":
            plain = str(path)
            await _fetch(storage, scalar.schema.uri, path, many=True)
        case "structured_dataset":
            plain = str(path)
            await _fetch(storage, scalar.structured_dataset.uri, path, many=True)
        case _:
            raise ValueError("it has no value")
    return plain


def _plain(primitive: literals_pb2.Primitive, literal: literals_pb2.Literal) -> Any:
    match primitive.WhichOneof("value"):
        case "integer":
            return primitive.integer
        case "float_value":
            finite = math.isfinite(primitive.float_value)  # JSON has no other numbers
            return primitive.float_value if finite else render_literal(literal)
        case "boolean":
            return primitive.boolean
    return render_literal(literal)


async def _fetch(storage: Storage, uri: str, path: Path, *, many: bool) -> None:
    """Bring an object, or all below a prefix, to `path`; files stored on this machine are read-only, and linked."""
    if not many:
        if await storage.head(uri) is None:
            raise ValueError(f"there is nothing at {uri}")
        await _bring(storage, uri, path)
        return
    prefix, found = uri.rstrip("/"), 0
    async for reference, _ in storage.list(prefix):
        relative = reference.removeprefix(prefix).lstrip("/") or os.path.basename(prefix)
        target = path.joinpath(*map(_safe, relative.split("/")))
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        await _bring(storage, reference, target)
        found += 1
    if not found:
        raise ValueError(f"there is nothing below {uri}")


async def _bring(storage: Storage, reference: str, path: Path) -> None:
    if reference.startswith("/"):
        await asyncio.to_thread(path.symlink_to, reference)
    else:
        data = await storage.read(reference, limit_bytes=0)
        await asyncio.to_thread(path.write_bytes, data)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _write_all(form: str, plain: Mapping[str, Any], folder: Path) -> None:
    match form:
        case "JSON":
            (folder / "inputs.json").write_text(json.dumps(plain), "utf-8")
        case "YAML":
            (folder / "inputs.yaml").write_text(yaml.safe_dump(plain, sort_keys=True), "utf-8")


def _safe(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot be the name of a file")
    return name


# Outputs


async def _output(
    storage: Storage, kind: types_pb2.LiteralType, folder: Path, name: str, target: str
) -> literals_pb2.Literal:
    match kind.WhichOneof("type"):
        case "blob":
            return await _stored(storage, kind.blob, folder / _safe(name), target)
        case "simple":
            return await asyncio.to_thread(_simple_of, kind.simple, folder, name)
        case "enum_type":
            literal = await asyncio.to_thread(_simple_of, types_pb2.STRING, folder, name)
            if literal.scalar.primitive.string_value not in kind.enum_type.values:
                raise ValueError(
                    f"{literal.scalar.primitive.string_value!r} is none of {', '.join(kind.enum_type.values)}"
                )
            return literal
    raise ValueError(f"{_UNREADABLE}: declare a file or a simple value")


async def _stored(storage: Storage, kind: types_pb2.BlobType, path: Path, target: str) -> literals_pb2.Literal:
    files: Sequence[Path] | None = await asyncio.to_thread(_files_of, path)
    if files is None:
        raise ValueError(f"the task did not write {path.name} into its output directory")
    many = await asyncio.to_thread(path.is_dir)
    for file in files:
        data = await asyncio.to_thread(file.read_bytes)
        await storage.write(f"{target}/{file.name}" if many else target, data)
    literal = literals_pb2.Literal()
    literal.scalar.blob.uri = target
    literal.scalar.blob.metadata.type.format = kind.format
    literal.scalar.blob.metadata.type.dimensionality = (
        types_pb2.BlobType.MULTIPART if many else types_pb2.BlobType.SINGLE
    )
    return literal


def _files_of(path: Path) -> Sequence[Path] | None:
    """The file, or the files below the directory, whose base names have to differ; None if there is nothing."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if len({file.name for file in files}) < len(files):
        raise ValueError(f"two files in {path.name} have one name; folders in it are not kept")
    return files


def _simple_of(kind: int, folder: Path, name: str) -> literals_pb2.Literal:
    path = folder / _safe(name)
    if not path.is_file():
        alike = sorted(each for each in _entries(folder) if each.name.startswith(f"{name}.") and each.is_file())
        if len(alike) != 1:
            found = ", ".join(sorted(each.name for each in _entries(folder))) or "nothing"
            raise ValueError(f"the task did not write {name} into its output directory, which has {found}")
        path = alike[0]
    size = path.stat().st_size
    if size > MAX_SIMPLE_BYTES:
        raise ValueError(
            f"{path.name} has {size} bytes, and a value may have {MAX_SIMPLE_BYTES}: declare the output as a file"
        )
    return simple_literal(kind, path.read_bytes())


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def simple_literal(kind: int, content: bytes) -> literals_pb2.Literal:
    """A value of a simple type (`types_pb2.SimpleType`) from its text.  Raises ValueError."""
    literal = literals_pb2.Literal()
    scalar = literal.scalar
    if kind == types_pb2.BINARY:
        scalar.binary.CopyFrom(literals_pb2.Binary(value=content, tag="msgpack"))
        return literal
    text = content.decode("utf-8").strip()
    try:
        match kind:
            case types_pb2.NONE:
                scalar.none_type.SetInParent()
            case types_pb2.INTEGER:
                scalar.primitive.integer = int(text)
            case types_pb2.FLOAT:
                scalar.primitive.float_value = float(text)
            case types_pb2.STRING:
                scalar.primitive.string_value = text
            case types_pb2.BOOLEAN:
                if text not in _TRUE | _FALSE:
                    raise ValueError("it is neither true nor false")
                scalar.primitive.boolean = text in _TRUE
            case types_pb2.DATETIME:
                scalar.primitive.datetime.CopyFrom(_timestamp(text))
            case types_pb2.DURATION:
                scalar.primitive.duration.FromTimedelta(parse_duration(text))
            case types_pb2.STRUCT:
                json_format.Parse(text, scalar.generic)
            case types_pb2.ERROR:
                scalar.error.CopyFrom(types_pb2.Error(message=text))
            case _:
                raise ValueError("values of this type cannot be written by a raw container")
    except (ValueError, json_format.ParseError) as error:
        wanted = types_pb2.SimpleType.Name(kind).lower()
        raise ValueError(f"{text[:80]!r} is no {wanted}: {error}") from error
    return literal


def _timestamp(text: str) -> Timestamp:
    moment = datetime.fromisoformat(text)
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC) if moment.tzinfo is not None else moment)
    return stamp


def _helper(pod: V1Pod, order: str) -> tuple[str, Mapping[str, str]] | None:
    """The volume and the options of the helper container that was given this order."""
    for container in pod["spec"].get("initContainers") or ():
        command, arguments = container.get("command") or [""], container.get("args") or [""]
        if command[0] == PROGRAM and arguments[0] == order:
            options = zip(arguments[1::2], arguments[2::2], strict=True)
            volume = str(container["volumeMounts"][0]["name"])
            return volume, {name.removeprefix("--"): str(value) for name, value in options}
    return None
