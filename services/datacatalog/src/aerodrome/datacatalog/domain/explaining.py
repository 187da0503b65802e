"""In what two cache keys differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aerodrome.idl.catalog.v1.catalog_pb2 import Difference, KeyParts

DATASET_PREFIX = "flyte_task-"
_HASH = 8


@dataclass(frozen=True, slots=True)
class Version:
    """A dataset's version, taken apart."""

    cache_version: str
    inputs: str
    outputs: str


def version_parts(version: str) -> Version:
    """`<cache version>-<8 characters>-<8 characters>`; one that has another form is a cache version as a whole."""
    outputs_at = len(version) - _HASH
    inputs_at = outputs_at - 1 - _HASH
    if inputs_at < 2 or version[outputs_at - 1] != "-" or version[inputs_at - 1] != "-":
        return Version(version, "", "")
    return Version(version[: inputs_at - 1], version[inputs_at : outputs_at - 1], version[outputs_at:])


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about an entry's key."""

    project: str
    domain: str
    version: Version
    tags: frozenset[str]
    input_hashes: Mapping[str, str]


def differences(wanted: KeyParts, found: Known) -> Iterator[Difference]:
    """In what the key of an entry differs from the one that is wanted; nothing if they are equal."""
    pairs = (
        (Difference.WHAT_PROJECT, wanted.project, found.project),
        (Difference.WHAT_DOMAIN, wanted.domain, found.domain),
        (Difference.WHAT_CACHE_VERSION, wanted.cache_version, found.version.cache_version),
        (Difference.WHAT_INPUTS_INTERFACE, wanted.inputs_interface, found.version.inputs),
        (Difference.WHAT_OUTPUTS_INTERFACE, wanted.outputs_interface, found.version.outputs),
    )
    for what, mine, theirs in pairs:
        if mine != theirs:
            yield Difference(what=what, wanted=mine, found=theirs)
    if wanted.tag in found.tags:
        return
    known = found.input_hashes
    named = sorted(name for name in {*wanted.input_hashes, *known} if wanted.input_hashes.get(name) != known.get(name))
    if (not known and wanted.input_hashes) or not named:
        yield Difference(what=Difference.WHAT_SOME_INPUT, wanted=wanted.tag, found=", ".join(sorted(found.tags)))
        return
    for name in named:
        yield Difference(
            what=Difference.WHAT_INPUT, name=name, wanted=wanted.input_hashes.get(name, ""), found=known.get(name, "")
        )


def sentence(difference: Difference) -> str:
    """A difference for people."""
    match difference.what:
        case Difference.WHAT_INPUT:
            if not difference.found:
                return f"it was made without the input {difference.name}"
            if not difference.wanted:
                return f"it was made with an input {difference.name}, which is not there now"
            return f"the input {difference.name} has another value"
        case Difference.WHAT_SOME_INPUT:
            return "some input has another value; its maker did not say which"
        case Difference.WHAT_PROJECT:
            return f"it is of project {difference.found}"
        case Difference.WHAT_DOMAIN:
            return f"it is of domain {difference.found}"
        case Difference.WHAT_CACHE_VERSION:
            return f"its cache version is {difference.found}, not {difference.wanted}"
        case Difference.WHAT_INPUTS_INTERFACE:
            return "the task had other input variables or types"
        case _:
            return "the task had other output variables or types"
