"""The data proxy from the outside: spec/control-plane.md, sections 9.1 to 9.5, and the tables of 9.6."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from aerodrome.stdlib.postgres.testing import ServerForTests

from .doors import DOORS, REMOVED, Row, changed, everywhere, granted, place_of, rows
from .serving import DOMAIN, PROJECT, Served, reference, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)

CONTENT = b"<html>hello</html>"
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).digest()
NODES = [{"id": name, "taskNode": {"referenceId": reference("TASK", "t")}} for name in ("a", "b", "c")]
INTEGER = {"scalar": {"primitive": {"integer": "7"}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(postgres_server: ServerForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The execution `e`: a has a deck, b none, and the deck of c is gone."""
    async with served(postgres_server, tmp_path_factory.mktemp("store")) as made:
        await made.register("w", NODES, tasks=["t"])
        execution = await made.launch("w", "e")
        await made.workflow_event(execution, "RUNNING", "00:01")
        deck = made.storage.join(made.storage.base, "deck.html")
        await made.storage.write(deck, CONTENT)
        for node, uri in (("a", deck), ("b", ""), ("c", f"{deck}.gone")):
            await made.node_event(execution, node, "RUNNING", "00:02", inputData={"literals": {"x": INTEGER}})
            await made.task_event(execution, node, "t", 0, "FAILED", "00:03")
            await made.task_event(execution, node, "t", 1, "SUCCEEDED", "00:03")
            await made.node_event(
                execution, node, "SUCCEEDED", "00:04", outputData={"literals": {"o": INTEGER}}, deckUri=uri
            )
        yield made


# 9.1


UPLOAD = {
    "project": PROJECT,
    "domain": DOMAIN,
    "filename": "f.txt",
    "contentMd5": base64.b64encode(MD5).decode(),
    "expiresIn": "60s",
}


