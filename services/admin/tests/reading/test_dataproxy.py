"""Uploads, downloads, decks, and `flyte://` addresses."""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from flyteidl.admin import node_execution_pb2, task_execution_pb2
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.service import dataproxy_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from aerodrome.admin.domain.flyte_urls import FlyteUrl, Part, parse_flyte_url
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.storage import LocalSigner

MD5 = hashlib.md5(b"hello", usedforsecurity=False).digest()
ENCODED = base64.b64encode(MD5).decode()


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


def upload(**fields: Any) -> dataproxy_pb2.CreateUploadLocationRequest:
    return dataproxy_pb2.CreateUploadLocationRequest(**{"project": "p", "domain": "d", "content_md5": MD5} | fields)


async def put(storage: Any, reference: str, content: bytes, md5: str | None = None) -> None:
    arriving = await storage.begin_upload(reference)
    await arriving.write(content)
    await arriving.commit(md5)


async def test_an_upload_lies_below_the_md5_of_its_content(proxy: Any, clock: Any) -> None:
    answer = await proxy.CreateUploadLocation(upload(filename="dist.tar.gz", org="acme", add_content_md5_metadata=True))
    root = base64.b32encode(MD5).decode()
    assert answer.native_url == f"mem://s/acme/p/d/{root}/dist.tar.gz"
    assert dict(answer.headers) == {"Content-MD5": ENCODED, "x-amz-meta-flyteContentMD5": ENCODED}
    assert answer.expires_at.ToDatetime(clock.now().tzinfo) == clock.now() + timedelta(hours=1)


async def test_the_signed_url_is_good_for_this_content_only(proxy: Any, clock: Any) -> None:
    answer = await proxy.CreateUploadLocation(upload(filename="f"))
    path, _, token = answer.signed_url.removeprefix("http://localhost:30080/data/v1/").partition("?token=")
    signer = LocalSigner(b"0123456789abcdef", lambda: "", clock)
    assert unquote(path) == answer.native_url
    assert signer.verify("PUT", answer.native_url, token).content_md5 == ENCODED


async def test_a_file_without_a_name_gets_one(proxy: Any) -> None:
    one = await proxy.CreateUploadLocation(upload())
    two = await proxy.CreateUploadLocation(upload())
    assert one.native_url != two.native_url
    assert len(one.native_url.rpartition("/")[2]) == 20


async def test_a_given_root_needs_no_md5(proxy: Any) -> None:
    answer = await proxy.CreateUploadLocation(upload(content_md5=b"", filename_root="r/s", filename="a/b"))
    assert answer.native_url == "mem://s/p/d/r/s/a/b"
    assert not answer.headers


async def test_a_determined_path_is_rewritten_only_with_its_own_content(proxy: Any, storage: Any) -> None:
    request = upload(filename_root="r", filename="f")
    await put(storage, "mem://s/p/d/r/f", b"hello", ENCODED)
    assert (await proxy.CreateUploadLocation(request)).native_url == "mem://s/p/d/r/f"
    other = hashlib.md5(b"other", usedforsecurity=False).digest()
    for md5 in (other, b""):
        assert await refusal(proxy.CreateUploadLocation(upload(filename_root="r", filename="f", content_md5=md5))) == (
            "ALREADY_EXISTS",
            "file already exists at location [mem://s/p/d/r/f], specify a matching hash if you wish to rewrite",
        )
    await storage.write("mem://s/p/d/r/f", b"hello")  # no stated MD5: the store's tag is compared
    assert (await proxy.CreateUploadLocation(request)).native_url
    await storage.write("mem://s/p/d/r/f", b"other")
    assert (await refusal(proxy.CreateUploadLocation(request)))[0] == "ALREADY_EXISTS"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"project": ""}, "project and domain are required parameters"),
        ({"domain": ""}, "project and domain are required parameters"),
        ({"content_md5": b""}, "content_md5 or filename_root is a required parameter"),
        ({"content_md5": b"short"}, "content_md5 holds the 16 bytes of an MD5, not 5"),
        ({"expires_in": Duration(seconds=3601)}, "expires_in must be between 0 and 3600 s"),
        ({"expires_in": Duration(seconds=-1)}, "expires_in must be between 0 and 3600 s"),
        ({"expires_in": Duration(seconds=10**18)}, "expires_in is not a duration"),
        ({"filename": "../../secret"}, "filename must not hold the path elements . and .."),
        ({"project": ".."}, "project must not hold the path elements . and .."),
        ({"filename_root": "a/./b"}, "filename_root must not hold the path elements . and .."),
        ({"filename": "a\x00"}, "filename must not contain NUL characters"),
        ({"filename": "a" * 300}, "an element of the upload's path is longer than 255 bytes"),
        ({"filename": "a/" * 490}, "the path of the upload is longer than 1000 bytes"),
        ({"project": "metadata"}, "uploads below [metadata] are not possible"),
        ({"org": "/metadata/"}, "uploads below [metadata] are not possible"),
        ({"project": ".aerodrome"}, "uploads below [.aerodrome] are not possible"),
    ],
)
async def test_uploads_are_checked(proxy: Any, fields: dict[str, Any], text: str) -> None:
    code, details = await refusal(proxy.CreateUploadLocation(upload(**fields)))
    assert (code, text in details) == ("INVALID_ARGUMENT", True), details


