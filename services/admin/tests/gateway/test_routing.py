"""Every annotated rpc answers under its paths, and parameters reach the fields that they name."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from flyteidl.admin.common_pb2 import Sort
from flyteidl.core.identifier_pb2 import LAUNCH_PLAN, WORKFLOW
from flyteidl.service import admin_pb2, dataproxy_pb2, signal_pb2
from google.protobuf.descriptor import FieldDescriptor

from aerodrome.admin.gateway.bindings import Binding, bindings

KNOWN = bindings(
    [
        service
        for module in (admin_pb2, dataproxy_pb2, signal_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
)


def filled(binding: Binding) -> tuple[str, list[Any]]:
    """A path of the binding, and the values that it must set."""
    path = ""
    values: list[Any] = []
    for segment in binding.segments:
        if segment is not None:
            path += f"/{segment}"
            continue
        field = binding.variables[len(values)][-1]
        if field.type == FieldDescriptor.TYPE_ENUM:
            values.append(2)
            path += "/2"
        elif field.type == FieldDescriptor.TYPE_STRING:
            values.append(f"a/b {len(values)}ü%")
            path += f"/{quote(values[-1], safe='')}"
        else:
            values.append(7)
            path += "/7"
    return path, values


def test_the_annotations_of_the_contract_are_bindings() -> None:
    assert len(KNOWN) > 60
    assert {binding.verb for binding in KNOWN} == {"GET", "POST", "PUT", "DELETE"}
    assert not [binding for binding in KNOWN if binding.method.name == "GetOrCreateSignal"]


@pytest.mark.parametrize("binding", KNOWN, ids=lambda each: f"{each.verb} {each.template}")
async def test_each_binding_makes_its_call_with_what_its_path_says(platform: Any, binding: Binding) -> None:
    path, values = filled(binding)
    status, body, _ = await platform.send(binding.verb, path)
    assert status == 200, body
    fakes = {"AdminService": platform.admin, "DataProxyService": platform.dataproxy, "SignalService": platform.signals}
    name, request = fakes[binding.method.containing_service.name].calls[-1]
    assert name == binding.method.name
    for fields, value in zip(binding.variables, values, strict=True):
        found: Any = request
        for field in fields:
            found = getattr(found, field.name)
        assert found == value


async def test_what_the_path_says_wins_over_the_body(platform: Any) -> None:
    body = '{"id": {"project": "other", "domain": "other", "name": "other"}, "cause": "enough"}'
    status, _, _ = await platform.send("DELETE", "/api/v1/executions/p/d/n", body=body)
    request = platform.admin.request
    assert (status, request.id.project, request.id.domain, request.id.name) == (200, "p", "d", "n")
    assert request.cause == "enough"


async def test_a_delete_without_a_body_is_a_request_without_a_cause(platform: Any) -> None:
    status, _, _ = await platform.send("DELETE", "/api/v1/executions/p/d/n")
    assert (status, platform.admin.request.cause) == (200, "")


async def test_parameters_of_the_query_bind_by_dotted_path_in_either_naming(platform: Any) -> None:
    query = "limit=10&token=t&sort_by.key=created_at&sortBy.direction=ASCENDING&unknown=1&sort_by.nope=2"
    status, _, _ = await platform.send("GET", f"/api/v1/executions/p/d?{query}")
    request = platform.admin.request
    assert (status, request.limit, request.token) == (200, 10, "t")
    assert (request.sort_by.key, request.sort_by.direction) == ("created_at", Sort.ASCENDING)
    await platform.send("GET", "/api/v1/node_executions/p/d/n?uniqueParentId=n0")
    assert platform.admin.request.unique_parent_id == "n0"
    await platform.send("GET", "/api/v1/node_executions/p/d/n?unique_parent_id=n1&sort_by.direction=1")
    assert platform.admin.request.unique_parent_id == "n1"
    assert platform.admin.request.sort_by.direction == Sort.ASCENDING


async def test_the_path_is_not_overridden_by_the_query(platform: Any) -> None:
    await platform.send("GET", "/api/v1/executions/p/d/n?id.project=other&id.name=other")
    assert (platform.admin.request.id.project, platform.admin.request.id.name) == ("p", "n")


@pytest.mark.parametrize("kind", ["WORKFLOW", "2"])
async def test_an_enum_in_the_path_is_a_name_or_a_number(platform: Any, kind: str) -> None:
    status, _, _ = await platform.send("GET", f"/api/v1/named_entities/{kind}/p/d?limit=1")
    assert (status, platform.admin.request.resource_type) == (200, WORKFLOW)
    status, _, _ = await platform.send("PUT", f"/api/v1/named_entities/3/p/d/{kind}")
    assert (status, platform.admin.request.resource_type, platform.admin.request.id.name) == (200, LAUNCH_PLAN, kind)


@pytest.mark.parametrize(
    ("filters", "seen"),
    [
        ("eq(a,b)%2Bne(c,d)", "eq(a,b)+ne(c,d)"),
        ("eq(a,b)+ne(c,d)", "eq(a,b)+ne(c,d)"),
        ("value_in(phase,RUNNING;QUEUED)", "value_in(phase,RUNNING;QUEUED)"),
        ("eq(a,b%20c)", "eq(a,b c)"),
        ("", ""),
    ],
)
async def test_filters_keep_their_plus_and_semicolons(platform: Any, filters: str, seen: str) -> None:
    await platform.send("GET", f"/api/v1/executions/p/d?filters={filters}")
    assert platform.admin.request.filters == seen


async def test_durations_and_references_come_in_the_query(platform: Any) -> None:
    await platform.send("GET", "/api/v1/dataproxy/artifact_urn?native_url=s3%3A%2F%2Fb%2Fk&expiresIn=3.5s")
    request = platform.dataproxy.request
    assert (request.native_url, request.expires_in.seconds, request.expires_in.nanos) == ("s3://b/k", 3, 500_000_000)
    await platform.send("GET", "/api/v1/data?flyte_url=flyte://v1/p/d/n/n0/i")
    assert platform.dataproxy.request.flyte_url == "flyte://v1/p/d/n/n0/i"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/api/v1/executions/p/d?limit=ten", "limit"),
        ("/api/v1/executions/p/d?limit=-1", "limit"),
        ("/api/v1/executions/p/d?limit=4294967296", "limit"),
        ("/api/v1/executions/p/d?limit=", "limit"),
        ("/api/v1/executions/p/d?limit=1&limit=2", "limit"),
        ("/api/v1/executions/p/d?sort_by.direction=UP", "sort_by.direction"),
        ("/api/v1/executions/p/d?sort_by=created_at", "sort_by"),
        ("/api/v1/executions/p/d?filters=%00", "filters"),
        ("/api/v1/dataproxy/artifact_urn?expires_in=soon", "expires_in"),
        ("/api/v1/named_entities/CASTLE/p/d", "resource_type"),
        ("/api/v1/named_entities/99/p/d", "resource_type"),
        ("/api/v1/metrics/executions/p/d/n?depth=1.5", "depth"),
        ("/api/v1/children/task_executions/p/d/n/n0/p/d/t/v/first", "retry_attempt"),
        ("/api/v1/executions/p/d?token=%ff", "UTF-8"),
        ("/api/v1/executions/p/%ff", "UTF-8"),
    ],
)
async def test_a_badly_typed_parameter_is_refused_by_name(platform: Any, path: str, named: str) -> None:
    status, body, _ = await platform.send("GET", path)
    assert status == 400
    assert named in body.decode()
    assert not platform.admin.calls
    assert not platform.dataproxy.calls


async def test_more_parameters_than_anybody_needs_are_refused(platform: Any) -> None:
    status, _, _ = await platform.send("GET", "/api/v1/executions/p/d?" + "&".join(["a=1"] * 1_001))
    assert status == 400


@pytest.mark.parametrize("path", ["/api/v1/nowhere", "/api", "/api/v1/executions//d/n", "/api/v2/executions/p/d/n"])
async def test_an_unknown_path_is_not_found_in_the_shape_of_all_errors(platform: Any, path: str) -> None:
    status, body, _ = await platform.send("GET", path)
    assert (status, body) == (404, b'{"code":5,"message":"Not Found","details":[]}')


@pytest.mark.parametrize("verb", ["POST", "PATCH", "HEAD", "OPTIONS"])
async def test_a_wrong_verb_is_not_implemented_in_the_same_shape(platform: Any, verb: str) -> None:
    status, body, _ = await platform.send(verb, "/api/v1/executions/p/d/n")
    assert status == 501
    assert verb == "HEAD" or body == b'{"code":12,"message":"Method Not Allowed","details":[]}'


async def test_a_service_that_is_not_registered_has_no_paths(platform: Any) -> None:
    status, _, _ = await platform.send("GET", "/config/v1/flyte_client")
    assert status == 404


async def test_a_version_may_hold_slashes_raw_or_encoded(platform: Any) -> None:
    for version in ("feature%2Fx", "feature/x"):
        status, _, _ = await platform.send("GET", f"/api/v1/workflows/p/d/n/{version}")
        assert status == 200
        assert platform.admin.calls[-1][0] == "GetWorkflow"
        assert platform.admin.request.id.version == "feature/x"
    status, _, _ = await platform.send("GET", "/api/v1/executions/p/d/n/x")
    assert status == 404


async def test_health_answers_any_verb_with_nothing(platform: Any) -> None:
    for verb in ("GET", "POST", "HEAD"):
        status, body, _ = await platform.send(verb, "/healthcheck")
        assert (status, body) == (200, b"")
