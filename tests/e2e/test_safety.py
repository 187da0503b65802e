"""What a web page, a rebound name or a crafted path gets from the port of a platform on a laptop: a refusal."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
import pytest
from flyteidl.service import dataproxy_pb2, dataproxy_pb2_grpc

from .conftest import DOMAIN, PROJECT
from .instance import Instance

Answer = tuple[int, bytes, Mapping[str, str]]
CONTENT = b"what was meant to be stored"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the store, with something that is nobody's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def place(instance: Instance) -> Path:
    """A fresh directory in the store, as a task could make it."""
    folder = instance.data_dir / "store" / PROJECT / DOMAIN / f"safety{secrets.token_hex(6)}"
    folder.mkdir(parents=True)
    return folder


def ask(
    instance: Instance, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request, whose path nobody tidies up on the way."""
    connection = http.client.HTTPConnection("localhost", instance.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read(), {key.lower(): value for key, value in response.getheaders()}
    finally:
        connection.close()


def upload_location(instance: Instance, root: str, filename: str, content: bytes | None = CONTENT) -> Answer:
    """Ask for a place to upload to."""
    request = {"project": PROJECT, "domain": DOMAIN, "filename": filename, "filename_root": root}
    if content is not None:
        request["content_md5"] = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    body = json.dumps(request).encode()
    return ask(
        instance, "POST", "/api/v1/dataproxy/artifact_urn", body=body, headers={"Content-Type": "application/json"}
    )


def granted(answer: Answer) -> dict[str, Any]:
    """What a location is: its fields are spelled as either form of the API spells them."""
    status, body, _ = answer
    assert status == 200, body
    fields = json.loads(body)
    return {"url": fields.get("signed_url") or fields["signedUrl"], "headers": fields.get("headers", {})}


def target(url: str) -> str:
    """Path and query of a signed URL, as they are."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def download_location(instance: Instance, native_url: str) -> Answer:
    return ask(instance, "GET", f"/api/v1/dataproxy/artifact_urn?native_url={quote(native_url, safe='')}")


def test_a_request_of_the_user_s_own_browser_is_answered(instance: Instance) -> None:
    own = {"Origin": instance.url, "Sec-Fetch-Site": "same-origin"}
    assert ask(instance, "GET", "/api/v1/projects", headers=own)[0] == 200
    assert ask(instance, "GET", "/api/v1/projects", headers={"Sec-Fetch-Site": "none"})[0] == 200


@pytest.mark.parametrize("path", ["/api/v1/projects", "/console", "/metrics", "/healthcheck", "/data/v1/x"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "-".join(*headers.items()),
)
def test_a_page_of_another_origin_is_refused(instance: Instance, path: str, headers: dict[str, str]) -> None:
    status, body, answered = ask(instance, "GET", path, headers=headers)
    assert status == 403
    assert "access-control-allow-origin" not in answered
    assert b"flytesnacks" not in body


def test_a_page_of_another_origin_cannot_launch_anything(instance: Instance) -> None:
    headers = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    body = json.dumps({"project": PROJECT, "domain": DOMAIN, "name": "evil"}).encode()
    assert ask(instance, "POST", "/api/v1/executions", body=body, headers=headers)[0] == 403
    asked = {**headers, "Access-Control-Request-Method": "POST"}
    status, _, answered = ask(instance, "OPTIONS", "/api/v1/executions", headers=asked)
    assert status == 403
    assert not [name for name in answered if name.startswith("access-control-")]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", ""])
def test_a_name_that_was_rebound_to_this_machine_is_refused(instance: Instance, host: str) -> None:
    status, body, _ = ask(instance, "GET", "/api/v1/projects", headers={"Host": f"{host}:{instance.port}"})
    assert status in (400, 403, 421)
    assert b"flytesnacks" not in body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_the_names_of_this_machine_are_answered(instance: Instance, host: str) -> None:
    assert ask(instance, "GET", "/api/v1/projects", headers={"Host": f"{host}:{instance.port}"})[0] == 200


def test_what_was_granted_works(instance: Instance, place: Path) -> None:
    grant = granted(upload_location(instance, place.name, "fine.txt"))
    status, body, _ = ask(instance, "PUT", target(grant["url"]), body=CONTENT, headers=grant["headers"])
    assert status == 200, body
    assert (place / "fine.txt").read_bytes() == CONTENT
    link = granted(download_location(instance, str(place / "fine.txt")))
    status, body, headers = ask(instance, "GET", target(link["url"]))
    assert (status, body) == (200, CONTENT)
    assert "sandbox" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("root", ["..", "../..", "a/../../..", "."])
def test_an_upload_cannot_climb_out_of_its_place(instance: Instance, root: str) -> None:
    status, body, _ = upload_location(instance, root, "climbed.txt")
    assert status == 400, body
    status, body, _ = upload_location(instance, "fine", f"{root}/climbed.txt")
    assert status == 400, body


def test_what_lies_outside_of_the_store_is_neither_signed_nor_served(
    instance: Instance, outside: Path, place: Path
) -> None:
    secret = outside / "secret.txt"
    climbing = f"{place}/{'../' * 30}{str(secret).lstrip('/')}"
    for native_url in (str(secret), f"file://{secret}", climbing, f"{instance.data_dir}/signing.key", "/etc/passwd"):
        status, body, _ = download_location(instance, native_url)
        assert status in (400, 403), (native_url, body)
        assert b"secret" not in body.replace(str(secret).encode(), b"")


def test_the_same_holds_for_grpc(instance: Instance, outside: Path) -> None:
    with grpc.insecure_channel(instance.endpoint) as channel:
        stub = dataproxy_pb2_grpc.DataProxyServiceStub(channel)
        request = dataproxy_pb2.CreateDownloadLocationRequest(native_url=str(outside / "secret.txt"))
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreateDownloadLocation(request, timeout=10)
    assert caught.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)


def test_a_symlink_out_of_the_store_is_not_followed_by_reads(instance: Instance, outside: Path, place: Path) -> None:
    (place / "file").symlink_to(outside / "secret.txt")
    (place / "folder").symlink_to(outside)
    for native_url in (place / "file", place / "folder" / "secret.txt"):
        status, body, _ = answer = download_location(instance, str(native_url))
        if status == 200:
            status, body, _ = ask(instance, "GET", target(granted(answer)["url"]))
        assert status in (400, 403, 404), native_url
        assert body != b"secret"


def test_a_symlink_out_of_the_store_is_not_followed_by_writes(instance: Instance, outside: Path, place: Path) -> None:
    (place / "file").symlink_to(outside / "secret.txt")
    (place / "folder").symlink_to(outside)
    for root, filename in ((place.name, "file"), (f"{place.name}/folder", "secret.txt"), (place.name, "folder/new")):
        status, _, _ = answer = upload_location(instance, root, filename, content=None)
        if status == 200:
            ask(instance, "PUT", target(granted(answer)["url"]), body=CONTENT)
        assert (outside / "secret.txt").read_text() == "secret"
        assert [path.name for path in outside.iterdir()] == ["secret.txt"]


def test_a_token_is_good_for_its_own_key_method_and_content_only(instance: Instance, place: Path) -> None:
    grant = granted(upload_location(instance, place.name, "granted.txt"))
    path, _, query = target(grant["url"]).partition("?")
    headers = grant["headers"]
    assert "granted.txt" in path

    other = path.replace("granted.txt", "other.txt")
    assert ask(instance, "PUT", f"{other}?{query}", body=CONTENT, headers=headers)[0] == 403
    climbing = path.replace("granted.txt", "..%2Fgranted.txt")
    assert ask(instance, "PUT", f"{climbing}?{query}", body=CONTENT, headers=headers)[0] == 403
    for method in ("GET", "HEAD"):
        assert ask(instance, method, f"{path}?{query}")[0] == 403
    for method in ("POST", "DELETE", "PATCH"):
        assert ask(instance, method, f"{path}?{query}", body=CONTENT, headers=headers)[0] in (403, 404, 405)
    for content in (CONTENT + b"!", CONTENT[:-1], b"x" * len(CONTENT)):
        assert ask(instance, "PUT", f"{path}?{query}", body=content, headers=headers)[0] in (400, 403)
        assert ask(instance, "PUT", f"{path}?{query}", body=content)[0] in (400, 403)
    assert ask(instance, "PUT", path, body=CONTENT, headers=headers)[0] == 403
    assert ask(instance, "PUT", f"{path}?{query[:-4]}AAAA", body=CONTENT, headers=headers)[0] == 403
    assert list(place.iterdir()) == [], "something was stored after all"

    assert ask(instance, "PUT", f"{path}?{query}", body=CONTENT, headers=headers)[0] == 200
    link = target(granted(download_location(instance, str(place / "granted.txt")))["url"])
    assert ask(instance, "PUT", link, body=b"changed")[0] == 403
    assert (place / "granted.txt").read_bytes() == CONTENT


def test_logs_and_pages_do_not_serve_files_by_path(instance: Instance) -> None:
    key = (instance.data_dir / "signing.key").read_bytes()
    climb, there = "../" * 30, quote(str(instance.data_dir))
    paths = [
        f"/console/{climb}{there}/signing.key",
        f"/console/{quote(climb, safe='')}{quote(str(instance.data_dir), safe='')}%2Fsigning.key",
        f"/console/logs?project=..&domain=..&execution={quote(climb + str(instance.data_dir))}&node=n0&attempt=0",
        f"/data/v1/{quote(str(instance.data_dir / 'signing.key'), safe='')}",
        f"/data/v1/{climb}{there}/signing.key",
    ]
    for path in paths:
        status, body, _ = ask(instance, "GET", path)
        assert status in (400, 403, 404), path
        assert key not in body


def test_it_listens_on_the_loopback_only(instance: Instance) -> None:
    listening = {
        line.split()[1].partition(":")[0]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].partition(":")[2], 16) == instance.port
    }
    assert listening == {"0100007F"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_it_refuses_to_listen_beyond_this_machine(instance: Instance, host: str, tmp_path: Path) -> None:
    beside = Instance(tmp_path / "data", tmp_path / "home")
    done = beside.aerodrome("up", "--port", "0", "--host", host)
    assert done.returncode != 0
    assert "--insecure-bind" in done.stderr