@rows(
    Row("CreateUploadLocation", changed(UPLOAD, ("project", "")), "project and domain are required parameters"),
    Row("CreateUploadLocation", changed(UPLOAD, ("domain", "")), "project and domain are required parameters"),
    Row("CreateUploadLocation", changed(UPLOAD, ("contentMd5", "")),
        "content_md5 or filename_root is a required parameter"),
    [
        Row("CreateUploadLocation", changed(UPLOAD, ("expiresIn", time)), "expires_in…")
        for time in ("3601s", "-1s")
    ],
    Row("CreateUploadLocation", changed(UPLOAD, ("contentMd5", "AAAA")), "content_md5…"),
    [
        Row("CreateDownloadLocation", {"nativeUrl": "/x", "expiresIn": time}, "expires_in…")
        for time in ("3601s", "-1s")
    ],
    Row("CreateDownloadLocation", {}, "missing native_url"),
    Row("CreateDownloadLocation", {"nativeUrl": "/etc/passwd"}, "…", "PERMISSION_DENIED"),
)  # fmt: skip
async def test_what_is_wrong_with_a_location(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_what_is_put_is_what_was_announced(platform: Served) -> None:
    for door in DOORS:
        made = await granted(platform, "CreateUploadLocation", UPLOAD, door)
        root = base64.b32encode(MD5).decode()
        assert made.native_url == "/".join((platform.storage.base, PROJECT, DOMAIN, root, "f.txt"))
        assert dict(made.headers) == {"Content-MD5": base64.b64encode(MD5).decode()}
        assert made.HasField("expires_at")
    organised = await granted(
        platform, "CreateUploadLocation", UPLOAD | {"org": "acme", "filenameRoot": "r", "filename": "f2.txt"}
    )
    assert organised.native_url == "/".join((platform.storage.base, "acme", PROJECT, DOMAIN, "r", "f2.txt"))
    nameless = await granted(platform, "CreateUploadLocation", changed(UPLOAD, ("filename", REMOVED)))
    assert len(nameless.native_url.rpartition("/")[2]) == 20
    longest = await granted(platform, "CreateUploadLocation", changed(UPLOAD, ("expiresIn", REMOVED)))
    assert longest.expires_at.ToDatetime() - made.expires_at.ToDatetime() == timedelta(minutes=59)


async def put(platform: Served, announced: Any, content: bytes = CONTENT) -> int:
    """What a client does with a location: the status of its PUT."""
    async with platform.session.put(announced.signed_url, data=content, headers=dict(announced.headers)) as response:
        return response.status


async def test_other_content_than_announced_is_not_taken(platform: Served) -> None:
    made = await granted(platform, "CreateUploadLocation", UPLOAD | {"filename": f"new{next(_numbers)}"})
    assert await put(platform, made, CONTENT[::-1]) >= 400
    assert await platform.storage.head(made.native_url) is None
    assert await put(platform, made) == 200
    assert await platform.storage.read(made.native_url) == CONTENT


async def test_a_determined_path_keeps_its_content(platform: Served) -> None:
    determined = UPLOAD | {"filenameRoot": "root", "filename": f"once{next(_numbers)}"}
    first = await granted(platform, "CreateUploadLocation", determined)
    assert await put(platform, first) == 200
    for door in DOORS:
        again = await granted(platform, "CreateUploadLocation", determined, door)
        assert again.native_url == first.native_url
    text = f"file already exists at location [{first.native_url}], specify a matching hash if you wish to rewrite"
    other = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    for request in (changed(determined, ("contentMd5", REMOVED)), determined | {"contentMd5": other}):
        await Row("CreateUploadLocation", request, text, "ALREADY_EXISTS").check(platform)


# 9.2 to 9.4


def at(node: str, execution: str = "e") -> dict[str, Any]:
    return {"executionId": place_of(execution), "nodeId": node}


def link(node: str = "a", **more: Any) -> dict[str, Any]:
    return {"artifactType": "ARTIFACT_TYPE_DECK", "nodeExecutionId": at(node), **more}


INVALID = "error while validating request. Error: …"
URL = f"flyte://v1/{PROJECT}/{DOMAIN}/e"


@rows(
    Row("CreateDownloadLink", changed(link(), ("artifactType", REMOVED)), INVALID),
    Row("CreateDownloadLink", changed(link(), ("nodeExecutionId", REMOVED)), INVALID),
    Row("CreateDownloadLink", link(expiresIn="-1s"), INVALID),
    Row("CreateDownloadLink", link(expiresIn="3601s"), INVALID),
    Row("CreateDownloadLink", link("nobody"), "failed to find node execution […]…"),
    Row("CreateDownloadLink", link("b"), "no deckUrl found for request […]", "NOT_FOUND"),
    Row("CreateDownloadLink", link("c"), "object not found", "NOT_FOUND"),
    [
        Row("GetData", {"flyteUrl": url}, "failed to validate resolve artifact request. Error: …")
        for url in ("", "flyte://v2/p/d/e/n/i", "http://v1/p/d/e/n/i", f"{PROJECT}/{DOMAIN}/e/a/i")
    ],
    [
        Row("GetData", {"flyteUrl": f"{URL}/{rest}"}, "failed to parse artifact url Error: …")
        for rest in ("", "a", "a/x", "a/i/o/x", "a/1/d", "a/-1/i", "a!/i", "a/d/x", "a/one/i")
    ],
    Row("GetData", {"flyteUrl": f"{URL}/a/i/nothing"}, "name [nothing] not found in node execution […]"),
    Row("GetData", {"flyteUrl": f"{URL}/a/1/o/nothing"}, "name [nothing] not found in task execution […]"),
    Row("GetData", {"flyteUrl": f"{URL}/a/7/i"}, "…7…"),
    Row("GetData", {"flyteUrl": f"{URL}/nobody/i"}, "missing entity of type node execution…", "NOT_FOUND"),
    Row("GetData", {"flyteUrl": f"{URL}/b/d"}, "no deckUrl found for request […]", "NOT_FOUND"),
)  # fmt: skip
async def test_what_leads_nowhere_says_so(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_a_deck_is_linked_to_as_html(platform: Served) -> None:
    for door in DOORS:
        made = await granted(platform, "CreateDownloadLink", link(), door)
        by_url = await granted(platform, "GetData", {"flyteUrl": f"{URL}/a/d"}, door)
        assert list(made.signed_url) == list(made.pre_signed_urls.signed_url)
        assert made.expires_at == made.pre_signed_urls.expires_at
        async with platform.session.get(made.signed_url[0]) as response:
            assert await response.read() == CONTENT
            assert response.content_type == "text/html"
        assert len(made.signed_url) == len(by_url.pre_signed_urls.signed_url) == 1


async def test_an_address_is_a_map_or_one_of_its_literals(platform: Served) -> None:
    whole = await everywhere(platform, "GetData", {"flyteUrl": f"{URL}/a/o"})
    assert whole.literal_map.literals["o"].scalar.primitive.integer == 7
    one = await everywhere(platform, "GetData", {"flyteUrl": f"{URL}/a/i/x"})
    assert one.literal.scalar.primitive.integer == 7
    attempt = await everywhere(platform, "GetData", {"flyteUrl": f"{URL}/a/1/i"})
    assert attempt.WhichOneof("data") == "literal_map"


# 9.6


def signal(**more: Any) -> dict[str, Any]:
    return {"id": {"signalId": "s", "executionId": place_of("e")}, **more}


@rows(
    *(
        [
            Row(rpc, changed(request, ("id", REMOVED)), "missing id"),
            Row(rpc, changed(request, ("id.executionId", REMOVED)), "missing execution_id"),
            Row(rpc, changed(request, ("id.signalId", REMOVED)), "missing signal_id"),
            *(
                Row(rpc, changed(request, (f"id.executionId.{field}", "")), f"missing {field}")
                for field in ("project", "domain", "name")
            ),
        ]
        for rpc, request in (
            ("GetOrCreateSignal", signal(type={"simple": "INTEGER"})),
            ("SetSignal", signal(value=INTEGER)),
        )
    ),
    Row("GetOrCreateSignal", signal(), "missing type"),
    Row("SetSignal", signal(), "missing value"),
    Row("SetSignal", changed(signal(value=INTEGER), ("id.signalId", "nobody")),
        "failed to validate that signal […] exists, err: […]…"),
    *(
        Row("ListSignals", {"workflowExecutionId": place_of("e") | {field: ""}, "limit": 5}, "missing execution_id")
        for field in ("project", "domain", "name")
    ),
    Row("ListSignals", {"limit": 5}, "missing execution_id"),
)  # fmt: skip
async def test_what_is_wrong_with_a_signal(platform: Served, row: Row) -> None:
    await row.check(platform)


async def test_a_signal_is_set_through_every_door(platform: Served) -> None:
    made = await granted(platform, "GetOrCreateSignal", signal(type={"simple": "INTEGER"}))
    assert not made.HasField("value")
    wrong = signal(value={"scalar": {"primitive": {"stringValue": "x"}}})
    text = "requested signal value […] is not castable to existing signal type […]"
    await Row("SetSignal", wrong, text).check(platform)
    for value, door in enumerate(DOORS):
        await granted(platform, "SetSignal", signal(value={"scalar": {"primitive": {"integer": str(value)}}}), door)
        listed = await everywhere(platform, "ListSignals", {"workflowExecutionId": place_of("e"), "limit": 5})
        assert [each.value.scalar.primitive.integer for each in listed.signals] == [value]
    again = await granted(platform, "GetOrCreateSignal", signal(type={"simple": "STRING"}))
    assert again.type.simple == made.type.simple
