"""One platform and one registration for all end-to-end tests of a session."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin.launch_plan_pb2 import ACTIVE
from flytekit.configuration import Config
from flytekit.remote import FlyteRemote, FlyteWorkflowExecution

from .instance import DEFAULT_PORT, Instance, is_free, running
from .plugged import Plugged, plugged_platform

PROJECT = "flytesnacks"
DOMAIN = "development"
WORKFLOWS = Path(__file__).parent / "workflows"
SCRIPTS = Path(__file__).parent / "scripts"
IDLE_SECONDS = 121
Finish = Callable[[], tuple[int, str, str]]
"""Waits for the end of a process: its exit code, what it said, what it complained of."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a platform."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running platform: where clients look without configuration if that port is free, in a place with a long path
    that has a space in it."""
    base = tmp_path_factory.mktemp("e2e")
    data_dir = base / "the data of a user" / ("with-a-long-name-" * 6)
    data_dir.mkdir(parents=True)
    port = DEFAULT_PORT if is_free(DEFAULT_PORT) else 0
    with running(Instance(data_dir, base / "home of a user", port=port)) as started:
        yield started


@pytest.fixture(scope="session")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugged]:
    """Another platform, with connectors and secrets."""
    with plugged_platform(tmp_path_factory.mktemp("plugged")) as started:
        yield started


@dataclass(frozen=True)
class Registered:
    """The project that `pyflyte register` registered, and a client that launches what is in it."""

    folder: Path
    version: str
    said: str
    remote: FlyteRemote

    def launch(self, name: str, inputs: dict[str, Any], **options: Any) -> FlyteWorkflowExecution:
        """Start a workflow of the project."""
        plan = self.remote.fetch_launch_plan(name=name, version=self.version)
        return self.remote.execute(plan, inputs=inputs, **options)

    def finish(self, execution: FlyteWorkflowExecution) -> FlyteWorkflowExecution:
        """Wait until it is over, and read all of it."""
        self.remote.wait(
            execution, timeout=timedelta(seconds=60), poll_interval=timedelta(seconds=0.1), sync_nodes=False
        )
        return self.remote.sync_execution(execution, sync_nodes=True)

    def run(self, name: str, inputs: dict[str, Any], **options: Any) -> FlyteWorkflowExecution:
        """Start a workflow and wait for its end."""
        return self.finish(self.launch(name, inputs, **options))


@pytest.fixture(scope="session")
def remote(instance: Instance) -> FlyteRemote:
    """The SDK's client in this process; there must be no other, since the latest one gets the uploads of all."""
    config = Config.for_endpoint(instance.endpoint, insecure=True)
    return FlyteRemote(config, default_project=PROJECT, default_domain=DOMAIN)


@pytest.fixture(scope="session")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workflows, in a place of their own as a user has them."""
    folder = tmp_path_factory.mktemp("project") / "a project"
    shutil.copytree(WORKFLOWS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def registered(instance: Instance, remote: FlyteRemote, project_folder: Path) -> Registered:
    """What a plain `pyflyte register` of that folder leaves: fast registration with all its defaults."""
    return Registered(project_folder, "v1", register(instance, project_folder), remote)


def register(instance: Instance, folder: Path) -> str:
    """Register the workflows in `folder` as version v1; returns what the command said."""
    files = sorted(path.name for path in folder.glob("*.py"))
    done = instance.pyflyte("register", "--version", "v1", *files, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def patient_clients(instance: Instance, registered: Registered) -> Iterator[dict[str, Finish]]:
    """Each script in a process of its own; the functions wait for their ends."""
    endpoint = "" if instance.port == DEFAULT_PORT else instance.endpoint
    commands = {
        "waiting": ["kinds.summary", registered.version, endpoint],
        "idle": [str(IDLE_SECONDS), endpoint],
    }
    started = {
        name: subprocess.Popen(
            [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments],
            env={**instance.environment, "GRPC_VERBOSITY": "info"},
            cwd=instance.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in commands.items()
    }

    def finish(process: subprocess.Popen[str]) -> Finish:
        def wait() -> tuple[int, str, str]:
            said, complained = process.communicate(timeout=IDLE_SECONDS + 60)
            return process.returncode, said, complained

        return wait

    try:
        yield {name: finish(process) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def scheduled(registered: Registered) -> dict[str, datetime]:
    """The launch plans that fire every minute, and when they were activated."""
    activated = {}
    for name in ("told_by_cron", "told_by_rate"):
        plan = registered.remote.fetch_launch_plan(name=name, version=registered.version)
        registered.remote.client.update_launch_plan(plan.id, ACTIVE)
        activated[name] = datetime.now(UTC)
    return activated


@pytest.fixture(scope="session", autouse=True)
def early_start(request: pytest.FixtureRequest) -> None:
    """Start what takes its time before the first test if any test looks at it, so that nobody waits for long."""
    for name in ("patient_clients", "scheduled"):
        if any(name in getattr(item, "fixturenames", ()) for item in request.session.items):
            request.getfixturevalue(name)