@pytest.mark.parametrize("project", ["/etc", "s3://other", "mem://other", "//"])
async def test_an_upload_never_leaves_the_store(proxy: Any, project: str) -> None:
    answer = await proxy.CreateUploadLocation(upload(project=project, filename="f"))
    assert answer.native_url.startswith("mem://s/")


async def test_downloads_are_signed_inside_of_the_store_only(proxy: Any, storage: Any, clock: Any) -> None:
    answer = await proxy.CreateDownloadLocation(
        dataproxy_pb2.CreateDownloadLocationRequest(native_url="mem://s/a", expires_in=Duration(seconds=60))
    )
    assert answer.signed_url.startswith("http://localhost:30080/data/v1/")
    assert answer.expires_at.ToDatetime(clock.now().tzinfo) == clock.now() + timedelta(minutes=1)
    for url, code in (
        ("", "INVALID_ARGUMENT"),
        ("mem://s/\x00", "INVALID_ARGUMENT"),
        ("x" * 5000, "INVALID_ARGUMENT"),
        ("/etc/passwd", "PERMISSION_DENIED"),
        ("mem://other/a", "PERMISSION_DENIED"),
        ("mem://s/../other/a", "PERMISSION_DENIED"),
    ):
        request = dataproxy_pb2.CreateDownloadLocationRequest(native_url=url)
        assert (await refusal(proxy.CreateDownloadLocation(request)))[0] == code, url


def deck(ids: Any, node_id: str, **fields: Any) -> dataproxy_pb2.CreateDownloadLinkRequest:
    return dataproxy_pb2.CreateDownloadLinkRequest(
        **{"artifact_type": dataproxy_pb2.ARTIFACT_TYPE_DECK, "node_execution_id": ids.node("e1", node_id)} | fields
    )


async def test_a_deck_is_linked_to(proxy: Any, rows: Any, ids: Any, storage: Any, clock: Any) -> None:
    execution = await rows.execution("e1")
    for node_id, uri in (("n0", "mem://s/deck.html"), ("gone", "mem://s/gone.html"), ("none", "")):
        await rows.node(execution, node_id, closure=node_execution_pb2.NodeExecutionClosure(deck_uri=uri))
    await storage.write("mem://s/deck.html", b"<p>")
    answer = await proxy.CreateDownloadLink(deck(ids, "n0"))
    assert list(answer.signed_url) == list(answer.pre_signed_urls.signed_url)
    assert answer.pre_signed_urls.expires_at == answer.expires_at
    assert answer.expires_at.ToDatetime(clock.now().tzinfo) == clock.now() + timedelta(hours=1)
    assert await refusal(proxy.CreateDownloadLink(deck(ids, "gone"))) == ("NOT_FOUND", "object not found")
    code, details = await refusal(proxy.CreateDownloadLink(deck(ids, "none")))
    assert (code, details.startswith("no deckUrl found for request [")) == ("NOT_FOUND", True)
    code, details = await refusal(proxy.CreateDownloadLink(deck(ids, "unknown")))
    assert (code, details.startswith("failed to find node execution [")) == ("INVALID_ARGUMENT", True)
    for request in (
        deck(ids, "n0", artifact_type=0),
        deck(ids, "n0", expires_in=Duration(seconds=-1)),
        deck(ids, "n0", expires_in=Duration(seconds=4000)),
        deck(ids, ""),
        dataproxy_pb2.CreateDownloadLinkRequest(artifact_type=dataproxy_pb2.ARTIFACT_TYPE_DECK),
    ):
        code, details = await refusal(proxy.CreateDownloadLink(request))
        assert (code, details.startswith("error while validating request. Error: ")) == ("INVALID_ARGUMENT", True)


