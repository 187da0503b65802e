"""What the managers lean on: processes for large work, a bounded memory, and the settings."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core.interface_pb2 import ParameterMap
from flyteidl.core.literals_pb2 import LiteralMap

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.managers.compiling import Compiler
from aerodrome.admin.managers.remembering import Remembered
from aerodrome.stdlib.config import ConfigError, load
from aerodrome.stdlib.errors import Internal


class Children:
    """The processes that this one has started since the object was made; other tests may have some too."""

    def __init__(self) -> None:
        self._before = set(multiprocessing.active_children())

    def now(self) -> set[Any]:
        return set(multiprocessing.active_children()) - self._before


class TestCompiler:
    async def test_a_process_that_dies_fails_its_work_only(self) -> None:
        children = Children()
        compiler = Compiler(inline_bytes=-1, workers=1)
        await compiler.resolve_inputs(ParameterMap(), LiteralMap(), LiteralMap())
        (child,) = children.now()
        os.kill(child.pid, signal.SIGSTOP)  # so that it cannot be done before it is killed
        working = asyncio.create_task(compiler.resolve_inputs(ParameterMap(), LiteralMap(), LiteralMap()))
        await asyncio.sleep(0.01)
        child.kill()
        with pytest.raises(Internal, match="ended before it was done"):
            await working
        assert await compiler.resolve_inputs(ParameterMap(), LiteralMap(), LiteralMap()) == LiteralMap()
        await compiler.close()
        assert not children.now()

    async def test_processes_end_when_there_is_nothing_to_do(self) -> None:
        children = Children()
        compiler = Compiler(inline_bytes=-1, workers=1, idle=timedelta(milliseconds=10))
        await compiler.resolve_inputs(ParameterMap(), LiteralMap(), LiteralMap())
        async with asyncio.timeout(10):
            while children.now():  # noqa: ASYNC110 - nor of its end
                await asyncio.sleep(0.01)
        await compiler.resolve_inputs(ParameterMap(), LiteralMap(), LiteralMap())
        await compiler.close()


class TestRemembered:
    def test_the_least_recently_asked_for_is_forgotten(self) -> None:
        memory: Remembered[str, int] = Remembered(max_entries=2, max_bytes=1_000)
        memory.keep("a", 1, size_bytes=1)
        memory.keep("b", 2, size_bytes=1)
        assert memory.find("a") == 1
        memory.keep("c", 3, size_bytes=1)
        assert [memory.find(key) for key in "abc"] == [1, None, 3]

    def test_it_takes_no_more_room_than_it_may(self) -> None:
        memory: Remembered[int, int] = Remembered(max_entries=1_000, max_bytes=1_000)
        for at in range(100):
            memory.keep(at, at, size_bytes=100)
        assert len(memory) == 10
        memory.keep(-1, -1, size_bytes=126)
        assert memory.find(-1) is None


EXAMPLE = """
application: {httpPort: 8088, grpcPort: 8089}
flyteadmin:
  roleNameKey: "iam.amazonaws.com/role"
  profilerPort: 10254
  metadataStoragePrefix: [metadata, admin]
  testing: {host: http://flyteadmin}
database: {port: 5432, username: postgres, host: postgres, dbname: postgres, options: sslmode=disable}
remoteData: {region: us-east-1, scheme: local, signedUrls: {durationMinutes: 3}}
storage: {type: minio, container: my-s3-bucket}
task_resources: {defaults: {cpu: 100m, memory: 100Mi, storage: 5Mi}, limits: {cpu: 2, memory: 2G}}
task_type_whitelist: {spark: [{project: flytekit}, {project: flytetester}]}
domains: [{id: development, name: development}, {id: domain, name: domain}]
clusters:
- {name: cluster_1, endpoint: e, enabled: true, auth: {type: file_path, tokenPath: /t, certPath: /c}}
cluster_resources: {templatePath: /etc/flyte, refresh: 5m}
"""


class TestConfig:
    def test_a_published_example_loads(self, tmp_path: Path) -> None:
        (tmp_path / "admin.yaml").write_text(EXAMPLE)
        config = load(AdminConfig, [tmp_path / "admin.yaml"], environ={})
        assert config.server.http_port == 8088
        assert config.database.postgres.host == "postgres"
        assert config.remote_data.signed_urls.duration_minutes == 3
        assert config.task_resources.defaults.cpu == "100m"
        assert config.task_resources.limits.gpu == "1"
        assert [each.project for each in config.task_type_whitelist["spark"]] == ["flytekit", "flytetester"]
        assert [each.id for each in config.domains] == ["development", "domain"]
        assert config.clusters.cluster_configs[0].auth.token_path == "/t"

    def test_domains_have_different_ids(self, tmp_path: Path) -> None:
        (tmp_path / "admin.yaml").write_text("domains: [{id: a}, {id: a}]")
        with pytest.raises(ConfigError, match="domains must be a list of different, non-empty ids"):
            load(AdminConfig, [tmp_path / "admin.yaml"], environ={})
