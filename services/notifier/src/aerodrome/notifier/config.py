"""The notifier's settings: `notifications` as the reference has it, for mail, and `notifier` for what is our own.

Source: spec/datacatalog-scheduler-notifier.md, section C.4.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from aerodrome.notifier.domain.deliveries import Patience
from aerodrome.notifier.domain.network import Network
from aerodrome.notifier.domain.payloads import SUBJECT
from aerodrome.notifier.domain.rules import PHASES, UNSUCCESSFUL, Rule
from aerodrome.stdlib.config import Duration, LoggerConfig, SecretText, Section, TelemetryConfig
from aerodrome.stdlib.errors import FailedPrecondition
from aerodrome.stdlib.postgres.config import DatabaseConfig
from aerodrome.stdlib.pubsub.config import BusConfig

# The reference's section: mail


class EmailServerConfig(Section):
    """`notifications.emailer.emailServerConfig`."""

    service_name: Literal["", "smtp", "ses", "sendgrid"] = ""
    """Empty: SES if `notifications.type` is aws, otherwise nothing is sent."""
    api_key_env_var: str = ""
    api_key_file_path: Path | None = None
    """Of sendgrid, which is reached by SMTP."""
    smtp_server: str = ""
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_tls: Literal["auto", "starttls", "tls", "none"] = "auto"
    """`auto`: TLS from the start on port 465, otherwise STARTTLS where the server offers it."""
    smtp_skip_tls_verify: bool = Field(default=False)
    smtp_username: str = ""
    smtp_password_secret_name: str = ""
    """Name of a secret: a file below `secrets.secrets-prefix`, or an environment variable with `secrets.env-prefix`."""
    smtp_password_path: Path | None = None
    """File that holds the password, in place of a secret's name."""


class EmailerConfig(Section):
    """`notifications.emailer`."""

    email_server_config: EmailServerConfig = EmailServerConfig()
    subject: str = SUBJECT
    sender: str = ""
    body: str = "{{ project }}/{{ domain }}/{{ name }} ended as {{ phase }}.{{ error }}"
    """HTML; what is put in is escaped."""


class AwsConfig(Section):
    region: str = ""
    endpoint: str = ""
    """Of SES, where it is not AWS's own."""


class NotificationsConfig(Section):
    """`notifications`."""

    type: str = "local"
    region: str = ""
    aws: AwsConfig = AwsConfig()
    emailer: EmailerConfig = EmailerConfig()

    @property
    def provider(self) -> Literal["smtp", "ses", "none"]:
        """How mail is sent."""
        match self.emailer.email_server_config.service_name:
            case "smtp" | "sendgrid":
                return "smtp"
            case "ses":
                return "ses"
            case _:
                return "ses" if self.type == "aws" else "none"

    @model_validator(mode="after")
    def _whole(self) -> NotificationsConfig:
        server = self.emailer.email_server_config
        if server.service_name == "smtp" and not server.smtp_server:
            raise ValueError("emailer.emailServerConfig.serviceName is smtp, and smtpServer names no server")
        if self.provider != "none" and not self.emailer.sender:
            raise ValueError("emailer.sender is empty: name the address that mails come from")
        return self


class SecretsConfig(Section):
    """`secrets`: where named secrets are."""

    secrets_prefix: Path | None = None
    """Directory of files with secrets."""
    env_prefix: str = "FLYTE_SECRET_"

    def read(self, name: str) -> str:
        """A secret by its name.  Raises FailedPrecondition if it is nowhere."""
        if self.secrets_prefix is not None and (self.secrets_prefix / name).is_file():
            return read_secret_file(self.secrets_prefix / name)
        variable = self.env_prefix + name.upper().replace("-", "_").replace("/", "_")
        if variable in os.environ:
            return os.environ[variable]
        places = f"the environment variable {variable}"
        if self.secrets_prefix is not None:
            places = f"the file {self.secrets_prefix / name} or {places}"
        raise FailedPrecondition(f"there is no secret {name}: put it into {places}")


# Our own section


