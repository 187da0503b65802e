"""A signed URL gives exactly what it was signed for, and nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.config import StorageConfig
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from aerodrome.stdlib.storage import LocalSigner, SignedUrl, Storage, open_storage

MINUTE = timedelta(minutes=1)
CONTENT = b"some content"
MD5 = hashlib.md5(CONTENT).digest()


def token_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["token"][0]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class TestTokens:
    def upload(self, signer: LocalSigner, reference: str = "/store/x", length: int | None = None) -> str:
        signed = signer.sign_upload(
            reference, expires_in=MINUTE, content_md5=MD5, add_md5_metadata=False, content_length=length
        )
        return token_of(signed.url)

    def test_it_is_accepted_for_what_it_was_signed_for(self, signer: LocalSigner, clock: ManualClock) -> None:
        claims = signer.verify("PUT", "/store/x", self.upload(signer, length=5), content_length=5)
        assert claims.content_md5 == base64.b64encode(MD5).decode()
        assert claims.content_length == 5
        assert claims.filename == "x"
        assert claims.expires_at == clock.now() + MINUTE

    @pytest.mark.parametrize(
        ("method", "reference"),
        [("GET", "/store/x"), ("HEAD", "/store/x"), ("DELETE", "/store/x"), ("PUT", "/store/y"), ("PUT", "/store/x/"),
         ("PUT", "/store//x"), ("PUT", "/store/X"), ("PUT", "")],
    )  # fmt: skip
    def test_it_is_refused_for_anything_else(self, signer: LocalSigner, method: str, reference: str) -> None:
        with pytest.raises(PermissionDenied, match="not signed for this request"):
            signer.verify(method, reference, self.upload(signer))

    def test_another_length_is_refused(self, signer: LocalSigner) -> None:
        for length in (4, 6, None):
            with pytest.raises(PermissionDenied, match="5 bytes"):
                signer.verify("PUT", "/store/x", self.upload(signer, length=5), content_length=length)

    async def test_it_expires(self, signer: LocalSigner, clock: ManualClock) -> None:
        token = self.upload(signer)
        await clock.advance(59.9)
        signer.verify("PUT", "/store/x", token)
        await clock.advance(0.1)
        with pytest.raises(PermissionDenied, match="expired"):
            signer.verify("PUT", "/store/x", token)

    def test_another_key_signs_differently(self, signer: LocalSigner, clock: ManualClock) -> None:
        other = LocalSigner(b"another key, just as long as it", lambda: "", clock)
        with pytest.raises(PermissionDenied):
            other.verify("PUT", "/store/x", self.upload(signer))

    def test_a_short_key_is_refused(self, clock: ManualClock) -> None:
        with pytest.raises(InvalidArgument):
            LocalSigner(b"short", lambda: "", clock)

    @given(data=st.data())
    def test_no_changed_token_is_accepted(self, data: st.DataObject) -> None:
        signer = LocalSigner(b"k" * 32, lambda: "http://x", ManualClock())
        token = self.upload(signer)
        at = data.draw(st.integers(0, len(token) - 1))
        character = data.draw(st.characters())
        changed = token[:at] + character + token[at + 1 :]
        if changed != token:
            with pytest.raises(PermissionDenied):
                signer.verify("PUT", "/store/x", changed)

    @given(st.text(), st.text(), st.text())
    def test_no_made_up_token_is_accepted(self, method: str, reference: str, token: str) -> None:
        signer = LocalSigner(b"k" * 32, lambda: "http://x", ManualClock())
        with pytest.raises(PermissionDenied):
            signer.verify(method, reference, token)

    @given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
    def test_the_path_of_a_url_is_the_reference(self, reference: str) -> None:
        signer = LocalSigner(b"k" * 32, lambda: "http://host:1/", ManualClock())
        url = signer.sign_download(reference, expires_in=MINUTE).url
        assert url.startswith("http://host:1/data/v1/")
        path = url.removeprefix("http://host:1/data/v1/").partition("?")[0]
        assert "/" not in path
        assert unquote(path) == reference
        signer.verify("HEAD", reference, token_of(url))


@pytest.fixture(params=["local", "mem"])
def served(request: pytest.FixtureRequest) -> Storage:
    storage: Storage = request.getfixturevalue(request.param)
    return storage


class TestUploads:
    async def sign(self, storage: Storage, name: str = "up/x", **claims: object) -> SignedUrl:
        return await storage.sign_upload(storage.join(name), expires_in=MINUTE, **claims)  # type: ignore[arg-type]

    async def refused(
        self, session: aiohttp.ClientSession, storage: Storage, url: str, status: int, says: str, **request: object
    ) -> None:
        async with session.put(url, **request) as response:  # type: ignore[arg-type]
            assert response.status == status, await response.text()
            assert says in await response.text()
        assert [reference async for reference, _ in storage.list(storage.base)] == []

    async def test_other_content_is_refused(self, served: Storage, session: aiohttp.ClientSession) -> None:
        signed = await self.sign(served, content_md5=MD5)
        await self.refused(session, served, signed.url, 400, "MD5", data=b"other content", headers=dict(signed.headers))

    async def test_another_md5_header_is_refused(self, served: Storage, session: aiohttp.ClientSession) -> None:
        signed = await self.sign(served, content_md5=MD5)
        other = base64.b64encode(hashlib.md5(b"other").digest()).decode()
        await self.refused(session, served, signed.url, 400, "signed", data=b"other", headers={"Content-MD5": other})

    async def test_a_stated_md5_is_checked_even_if_none_was_signed(
        self, served: Storage, session: aiohttp.ClientSession
    ) -> None:
        signed = await self.sign(served)
        stated = {"Content-MD5": base64.b64encode(MD5).decode()}
        await self.refused(session, served, signed.url, 400, "MD5", data=b"other", headers=stated)

    async def test_another_length_is_refused(self, served: Storage, session: aiohttp.ClientSession) -> None:
        signed = await self.sign(served, content_length=5)
        await self.refused(session, served, signed.url, 403, "5 bytes", data=b"123456")

    async def test_a_length_that_is_not_stated_is_refused_where_it_was_signed(
        self, served: Storage, session: aiohttp.ClientSession
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"12345"

        signed = await self.sign(served, content_length=5)
        await self.refused(session, served, signed.url, 403, "5 bytes", data=chunks())

    async def test_a_chunked_upload_of_unknown_length_arrives(
        self, served: Storage, session: aiohttp.ClientSession
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1000

        signed = await self.sign(served)
        async with session.put(signed.url, data=chunks()) as response:
            assert response.status == 200
        assert await served.read(served.join("up/x")) == b"x" * 100_000

    @pytest.mark.parametrize("stated", [True, False])
    async def test_too_much_is_refused(self, served: Storage, session: aiohttp.ClientSession, stated: bool) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 100_000

        signed = await self.sign(served)
        data = b"x" * 2_000_000 if stated else chunks()
        try:
            await self.refused(session, served, signed.url, 413, "1048576", data=data)
        except aiohttp.ClientError:  # the refusal may reset the connection before all is sent
            assert await served.head(served.join("up/x")) is None

    async def test_an_upload_that_breaks_off_leaves_nothing(
        self, served: Storage, session: aiohttp.ClientSession
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise ConnectionError("the client goes away")

        signed = await self.sign(served)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await session.put(signed.url, data=chunks())
        assert await served.head(served.join("up/x")) is None

    async def test_a_url_for_downloads_is_refused(self, served: Storage, session: aiohttp.ClientSession) -> None:
        signed = await served.sign_download(served.join("x"), expires_in=MINUTE)
        await self.refused(session, served, signed.url, 403, "not signed for this request", data=CONTENT)

    async def test_a_token_does_not_open_another_object(self, served: Storage, session: aiohttp.ClientSession) -> None:
        one, other = await self.sign(served, "a"), await self.sign(served, "b")
        url = other.url.partition("?")[0] + "?" + one.url.partition("?")[2]
        await self.refused(session, served, url, 403, "not signed for this request", data=CONTENT)
        await self.refused(session, served, one.url.partition("?")[0], 403, "no token", data=CONTENT)

    async def test_an_expired_url_is_refused(
        self, served: Storage, session: aiohttp.ClientSession, clock: ManualClock
    ) -> None:
        signed = await self.sign(served)
        await clock.advance(MINUTE)
        await self.refused(session, served, signed.url, 403, "expired", data=CONTENT)


async def test_a_frozen_object_is_not_uploaded_over(local: Storage, session: aiohttp.ClientSession) -> None:
    await local.write(local.join("d/x"), b"kept")
    await local.freeze(local.join("d"))
    signed = await local.sign_upload(local.join("d/x"), expires_in=MINUTE)
    async with session.put(signed.url, data=b"other") as response:
        assert response.status == 403
        assert "read-only" in await response.text()
    assert await local.read(local.join("d/x")) == b"kept"


class TestDownloads:
    async def url(self, storage: Storage, name: str = "d/data.bin", data: bytes = b"0123456789") -> str:
        await storage.write(storage.join(name), data)
        return (await storage.sign_download(storage.join(name), expires_in=MINUTE)).url

    @pytest.mark.parametrize(
        ("wanted", "status", "body", "content_range"),
        [
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=-3", 206, b"789", "bytes 7-9/10"),
            ("bytes=-99", 200, b"0123456789", None),
            ("bytes=0-99", 200, b"0123456789", None),
            ("bytes=10-", 416, b"", "bytes */10"),
            ("bytes=-0", 416, b"", "bytes */10"),
            ("bytes=4-2", 200, b"0123456789", None),
            ("bytes=1-2,4-5", 200, b"0123456789", None),
            ("lines=1-2", 200, b"0123456789", None),
            ("bytes=" + "9" * 3000 + "-", 200, b"0123456789", None),
        ],
    )
    async def test_ranges(
        self, served: Storage, session: aiohttp.ClientSession, wanted: str, status: int, body: bytes,
        content_range: str | None,
    ) -> None:  # fmt: skip
        async with session.get(await self.url(served), headers={"Range": wanted}) as response:
            assert response.status == status
            assert await response.read() == body
            assert response.headers.get("Content-Range") == content_range

    async def test_head_tells_the_size_only(self, served: Storage, session: aiohttp.ClientSession) -> None:
        async with session.head(await self.url(served)) as response:
            assert response.status == 200
            assert response.headers["Content-Length"] == "10"
            assert await response.read() == b""

    async def test_what_tasks_made_is_served_in_a_sandbox(
        self, served: Storage, session: aiohttp.ClientSession
    ) -> None:
        async with session.get(await self.url(served, "n0/deck.html", b"<script>")) as response:
            assert response.headers["Content-Security-Policy"].split()[0] == "sandbox"
            assert "allow-same-origin" not in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.content_type == "text/html"
            assert "Content-Disposition" not in response.headers
        async with session.get(await self.url(served, "n0/drawing.svg", b"<svg>")) as response:
            assert response.content_type == "application/octet-stream"
            assert response.headers["Content-Disposition"].startswith("attachment")

    async def test_an_unchanged_object_is_not_sent_again(self, served: Storage, session: aiohttp.ClientSession) -> None:
        url = await self.url(served)
        async with session.get(url) as response:
            etag = response.headers["ETag"]
        async with session.get(url, headers={"If-None-Match": etag}) as response:
            assert response.status == 304

    async def test_a_missing_object_is_not_found(self, served: Storage, session: aiohttp.ClientSession) -> None:
        signed = await served.sign_download(served.join("nothing"), expires_in=MINUTE)
        async with session.get(signed.url) as response:
            assert response.status == 404

    async def test_an_empty_object_is_sent(self, served: Storage, session: aiohttp.ClientSession) -> None:
        async with session.get(await self.url(served, data=b"")) as response:
            assert response.status == 200
            assert await response.read() == b""


async def test_without_a_signer_nothing_is_signed(clock: ManualClock) -> None:
    async with open_storage(StorageConfig(type="mem", container="x"), clock=clock) as storage:
        with pytest.raises(FailedPrecondition, match="signer"):
            await storage.sign_download(storage.join("x"), expires_in=MINUTE)
