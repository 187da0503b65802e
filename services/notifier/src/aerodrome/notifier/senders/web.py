"""HTTP channels: Slack, Microsoft Teams, PagerDuty, and webhooks that are signed.

Webhooks follow the Standard Webhooks specification: `webhook-id` is the delivery's key, `webhook-timestamp` the time of
the attempt in seconds, `webhook-signature` is `v1,` and the base64 of the HMAC-SHA256 of `<id>.<timestamp>.<body>`.
Names are resolved once for each connection, every address is checked, and the connection goes to what was checked;
redirects are not followed and no proxy of the environment is used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from aerodrome.notifier.config import ChannelConfig, check_url
from aerodrome.notifier.domain.deliveries import MAX_ANSWER_CHARS, Outcome, Planned, Result
from aerodrome.notifier.domain.network import Network, refusal
from aerodrome.notifier.senders.port import shown
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import FailedPrecondition, PermissionDenied

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
"""Source: PagerDuty's Events API v2; `url` of a channel names another one, such as that of the EU region."""
_FOR_GOOD = frozenset({400, 405, 410, 411, 413, 414, 415, 422, 431})
"""What repeating the same request will not change; a wrong key or path may be mended, and is tried again."""
_MAX_ANSWER_BYTES = 4 * MAX_ANSWER_CHARS


class CheckedResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to addresses that may not be called."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses to connect to.  Raises PermissionDenied if any of them may not be called, OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        results = []
        for kind, _, protocol, _, place in found:
            text = str(place[0]).partition("%")[0]
            check_address(text, self._allowed, host)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=text,
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError(f"{host} has no address")
        return results

    async def close(self) -> None:
        """There is nothing to let go of."""


def check_address(text: str, allowed: Sequence[Network], host: str = "") -> None:
    """Raise PermissionDenied if this address may not be called."""
    why = refusal(ipaddress.ip_address(text), allowed)
    if why is not None:
        raise PermissionDenied(f"{host} leads to {why}" if host and host != text else why)


class WebSender:
    """Sends by POST of JSON to the channels of the configuration."""

    def __init__(self, channels: Mapping[str, ChannelConfig], allowed: Sequence[Network], clock: Clock) -> None:
        self._channels = channels
        self._allowed = allowed
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def send(self, delivery: Planned) -> Result:
        """Post it; 2xx is delivered, and what may pass is postponed."""
        channel = self._channels.get(delivery.channel)
        if channel is None or channel.type != delivery.kind:
            return Result(
                Outcome.REFUSED, error=f"the configuration has no {delivery.kind} channel {delivery.channel} any more"
            )
        secrets: list[str] = []
        try:
            url, body, headers = self._request(channel, delivery, secrets)
        except FailedPrecondition as error:  # a secret that may be put right
            return Result(Outcome.POSTPONED, error=shown(error.message, secrets))
        try:
            return await self._post(url, body, headers, secrets)
        except PermissionDenied as error:
            return Result(Outcome.REFUSED, error=shown(error.message, secrets))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, PermissionDenied):
                return Result(Outcome.REFUSED, error=shown(error.__cause__.message, secrets))
            return Result(Outcome.POSTPONED, error=shown(str(error) or type(error).__name__, secrets))

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _request(
        self, channel: ChannelConfig, delivery: Planned, secrets: list[str]
    ) -> tuple[str, bytes, dict[str, str]]:
        """Where to, what, and with which headers; what is secret among it is noted in `secrets`."""
        url = channel.read("url") or (PAGERDUTY_URL if channel.type == "pagerduty" else "")
        parts = _secret_parts(url)
        secrets.extend(parts)
        try:
            check_url(url)
        except ValueError as error:
            raise FailedPrecondition(f"the address of {delivery.channel} cannot be used: {error}") from None
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": delivery.key,
            "User-Agent": "Aerodrome-Notifier",
        }
        body = delivery.content.encode()
        match channel.type:
            case "pagerduty":
                key = channel.read("routing_key")
                secrets.append(key)
                body = json.dumps({"routing_key": key} | json.loads(body)).encode()
            case "webhook":
                secret = channel.read("secret")
                secrets.append(secret)
                for name, value in channel.headers.items():
                    secrets.append(value.get_secret_value())
                    headers[name] = value.get_secret_value()
                at = int(self._clock.now().timestamp())
                headers |= {
                    "Content-Type": "application/cloudevents+json",
                    "webhook-id": delivery.key,
                    "webhook-timestamp": str(at),
                    "webhook-signature": signature(secret, delivery.key, at, body),
                }
            case _:
                pass
        return url, body, headers

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str], secrets: Sequence[str]) -> Result:
        host = urlsplit(url).hostname or ""
        address = _as_address(host)
        if address is not None:  # those are not resolved
            check_address(address, self._allowed, host)
        async with self._opened().post(url, data=body, headers=headers, allow_redirects=False) as response:
            answer = shown((await _beginning(response)).decode(errors="replace"), secrets)
            status = response.status
            if 200 <= status < 300:
                return Result(Outcome.DELIVERED, answer=shown(f"{status} {answer}"))
            error = f"it answered {status} {response.reason or ''}".strip()
            if 300 <= status < 400:
                error = f"{error}: redirects are not followed, give the channel the final address"
                return Result(Outcome.REFUSED, answer=answer, error=error)
            return Result(
                Outcome.REFUSED if status in _FOR_GOOD else Outcome.POSTPONED,
                answer=shown(f"{status} {answer}"),
                error=shown(error, secrets),
                not_before=_retry_after(response.headers.get("Retry-After", ""), self._clock.now()),
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=CheckedResolver(self._allowed), use_dns_cache=False, limit=0, keepalive_timeout=15
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


def signature(secret: str, key: str, at: int, body: bytes) -> str:
    """`webhook-signature` of a body sent `at` seconds of the epoch under `key`."""
    signed = f"{key}.{at}.".encode() + body
    digest = hmac.new(_key_bytes(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key_bytes(secret: str) -> bytes:
    """A secret as the specification writes it, `whsec_` and base64; any other text is the key itself."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _secret_parts(url: str) -> list[str]:
    """What of an address must not be shown: all but the host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    path = parts.path if len(parts.path) > 1 else ""
    return [each for each in (url, path, parts.query, parts.password or "", parts.username or "") if len(each) > 3]


def _as_address(host: str) -> str | None:
    """The address that `host` is, also in the forms that only the socket library knows (127.1); None for a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    found = b""
    while len(found) < _MAX_ANSWER_BYTES:
        part = await response.content.read(_MAX_ANSWER_BYTES - len(found))
        if not part:
            break
        found += part
    return found


def _retry_after(text: str, now: datetime) -> timedelta | None:
    """Source: RFC 9110, section 10.2.3: seconds, or a date."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), 10**7))
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(at - now, timedelta())
