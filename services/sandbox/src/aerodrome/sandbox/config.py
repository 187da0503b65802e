"""The sandbox's configuration: the services' own trees, with defaults for one machine, and its own few settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aerodrome.admin.config import AdminConfig
from aerodrome.propeller.config import PropellerConfig
from aerodrome.stdlib.config import load


@dataclass(frozen=True)
class SandboxConfig:
    """Everything that `aerodrome up` was told."""

    data_dir: Path
    host: str
    port: int
    admin: AdminConfig
    propeller: PropellerConfig

    @property
    def embedded_database(self) -> bool:
        """Whether we bring the database: nobody named another."""
        return "host" not in self.admin.database.postgres.model_fields_set


def read(
    files: Sequence[Path],
    *,
    data_dir: Path,
    host: str,
    port: int,
    python: Path | None,
    images: Mapping[str, Path],
) -> SandboxConfig:
    """The configuration of an instance; raises ConfigError naming file and key of what is wrong."""
    store = data_dir / "store"
    defaults: dict[str, Any] = {}
    if not _names_storage(files):
        defaults = {"storage.type": "local", "storage.container": str(store)}
    limits = {"storage.limits.max_download_mbs": 64} if not files else {}
    admin = load(AdminConfig, files, overrides={**_WIDE, **defaults, **limits} if not files else defaults)
    runtime: dict[str, Any] = {"propeller.runtime.directory": str(data_dir / "runtime")}
    if python is not None:
        runtime["propeller.runtime.python"] = str(python)
    if images:
        runtime["propeller.runtime.images"] = {name: str(path) for name, path in images.items()}
    propeller = load(PropellerConfig, files, overrides={**defaults, **limits, **runtime})
    return SandboxConfig(data_dir, host, port, admin, propeller)


_WIDE: Mapping[str, Any] = {
    # One user on one machine: no platform limits on what a task may ask for; the runtime clamps to the machine.
    "task_resources.defaults.cpu": "",
    "task_resources.defaults.memory": "",
    "task_resources.limits.cpu": "",
    "task_resources.limits.memory": "",
    "task_resources.limits.gpu": "",
}


def _names_storage(files: Sequence[Path]) -> bool:
    return any("container" in load(AdminConfig, [file]).storage.model_fields_set for file in files)