class ChannelConfig(Section):
    """`notifier.channels.<name>`: where messages may go.

    What is secret may stand here, in a file (`...Path`, read at each use, so that it may change), or in an environment
    variable (`...Env`).
    """

    type: Literal["email", "slack", "teams", "pagerduty", "webhook"]
    recipients: tuple[str, ...] = ()
    """Addresses, of email."""
    url: SecretText = SecretText("")
    """Of slack, teams and webhook; it often holds a secret."""
    url_path: Path | None = None
    url_env: str = ""
    secret: SecretText = SecretText("")
    """Of webhook: what requests are signed with."""
    secret_path: Path | None = None
    secret_env: str = ""
    routing_key: SecretText = SecretText("")
    """Of pagerduty: the integration key."""
    routing_key_path: Path | None = None
    routing_key_env: str = ""
    headers: dict[str, SecretText] = {}
    """Further headers, of webhook."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretText) -> SecretText:
        text = url.get_secret_value()
        if text:
            check_url(text)
        return url

    @model_validator(mode="after")
    def _whole(self) -> ChannelConfig:
        if self.type == "email":
            if not self.recipients or not all(self.recipients):
                raise ValueError("an email channel needs recipients")
        elif self.recipients:
            raise ValueError(f"a {self.type} channel has no recipients; those of email have")
        if self.type in ("slack", "teams", "webhook") and not self._says("url"):
            raise ValueError(f"a {self.type} channel needs url, urlPath or urlEnv")
        if self.type == "webhook" and not self._says("secret"):
            raise ValueError("a webhook channel needs secret, secretPath or secretEnv: its requests are signed")
        if self.type == "pagerduty" and not self._says("routing_key"):
            raise ValueError("a pagerduty channel needs routingKey, routingKeyPath or routingKeyEnv")
        return self

    def _says(self, name: str) -> bool:
        return bool(getattr(self, name).get_secret_value() or getattr(self, f"{name}_path") or self.env_of(name))

    def env_of(self, name: str) -> str:
        """The environment variable that holds a secret, or nothing."""
        return str(getattr(self, f"{name}_env"))

    def read(self, name: Literal["url", "secret", "routing_key"]) -> str:
        """A secret's value now.  Raises FailedPrecondition, without the value, if it cannot be read."""
        path: Path | None = getattr(self, f"{name}_path")
        if path is not None:
            return read_secret_file(path)
        variable = self.env_of(name)
        if variable:
            if not os.environ.get(variable):
                raise FailedPrecondition(f"the environment variable {variable} is not set")
            return os.environ[variable]
        secret: SecretText = getattr(self, name)
        return secret.get_secret_value()


class RuleConfig(Section):
    """`notifier.rules`: who hears of which ends.  Patterns are those of a shell; none means any."""

    name: str = Field(min_length=1, max_length=200)
    channels: tuple[str, ...] = Field(min_length=1)
    phases: tuple[str, ...] = UNSUCCESSFUL
    projects: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    launch_plans: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    children: bool = True
    """Whether executions count that another execution launched."""
    subject: str = ""
    """In place of `notifications.emailer.subject`."""
    body: str = ""
    """In place of `notifications.emailer.body`; a further paragraph for channels that are no mail."""

    @field_validator("phases")
    @classmethod
    def _ends(cls, phases: tuple[str, ...]) -> tuple[str, ...]:
        upper = tuple(phase.upper() for phase in phases)
        wrong = [phase for phase in upper if phase not in PHASES]
        if wrong or not upper:
            raise ValueError(
                f"phases holds some of {', '.join(PHASES)}" + (f", and {wrong[0]} is none" if wrong else "")
            )
        return upper

    def as_rule(self) -> Rule:
        """As the rules take it."""
        return Rule(
            self.name, self.channels, frozenset(self.phases), self.projects, self.domains, self.workflows,
            self.launch_plans, self.labels, self.children, self.subject, self.body,
        )  # fmt: skip


class RetryConfig(Section):
    """How long and how often a delivery is tried."""

    attempts: int = Field(default=20, ge=1, le=1_000)
    max_age: Duration = timedelta(hours=24)
    first: Duration = timedelta(seconds=1)
    """The pause after the first failure; each further one is twice as long."""
    longest: Duration = timedelta(hours=1)

    def as_patience(self) -> Patience:
        """As the rules take it."""
        return Patience(self.attempts, self.max_age, self.first, self.longest)


