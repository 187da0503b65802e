"""Settings of what the control plane tells others.  Source: spec/control-plane.md sections 12.2 and 12.3."""

from __future__ import annotations

from typing import Literal

from aerodrome.stdlib.config import Section
from aerodrome.stdlib.pubsub.config import NatsConfig


class EventsPublisherConfig(Section):
    """Which events go where."""

    topic_name: str = "flyte-events"
    """The topic of SNS (its name, or its ARN), or the subject of NATS."""
    event_types: tuple[str, ...] = ("all",)
    """workflow, node and task; all or * for every one."""
    enrich_all_workflow_event_types: bool = False
    """Whether every workflow event tells what it is about, and not only that of a success."""


class SnsConfig(Section):
    """Where SNS is; what is empty is left to the environment's AWS configuration."""

    region: str = ""
    endpoint: str = ""


class ExternalEventsConfig(Section):
    """`externalEvents`: the event requests themselves, as protobuf (base64 on AWS)."""

    enable: bool = False
    type: Literal["aws", "nats", "sandbox", "local"] = "local"
    """`sandbox` is our own bus; `local` is nowhere."""
    aws: SnsConfig = SnsConfig()
    nats: NatsConfig = NatsConfig()
    events_publisher: EventsPublisherConfig = EventsPublisherConfig()


class CloudEventsConfig(ExternalEventsConfig):
    """`cloudEvents`: CloudEvents 1.0 with JSON in them."""

    cloud_event_version: Literal["v1", "v2"] = "v1"
