"""The sandbox's configuration: the services' own trees, with defaults for one machine, and its own few settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aerodrome.admin.config import AdminConfig
from aerodrome.datacatalog.config import CatalogConfig
from aerodrome.notifier.config import NotifierConfig
from aerodrome.propeller.config import PropellerConfig
from aerodrome.sandbox.beginning import is_loopback
from aerodrome.scheduler.config import SchedulerConfig
from aerodrome.stdlib.config import load


@dataclass(frozen=True)
class SandboxConfig:
    """Everything that `aerodrome up` was told."""

    data_dir: Path
    host: str
    port: int
    admin: AdminConfig
    propeller: PropellerConfig
    catalog: CatalogConfig
    scheduler: SchedulerConfig
    notifier: NotifierConfig

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the port; then HTTP answers to this machine's own names alone."""
        return is_loopback(self.host)

    @property
    def caching(self) -> bool:
        """Whether results of tasks are cached: unless somebody said that they are not."""
        cache = self.propeller.catalog_cache
        return "type" not in cache.model_fields_set or cache.type != "noop"

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
    secrets_dir: Path | None = None,
) -> SandboxConfig:
    """The configuration of an instance; raises ConfigError naming file and key of what is wrong.

    The defaults of a single machine are a file too, the first, so that any other says otherwise.
    """
    defaults = data_dir / "defaults.yaml"
    defaults.write_text(_DEFAULTS + yaml.safe_dump(_places(data_dir, python, images, secrets_dir)))
    layers = [defaults, *files]
    return SandboxConfig(
        data_dir,
        host,
        port,
        admin=load(AdminConfig, layers),
        propeller=load(PropellerConfig, layers),
        catalog=load(CatalogConfig, layers),
        scheduler=load(SchedulerConfig, layers),
        notifier=load(NotifierConfig, layers),
    )


_DEFAULTS = """\
# Written by `aerodrome up` at each start: what a single machine needs.  Say otherwise in a file given with --config.
"""


def _places(
    data_dir: Path, python: Path | None, images: Mapping[str, Path], secrets_dir: Path | None
) -> dict[str, Any]:
    runtime: dict[str, Any] = {"directory": str(data_dir / "runtime")}
    if python is not None:
        runtime["python"] = str(python)
    if images:
        runtime["images"] = {name: str(path) for name, path in images.items()}
    return {
        "storage": {"type": "local", "container": str(data_dir / "store"), "limits": {"maxDownloadMBs": 64}},
        # One user on one machine: no platform limits on what a task may ask for; the runtime clamps to the machine.
        "task_resources": {
            "defaults": {"cpu": "0", "memory": "0"},
            "limits": {"cpu": "0", "memory": "0", "gpu": "0"},
        },
        "logger": {"formatter": {"type": "text"}},
        "propeller": {"runtime": runtime},
        "secrets": {} if secrets_dir is None else {"secrets-prefix": str(secrets_dir.absolute())},
    }