class NetworkConfig(Section):
    """Where calls of channels may go.  A mail server is named by the configuration itself, and always allowed."""

    allow: tuple[str, ...] = ()
    """Networks such as 10.1.0.0/16 that may be called although they are private, loopback or link-local."""

    @field_validator("allow")
    @classmethod
    def _networks(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for text in allow:
            ipaddress.ip_network(text)
        return allow

    @property
    def networks(self) -> tuple[Network, ...]:
        """What is allowed."""
        return tuple(ipaddress.ip_network(text) for text in self.allow)


class ServerConfig(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8093, ge=0, le=65535)
    insecure_bind: bool = False
    """Permit an address beyond this machine although nobody is asked who they are."""


class NotifierSection(Section):
    """`notifier`."""

    channels: dict[str, ChannelConfig] = {}
    rules: tuple[RuleConfig, ...] = ()
    console_url: str = ""
    """Where people open the console, without `/console`; messages link to it."""
    retry: RetryConfig = RetryConfig()
    network: NetworkConfig = NetworkConfig()
    timeout: Duration = timedelta(seconds=10)
    """How long one attempt may take.  Another process takes over what a killed one left after this and 2 s."""
    concurrency: int = Field(default=32, ge=1, le=1_000)
    """Attempts at once; those of one channel take at most about half of it."""
    resync: Duration = timedelta(seconds=30)
    """How often it is looked for what others left."""
    deliveries_kept: Duration = timedelta(days=30)
    """How long finished deliveries stay in the log."""
    server: ServerConfig = ServerConfig()
    profiler_port: int = Field(default=10254, ge=0, le=65535)
    """The operational port: /metrics, /healthcheck, /version, /config; 0 for none."""
    metrics_scope: str = "flyte:"

    @model_validator(mode="after")
    def _whole(self) -> NotifierSection:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules are named {twice[0]}: the delivery log tells them apart by their names")
        for rule in self.rules:
            unknown = [name for name in rule.channels if name not in self.channels]
            if unknown:
                raise ValueError(f"rule {rule.name} sends to {unknown[0]}, which notifier.channels does not have")
        if not timedelta(milliseconds=100) <= self.timeout <= timedelta(minutes=5):
            raise ValueError("timeout is between 100ms and 5m")
        return self


class NotifierConfig(Section):
    """The notifier's configuration."""

    notifications: NotificationsConfig = NotificationsConfig()
    notifier: NotifierSection = NotifierSection()
    secrets: SecretsConfig = SecretsConfig()
    bus: BusConfig = BusConfig()
    database: DatabaseConfig = DatabaseConfig()
    logger: LoggerConfig = LoggerConfig()
    otel: TelemetryConfig = TelemetryConfig()

    def mail_password(self) -> str:
        """The mail server's password now, or nothing.  Raises FailedPrecondition if it cannot be read."""
        server = self.notifications.emailer.email_server_config
        if server.service_name == "sendgrid":
            if server.api_key_file_path is not None:
                return read_secret_file(server.api_key_file_path)
            if server.api_key_env_var in os.environ:
                return os.environ[server.api_key_env_var]
            raise FailedPrecondition("sendgrid has no key: set apiKeyFilePath, or apiKeyEnvVar and that variable")
        if server.smtp_password_path is not None:
            return read_secret_file(server.smtp_password_path)
        return self.secrets.read(server.smtp_password_secret_name) if server.smtp_password_secret_name else ""


def check_url(text: str) -> str:
    """`text` if it can be called; raises ValueError, without repeating it, since it may hold a secret."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in text):
        raise ValueError("this is no address of the form https://host/path (it is not shown, since it may be secret)")
    return text


def read_secret_file(path: Path) -> str:
    """What a secret's file holds, without white space around it.  Raises FailedPrecondition."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FailedPrecondition(f"the secret in {path} cannot be read: {why}") from error
