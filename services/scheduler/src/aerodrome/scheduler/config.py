"""The scheduler's settings.  Source: spec/datacatalog-scheduler-notifier.md, section B.7; the keys are the reference's
where it has them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator

from aerodrome.scheduler.domain.misfire import Misfire, Policy
from aerodrome.stdlib.config import Duration, LoggerConfig, Section, TelemetryConfig
from aerodrome.stdlib.cron import zone_of
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.postgres.config import DatabaseConfig
from aerodrome.stdlib.pubsub.config import BusConfig


class AdminRateLimit(Section):
    tps: float = Field(default=100.0, gt=0)
    """Most executions that are created in a second, over a longer time."""
    burst: int = Field(default=10, ge=1)


class LocalExecutorConfig(Section):
    admin_rate_limit: AdminRateLimit = AdminRateLimit()


class WorkflowExecutorConfig(Section):
    """`scheduler.workflowExecutor`."""

    local: LocalExecutorConfig = LocalExecutorConfig()


class MisfireConfig(Section):
    """What is done about missed slots, where a launch plan says nothing else by its annotations."""

    policy: Literal["all", "latest", "none"] = "all"
    cap: int = Field(default=1_000, ge=1, le=100_000)
    """Most missed slots of one schedule that are made up for."""
    window: Duration = timedelta(days=7)
    """What was missed longer ago than this is not made up for."""
    grace: Duration = timedelta(seconds=30)
    """How late a slot may fire and still be on time."""
    tps: float = Field(default=20.0, gt=0)
    """Most missed slots that fire in a second, of all schedules together."""

    def as_policy(self) -> Policy:
        """As the rules take it."""
        return Policy(Misfire(self.policy), self.cap, self.window, self.grace)


class RetryConfig(Section):
    """How a slot is tried again that the control plane could not take."""

    first: Duration = timedelta(milliseconds=500)
    longest: Duration = timedelta(seconds=30)


class LeaseConfig(Section):
    """Which replica leads."""

    term: Duration = timedelta(seconds=5)
    """How long a leader that fell silent is waited for; it renews its lease three times as often."""

    @field_validator("term")
    @classmethod
    def _long_enough(cls, term: timedelta) -> timedelta:
        if not timedelta(milliseconds=100) <= term <= timedelta(minutes=5):
            raise ValueError("a lease's term is between 100ms and 5m")
        return term


class ServerConfig(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8092, ge=0, le=65535)
    insecure_bind: bool = False
    """Permit an address beyond this machine although nobody is asked who they are."""


class SchedulerSection(Section):
    """`scheduler`."""

    workflow_executor: WorkflowExecutorConfig = WorkflowExecutorConfig()
    profiler_port: int = Field(default=10254, ge=0, le=65535)
    """Where the process by itself tells its health and its metrics; 0: nowhere."""
    metrics_scope: str = "flyte:"
    server: ServerConfig = ServerConfig()
    time_zone: str = "UTC"
    """In which expressions are read that name no zone, of launch plans that name none."""
    misfire: MisfireConfig = MisfireConfig()
    retry: RetryConfig = RetryConfig()
    lease: LeaseConfig = LeaseConfig()
    concurrency: int = Field(default=32, ge=1, le=1_000)
    """Executions that are being created at once."""
    call_timeout: Duration = timedelta(seconds=15)
    """How long the control plane may take for one call."""
    resync: Duration = timedelta(minutes=1)
    """How often all active launch plans are read, for the case that an announcement was lost."""
    decisions_kept: int = Field(default=100, ge=1, le=10_000)
    """How many decisions are kept of each schedule."""
    backfill_slots: int = Field(default=10_000, ge=1, le=100_000)
    """Most slots of one order to backfill."""

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            zone_of(name)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
        return name


class AdminClientConfig(Section):
    """`admin`: where the control plane is."""

    endpoint: str = "localhost:8089"
    insecure: bool = False
    """Talk in plain text; on this machine that is always so."""

    @property
    def in_plain_text(self) -> bool:
        """Whether calls are not encrypted."""
        host = self.endpoint.rpartition("///")[2].rpartition(":")[0]
        return self.insecure or host in ("localhost", "127.0.0.1", "[::1]")


class SchedulerConfig(Section):
    """The scheduler's configuration."""

    scheduler: SchedulerSection = SchedulerSection()
    admin: AdminClientConfig = AdminClientConfig()
    bus: BusConfig = BusConfig()
    database: DatabaseConfig = DatabaseConfig()
    logger: LoggerConfig = LoggerConfig()
    otel: TelemetryConfig = TelemetryConfig()
