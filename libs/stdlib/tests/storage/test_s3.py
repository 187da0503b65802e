"""What S3 adds: buckets, credentials, addresses for clients, and a service that may fail."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.config import SecretText, SignedUrlConfig, StorageConfig, StorageConnection, StowConfig
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable
from aerodrome.stdlib.storage import Storage, open_storage
from aerodrome.stdlib.storage import s3 as adapter
from aerodrome.stdlib.storage.s3 import S3Settings, S3Storage

MINUTE = timedelta(minutes=1)


@pytest.fixture
def _one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_ATTEMPTS", 1)


def bucket() -> str:
    return f"bucket-{uuid.uuid4().hex}"


def settings(endpoint: str, **more: str) -> S3Settings:
    values = {
        "bucket": bucket(), "endpoint": endpoint, "region": "us-east-1", "access_key": "a", "secret_key": "s",
        "signing_endpoint": "", "signing_region": "us-east-1", **more,
    }  # fmt: skip
    return S3Settings(**values)


@asynccontextmanager
async def answering(status: int, code: str) -> AsyncIterator[str]:
    """A service that gives one answer to everything."""

    async def answer(request: web.Request) -> web.Response:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        return web.Response(status=status, text=body, content_type="application/xml")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_bucket_is_made_if_it_is_missing(s3_endpoint: str, clock: ManualClock) -> None:
    config = settings(s3_endpoint, region="eu-west-1", signing_region="eu-west-1")
    for _ in range(2):
        async with S3Storage(config, clock=clock) as storage:
            await storage.write(storage.join("x"), b"1")
            assert await storage.read(storage.join("x")) == b"1"


async def test_further_buckets_need_to_be_named_and_allowed(s3_endpoint: str, clock: ManualClock) -> None:
    other = settings(s3_endpoint)
    async with S3Storage(other, clock=clock) as storage:
        await storage.write(storage.join("x"), b"1")
    connection = StorageConnection(
        endpoint=s3_endpoint, auth_type="accesskey", access_key="a", secret_key=SecretText("s")
    )
    for allowed in (True, False):
        config = StorageConfig(
            type="s3", container=bucket(), containers=(other.bucket,), connection=connection,
            enable_multicontainer=allowed,
        )  # fmt: skip
        async with open_storage(config, clock=clock) as storage:
            if allowed:
                assert await storage.read(f"s3://{other.bucket}/x") == b"1"
                await storage.copy(f"s3://{other.bucket}/x", storage.join("copied"))
            else:
                with pytest.raises(PermissionDenied, match="enable-multicontainer"):
                    await storage.read(f"s3://{other.bucket}/x")


async def test_more_than_a_page_and_a_batch_is_listed_and_deleted(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "DELETE_BATCH", 7)
    for number in range(20):
        await s3.write(s3.join("many", f"{number:03}"), b"")
    assert await s3.delete_prefix(s3.join("many")) == 20
    assert [reference async for reference, _ in s3.list(s3.join("many"))] == []


async def test_large_objects_are_copied_in_parts(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "LARGEST_COPY_BYTES", 1)
    monkeypatch.setattr(adapter, "COPY_PART_BYTES", 5 * 2**20)
    data = b"0123456789abcdef" * (6 * 2**16)
    await s3.write(s3.join("large"), data, content_type="text/html")
    await s3.copy(s3.join("large"), s3.join("copy"))
    assert await s3.read(s3.join("copy"), limit_bytes=0) == data
    found = await s3.head(s3.join("copy"))
    assert found is not None
    assert found.content_type == "text/html"


async def test_urls_are_signed_for_the_address_of_clients(s3_endpoint: str, clock: ManualClock) -> None:
    config = settings(s3_endpoint, signing_endpoint="https://minio.example.com", signing_region="eu-west-1")
    async with S3Storage(config, clock=clock) as storage:
        signed = await storage.sign_download(storage.join("a b"), expires_in=MINUTE)
    url = urlsplit(signed.url)
    assert url.netloc == "minio.example.com"
    assert url.path == f"/{config.bucket}/a%20b"
    query = parse_qs(url.query)
    assert query["X-Amz-Expires"] == ["60"]
    assert "eu-west-1" in query["X-Amz-Credential"][0]


async def test_md5_length_and_metadata_are_part_of_the_signature(s3: Storage) -> None:
    signed = await s3.sign_upload(
        s3.join("x"), expires_in=MINUTE, content_md5=hashlib.md5(b"x").digest(), add_md5_metadata=True, content_length=1
    )
    covered = parse_qs(urlsplit(signed.url).query)["X-Amz-SignedHeaders"][0].split(";")
    assert covered == ["content-length", "content-md5", "host", "x-amz-meta-flytecontentmd5"]
    assert signed.headers == {
        "Content-MD5": base64.b64encode(hashlib.md5(b"x").digest()).decode(),
        "x-amz-meta-flyteContentMD5": base64.b64encode(hashlib.md5(b"x").digest()).decode(),
    }


async def test_longer_than_s3_signs_for_is_refused(s3: Storage) -> None:
    with pytest.raises(InvalidArgument, match="7 days"):
        await s3.sign_download(s3.join("x"), expires_in=timedelta(days=8))


async def test_keys_that_s3_cannot_hold_are_refused(s3: Storage) -> None:
    with pytest.raises(InvalidArgument, match="1024"):
        await s3.write(s3.join("x" * 1025), b"")
    with pytest.raises(InvalidArgument):
        await s3.write(s3.join("\ud800"), b"")


@pytest.mark.usefixtures("_one_attempt")
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(403, "AccessDenied", PermissionDenied), (503, "SlowDown", Unavailable), (500, "InternalError", Unavailable)],
)
async def test_what_the_service_says_is_translated(
    clock: ManualClock, status: int, code: str, error: type[Exception]
) -> None:
    async with answering(status, code) as endpoint:
        storage = S3Storage(settings(endpoint), clock=clock)
        with pytest.raises(error):
            async with storage:
                await storage.read(storage.join("x"))


@pytest.mark.usefixtures("_one_attempt")
async def test_a_service_that_is_not_there_is_unavailable(clock: ManualClock) -> None:
    async with answering(200, "") as gone:
        pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with S3Storage(settings(gone), clock=clock):
            pass


async def test_a_closed_store_says_so(s3_endpoint: str, clock: ManualClock) -> None:
    async with S3Storage(settings(s3_endpoint), clock=clock) as storage:
        pass
    with pytest.raises(FailedPrecondition, match="not open"):
        await storage.read(storage.join("x"))


class TestSettings:
    def test_stow_settings_mean_the_same(self) -> None:
        plain = StorageConfig(
            type="minio", container="b",
            connection=StorageConnection(
                endpoint="minio:9000", auth_type="accesskey", access_key="a", secret_key=SecretText("s"),
                region="eu-west-1", disable_ssl=True,
            ),
            signed_url=SignedUrlConfig(stow_config_override={"endpoint": SecretText("http://public")}),
        )  # fmt: skip
        names = {"access_key_id": "a", "secret_key": "s", "endpoint": "minio:9000", "region": "eu-west-1",
                 "disable_ssl": "true", "auth_type": "accesskey"}  # fmt: skip
        stow = StorageConfig(
            type="stow", container="b", signed_url=plain.signed_url,
            stow=StowConfig(kind="s3", config={key: SecretText(value) for key, value in names.items()}),
        )  # fmt: skip
        assert S3Settings.of(plain) == S3Settings.of(stow)
        assert S3Settings.of(plain).endpoint == "http://minio:9000"

    def test_with_iam_no_keys_are_used(self) -> None:
        made = S3Settings.of(StorageConfig(container="b", connection=StorageConnection(access_key="ignored")))
        assert (made.access_key, made.secret_key, made.endpoint) == ("", "", "")

    def test_missing_keys_are_named(self) -> None:
        with pytest.raises(InvalidArgument, match="secret-key"):
            S3Settings.of(StorageConfig(container="b", connection=StorageConnection(auth_type="accesskey")))

    async def test_a_section_that_describes_no_store_is_refused(self, clock: ManualClock) -> None:
        for config, says in (
            (StorageConfig(type="s3"), "container"),
            (StorageConfig(type="stow", container="b", stow=StowConfig(kind="azure")), "azure"),
            (StorageConfig(type="local", container="relative"), "absolute"),
        ):
            with pytest.raises(InvalidArgument, match=says):
                async with open_storage(config, clock=clock):
                    pass

    async def test_a_local_stow_store_has_a_path(self, clock: ManualClock, tmp_path: object) -> None:
        config = StorageConfig(
            type="stow", container="b", stow=StowConfig(kind="local", config={"path": SecretText(str(tmp_path))})
        )
        async with open_storage(config, clock=clock) as storage:
            assert storage.base == f"{tmp_path}/b"
