"""What the pages show, as a browser without scripts gets it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flyteidl.core import execution_pb2 as core
from flyteidl.core import identifier_pb2
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from aerodrome.console.reading import ATTEMPTS_OF_NODES, MAX_NODES

EXECUTION = "/console/projects/p/domains/d/executions/n"
NASTY = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
TAGS = {
    "html", "head", "meta", "title", "link", "body", "header", "a", "img", "nav", "span", "main", "section", "h1", "h2",
    "h3", "dl", "div", "dt", "dd", "pre", "p", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul",
    "li",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "name", "content", "http-equiv", "rel", "href", "type", "class", "src", "alt", "width", "height",
    "aria-label", "colspan", "open", "data-name",
}  # fmt: skip


async def test_the_address_that_clients_print_shows_the_execution(site: Any) -> None:
    execution = site.api.execution()
    execution.closure.duration.FromMilliseconds(61_500)
    execution.spec.metadata.principal = "someone"
    page = await site.get(EXECUTION)
    assert page.status == 200
    for shown in ("succeeded", "my.wf @ v/1", "my.plan @ v/1", "2023-11-14 22:13:20 UTC", "1 min 2 s", "someone"):
        assert shown in page.text
    assert page.links["my.wf @ v/1"] == "/console/projects/p/domains/d/workflow/my.wf/version/v%2F1"
    assert page.links["my.plan @ v/1"] == "/console/projects/p/domains/d/launch_plan/my.plan/version/v%2F1"


async def test_a_page_may_load_nothing_but_its_style_and_run_nothing(site: Any) -> None:
    site.api.execution()
    page = await site.get(EXECUTION)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe-inline" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cache-Control"] == "no-store"
    for name, kind in (("console.css", "text/css"), ("icon.svg", "image/svg+xml")):
        assert f"/console/static/{name}" in page.source
        static = await site.get(f"/console/static/{name}")
        assert (static.status, static.headers["Content-Type"].split(";")[0]) == (200, kind)
    assert (await site.get("/console/static/..%2Fpages.py")).status == 404


@pytest.mark.parametrize(
    ("phase", "refreshes"),
    [
        ("UNDEFINED", True), ("QUEUED", True), ("RUNNING", True), ("SUCCEEDING", True), ("FAILING", True),
        ("ABORTING", True), ("SUCCEEDED", False), ("FAILED", False), ("ABORTED", False), ("TIMED_OUT", False),
    ],
)  # fmt: skip
async def test_a_page_asks_again_until_its_execution_is_over(site: Any, phase: str, refreshes: bool) -> None:
    site.api.execution(phase=core.WorkflowExecution.Phase.Value(phase))
    site.api.node("n0")
    for path in (EXECUTION, f"{EXECUTION}/nodes/n0", "/console", "/console/projects/p/domains/d/executions"):
        assert ((await site.get(path)).refresh is not None) == refreshes


async def test_nodes_stand_as_a_tree_under_the_names_of_their_workflow(site: Any, entities: Any) -> None:
    site.api.workflow = entities[0]
    site.api.execution()
    site.api.node("start-node")
    site.api.node("n0")
    site.api.attempt("n0")
    site.api.node("n1").metadata.is_parent_node = True
    site.api.node("n1-0-n5", parent="n1", phase=core.NodeExecution.RUNNING)
    site.api.attempt("n1-0-n5", phase=core.TaskExecution.RUNNING)
    page = await site.get(EXECUTION)
    assert "start-node" not in page.text
    assert page.text.index("prepare n0") < page.text.index("n1 n1") < page.text.index("task n1-0-n5")
    assert 'class="tree depth-1"' in page.source
    assert page.links["task"] == f"{EXECUTION}/nodes/n1-0-n5"
    await site.get(EXECUTION)
    asked = [request for request in site.api.asked if type(request).__name__ == "ObjectGetRequest"]
    assert len(asked) == 1  # what a workflow calls its nodes does not change


async def test_the_children_of_many_nodes_are_read_too(site: Any) -> None:
    site.api.execution()
    for outer in range(20):
        site.api.node(f"n{outer}").metadata.is_parent_node = True
        for inner in range(3):
            site.api.node(f"n{outer}-0-n{inner}", parent=f"n{outer}").metadata.is_parent_node = True
            site.api.node(f"n{outer}-0-n{inner}-0-m", parent=f"n{outer}-0-n{inner}")
    page = await site.get(EXECUTION)
    assert page.source.count('class="tree depth-2"') == 60


async def test_a_page_is_bounded(site: Any) -> None:
    site.api.execution()
    for index in range(MAX_NODES + 500):
        site.api.node(f"n{index}")
    site.api.node("late", phase=core.NodeExecution.FAILED)
    page = await site.get(EXECUTION)
    assert page.source.count('class="tree depth-0"') == MAX_NODES
    assert f"first {MAX_NODES} nodes" in page.text
    asked = [request for request in site.api.asked if type(request).__name__ == "TaskExecutionListRequest"]
    assert len(asked) == ATTEMPTS_OF_NODES


async def test_a_node_shows_attempts_errors_logs_and_what_happened(site: Any) -> None:
    site.api.execution(phase=core.WorkflowExecution.FAILED)
    site.api.node("n0", phase=core.NodeExecution.FAILED).closure.deck_uri = "/deck.html"
    for number in range(2):
        attempt = site.api.attempt("n0", number, core.TaskExecution.FAILED)
        attempt.closure.error.code = "USER:ValueError"
        attempt.closure.error.kind = 1
        attempt.closure.error.message = f"line one\n    line two of {number}"
        attempt.closure.logs.add(name="Kubernetes", uri=f"https://logs.example/{number}")
        reason = attempt.closure.reasons.add(message=f"began {number}")
        reason.occurred_at.seconds = 1_700_000_000
    for path in (f"{EXECUTION}/nodes/n0", f"{EXECUTION}/nodeId/n0"):
        page = await site.get(path)
        assert page.text.index("Attempt 2") < page.text.index("Attempt 1")
        assert "<pre>line one\n    line two of 1</pre>" in page.source
        assert "USER:ValueError · user error" in page.text
        assert "2023-11-14 22:13:20 UTC began 0" in page.text
        assert page.links["Kubernetes"] == "https://logs.example/1"
        assert page.links["open"] == f"{EXECUTION}/nodes/n0/deck"
    page = await site.get(EXECUTION)
    assert page.links["Kubernetes"] == "https://logs.example/1"
    assert page.links["deck"] == f"{EXECUTION}/nodes/n0/deck"


async def test_the_parts_of_a_map_are_counted_and_those_that_failed_come_first(site: Any) -> None:
    site.api.execution()
    site.api.node("n0").metadata.is_array = True
    attempt = site.api.attempt("n0")
    for index in range(700):
        phase = core.TaskExecution.FAILED if index == 650 else core.TaskExecution.SUCCEEDED
        attempt.closure.metadata.external_resources.add(index=index, phase=phase)
    page = await site.get(f"{EXECUTION}/nodes/n0")
    assert "succeeded × 699" in page.text
    assert "failed × 1" in page.text
    assert "and 200 more" in page.text
    assert "650 failed" in page.text


async def test_executions_lead_to_those_that_they_came_from_and_made(site: Any) -> None:
    execution = site.api.execution()
    other = identifier_pb2.WorkflowExecutionIdentifier(project="p", domain="d", name="other")
    execution.spec.metadata.reference_execution.CopyFrom(other)
    execution.spec.metadata.parent_node_execution.execution_id.CopyFrom(other)
    execution.spec.metadata.parent_node_execution.node_id = "n7"
    node = site.api.node("n0")
    node.closure.workflow_node_metadata.executionId.name = "child"
    node.closure.workflow_node_metadata.executionId.project = "p"
    node.closure.workflow_node_metadata.executionId.domain = "d"
    page = await site.get(EXECUTION)
    base = "/console/projects/p/domains/d/executions"
    assert page.links["other"] == f"{base}/other"
    assert page.links["other / n7"] == f"{base}/other/nodes/n7"
    assert page.links["child"] == f"{base}/child"


async def test_an_abort_says_who_and_why(site: Any) -> None:
    execution = site.api.execution(phase=core.WorkflowExecution.ABORTED)
    execution.closure.abort_metadata.cause = "not needed"
    execution.closure.abort_metadata.principal = "someone"
    page = await site.get(EXECUTION)
    assert "Aborted by someone" in page.text
    assert "not needed" in page.text


def fill(message: Message, text: str, depth: int = 0) -> None:
    """Put `text` into every string inside of `message`, but for what finds entities."""
    for field in message.DESCRIPTOR.fields:
        inside: Any = field.message_type
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name) is not None:
            continue
        if inside is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                if field.is_repeated:
                    getattr(message, field.name).append(text)
                elif not getattr(message, field.name):
                    setattr(message, field.name, text)
        elif inside.GetOptions().map_entry:
            value = inside.fields_by_name["value"]
            if value.message_type is None:
                if value.type == FieldDescriptor.TYPE_STRING:
                    getattr(message, field.name)[text] = text
            elif depth < 7:
                fill(getattr(message, field.name)[text], text, depth + 1)
        elif depth < 7 and not inside.full_name.startswith("google.protobuf"):
            target = getattr(message, field.name)
            fill(target.add() if field.is_repeated else target, text, depth + 1)


async def test_nothing_that_others_wrote_becomes_markup(site: Any, entities: Any) -> None:
    api = site.api
    api.workflow, api.task, api.launch_plan = entities
    execution = api.execution()
    execution.closure.error.message = NASTY
    node = api.node("n0")
    node.closure.error.message = NASTY
    node.metadata.is_parent_node = True
    attempt = api.attempt("n0")
    attempt.closure.metadata.external_resources.add().logs.add(name=NASTY, uri="javascript:alert(1)")
    attempt.closure.reasons.add(message=NASTY)
    data = type(await api.GetExecutionData(execution, None))()
    data.full_inputs.literals["text"].scalar.primitive.string_value = NASTY
    data.full_inputs.literals["lines"].scalar.primitive.string_value = f"{NASTY}\n{NASTY}"
    data.full_inputs.literals["struct"].scalar.generic.update({NASTY: NASTY})
    data.full_inputs.literals["error"].scalar.error.message = NASTY
    data.full_inputs.literals["blob"].scalar.blob.uri = NASTY
    data.full_outputs.literals["deep"].collection.literals.add().map.literals[NASTY].scalar.primitive.integer = 1
    api.execution_data["n"] = data
    for message in (execution, node, attempt, data, api.project, *entities):
        fill(message, NASTY)
    paths = [
        "/console",
        "/console/projects/p/domains/d/executions",
        EXECUTION,
        f"{EXECUTION}/nodes/n0",
        "/console/projects/p/domains/d/workflow/my.wf/version/v%2F1",
        "/console/projects/p/domains/d/task/my.task/version/v1",
        "/console/projects/p/domains/d/launch_plan/my.plan/version/v1",
        "/console/projects/%3Cscript%3E/domains/%22%3E%3Cscript%3E/executions",
        "/console/projects/p/domains/d/executions/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    ]
    for path in paths:
        page = await site.get(path)
        assert page.status in (200, 404), page.text
        assert page.tags <= TAGS, path
        assert page.attributes <= ATTRIBUTES, path
        assert "javascript:" not in "".join(page.links.values())
    page = await site.get(EXECUTION)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("https://logs.example/x?a=b&c", "https://logs.example/x?a=b&c"),
        ("http://127.0.0.1:30080/console/logs?project=p&attempt=0", "/console/logs?project=p&attempt=0"),
        ("http://[::1]:1/console/logs?project=p", "/console/logs?project=p"),
        ("http://localhost:9999/other", "http://localhost:9999/other"),
        ("http://elsewhere/console/logs", "http://elsewhere/console/logs"),
        ("/console/logs?project=p", "/console/logs?project=p"),
        ("javascript:alert(1)", None),
        ("JavaScript:alert(1)", None),
        ("data:text/html,x", None),
        ("//evil.example/x", None),
        ("http://[", None),
        ("", None),
    ],
)
async def test_links_go_where_a_browser_may_be_sent(site: Any, uri: str, link: str | None) -> None:
    site.api.execution()
    site.api.node("n0")
    site.api.attempt("n0").closure.logs.add(name="the log", uri=uri)
    page = await site.get(EXECUTION)
    assert page.links.get("the log") == link
    assert "the log" in page.text


async def test_a_deck_is_reached_by_the_name_that_the_visitor_came_by(site: Any) -> None:
    site.api.execution()
    site.api.node("n0")
    site.api.deck_url = "http://127.0.0.1:30080/data/v1/x?token=t"
    page = await site.get(f"{EXECUTION}/nodes/n0/deck")
    assert (page.status, page.headers["Location"]) == (302, "/data/v1/x?token=t")
    site.api.deck_url = "https://bucket.example/deck?signed"
    page = await site.get(f"{EXECUTION}/nodes/n0/deck")
    assert page.headers["Location"] == "https://bucket.example/deck?signed"
    site.api.deck_url = ""
    assert (await site.get(f"{EXECUTION}/nodes/n0/deck")).status == 404


async def test_a_log_is_text_that_nothing_can_run(site: Any) -> None:
    site.logs["p", "d", "n", "n0", 1] = "<script>alert(1)</script>\nsecond line é"
    page = await site.get("/console/logs?project=p&domain=d&execution=n&node=n0&attempt=1")
    assert (page.status, page.source) == (200, "<script>alert(1)</script>\nsecond line é")
    assert page.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Content-Security-Policy"].startswith("sandbox;")
    missing = await site.get("/console/logs?project=p&domain=d&execution=n&node=n0&attempt=0")
    assert (missing.status, "no log" in missing.text) == (404, True)


@pytest.mark.parametrize(
    "query", ["", "project=p&domain=d&execution=n", "project=p&domain=d&execution=n&node=n0&attempt=x"]
)
async def test_a_log_that_is_not_named_is_asked_for(site: Any, query: str) -> None:
    assert (await site.get(f"/console/logs?{query}")).status == 400


async def test_what_is_not_there_has_a_page_that_says_so(site: Any) -> None:
    page = await site.get("/console/projects/p/domains/d/executions/nothing")
    assert (page.status, "missing entity of type execution" in page.text) == (404, True)
    assert page.tags <= TAGS
    for path in ("/console/nowhere", "/console/projects/p/domains/d/castle/x/version/y", f"{EXECUTION}/nodes/none"):
        assert (await site.get(path)).status == 404


async def test_the_first_page_lists_projects_domains_and_what_ran_last(site: Any) -> None:
    for index in range(8):
        site.api.execution(f"n{index}")
    page = await site.get("/console")
    assert "Project" in page.text
    assert page.links["dev"] == "/console/projects/p/domains/d/executions"
    assert page.links["n0"] == "/console/projects/p/domains/d/executions/n0"
    assert "n5" not in page.links
    for path in ("/", "/console/", "/console/select-project"):
        moved = await site.get(path)
        assert (moved.status, moved.headers["Location"]) == (302, "/console")


async def test_a_list_goes_on_to_older_executions(site: Any) -> None:
    for index in range(60):
        site.api.execution(f"n{index}")
    page = await site.get("/console/projects/p/domains/d/executions")
    assert "n49" in page.links
    assert "n50" not in page.links
    page = await site.get(f"/console/projects/p/domains/d/executions{page.links['older']}")
    assert "n50" in page.links
    assert "older" not in page.links
    assert page.links["newest"] == "?"


async def test_entities_show_what_they_take_give_and_run(site: Any, entities: Any) -> None:
    site.api.workflow, site.api.task, site.api.launch_plan = entities
    site.api.execution()
    base = "/console/projects/p/domains/d"
    page = await site.get(f"{base}/workflow/my.wf/version/v%2F1")
    assert "count integer" in page.text
    assert "task my.prepare" in page.text
    assert page.links["n"] == EXECUTION
    assert site.api.asked[0].id.version == "v/1"
    filters = [request.filters for request in site.api.asked if hasattr(request, "filters")]
    assert filters == ["eq(workflow.name,my.wf)+eq(workflow.version,v/1)"]
    page = await site.get(f"{base}/task/my.task/version/v1")
    assert "registry/image:1" in page.text
    assert "o0 file (csv)" in page.text
    page = await site.get(f"{base}/launch_plan/my.plan/version/v1")
    assert "every 5 hours" in page.text
    assert "default 7" in page.text
    assert "active" in page.text


async def test_pages_are_answered_side_by_side(site: Any) -> None:
    site.api.execution()
    site.api.node("n0")
    pages = await asyncio.gather(*(site.get(EXECUTION) for _ in range(20)))
    assert {page.status for page in pages} == {200}


async def test_inputs_and_outputs_stand_by_name(site: Any) -> None:
    site.api.execution()
    data = type(await site.api.GetExecutionData(site.api.executions["n"], None))()
    data.full_inputs.literals["count"].scalar.primitive.integer = 2**60 + 1
    data.full_inputs.literals["settings"].scalar.generic.CopyFrom(struct_pb2.Struct())
    data.full_inputs.literals["settings"].scalar.generic.update({"rate": 0.5, "steps": 3.0})
    data.full_outputs.literals["o0"].scalar.none_type.SetInParent()
    site.api.execution_data["n"] = data
    page = await site.get(EXECUTION)
    assert f"count {2**60 + 1}" in page.text
    assert '{ "rate": 0.5, "steps": 3 }' in page.text
    assert "o0 none" in page.text
