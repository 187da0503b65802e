"""Mail: over SMTP, over Amazon's SES, or not at all.

A mail is HTML, as in the reference.  Each recipient gets it by a transaction of its own, so that one who is refused
does not keep it from the others; the header names all of them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import aiosmtplib

from aerodrome.notifier.config import EmailServerConfig
from aerodrome.notifier.domain.deliveries import Outcome, Planned, Result
from aerodrome.notifier.senders.port import shown
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

NO_PROVIDER = "not sent: no provider"
KEY_HEADER = "X-Aerodrome-Idempotency-Key"
_DOMAIN = "notifier.aerodrome"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_IDLE_CONNECTIONS = 4
_CONNECT_SECONDS = 10


def compose(delivery: Planned, sender: str) -> EmailMessage:
    """The mail, the same at each attempt.  Raises ValueError if an address cannot be one."""
    content = json.loads(delivery.content)
    message = EmailMessage(policy=SMTP)
    try:
        _address(delivery.recipient)
        message["From"] = sender
        message["To"] = ", ".join(_header_addresses(content["to"], delivery.recipient))
        message["Subject"] = content["subject"]
    except (MessageError, IndexError, AttributeError) as error:
        raise ValueError(str(error)) from error
    message["Message-ID"] = f"<{delivery.key}@{_DOMAIN}>"
    message[KEY_HEADER] = delivery.key  # SES gives mails another Message-ID
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(content["html"], subtype="html", charset="utf-8")
    return message


class NoMail:
    """Where there is no provider: what would have been sent is logged."""

    async def send(self, delivery: Planned) -> Result:
        """Say so."""
        log.warning(
            "notification " + NO_PROVIDER,
            execution=f"{delivery.project}/{delivery.domain}/{delivery.execution}",
            phase=delivery.phase,
            recipient=delivery.recipient,
            subject=delivery.subject,
        )
        return Result(
            Outcome.NOT_SENT, error=f"{NO_PROVIDER} (notifications.emailer.emailServerConfig names no mail server)"
        )

    async def aclose(self) -> None:
        """There is nothing to let go of."""


class SmtpSender:
    """Over a mail server; connections are used again after a NOOP."""

    def __init__(self, config: EmailServerConfig, sender: str, password: Callable[[], str]) -> None:
        self._config = config
        self._sender = sender
        self._password = password
        self._idle: list[aiosmtplib.SMTP] = []

    async def send(self, delivery: Planned) -> Result:
        """Hand it to the server.  A recipient or a text that is refused for good is; all else may pass."""
        try:
            message = compose(delivery, self._sender)
        except ValueError as error:
            return Result(Outcome.REFUSED, error=shown(f"no mail can be made of it: {error}"))
        password = ""
        try:
            password = self._password()
            client = await self._connection(password)
        except FailedPrecondition as error:
            return Result(Outcome.POSTPONED, error=shown(error.message, [password]))
        except (aiosmtplib.SMTPException, OSError) as error:
            return Result(Outcome.POSTPONED, error=shown(f"mail server: {_said(error)}", [password]))
        usable = False
        try:
            _, said = await client.send_message(message, recipients=[delivery.recipient])
            usable = True
            return Result(Outcome.DELIVERED, answer=shown(said, [password]))
        except aiosmtplib.SMTPRecipientsRefused as error:
            code = error.recipients[0].code if error.recipients else 0
            usable = True
            return _refused(error, password, for_good=500 <= code < 600)
        except aiosmtplib.SMTPDataError as error:
            usable = True
            return _refused(error, password, for_good=500 <= error.code < 600)
        except aiosmtplib.SMTPNotSupported as error:  # an address or text that the server's extensions do not cover
            return _refused(error, password, for_good=True)
        except (aiosmtplib.SMTPException, OSError) as error:
            return _refused(error, password, for_good=False)
        finally:
            if usable and client.is_connected and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(client)
            else:
                client.close()

    async def aclose(self) -> None:
        idle, self._idle = self._idle, []
        for client in idle:
            try:
                async with asyncio.timeout(1):
                    await client.quit()
            except (aiosmtplib.SMTPException, OSError, TimeoutError):
                client.close()

    async def _connection(self, password: str) -> aiosmtplib.SMTP:
        while self._idle:
            client = self._idle.pop()
            try:
                await client.noop()
            except (aiosmtplib.SMTPException, OSError):
                client.close()
            else:
                return client
        config = self._config
        host = "smtp.sendgrid.net" if config.service_name == "sendgrid" else config.smtp_server
        tls = config.smtp_tls
        from_the_start = tls == "tls" or (tls == "auto" and config.smtp_port == 465)
        client = aiosmtplib.SMTP(
            hostname=host,
            port=config.smtp_port,
            timeout=_CONNECT_SECONDS,
            use_tls=from_the_start,
            start_tls=False if from_the_start or tls == "none" else True if tls == "starttls" else None,
            tls_context=_tls_context(verify=not config.smtp_skip_tls_verify) if tls != "none" else None,
        )
        try:
            await client.connect()
            await self._login(client, host, password)
        except BaseException:
            client.close()
            raise
        return client

    async def _login(self, client: aiosmtplib.SMTP, host: str, password: str) -> None:
        user = "apikey" if self._config.service_name == "sendgrid" else self._config.smtp_username
        if not user:
            return
        encrypted = client.get_transport_info("ssl_object") is not None
        if not encrypted and host not in _LOOPBACK:
            raise FailedPrecondition(
                f"the mail server {host} offers no TLS, and the password is not sent in plain text: use a server or "
                "port with TLS, or unset smtpUsername"
            )
        if client.supports_extension("auth"):
            await client.login(user, password)


class SesSender:
    """Over Amazon's Simple Email Service, with the credentials of the environment."""

    def __init__(self, region: str, endpoint: str, sender: str) -> None:
        self._region = region
        self._endpoint = endpoint
        self._sender = sender
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def send(self, delivery: Planned) -> Result:
        """Hand it to SES.  What it cannot read is refused for good; all else may pass, an unverified sender too."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            message = compose(delivery, self._sender)
        except ValueError as error:
            return Result(Outcome.REFUSED, error=shown(f"no mail can be made of it: {error}"))
        try:
            client = await self._opened()
            answer = await client.send_raw_email(
                Source=self._sender, Destinations=[delivery.recipient], RawMessage={"Data": message.as_bytes()}
            )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            return _refused(error, "", for_good=code == "InvalidParameterValue")
        except (BotoCoreError, OSError) as error:
            return _refused(error, "", for_good=False)
        return Result(Outcome.DELIVERED, answer=shown(answer.get("MessageId", "")))

    async def aclose(self) -> None:
        self._client = None
        await self._stack.aclose()

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                from aiobotocore.session import get_session

                made = get_session().create_client(
                    "ses", region_name=self._region or None, endpoint_url=self._endpoint or None
                )
                self._client = await self._stack.enter_async_context(made)
        return self._client


def _refused(error: Exception, password: str, *, for_good: bool) -> Result:
    said = shown(f"mail server: {_said(error)}", [password])
    return Result(Outcome.REFUSED if for_good else Outcome.POSTPONED, error=said)


def _said(error: BaseException) -> str:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        refused = error.recipients[0]
        return f"{refused.code} {refused.message}"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    return str(error) or type(error).__name__


def _address(text: str) -> None:
    """Raise ValueError if this is no address of a mailbox."""
    Address(addr_spec=text)


def _header_addresses(addresses: list[str], own: str) -> list[str]:
    """Those that can stand in a header; others of the same notification fail by themselves."""
    found = []
    for text in addresses:
        try:
            _address(text)
        except (ValueError, MessageError, IndexError, AttributeError):
            continue
        found.append(text)
    return found or [own]


def _tls_context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
