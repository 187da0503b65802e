"""The small files beside an attempt's record, which say that it has a process, or has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any


def write_json(path: str, value: Mapping[str, Any]) -> None:
    """Write a small file so that a reader finds all of it or none."""
    temporary = path + ".tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def claim(record: str, value: Mapping[str, Any]) -> bool:
    """Create `<record>.pid`; False if the attempt already has one."""
    try:
        descriptor = os.open(record + ".pid", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)
    return True


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a small file; None if there is no such file, and {} if it was never completed."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
