"""Stores of each kind, empty, with an HTTP service where ours has to serve them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web

from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.config import SecretText, StorageConfig, StorageConnection
from aerodrome.stdlib.storage import LocalSigner, ServedStorage, Storage, open_storage
from aerodrome.stdlib.storage.http import routes

KEY = b"a key of more than sixteen bytes"


class Address:
    """Where the HTTP service of a test listens, once it does."""

    url = ""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def address() -> Address:
    return Address()


@pytest.fixture
def signer(address: Address, clock: ManualClock) -> LocalSigner:
    return LocalSigner(KEY, lambda: address.url, clock)


@asynccontextmanager
async def served(storage: Storage, signer: LocalSigner, address: Address, limit: int = 2**20) -> AsyncIterator[None]:
    app = web.Application()
    app.add_routes(routes(cast(ServedStorage, storage), signer, max_upload_bytes=limit))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        address.url = f"http://{host}:{port}"
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
def serve(signer: LocalSigner, address: Address) -> Callable[[Storage], AbstractAsyncContextManager[None]]:
    """Serves a store that a test opened itself."""
    return lambda storage: served(storage, signer, address)


@pytest.fixture
async def local(tmp_path: Path, clock: ManualClock, signer: LocalSigner, address: Address) -> AsyncIterator[Storage]:
    config = StorageConfig(type="local", container=str(tmp_path / "a store"))
    async with open_storage(config, clock=clock, signer=signer) as storage, served(storage, signer, address):
        yield storage


@pytest.fixture
async def mem(clock: ManualClock, signer: LocalSigner, address: Address) -> AsyncIterator[Storage]:
    config = StorageConfig(type="mem", container="test")
    async with open_storage(config, clock=clock, signer=signer) as storage, served(storage, signer, address):
        yield storage


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_config(endpoint: str, bucket: str) -> StorageConfig:
    connection = StorageConnection(
        endpoint=endpoint, auth_type="accesskey", access_key="minio", secret_key=SecretText("miniostorage")
    )
    return StorageConfig(type="minio", container=bucket, connection=connection)


@pytest.fixture
async def s3(s3_endpoint: str, clock: ManualClock) -> AsyncIterator[Storage]:
    config = s3_config(s3_endpoint, f"bucket-{uuid.uuid4().hex}")
    async with open_storage(config, clock=clock) as storage:
        yield storage


@pytest.fixture(params=["local", "mem", "s3"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return cast(Storage, request.getfixturevalue(request.param))
