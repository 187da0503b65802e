"""The handlers of the pages: what to read, which template shows it, and what errors look like.

Pages whose length depends on what ran are made in threads: a thousand nodes take 60 ms, too long for the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2
from aiohttp import web

from aerodrome.console import entities, literals, views
from aerodrome.console.reading import MAX_NODES, Reader
from aerodrome.stdlib import http
from aerodrome.stdlib.errors import AerodromeError, Kind, NotFound
from aerodrome.stdlib.logger import get_logger

log = get_logger(__name__)

REFRESH_SECONDS = 3
SLOW_REFRESH_SECONDS = 10
"""How often a page that may change asks for itself again; more slowly if it has many rows."""

MANY_ROWS = 50

RECENT = 5
"""Executions of each domain on the first page."""

MAX_PLACES = 30
"""Domains on the first page whose executions are shown; the others are links."""

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}

LOG_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_STATIC = {"console.css": "text/css", "icon.svg": "image/svg+xml"}

ReadLog = Callable[..., Awaitable[str | None]]


class Console:
    """The pages; each is a handler for aiohttp."""

    def __init__(self, reader: Reader, read_log: ReadLog) -> None:
        self._reader = reader
        self._read_log = read_log
        self._static = {
            name: resources.files("aerodrome.console").joinpath("static", name).read_bytes() for name in _STATIC
        }
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("aerodrome.console"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    async def root(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/console"})

    async def static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound(text="there is no such file")
        return web.Response(
            body=self._static[name], content_type=_STATIC[name], headers={"Cache-Control": "max-age=300"}
        )

    async def home(self, request: web.Request) -> web.StreamResponse:
        """Projects and domains, with what ran there last."""

        async def page() -> web.Response:
            projects = await self._reader.projects()
            places = [(project.id, domain.id) for project in projects for domain in project.domains]
            shown = places[:MAX_PLACES]
            recent = await self._reader.recent(shown, limit=RECENT)
            now = views.utc_now()
            rows = {
                place: [views.execution_row(each, now) for each in executions]
                for place, executions in zip(shown, recent, strict=True)
            }
            return self._page(
                "home.html",
                projects=projects,
                rows=rows,
                place_url=views.place_url,
                refresh=_refresh(each for executions in recent for each in executions),
            )

        return await self._shown(request, page)

    async def executions(self, request: web.Request) -> web.StreamResponse:
        """The executions of a domain, page by page."""
        project, domain = request.match_info["project"], request.match_info["domain"]

        async def page() -> web.Response:
            token = request.query.get("token", "")
            found = await self._reader.executions(project, domain, token=token)
            now = views.utc_now()
            rows = [views.execution_row(each, now) for each in found.executions]
            following = f"?token={quote(found.token, safe='')}" if found.token else ""
            return self._page(
                "executions.html",
                project=project,
                domain=domain,
                rows=rows,
                following=following,
                first=not token,
                refresh=_refresh(found.executions),
            )

        return await self._shown(request, page)

    async def execution(self, request: web.Request) -> web.StreamResponse:
        """An execution: its head, its nodes as a tree, its inputs and outputs."""
        place = _place(request)

        async def page() -> web.Response:
            execution = await self._reader.execution(*place)
            tree, data = await asyncio.gather(self._reader.tree(execution), self._reader.execution_data(*place))

            def made() -> web.Response:
                now = views.utc_now()
                view = views.execution_view(execution, now)
                rows = list(views.node_rows(tree.nodes, now))
                return self._page(
                    "execution.html",
                    view=view,
                    rows=rows,
                    complete=tree.complete,
                    max_nodes=MAX_NODES,
                    inputs=literals.of_map(data.full_inputs),
                    outputs=literals.of_map(data.full_outputs),
                    place_url=views.place_url(view.project, view.domain),
                    refresh=None if view.terminal else _pause(len(rows)),
                )

            return await asyncio.to_thread(made)

        return await self._shown(request, page)

    async def node(self, request: web.Request) -> web.StreamResponse:
        """A node: its attempts with their logs, its inputs and outputs, and what is inside of it."""
        place, node_id = _place(request), request.match_info["node"]

        async def page() -> web.Response:
            execution, node, data = await asyncio.gather(
                self._reader.execution(*place),
                self._reader.node(*place, node_id),
                self._reader.node_data(*place, node_id),
            )
            complete = True
            if node.execution.metadata.is_parent_node:
                tree = await self._reader.tree(execution, inside=node_id)
                node.children, complete = tree.nodes, tree.complete

            def made() -> web.Response:
                now = views.utc_now()
                view = views.execution_view(execution, now)
                rows = list(views.node_rows(node.children, now))
                return self._page(
                    "node.html",
                    view=view,
                    execution_url=views.execution_url(execution.id),
                    place_url=views.place_url(view.project, view.domain),
                    row=views.node_row(node, now),
                    rows=rows,
                    complete=complete,
                    max_nodes=MAX_NODES,
                    attempts=[views.attempt(each, now) for each in reversed(node.attempts)],
                    inputs=literals.of_map(data.full_inputs),
                    outputs=literals.of_map(data.full_outputs),
                    refresh=None if view.terminal else _pause(len(rows)),
                )

            return await asyncio.to_thread(made)

        return await self._shown(request, page)

    async def entity(self, request: web.Request) -> web.StreamResponse:
        """A version of a workflow, task or launch plan, and what ran of it last."""
        match = request.match_info
        found_kind = entities.KINDS.get(match["kind"])
        if found_kind is None:
            return await self.missing(request)
        kind = found_kind
        project, domain = match["project"], match["domain"]
        named = (project, domain, match["name"], match["version"])

        async def page() -> web.Response:
            entity, executions = await asyncio.gather(
                self._reader.entity(kind, *named), self._reader.executions_of(kind, *named)
            )
            now = views.utc_now()
            return self._page(
                "entity.html",
                project=project,
                domain=domain,
                place_url=views.place_url(project, domain),
                kind=kind.title,
                view=entities.view(kind, entity),
                rows=[views.execution_row(each, now) for each in executions],
            )

        return await self._shown(request, page)

    async def missing(self, request: web.Request) -> web.StreamResponse:
        """For paths that are no page."""
        return self._page(
            "error.html", status=404, title="Not found", message="The console has no page under this address."
        )

    async def deck(self, request: web.Request) -> web.StreamResponse:
        """Sends the browser to a node's deck."""

        async def found() -> web.Response:
            url = await self._reader.deck(*_place(request), request.match_info["node"])
            return web.Response(status=302, headers={"Location": views.here(url), "Cache-Control": "no-store"})

        return await self._shown(request, found)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """The log of an attempt, as text: what tasks write is shown, never run."""

        async def text() -> web.Response:
            wanted = [request.query.get(name, "") for name in ("project", "domain", "execution", "node")]
            number = request.query.get("attempt", "0")
            if not all(wanted) or not number.isdecimal() or len(number) > 9:
                raise web.HTTPBadRequest(
                    text="a log is named by project, domain, execution, node and attempt, a whole number"
                )
            found = await self._read_log(*wanted, int(number))
            if found is None:
                raise NotFound("there is no log of this attempt: it has not started yet, or its log was removed")
            return web.Response(text=found, content_type="text/plain", headers=LOG_HEADERS)

        return await self._shown(request, text)

    async def _shown(self, request: web.Request, page: Callable[[], Awaitable[web.Response]]) -> web.StreamResponse:
        """What `page` gives, or a page that says why there is none."""
        try:
            return await page()
        except AerodromeError as error:
            status = http.STATUS_OF_KIND[error.kind]
            if status >= 500:
                log.warning("page cannot be shown", path=request.rel_url.raw_path, error=error.message)
            title = "Not found" if error.kind is Kind.NOT_FOUND else "This page cannot be shown"
            return self._page("error.html", status=status, title=title, message=error.message)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        context: Mapping[str, Any] = {"refresh": None, **values}
        text = self._templates.get_template(template).render(context)
        return web.Response(status=status, text=text, content_type="text/html", headers=PAGE_HEADERS)


def _refresh(executions: Iterable[Any]) -> int | None:
    """How often to show a list again: not at all once nothing in it can change."""
    return None if all(views.is_terminal(each) for each in executions) else REFRESH_SECONDS


def _pause(rows: int) -> int:
    return REFRESH_SECONDS if rows <= MANY_ROWS else SLOW_REFRESH_SECONDS


def _place(request: web.Request) -> tuple[str, str, str]:
    match = request.match_info
    return match["project"], match["domain"], match["name"]