async def test_a_deck_outside_of_the_store_is_not_linked_to(proxy: Any, rows: Any, ids: Any) -> None:
    execution = await rows.execution("e1")
    for node_id, uri, code in (
        ("n0", "/etc/passwd", "PERMISSION_DENIED"),
        ("n1", "mem://other/deck.html", "PERMISSION_DENIED"),
        ("n2", "mem://s/../other/deck.html", "PERMISSION_DENIED"),
        ("n3", "mem://s", "NOT_FOUND"),
    ):
        await rows.node(execution, node_id, closure=node_execution_pb2.NodeExecutionClosure(deck_uri=uri))
        assert (await refusal(proxy.CreateDownloadLink(deck(ids, node_id))))[0] == code, uri


async def test_addresses_lead_to_maps_literals_and_decks(proxy: Any, rows: Any, ids: Any, storage: Any) -> None:
    inputs, outputs = LiteralMap(), LiteralMap()
    inputs.literals["a"].scalar.primitive.integer = 1
    outputs.literals["o0"].scalar.primitive.integer = 2
    await storage.write("mem://s/in", inputs.SerializeToString())
    await storage.write("mem://s/deck.html", b"<p>")
    execution = await rows.execution("e1")
    node = node_execution_pb2.NodeExecutionClosure(output_data=outputs, deck_uri="mem://s/deck.html")
    await rows.node(execution, "0", closure=node, input_uri="mem://s/in")
    await rows.task_execution(
        execution, "0", 3, closure=task_execution_pb2.TaskExecutionClosure(output_data=outputs), input_uri="mem://s/in"
    )

    async def get(path: str) -> Any:
        return await proxy.GetData(dataproxy_pb2.GetDataRequest(flyte_url=f"flyte://v1/p/d/{path}"))

    assert (await get("e1/0/i")).literal_map == inputs
    assert (await get("e1/0/o")).literal_map == outputs
    assert (await get("e1/0/o/o0")).literal.scalar.primitive.integer == 2
    assert (await get("e1/0/3/i")).literal_map == inputs
    assert (await get("e1/0/3/i/a")).literal.scalar.primitive.integer == 1
    assert (await get("e1/0/d")).pre_signed_urls.signed_url[0].startswith("http://localhost:30080/data/v1/")
    for path, code, text in (
        ("e1/0/i/zzz", "INVALID_ARGUMENT", "name [zzz] not found in node execution ["),
        ("e1/0/3/i/zzz", "INVALID_ARGUMENT", "name [zzz] not found in task execution ["),
        ("e1/0/4/i", "INVALID_ARGUMENT", "no attempt 4 found"),
        ("e1/0/3/d", "INVALID_ARGUMENT", "failed to parse artifact url Error: "),
        ("e1/0/x", "INVALID_ARGUMENT", "failed to parse artifact url Error: "),
        ("e1/0/99999999999999999999/i", "INVALID_ARGUMENT", "failed to parse artifact url Error: "),
        ("e1/none/i", "NOT_FOUND", "missing entity of type node execution"),
        ("e1/none/d", "INVALID_ARGUMENT", "failed to find node execution ["),
    ):
        got, details = await refusal(get(path))
        assert (got, text in details) == (code, True), (path, details)
    for url in ("", "flyte://v2/p/d/e1/0/i", "http://v1/p/d/e1/0/i"):
        got, details = await refusal(proxy.GetData(dataproxy_pb2.GetDataRequest(flyte_url=url)))
        assert got == "INVALID_ARGUMENT"
        assert details.startswith("failed to validate resolve artifact request. Error: ")


_words = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)


@given(
    st.builds(
        FlyteUrl,
        project=_words,
        domain=_words,
        execution=_words,
        node_id=_words,
        attempt=st.none() | st.integers(0, 2**31 - 1),
        part=st.sampled_from([Part.INPUTS, Part.OUTPUTS]),
        name=st.none() | _words,
    )
)
def test_an_address_reads_as_it_was_written(url: FlyteUrl) -> None:
    assert parse_flyte_url(str(url)) == url


@given(st.text().map(lambda text: "flyte://v1/" + text) | st.text())
@example("flyte://v1/" + "a/" * 100_000)
@example("flyte://v1/p/d/e/n/i\n")
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        url = parse_flyte_url(text)
    except InvalidArgument:
        return
    assert parse_flyte_url(str(url)) == url
