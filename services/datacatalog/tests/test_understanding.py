"""Explain, evict, verify."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flyteidl.core import interface_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl.datacatalog.datacatalog_pb2 import CreateArtifactRequest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.datacatalog.domain.explaining import Known, differences, version_parts
from aerodrome.idl.catalog.v1 import catalog_pb2 as messages
from aerodrome.idl.object_hash import object_hash_text
from aerodrome.plugins.catalog_key import CacheKey, cache_key

from .conftest import World, text
from .test_catalog import LARGE, Code, refused

STRING = types_pb2.LiteralType(simple=types_pb2.STRING)
What = messages.Difference
KNOWN = "SELECT id FROM catalog_datasets WHERE name = $1 AND version = $2"


def variables(*names: str) -> interface_pb2.VariableMap:
    return interface_pb2.VariableMap(variables={name: interface_pb2.Variable(type=STRING) for name in names})


def task(name: str = "app.train", version: str = "1", *, outputs: tuple[str, ...] = ("o",)) -> tasks_pb2.TaskTemplate:
    template = tasks_pb2.TaskTemplate(
        interface=interface_pb2.TypedInterface(inputs=variables("x", "y"), outputs=variables(*outputs)),
        metadata=tasks_pb2.TaskMetadata(discoverable=True, discovery_version=version),
    )
    template.id.project, template.id.domain, template.id.name = "p", "development", name
    return template


def given_inputs(**values: str) -> literals_pb2.LiteralMap:
    return literals_pb2.LiteralMap(literals={name: text(value) for name, value in values.items()})


async def keep(
    world: World,
    template: tasks_pb2.TaskTemplate,
    inputs: literals_pb2.LiteralMap,
    *,
    execution: str = "e1",
    output: literals_pb2.Literal | None = None,
    hashes: bool = True,
) -> CacheKey:
    """What an engine stores after a run."""
    key = cache_key(template, inputs)
    known = {"exec-project": "p", "exec-domain": "development", "execution-name": execution, "exec-node": "n0"}
    if hashes:
        known |= {f"input-hash/{name}": value for name, value in key.input_hashes.items()}
    if await world.database.fetchval(KNOWN, key.dataset.name, key.dataset.version) is None:
        await world.make_dataset(key.dataset.name, version=key.dataset.version)
    artifact_id = f"{execution}-{key.tag[-6:]}"
    artifact = world.artifact(key.dataset, artifact_id, metadata=known)
    if output is not None:
        artifact.data[0].value.CopyFrom(output)
    artifact.tags.add(name=key.tag, artifact_id=artifact_id, dataset=key.dataset)
    await world.catalog.CreateArtifact(CreateArtifactRequest(artifact=artifact))
    return key


async def explain(
    world: World, template: tasks_pb2.TaskTemplate, inputs: literals_pb2.LiteralMap, **more: Any
) -> messages.ExplainResponse:
    subject = messages.TaskWithInputs(template=template.SerializeToString(), inputs=inputs.SerializeToString(), **more)
    answer: messages.ExplainResponse = await world.understanding.Explain(messages.ExplainRequest(task=subject))
    return answer


def found(near: messages.NearEntry) -> Mapping[int, str]:
    return {each.what: each.name for each in near.differences}


async def test_a_miss_is_explained_by_the_entry_that_differs_in_the_least(world: World) -> None:
    inputs = given_inputs(x="1", y="1")
    assert (await explain(world, task(), inputs)).reason == (
        "there is no entry with this key; there is no other entry of this task"
    )
    await keep(world, task(), given_inputs(x="2", y="2"), execution="far")
    await keep(world, task(), given_inputs(x="1", y="2"), execution="near")
    await keep(world, task("app.other"), inputs, execution="other")
    answer = await explain(world, task(), inputs)
    assert answer.outcome == messages.OUTCOME_MISS
    assert not answer.HasField("entry")
    assert [each.entry.source_execution for each in answer.nearest] == ["near", "far"]
    (difference,) = answer.nearest[0].differences
    assert (difference.what, difference.name) == (What.WHAT_INPUT, "y")
    assert difference.wanted == object_hash_text(text("1"))
    assert difference.found == object_hash_text(text("2"))
    assert "made by node n0 of execution near" in answer.reason
    assert "the input y has another value" in answer.reason
    assert (answer.key.task, answer.key.cache_version) == ("app.train", "1")
    assert set(answer.key.input_hashes) == {"x", "y"}


async def test_versions_and_interfaces_are_told_apart_from_inputs(world: World) -> None:
    inputs = given_inputs(x="1", y="1")
    await keep(world, task(version="0.9"), inputs, execution="older")
    await keep(world, task(outputs=("o", "p")), inputs, execution="more")
    answer = await explain(world, task(), inputs)
    differing = {each.entry.source_execution: found(each) for each in answer.nearest}
    assert differing == {"older": {What.WHAT_CACHE_VERSION: ""}, "more": {What.WHAT_OUTPUTS_INTERFACE: ""}}
    hit = await explain(world, task(), inputs, cache_version="0.9")
    assert hit.outcome == messages.OUTCOME_HIT
    assert hit.entry.source_execution == "older"


async def test_an_entry_without_hashes_of_its_inputs_differs_in_some(world: World) -> None:
    await keep(world, task(), given_inputs(x="1", y="1"), hashes=False)
    answer = await explain(world, task(), given_inputs(x="2", y="1"))
    assert [found(each) for each in answer.nearest] == [{What.WHAT_SOME_INPUT: ""}]


async def test_what_is_not_cached_is_explained_too(world: World) -> None:
    plain = task()
    plain.metadata.discoverable = False
    answer = await explain(world, plain, given_inputs())
    assert answer.outcome == messages.OUTCOME_NOT_CACHEABLE
    assert "set cache" in answer.reason
    answer = await explain(world, task(outputs=()), given_inputs())
    assert answer.outcome == messages.OUTCOME_NOT_CACHEABLE
    assert "no outputs" in answer.reason
    await refused(explain(world, task(version=" "), given_inputs()), Code.INVALID_ARGUMENT, "cache version")
    unnamed = task()
    unnamed.id.Clear()
    await refused(explain(world, unnamed, given_inputs()), Code.INVALID_ARGUMENT, "missing project")
    ask = world.understanding.Explain
    await refused(ask(messages.ExplainRequest()), Code.INVALID_ARGUMENT, "node / task")
    garbage = messages.ExplainRequest(task=messages.TaskWithInputs(template=b"\xff\xff"))
    await refused(ask(garbage), Code.INVALID_ARGUMENT, "TaskTemplate")
    node = messages.NodeOfExecution(project="p", domain="d", execution="e", node_id="n0")
    await refused(ask(messages.ExplainRequest(node=node)), Code.FAILED_PRECONDITION, "admin.endpoint")


async def evict(world: World, *, dry_run: bool = False, **selection: Any) -> list[str]:
    request = messages.EvictRequest(selection=messages.Selection(**selection), dry_run=dry_run)
    answer = await world.understanding.Evict(request)
    assert answer.count == len(answer.entries)
    return sorted(each.source_execution for each in answer.entries)


async def test_entries_are_evicted_by_task_version_execution_and_age(world: World) -> None:
    inputs = given_inputs(x="1", y="1")
    await keep(world, task(), inputs, execution="a", output=text(LARGE))
    await keep(world, task(version="2"), inputs, execution="b")
    await world.clock.advance(timedelta(days=2))
    await keep(world, task("app.other"), inputs, execution="c")
    await keep(world, task(version="1-1"), inputs, execution="d")
    assert await evict(world, task="app.train", dry_run=True) == ["a", "b", "d"]
    assert await evict(world, task="app.train", cache_version="1", dry_run=True) == ["a"]
    assert await evict(world, source_execution="b", source_project="p", dry_run=True) == ["b"]
    assert await evict(world, older_than=Duration(seconds=3600), dry_run=True) == ["a", "b"]
    assert await evict(world, project="elsewhere") == []
    await refused(evict(world), Code.INVALID_ARGUMENT, "selection")
    await refused(evict(world, older_than=Duration(seconds=-1)), Code.INVALID_ARGUMENT, "older than")
    assert len(await world.blobs()) == 1
    assert await evict(world, task="app.train", older_than=Duration(seconds=3600)) == ["a", "b"]
    assert await world.blobs() == []
    assert (await explain(world, task(), inputs)).outcome == messages.OUTCOME_MISS
    assert (await explain(world, task(version="1-1"), inputs)).outcome == messages.OUTCOME_HIT


async def test_all_that_an_execution_made_is_evicted_and_nothing_else(world: World) -> None:
    for number in range(205):
        await keep(world, task(), given_inputs(x=str(number), y="1"), execution="mine")
    await keep(world, task(), given_inputs(x="a", y="1"), execution="other")
    request = messages.EvictByExecutionRequest(project="p", domain="development", name="mine")
    assert (await world.understanding.EvictByExecution(request)).count == 205
    assert (await world.understanding.EvictByExecution(request)).count == 0
    assert await evict(world, task="app.train", dry_run=True) == ["other"]
    request.name = ""
    await refused(world.understanding.EvictByExecution(request), Code.INVALID_ARGUMENT, "name")


def blob(reference: str) -> literals_pb2.Literal:
    literal = literals_pb2.Literal()
    literal.scalar.blob.uri = reference
    return literal


async def test_what_is_gone_is_found_and_counts_as_broken(world: World) -> None:
    inputs = given_inputs(x="1", y="1")
    await world.storage.write("mem://catalog/data/file", b"content")
    await world.storage.write("mem://catalog/data/directory/file", b"content")
    await keep(world, task(), inputs, execution="file", output=blob("mem://catalog/data/file"))
    await keep(world, task("b"), inputs, execution="directory", output=blob("mem://catalog/data/directory"))
    await keep(world, task("c"), inputs, execution="elsewhere", output=blob("s3://elsewhere/file"))
    await keep(world, task("d"), inputs, execution="large", output=text(LARGE))

    async def broken(**more: Any) -> dict[str, list[str]]:
        answer = await world.understanding.Verify(messages.VerifyRequest(**more))
        assert not answer.next_token
        return {each.entry.source_execution: list(each.missing) for each in answer.broken}

    assert await broken() == {}
    await world.storage.delete("mem://catalog/data/file")
    (stored,) = [each for each in await world.blobs() if "/metadata/" in each]
    await world.storage.delete(stored)
    assert await broken() == {"file": ["mem://catalog/data/file"], "large": [stored]}
    answer = await explain(world, task(), inputs)
    assert answer.outcome == messages.OUTCOME_BROKEN
    assert "mem://catalog/data/file" in answer.reason
    assert await broken(evict=True, selection=messages.Selection(task="app.train")) == {
        "file": ["mem://catalog/data/file"]
    }
    assert (await explain(world, task(), inputs)).outcome == messages.OUTCOME_MISS
    first = await world.understanding.Verify(messages.VerifyRequest(limit=2))
    second = await world.understanding.Verify(messages.VerifyRequest(limit=2, token=first.next_token))
    assert (first.checked, second.checked, second.next_token) == (2, 1, "")
    await refused(world.understanding.Verify(messages.VerifyRequest(token="x")), Code.INVALID_ARGUMENT, "token")


NAMES = st.sampled_from(["x", "y", "z"])


@given(st.dictionaries(NAMES, st.sampled_from("ab")), st.dictionaries(NAMES, st.sampled_from("ab")), st.booleans())
def test_keys_differ_in_inputs_exactly_where_their_hashes_do(
    mine: dict[str, str], theirs: dict[str, str], same_version: bool
) -> None:
    wanted = messages.KeyParts(
        project="p", domain="d", cache_version="1", inputs_interface="a" * 8, outputs_interface="b" * 8,
        input_hashes=mine, tag=repr(sorted(mine.items())),
    )  # fmt: skip
    version = version_parts(f"{'1' if same_version else '2'}-{'a' * 8}-{'b' * 8}")
    known = Known("p", "d", version, frozenset([repr(sorted(theirs.items()))]), theirs)
    said = list(differences(wanted, known))
    inputs = {each.name for each in said if each.what == What.WHAT_INPUT}
    assert any(each.what == What.WHAT_CACHE_VERSION for each in said) is not same_version
    if mine == theirs:
        assert len(said) == (not same_version)
    elif theirs:
        assert inputs == {name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)}
    else:
        assert any(each.what == What.WHAT_SOME_INPUT for each in said)
