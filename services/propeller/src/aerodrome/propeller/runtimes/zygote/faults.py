"""Named points at which a test may have a zygote or a task fail."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

FAULTS = "AERODROME_FAULTS_FILE"
"""Variable that names the file of `aerodrome.stdlib.faults`, where a test plans faults of zygotes and tasks."""


def _points() -> Callable[[str], None]:
    """`aerodrome.stdlib.faults.point` where a test asks for it, which an environment of tasks does not have."""
    path = os.environ.get(FAULTS)
    if path is None:
        return lambda name: None
    spec = importlib.util.spec_from_file_location("aerodrome_faults", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.point  # type: ignore[no-any-return]  # a module that is loaded by its path has no types


point = _points()
