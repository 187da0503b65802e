"""Signed URLs for stores that we serve ourselves.

A token is a claim and its HMAC-SHA256: which method, on which reference, until when, and for uploads which MD5 and
length the content has to have.  Method and reference are not in the token's text; they are what it is checked against.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from aerodrome.stdlib.storage.port import MD5_METADATA_HEADER, SignedUrl, base64_md5

PATH = "/data/v1/"
"""Where signed URLs lie below the public address."""

MAX_TOKEN_CHARACTERS = 4096

_PURPOSE = b"aerodrome signed url 1"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says."""

    expires_at: datetime
    content_md5: str | None
    """Base64."""
    content_length: int | None
    filename: str
    """What to call the content when it is saved."""


def key_at(path: Path) -> bytes:
    """The key in a file, which is made with a new one if it is missing; only its owner may read it.

    Raises FailedPrecondition if it cannot be read or made.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written whole under another name first: several processes may begin together, and all must read one key.
            made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(made, path)
            except FileExistsError:
                pass
            finally:
                made.unlink()
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            f"the key for signed URLs in {path} cannot be read or made: {error.strerror}"
        ) from error


class LocalSigner:
    """Signs and checks URLs below `base_url()` with a secret key of at least 16 bytes."""

    def __init__(self, key: bytes, base_url: Callable[[], str], clock: Clock) -> None:
        if len(key) < 16:
            raise InvalidArgument("the key for signed URLs needs at least 16 bytes")
        self._key = key
        self._base_url = base_url
        self._clock = clock

    def sign_upload(
        self,
        reference: str,
        *,
        expires_in: timedelta,
        content_md5: bytes | None,
        add_md5_metadata: bool,
        content_length: int | None,
    ) -> SignedUrl:
        if content_md5 is not None and len(content_md5) != 16:
            raise InvalidArgument(f"an MD5 has 16 bytes, not {len(content_md5)}")
        md5 = base64_md5(content_md5) if content_md5 else None
        headers = {"Content-MD5": md5} if md5 else {}
        if md5 and add_md5_metadata:
            headers[MD5_METADATA_HEADER] = md5
        url, expires_at = self._url("PUT", reference, expires_in, md5, content_length)
        return SignedUrl(url, headers, expires_at)

    def sign_download(self, reference: str, *, expires_in: timedelta) -> SignedUrl:
        url, expires_at = self._url("GET", reference, expires_in, None, None)
        return SignedUrl(url, {}, expires_at)

    def verify(self, method: str, reference: str, token: str, *, content_length: int | None = None) -> Claims:
        """What the token allows, if it is for this method and reference and has not expired.

        A token for GET is good for HEAD.  `content_length` is what the request states; it has to be the one that was
        signed, if one was.  Raises PermissionDenied.
        """
        body, dot, mac = token.partition(".")
        right = "GET" if method == "HEAD" else method
        expected = self._mac(right, reference, body)
        if (
            len(token) > MAX_TOKEN_CHARACTERS
            or not dot
            or not hmac.compare_digest(mac.encode("utf-8", "replace"), expected.encode())
        ):
            raise PermissionDenied(
                "this URL was not signed for this request; use it as it was given, or ask for a new one"
            )
        try:
            expires, md5, length, filename = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error) as error:
            raise PermissionDenied("this URL's token is of an unknown form; ask for a new one") from error
        now = self._clock.now()
        expires_at = datetime.fromtimestamp(expires / 1000, tz=now.tzinfo)
        if now >= expires_at:
            raise PermissionDenied(f"this URL expired at {expires_at.isoformat()}; ask for a new one")
        if length is not None and content_length != length:
            raise PermissionDenied(
                f"this URL was signed for {length} bytes, and the request states {content_length}; ask for a new one"
            )
        return Claims(expires_at, md5, length, filename)

    def _url(
        self, method: str, reference: str, expires_in: timedelta, md5: str | None, length: int | None
    ) -> tuple[str, datetime]:
        if expires_in <= timedelta(0):
            raise InvalidArgument(f"a signed URL has to live for longer than {expires_in}")
        try:
            expires_at = self._clock.now() + expires_in
            expires = int(expires_at.timestamp() * 1000)
        except (OverflowError, ValueError) as error:
            raise InvalidArgument(f"a signed URL cannot live for {expires_in}") from error
        claims = [expires, md5, length, reference.rpartition("/")[2]]
        body = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=").decode("ascii")
        token = f"{body}.{self._mac(method, reference, body)}"
        url = f"{self._base_url().rstrip('/')}{PATH}{quote(reference, safe='')}?token={token}"
        return url, expires_at

    def _mac(self, method: str, reference: str, body: str) -> str:
        parts = [part.encode("utf-8", "surrogatepass") for part in (method, reference, body)]
        text = b"".join(len(part).to_bytes(4, "big") + part for part in (_PURPOSE, *parts))
        digest = hmac.digest(self._key, text, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
