"""The key under which a task's outputs are cached: derived from its interface, cache version and inputs.

Two engines that share a catalog find each other's results, so the derivation matches the reference bit for bit.
Source: spec/data-plane.md, sections 4.2 and 4.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from flyteidl.core import identifier_pb2, interface_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl.datacatalog import datacatalog_pb2

from aerodrome.idl.object_hash import hash_text, members_hash, object_hash, object_hash_text
from aerodrome.plugins.api import bad_task

_DATASET_PREFIX: Final = "flyte_task-"
_TAG_PREFIX: Final = "flyte_cached-"
_INTERFACE_DIGITS: Final = 8
_KEEP_ANNOTATION: Final = "cache-key-metadata"
"""An annotation with this key is part of the cache key; every other is stripped."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Where a result is stored: the dataset and the tag of its artifact."""

    dataset: datacatalog_pb2.DatasetID
    tag: str
    input_hashes: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The hash of each input that counts: what tells people which input made the difference."""
    outputs: interface_pb2.VariableMap = field(default_factory=interface_pb2.VariableMap, compare=False)
    """What an entry under this key has to consist of."""

    def identifier(self) -> identifier_pb2.Identifier:
        """The dataset as events name it."""
        return identifier_pb2.Identifier(
            resource_type=identifier_pb2.DATASET,
            project=self.dataset.project,
            domain=self.dataset.domain,
            name=self.dataset.name,
            version=self.dataset.version,
        )


def cache_key(
    task: tasks_pb2.TaskTemplate,
    inputs: literals_pb2.LiteralMap,
    *,
    cache_version: str | None = None,
    interface: interface_pb2.TypedInterface | None = None,
) -> CacheKey:
    """The key of `task` run on `inputs`.

    `cache_version` replaces the task's own (a node may override it).  `interface` replaces the task's own: map items
    use the list-typed inputs of the map task with the outputs of one item.  Raises PluginError if there is no cache
    version, or if an input has a value that no document can hold (NaN inside of a structure).
    """
    version = (task.metadata.discovery_version if cache_version is None else cache_version).strip()
    if not version:
        raise bad_task(f"task {task.id.name} is cached but has no cache version; set cache_version on the task")
    known = task.interface if interface is None else interface
    digests = _input_digests(inputs, task.metadata.cache_ignore_input_vars)
    return CacheKey(
        dataset=dataset_id(task.id, version, known),
        tag=_tag(digests),
        input_hashes={name: hash_text(digest) for name, digest in digests.items()},
        outputs=known.outputs,
    )


def dataset_id(
    task: identifier_pb2.Identifier, cache_version: str, interface: interface_pb2.TypedInterface
) -> datacatalog_pb2.DatasetID:
    """The dataset that holds all results of one task, cache version and interface."""
    inputs, outputs = interface_hash(interface.inputs), interface_hash(interface.outputs)
    return datacatalog_pb2.DatasetID(
        project=task.project,
        domain=task.domain,
        name=f"{_DATASET_PREFIX}{task.name}",
        version=f"{cache_version.strip()}-{inputs}-{outputs}",
    )


def tag_name(inputs: literals_pb2.LiteralMap, ignored: Iterable[str] = ()) -> str:
    """The tag of the result for `inputs`, of which the variables `ignored` do not count."""
    return _tag(_input_digests(inputs, ignored))


def interface_hash(variables: interface_pb2.VariableMap) -> str:
    """The first 8 characters of the hash of one side of an interface, without what does not change its meaning."""
    return _interface_hash(variables.SerializeToString(deterministic=True))


@lru_cache(maxsize=1024)
def _interface_hash(serialized: bytes) -> str:
    """Kept, because the items of a map and the runs of a task share their interface."""
    variables = interface_pb2.VariableMap.FromString(serialized)
    stripped = interface_pb2.VariableMap(
        variables={name: _stripped_variable(variable) for name, variable in variables.variables.items()}
    )
    return object_hash_text(stripped)[:_INTERFACE_DIGITS]


def stripped_type(literal_type: types_pb2.LiteralType) -> types_pb2.LiteralType:
    """A copy of `literal_type` without metadata and annotations, at every depth."""
    copy = types_pb2.LiteralType()
    copy.CopyFrom(literal_type)
    _strip(copy)
    return copy


def hashified(literal: literals_pb2.Literal) -> literals_pb2.Literal:
    """`literal` with every part that carries a hash replaced by that hash alone."""
    if literal.hash:
        return literals_pb2.Literal(hash=literal.hash)
    match literal.WhichOneof("value"):
        case "collection":
            members = [hashified(member) for member in literal.collection.literals]
            return literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=members))
        case "map":
            entries = {key: hashified(member) for key, member in literal.map.literals.items()}
            return literals_pb2.Literal(map=literals_pb2.LiteralMap(literals=entries))
    return literal


def _input_digests(inputs: literals_pb2.LiteralMap, ignored: Iterable[str]) -> dict[str, bytes]:
    left_out = frozenset(ignored)
    digests = {}
    for name, literal in inputs.literals.items():
        if name in left_out:
            continue
        try:
            digests[name] = object_hash(hashified(literal))
        except ValueError as error:
            raise bad_task(f"input {name} cannot be part of a cache key: {error}") from error
    return digests


def _tag(digests: Mapping[str, bytes]) -> str:
    return f"{_TAG_PREFIX}{hash_text(members_hash('literals', digests))}"


def _stripped_variable(variable: interface_pb2.Variable) -> interface_pb2.Variable:
    copy = interface_pb2.Variable()
    copy.CopyFrom(variable)
    copy.ClearField("description")
    if copy.HasField("type"):
        _strip(copy.type)
    return copy


def _strip(literal_type: types_pb2.LiteralType) -> None:
    literal_type.ClearField("metadata")
    if _KEEP_ANNOTATION not in literal_type.annotation.annotations.fields:
        literal_type.ClearField("annotation")
    match literal_type.WhichOneof("type"):
        case "collection_type":
            _strip(literal_type.collection_type)
        case "map_value_type":
            _strip(literal_type.map_value_type)
        case "union_type":
            for variant in literal_type.union_type.variants:
                _strip(variant)
        case "structured_dataset_type":
            for column in literal_type.structured_dataset_type.columns:
                if column.HasField("literal_type"):
                    _strip(column.literal_type)
