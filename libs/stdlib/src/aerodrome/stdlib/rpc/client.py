"""Calling a server over the network: channels with sane defaults, and received errors as ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc

from aerodrome.stdlib.rpc.status import aerodrome_error

__all__ = ["Tls", "aerodrome_error", "network_channel"]


class Tls:
    """How to trust the server: the system's authorities, or those in `root_certificates` (PEM).

    `server_name` is what its certificate is checked against, where it is not the host in the target.
    """

    def __init__(self, root_certificates: bytes | None = None, *, server_name: str | None = None) -> None:
        self.root_certificates = root_certificates
        self.server_name = server_name


def network_channel(
    target: str,
    *,
    tls: Tls | None = None,
    attempts: int = 4,
    keepalive: timedelta = timedelta(seconds=30),
    options: Mapping[str, str | int] | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """A channel to `target` (`host:port`, `dns:///...`, `unix:/path`), in plain text unless `tls` is given.

    Calls that fail with UNAVAILABLE before the server began an answer are repeated, up to `attempts` in all and
    within the caller's deadline; gRPC guarantees that much for any method only where the request never left, so
    servers that do more than read must be idempotent by their keys, as ours are.  Messages are not limited here but
    by the server.
    """
    settings: dict[str, Any] = {
        "grpc.max_send_message_length": -1,
        "grpc.max_receive_message_length": -1,
        "grpc.max_metadata_size": 64 * 1024,
        "grpc.keepalive_time_ms": round(keepalive.total_seconds() * 1000),
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 5_000,
        "grpc.enable_retries": 1 if attempts > 1 else 0,
    }
    if attempts > 1:
        settings["grpc.service_config"] = _service_config(attempts)
    if tls is not None and tls.server_name is not None:
        settings["grpc.ssl_target_name_override"] = tls.server_name
    settings.update(options or {})
    pairs = tuple(settings.items())
    if tls is None:
        return grpc.aio.insecure_channel(target, options=pairs, interceptors=list(interceptors))
    credentials = grpc.ssl_channel_credentials(tls.root_certificates)
    return grpc.aio.secure_channel(target, credentials, options=pairs, interceptors=list(interceptors))


def _service_config(attempts: int) -> str:
    policy = {
        "maxAttempts": min(attempts, 5),  # what gRPC permits
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
