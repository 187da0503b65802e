"""The HTTP API: every rpc that has a `google.api.http` annotation, under its path.

`routes` gives aiohttp what it needs; nothing here is written by hand for an rpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aiohttp import web
from flyteidl.service import admin_pb2, auth_pb2, dataproxy_pb2, identity_pb2, signal_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from aerodrome.admin.gateway.bindings import Router, bindings, families
from aerodrome.admin.gateway.handler import Gateway
from aerodrome.admin.gateway.openapi import Document
from aerodrome.stdlib.rpc.registry import Registry

TIMEOUT = timedelta(seconds=120)
"""How long a call may take."""


_CONTRACTS = (admin_pb2, auth_pb2, dataproxy_pb2, identity_pb2, signal_pb2)
"""Their import makes the services' descriptors known: the generated servicers bring only those of the messages."""


def routes(
    registry: Registry, services: Sequence[ServiceDescriptor] | None = None, *, timeout: timedelta = TIMEOUT
) -> list[web.RouteDef]:
    """The HTTP API of `services`, by default all that `registry` has; also `/healthcheck` and `/api/v1/openapi`.

    Every path below the first segments of theirs (`/api`, `/me`, …) is answered, with a status in the encoding that
    the client takes.
    """
    known = bindings(_described(registry) if services is None else services)
    gateway = Gateway(registry, Router(known), timeout=timeout)
    document = Document(known)
    found = [web.route("*", "/healthcheck", _healthy), web.get("/api/v1/openapi", document.handle)]
    for first, has_more in families(known).items():
        found.append(web.route("*", f"/{first}", gateway.handle))
        if has_more:
            found.append(web.route("*", f"/{first}/{{rest:.*}}", gateway.handle))
    return found


def _described(registry: Registry) -> list[ServiceDescriptor]:
    """The services of a registry whose contracts are known here, ours among them if they were imported."""
    pool = descriptor_pool.Default()
    found = [each for module in _CONTRACTS for each in module.DESCRIPTOR.services_by_name.values()]
    found = [each for each in found if each.full_name in registry.services]
    known = {each.full_name for each in found}
    for name in registry.services:
        if name in known:
            continue
        try:
            found.append(pool.FindServiceByName(name))
        except KeyError:
            continue
    return found


async def _healthy(_: web.Request) -> web.Response:
    return web.Response()
