"""The console: plain pages, rendered by the server, that show what ran, how it went, and what it made.

They work without scripts, and refresh themselves while what they show may change.  The console knows nothing but the
API: all that it shows comes over the channel that it is given, but for the logs of the local runtime, which `read_log`
reads.  Paths are those that Flyte's clients print.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from aerodrome.console.pages import Console
from aerodrome.console.reading import Reader


def routes(channel: Any, *, read_log: Callable[..., Awaitable[str | None]]) -> list[web.RouteDef]:
    """The pages below `/console`.

    `channel` is a `grpc.aio.Channel` to the admin service.  `read_log(project, domain, execution, node, attempt)` gives
    the log of an attempt, None if there is none.
    """
    console = Console(Reader(channel), read_log)
    base = "/console"
    entity = f"{base}/projects/{{project}}/domains/{{domain}}"
    execution = f"{entity}/executions/{{name}}"
    return [
        web.get("/", console.root),
        web.get(base, console.home),
        web.get(f"{base}/", console.root),
        web.get(f"{base}/select-project", console.root),
        web.get(f"{base}/static/{{name}}", console.static),
        web.get(f"{base}/logs", console.logs),
        web.get(entity, console.executions),
        web.get(f"{entity}/executions", console.executions),
        web.get(execution, console.execution),
        web.get(f"{execution}/nodes/{{node}}", console.node),
        web.get(f"{execution}/nodeId/{{node}}", console.node),
        web.get(f"{execution}/nodes/{{node}}/deck", console.deck),
        web.get(f"{entity}/{{kind}}/{{name}}/version/{{version:.+}}", console.entity),
        web.get(f"{base}/{{rest:.*}}", console.missing),
    ]


__all__ = ["routes"]
