"""Filters of lists, checked: which property has to equal which value.  Source: A.2 and A.5 of the specification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from flyteidl.datacatalog.datacatalog_pb2 import FilterExpression, SinglePropertyFilter

from aerodrome.datacatalog.domain.validation import refuse, storable, text
from aerodrome.stdlib.errors import InvalidArgument

MAX_FILTERS = 100


class Property(Enum):
    """What can be filtered by."""

    TAG = "tag"
    PARTITION = "partition"
    ARTIFACT = "artifact"
    PROJECT = "project"
    DOMAIN = "domain"
    NAME = "name"
    VERSION = "version"
    ORG = "org"


@dataclass(frozen=True, slots=True)
class Equals:
    """One condition; `key` is the partition's."""

    what: Property
    value: str
    key: str = ""


def of_artifacts(expression: FilterExpression) -> tuple[Equals, ...]:
    """The conditions of ListArtifacts; raises InvalidArgument."""
    return _parsed(expression, ("tag_filter", "partition_filter", "artifact_filter"), "artifacts")


def of_datasets(expression: FilterExpression) -> tuple[Equals, ...]:
    """The conditions of ListDatasets; raises InvalidArgument."""
    return _parsed(expression, ("dataset_filter",), "datasets")


def _parsed(expression: FilterExpression, kinds: tuple[str, ...], listed: str) -> tuple[Equals, ...]:
    if len(expression.filters) > MAX_FILTERS:
        raise InvalidArgument(f"invalid value for filter: there are more than {MAX_FILTERS}")
    found = []
    for each in expression.filters:
        kind = each.WhichOneof("property_filter")
        if kind not in kinds:
            named = (kind or "an empty filter").replace("_", " ")
            raise InvalidArgument(f"invalid value for filter: {listed} cannot be filtered by {named}")
        if each.operator != SinglePropertyFilter.EQUALS:
            raise InvalidArgument(f"invalid value for filter operator: {each.operator}; the one operator is EQUALS")
        condition = _condition(kind, each)
        refuse(_problems(condition))
        found.append(condition)
    return tuple(found)


def _problems(condition: Equals) -> Iterator[str]:
    named = condition.what.value
    if condition.what is Property.PARTITION:
        yield from text("partition key", condition.key, 2**20)
        yield from text("partition value", condition.value, 2**20)
    elif condition.what is Property.ORG:
        yield from storable(named, condition.value, 2**20)
    else:
        yield from text(named, condition.value, 2**20)


def _condition(kind: str, given: SinglePropertyFilter) -> Equals:
    if kind == "tag_filter":
        return Equals(Property.TAG, given.tag_filter.tag_name)
    if kind == "partition_filter":
        pair = given.partition_filter.key_val
        return Equals(Property.PARTITION, pair.value, pair.key)
    if kind == "artifact_filter":
        return Equals(Property.ARTIFACT, given.artifact_filter.artifact_id)
    field = given.dataset_filter.WhichOneof("property")
    if field is None:
        raise InvalidArgument("invalid value for filter: a dataset filter names no property")
    return Equals(Property(field), str(getattr(given.dataset_filter, field)))
