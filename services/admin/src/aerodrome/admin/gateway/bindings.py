"""Which rpc an HTTP request means: the `google.api.http` annotations of the services' descriptors, as a router.

A path is split at its slashes before it is decoded, so that an encoded slash belongs to a name.  Literal segments win
over variables.  Versions may contain raw slashes: where no path of that length is known, a last variable `version`
takes all that is left.  Source: spec/control-plane.md, section 11.2; google/api/http.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from aerodrome.stdlib.errors import FailedPrecondition, InvalidArgument

_JOURNAL = "aerodrome.journal.v1"
"""Spoken by data planes alone, and never over HTTP."""

FieldPath = tuple[FieldDescriptor, ...]
"""The way from a message to a field inside of it."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to make a call over HTTP."""

    method: MethodDescriptor
    path: str
    """Of the rpc: `/flyteidl.service.AdminService/GetTask`."""
    verb: str
    template: str
    segments: tuple[str | None, ...]
    """Of the template; None for a variable."""
    variables: tuple[FieldPath, ...]
    """What the variables set, in the order of the template."""
    body: str
    """`*`: the request; a name: that field of it; empty: there is none."""

    @property
    def request(self) -> Descriptor:
        return self.method.input_type

    @property
    def response(self) -> Descriptor:
        return self.method.output_type


@dataclass(frozen=True, slots=True)
class Match:
    """A request's binding, and the values of its variables."""

    binding: Binding
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WrongVerb:
    """The path is known, but not with this verb."""

    allowed: tuple[str, ...]


def bindings(services: Sequence[ServiceDescriptor]) -> list[Binding]:
    """The bindings of all rpcs that have any.  Raises FailedPrecondition for a template that is not supported."""
    return list(_bindings(services))


def field_path(message: Descriptor, dotted: str) -> FieldPath:
    """The fields that `dotted` (proto names) names.  Raises KeyError if there is no such field."""
    path: list[FieldDescriptor] = []
    inside: Descriptor | None = message
    for name in dotted.split("."):
        if inside is None:
            raise KeyError(dotted)
        step = inside.fields_by_name[name]
        path.append(step)
        inside = step.message_type
    return tuple(path)


class Router:
    """Finds the binding of a request."""

    def __init__(self, known: Sequence[Binding]) -> None:
        self._root = _Node()
        for binding in known:
            node = self._root
            for segment in binding.segments:
                node = node.child(segment)
            node.bindings.setdefault(binding.verb, binding)
            if binding.variables and binding.segments[-1] is None and binding.variables[-1][-1].name == "version":
                node.takes_rest = True

    def find(self, verb: str, raw_path: str) -> Match | WrongVerb | None:
        """What a request for the undecoded path means; None if the path is not known.

        Raises InvalidArgument if a segment cannot be decoded.
        """
        segments = raw_path.strip("/").split("/") if raw_path.startswith("/") else []
        if not all(segments):
            return None
        found = self._root.find(segments, 0) or self._root.find_rest(segments, 0)
        if found is None:
            return None
        node, raw_values = found
        binding = node.bindings.get(verb)
        if binding is None:
            return WrongVerb(tuple(sorted(node.bindings)))
        return Match(binding, tuple(_decoded(value) if "%" in value else value for value in raw_values))


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    variable: _Node | None = None
    bindings: dict[str, Binding] = field(default_factory=dict)
    takes_rest: bool = False

    def child(self, segment: str | None) -> _Node:
        if segment is not None:
            return self.literals.setdefault(segment, _Node())
        if self.variable is None:
            self.variable = _Node()
        return self.variable

    def find(self, segments: Sequence[str], at: int) -> tuple[_Node, tuple[str, ...]] | None:
        """The node at the end of `segments[at:]`, with the values of the variables on the way."""
        if at == len(segments):
            return (self, ()) if self.bindings else None
        literal = self.literals.get(segments[at])
        if literal is not None:
            found = literal.find(segments, at + 1)
            if found is not None:
                return found
        if self.variable is not None:
            found = self.variable.find(segments, at + 1)
            if found is not None:
                return found[0], (segments[at], *found[1])
        return None

    def find_rest(self, segments: Sequence[str], at: int) -> tuple[_Node, tuple[str, ...]] | None:
        """As `find`, but the last variable takes more than one segment."""
        if at >= len(segments) - 1:
            return None
        literal = self.literals.get(segments[at])
        if literal is not None:
            found = literal.find_rest(segments, at + 1)
            if found is not None:
                return found
        if self.variable is not None:
            if self.variable.takes_rest:
                return self.variable, ("/".join(segments[at:]),)
            found = self.variable.find_rest(segments, at + 1)
            if found is not None:
                return found[0], (segments[at], *found[1])
        return None


def _bindings(services: Sequence[ServiceDescriptor]) -> Iterator[Binding]:
    for service in services:
        for method in service.methods:
            if method.client_streaming or method.server_streaming:
                continue
            extensions: Any = method.GetOptions().Extensions
            rule = extensions[annotations_pb2.http]
            yield from _own(service, method)
            for each in (rule, *rule.additional_bindings):
                verb, template = _verb(each)
                if not verb:
                    continue
                segments, variables = _parsed(template, method.input_type)
                yield Binding(
                    method,
                    f"/{service.full_name}/{method.name}",
                    verb,
                    template,
                    segments,
                    variables,
                    each.body,
                )


def _own(service: ServiceDescriptor, method: MethodDescriptor) -> Iterator[Binding]:
    """Our own contracts have no annotations: all their rpcs but the journal's follow one rule.

    `aerodrome.items.v1.ItemService/ListItems` is `POST /api/v1/aerodrome/items/ListItems` with the request as the body;
    what lists or gets something may also be a GET, with the request's fields as parameters.
    """
    package, _, _ = service.full_name.rpartition(".")
    owner, _, area = package.partition(".")
    if owner != "aerodrome" or package == _JOURNAL:
        return
    template = f"/api/v1/aerodrome/{area.split('.')[0]}/{method.name}"
    segments, variables = _parsed(template, method.input_type)
    for verb, body in (("POST", "*"), ("GET", "")):
        if verb == "POST" or method.name.startswith(("List", "Get")):
            yield Binding(method, f"/{service.full_name}/{method.name}", verb, template, segments, variables, body)


def _verb(rule: Any) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        return "", ""
    if kind == "custom":
        return rule.custom.kind.upper(), rule.custom.path
    return kind.upper(), getattr(rule, kind)


def _parsed(template: str, message: Descriptor) -> tuple[tuple[str | None, ...], tuple[FieldPath, ...]]:
    segments: list[str | None] = []
    variables: list[FieldPath] = []
    for segment in template.strip("/").split("/"):
        if not segment.startswith("{"):
            segments.append(segment)
            continue
        name = segment[1:-1].removesuffix("=*")
        try:
            variables.append(field_path(message, name))
        except KeyError as error:
            raise FailedPrecondition(f"the path {template} does not fit {message.full_name}: {error}") from error
        segments.append(None)
    if any(segment is not None and set(segment) & set("{}*=:") for segment in segments):
        raise FailedPrecondition(f"the path {template} is of a form that the gateway does not support")
    return tuple(segments), tuple(variables)


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{segment!r} in the path is not UTF-8; encode it so") from error


def families(known: Sequence[Binding]) -> Mapping[str, bool]:
    """The first segments of all paths, and whether anything is below them."""
    found: dict[str, bool] = {}
    for binding in known:
        first = binding.segments[0]
        if first is not None:
            found[first] = found.get(first, False) or len(binding.segments) > 1
    return found
