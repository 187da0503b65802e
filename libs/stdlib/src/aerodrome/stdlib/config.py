"""Configuration: YAML files, then the environment, then flags, into one frozen tree of typed sections.

A service describes its settings as a tree of `Section` classes and calls `load` once.  Keys compare with case, `-` and
`_` removed, so `httpPort`, `http-port` and `HTTP_PORT` are one key; other spellings are aliases, a table per class.
Layers merge in order: maps deeply, everything else by replacement.  An empty value in YAML means "not set".

A key that no section has is looked up in the table of the settings that Flyte 1 knows (`known_settings`).  If it stands
there it is accepted: silently in a section that another service reads, with one warning line where this service would
have been its reader or nobody is.  Anything else is an error that names the key, where it was written, and the nearest
known key.

Only pydantic is used.  The sources of pydantic-settings know neither normalised keys nor where a value came from, and
importing it costs more than everything that happens here.  Source: design.md section 6; the specification's
control-plane section 14 and common library D.1.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.known_settings import HOISTED, KNOWN, MEANINGLESS, below, normalize, spellings, table
from aerodrome.stdlib.logger import get_logger, level_number, redact

ENVIRONMENT_PREFIX = "AERODROME_"
"""What the names of our own environment variables start with."""

MAX_FILE_BYTES = 16 * 2**20
"""A larger configuration file is refused."""

log = get_logger(__name__)


class ConfigError(InvalidArgument):
    """The configuration cannot be used; `problems` holds one line for each thing that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(["the configuration cannot be used:", *(f"  {problem}" for problem in problems)]))


# Values


class QuantityError(InvalidArgument, ValueError):
    """A text is no Kubernetes quantity."""


def parse_duration(value: object) -> timedelta:
    """A Go duration (`1h2m3s`, `300ms`), or a number of seconds, also as text; a timedelta passes.

    Kept to the microsecond; what is shorter but not zero becomes one microsecond, because zero often means "off".
    Raises ValueError for anything else.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"{value!r} is not a duration: write it like 30s, 5m or 1h30m")
    text = str(value).strip()
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("-", "+") else text
    try:
        if _NUMBER.fullmatch(body):
            micros = Decimal(body) * 1_000_000
        elif _GO_DURATION.fullmatch(body):
            micros = sum((Decimal(count) * _UNIT_MICROS[unit] for count, unit in _GO_TERM.findall(body)), Decimal(0))
        else:
            raise ValueError(f"{text!r} is not a duration: write it like 30s, 5m or 1h30m")
        return timedelta(microseconds=sign * (int(micros.to_integral_value()) or (1 if micros else 0)))
    except (OverflowError, ArithmeticError) as error:
        raise ValueError(f"{text!r} is too long for a duration") from error


def format_duration(value: timedelta) -> str:
    """The Go form of a duration; `parse_duration` gives the same value back."""
    micros = value // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    if micros == 0:
        return "0s"
    if micros < 1_000_000:
        return f"{sign}{micros // 1000}ms" if micros % 1000 == 0 else f"{sign}{micros}us"
    seconds, rest = divmod(micros, 1_000_000)
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    fraction = f".{rest:06d}".rstrip("0") if rest else ""
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return sign + text + (f"{seconds}{fraction}s" if seconds or fraction or not text else "")


def parse_quantity(text: str) -> Decimal:
    """The value of a Kubernetes quantity (`100m`, `1.5Gi`, `2e3`).  Raises QuantityError (a ValueError too)."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or len(text) > 64:
        raise QuantityError(f"{text[:64]!r} is not a quantity: write it like 500m, 2, 200Mi or 1Gi")
    number, binary, exponent, decimal = match.group("number", "binary", "exponent", "decimal")
    value = Decimal(number)
    if binary:
        return value * Decimal(1024) ** ("KMGTPE".index(binary[0]) + 1)
    if exponent:
        if abs(int(exponent)) > 30:
            raise QuantityError(f"{text!r} is out of range for a quantity")
        return value.scaleb(int(exponent))
    return value.scaleb(_DECIMAL_EXPONENT[decimal or ""])


def _checked_quantity(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise QuantityError(f"{value!r} is not a quantity: write it like 500m, 2, 200Mi or 1Gi")
    text = str(value).strip()
    parse_quantity(text)
    return text


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
"""A timedelta, written as `parse_duration` reads it."""

Quantity = Annotated[str, BeforeValidator(_checked_quantity)]
"""A Kubernetes quantity, kept as it was written and known to be one; `parse_quantity` gives its value."""


class SecretText(SecretStr):
    """Text that never shows in a log, an error or a dump; `get_secret_value()` gives it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            _secret_source, super().__get_pydantic_core_schema__(source, handler)
        )


def _secret_source(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


# Sections


class Section(BaseModel):
    """A part of the configuration: frozen, its keys compared normalised, unknown ones refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, coerce_numbers_to_str=True
    )

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other spellings: a normalised key, and the field it stands for; `postgres.port` is a field of a field."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for alias, target in cls.aliases.items():
            if target.partition(".")[0] not in cls.model_fields:
                raise TypeError(f"{cls.__name__}: the alias {alias!r} stands for {target!r}, which is no field")

    @model_validator(mode="before")
    @classmethod
    def _by_normalised_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return _Reader(None).section(cls, data, (), ())
        return data


# Loading

T = TypeVar("T", bound=Section)


def load(
    model: type[T],
    files: Sequence[Path] = (),
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    known: str = "",
) -> T:
    """Read the configuration of a service.

    `files` merge in order; a path that does not exist may be a pattern, whose matches merge in the order of names.
    Then come environment variables (`environ`, the process's own if None): `AERODROME_STORAGE__TYPE`, and the forms
    `STORAGE__TYPE` and `STORAGE.TYPE` for the sections of `model`.  Then `overrides`, by dotted key, as flags give
    them.  `known` adds lines to the table of settings that are accepted without being read (`known_settings.KNOWN`).

    Raises ConfigError with everything that is wrong at once.
    """
    reader = _Reader(KNOWN + known)
    merged: dict[str, Any] = {}
    for layer in _layers(model, files, os.environ if environ is None else environ, overrides or {}, reader):
        _merge(merged, reader.section(model, layer, (), ()))
    loaded = None
    try:
        loaded = model.model_validate(merged)
    except ValidationError as error:
        reader.problems.extend(_explain(error, reader.origins))
    if loaded is None or reader.problems:
        raise ConfigError(list(dict.fromkeys(reader.problems)))
    if reader.ignored:
        log.warning("settings without meaning here", keys=sorted(set(reader.ignored)))
    return loaded


def describe(config: BaseModel) -> dict[str, Any]:
    """The configuration as plain values that may be shown: secrets are replaced."""
    shown = redact("", config.model_dump(mode="json"))
    assert isinstance(shown, dict)
    return shown


class _Key(str):
    """A key as it was written, that remembers where."""

    __slots__ = ("origin",)
    origin: str

    @classmethod
    def at(cls, text: str, origin: str) -> _Key:
        key = cls(text)
        key.origin = origin
        return key


@dataclass(frozen=True, slots=True)
class _Scalar:
    """A value as YAML understands it, and as it was written: the field decides which of them it needs."""

    value: Any
    text: str


_Path: TypeAlias = tuple[str, ...]


class _Reader:
    """Turns what was written into the shape of the sections, by their fields' canonical names.

    Without a table (`known=None`) keys that no section has stay in place, for pydantic to refuse.
    """

    def __init__(self, known: str | None) -> None:
        self._known = known
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self.origins: dict[_Path, str] = {}

    def section(self, cls: type[Section], data: Mapping[Any, Any], path: _Path, written: _Path) -> dict[str, Any]:
        """`data` with the canonical keys of `cls`; `path` is where it belongs, `written` where it was written."""
        result: dict[str, Any] = {}
        seen: dict[str, str] = {}
        for key, value in data.items():
            normalised = normalize(str(key))
            if seen.setdefault(normalised, str(key)) != str(key):
                self._problem((*written, str(key)), key, f"is written twice, also as {seen[normalised]!r}")
                continue
            target = _keys(cls).get(normalised)
            if target is None:
                self._without_field(cls, key, (*written, str(key)), value, result)
                continue
            if _unset(value) and self._known is not None:  # in a file; code that says None means it
                continue
            owner, place = cls, result
            for step in target[:-1]:
                place = place.setdefault(step, {})
                owner = _section_of(owner.model_fields[step].annotation) or Section
            here = (*path, *target)
            self.origins[here] = getattr(key, "origin", "")
            converted = self.value(owner.model_fields[target[-1]].annotation, value, here, (*written, str(key)))
            if isinstance(converted, dict) and isinstance(place.get(target[-1]), dict):
                _merge(place[target[-1]], converted)
            else:
                place[target[-1]] = converted
        return result

    def value(self, annotation: Any, value: Any, path: _Path, written: _Path) -> Any:
        """`value` as a field of this annotation takes it."""
        kind, inner = _shape(annotation)
        if kind != "scalar":
            value = _structured(value, kind)
        match kind, value:
            case "section", Mapping():
                return self.section(inner, value, path, written)
            case "map", Mapping():
                return {
                    str(key): self.value(inner, item, (*path, str(key)), (*written, str(key)))
                    for key, item in value.items()
                }
            case "map", list() if all(isinstance(item, Mapping) for item in value):
                pairs = [pair for item in value for pair in item.items()]
                return {
                    str(key): self.value(inner, item, (*path, str(key)), (*written, str(key))) for key, item in pairs
                }
            case "list", list() | tuple():
                return [self.value(inner, item, (*path, str(at)), written) for at, item in enumerate(value)]
        if isinstance(value, _Scalar):
            return value.text if _takes_text(annotation) and value.value is not None else value.value
        return _plain(value)

    def _without_field(self, cls: type[Section], key: Any, written: _Path, value: Any, result: dict[str, Any]) -> None:
        if self._known is None:
            result[str(key)] = _plain(value)
            return
        normalised = tuple(normalize(part) for part in written)
        if below(table(self._known), normalised) is not None:
            if len(written) > 1 or normalised[0] in MEANINGLESS:
                self.ignored.append(".".join(written))
            return
        near = _nearest(cls, written, self._known)
        self._problem(written, key, "is not a setting" + (f"; did you mean {near}?" if near else ""))

    def _problem(self, written: _Path, key: Any, what: str) -> None:
        origin = getattr(key, "origin", "")
        self.problems.append((f"{origin}: " if origin else "") + f"{'.'.join(written)} {what}")


def _layers(
    model: type[Section],
    files: Sequence[Path],
    environ: Mapping[str, str],
    overrides: Mapping[str, Any],
    reader: _Reader,
) -> Iterator[dict[str, Any]]:
    for path in _expanded(files, reader):
        yield _hoisted(_read(path, reader))
    foreign, own = _from_environment(model, environ)
    yield _hoisted(foreign)
    yield _hoisted(own)
    flags: dict[str, Any] = {}
    for name, value in overrides.items():
        leaf = _Scalar(value, value) if isinstance(value, str) else value
        _put(flags, name.split("."), leaf, f"flag --{name}")
    yield _hoisted(flags)


def _expanded(files: Sequence[Path], reader: _Reader) -> Iterator[Path]:
    for path in files:
        if path.exists():
            yield path
            continue
        matches = sorted(glob.glob(str(path))) if glob.has_magic(str(path)) else []
        if not matches:
            reader.problems.append(f"{path}: there is no such file")
        yield from map(Path, matches)


def _read(path: Path, reader: _Reader) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            reader.problems.append(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            return {}
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
        tree = None if node is None else _from_yaml(node, path, depth=0)
    except OSError as error:
        reader.problems.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    except (yaml.YAMLError, ValueError) as error:
        reader.problems.append(f"{path}: is not valid YAML: {' '.join(str(error).split())}")
        return {}
    if tree is None or (isinstance(tree, _Scalar) and tree.value is None):
        return {}
    if not isinstance(tree, dict):
        reader.problems.append(f"{path}: holds no sections; the outermost level has to be a map")
        return {}
    return tree


_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _from_yaml(node: Any, path: Path, depth: int) -> Any:
    """A composed document as maps whose keys know their line, lists, and scalars."""
    if depth > 64:
        raise ValueError(f"line {node.start_mark.line + 1} is nested more than 64 levels deep (or refers to itself)")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"line {key_node.start_mark.line + 1}: a key has to be a plain word")
            value = _from_yaml(value_node, path, depth + 1)
            if key_node.tag == "tag:yaml.org,2002:merge":
                for each in reversed(value if isinstance(value, list) else [value]):
                    if not isinstance(each, dict):
                        raise ValueError(f"line {key_node.start_mark.line + 1}: only maps can be merged")
                    inherited.update(each)
                continue
            if key_node.value in result:
                raise ValueError(f"line {key_node.start_mark.line + 1}: {key_node.value!r} is written twice")
            result[_Key.at(key_node.value, f"{path}:{key_node.start_mark.line + 1}")] = value
        return {**inherited, **result}
    if isinstance(node, yaml.SequenceNode):
        return [_from_yaml(item, path, depth + 1) for item in node.value]
    return _Scalar(_construct(node), node.value)


def _construct(node: Any) -> Any:
    loader = _YamlLoader("")
    try:
        return loader.construct_object(node)
    finally:
        loader.dispose()


def _from_environment(model: type[Section], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layers of the variables without our prefix, which may belong to others, and of those with it."""
    foreign: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, text in sorted(environ.items()):
        prefixed = name.upper().startswith(ENVIRONMENT_PREFIX)
        parts = (name[len(ENVIRONMENT_PREFIX) :] if prefixed else name).replace("__", ".").split(".")
        leaf = _Scalar(text, text)
        first = normalize(parts[0])
        if not all(parts):
            continue
        if prefixed and (len(parts) > 1 or first in _keys(model)):
            _put(own, parts, leaf, f"environment variable {name}")
        elif len(parts) > 1 and first in _keys(model) and _leads_to_a_field(model, parts):
            _put(foreign, parts, leaf, f"environment variable {name}")
    return foreign, own


def _leads_to_a_field(model: type[Section], parts: Sequence[str]) -> bool:
    probe: dict[str, Any] = {}
    _put(probe, list(parts), _Scalar("", "x"), "")
    reader = _Reader("")
    reader.section(model, probe, (), ())
    return not reader.problems


def _put(tree: dict[str, Any], parts: Sequence[str], leaf: Any, origin: str) -> None:
    """Set the value at a path of keys as they were written; spellings of one key share a place."""
    for at, part in enumerate(parts):
        same = next((key for key in tree if normalize(key) == normalize(part)), None)
        key = _Key.at(same or part, origin)
        tree_or_leaf = leaf if at == len(parts) - 1 else tree.get(key)
        if same is not None:
            del tree[same]
        tree[key] = tree_or_leaf if isinstance(tree_or_leaf, dict) or at == len(parts) - 1 else {}
        tree = tree[key]


def _hoisted(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the shared sections that stand below `propeller` at the top; what stood there already wins."""
    for key, value in list(tree.items()):
        if normalize(key) != "propeller" or not isinstance(value, dict):
            continue
        lifted = {inner: item for inner, item in value.items() if normalize(inner) in HOISTED}
        if not lifted:
            continue
        tree = {**tree, key: {inner: item for inner, item in value.items() if inner not in lifted}}
        for inner, item in lifted.items():
            same = next((other for other in tree if normalize(other) == normalize(inner)), None)
            if same is None:
                tree[inner] = item
            elif isinstance(item, dict) and isinstance(tree[same], dict):
                tree[same] = _united(item, tree[same])
    return tree


def _united(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both of two written maps, deeply; `over` wins."""
    result = dict(over)
    for key, value in under.items():
        same = next((other for other in result if normalize(other) == normalize(key)), None)
        if same is None:
            result[key] = value
        elif isinstance(value, dict) and isinstance(result[same], dict):
            result[same] = _united(value, result[same])
    return result


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _unset(value: Any) -> bool:
    return value is None or (isinstance(value, _Scalar) and value.value is None)


def _plain(value: Any) -> Any:
    if isinstance(value, _Scalar):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _structured(value: Any, kind: str) -> Any:
    """The map or list that a text stands for: environment variables and flags hold YAML, or items between commas."""
    if not isinstance(value, str | _Scalar):
        return value
    text = value if isinstance(value, str) else value.text
    try:
        parsed = yaml.load(text, Loader=_YamlLoader)
    except yaml.YAMLError:
        parsed = text
    if kind == "list" and not isinstance(parsed, list):
        return [item.strip() for item in text.split(",") if item.strip()]
    return parsed if isinstance(parsed, dict | list) else text


# The shape of sections


@functools.cache
def _keys(cls: type[Section]) -> Mapping[str, _Path]:
    """The fields of a section by normalised key, aliases included."""
    fields = {normalize(name): (name,) for name in cls.model_fields}
    return {**{normalize(alias): tuple(target.split(".")) for alias, target in cls.aliases.items()}, **fields}


def _shape(annotation: Any) -> tuple[Literal["section", "map", "list", "scalar"], Any]:
    """What a field holds, and the section, or the annotation of the values or items."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _shape(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        shapes = (_shape(option) for option in get_args(annotation))
        return next((shape for shape in shapes if shape[0] != "scalar"), ("scalar", None))
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section", annotation
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return "map", get_args(annotation)[1]
        if issubclass(origin, Sequence | set | frozenset) and not issubclass(origin, str | bytes):
            return "list", get_args(annotation)[0]
    return "scalar", annotation


def _section_of(annotation: Any) -> type[Section] | None:
    kind, inner = _shape(annotation)
    return inner if kind == "section" else None


def _takes_text(annotation: Any) -> bool:
    """Whether a field wants what was written rather than what YAML makes of it (`1.10`, `yes`, `0755`, a date)."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_text(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return all(option is types.NoneType or _takes_text(option) for option in get_args(annotation))
    if origin is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, str | SecretStr | Path | timedelta)


# Explaining


def _nearest(cls: type[Section], written: _Path, known: str) -> str:
    """The known key that `written` resembles most, dotted; empty if none does."""
    from difflib import get_close_matches

    *parents, last = written
    prefix = ".".join(parents) + "." if parents else ""
    fields = {normalize(name): prefix + name.replace("_", "-") for name in cls.model_fields}
    places = spellings(known)
    whole = normalize(prefix)
    siblings = {
        path[len(whole) :]: spelt
        for path, spelt in places.items()
        if path.startswith(whole) and "." not in path[len(whole) :]
    }
    for candidates, sought in ((fields | siblings, normalize(last)), (places, normalize(".".join(written)))):
        near = get_close_matches(sought, candidates, n=1, cutoff=0.7)
        if near:
            return candidates[near[0]]
    by_last_part = {path.rpartition(".")[2]: spelt for path, spelt in places.items()}
    return by_last_part.get(normalize(last), "")


def _explain(error: ValidationError, origins: Mapping[_Path, str]) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False):
        parts = tuple(str(part) for part in each["loc"])
        origin = next((origins[parts[:n]] for n in range(len(parts), 0, -1) if origins.get(parts[:n])), "")
        message = each["msg"].removeprefix("Value error, ")
        yield f"{origin}: {'.'.join(parts)}: {message}" if origin else f"{'.'.join(parts)}: {message}"


_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")
_GO_TERM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_GO_DURATION = re.compile(rf"({_GO_TERM.pattern})+")
_UNIT_MICROS: Mapping[str, Decimal] = {
    "ns": Decimal("0.001"), "us": Decimal(1), "µs": Decimal(1), "μs": Decimal(1), "ms": Decimal(1000),
    "s": Decimal(1_000_000), "m": Decimal(60_000_000), "h": Decimal(3_600_000_000),
}  # fmt: skip
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?:(?P<binary>[KMGTPE]i)|[eE](?P<exponent>[+-]?\d+)|(?P<decimal>[numkMGTPE]))?"
)
_DECIMAL_EXPONENT: Mapping[str, int] = {
    "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18,
}  # fmt: skip


# Sections that services share


class LogFormat(Section):
    type: Literal["json", "text", "gcp"] = "json"


class LoggerConfig(Section):
    level: int | str = 4
    """0 panic, 1 fatal, 2 error, 3 warn, 4 info, 5 debug, 6 trace; or the name."""
    show_source: bool = False
    """Adds the file and line that logged."""
    mute: bool = False
    formatter: LogFormat = LogFormat()

    @field_validator("level", mode="before")
    @classmethod
    def _level_exists(cls, level: Any) -> Any:
        level_number(level)
        return level


class StorageConnection(Section):
    endpoint: str = ""
    """Address of the S3 API; empty for AWS itself."""
    auth_type: Literal["iam", "accesskey"] = "iam"
    access_key: str = ""
    secret_key: SecretText = SecretText("")
    region: str = "us-east-1"
    disable_ssl: bool = False


class StowConfig(Section):
    kind: str = ""
    config: dict[str, SecretText] = {}
    """Settings by their names in stow, such as `access_key_id`, `secret_key`, `endpoint`, `region`, `path`."""


class SignedUrlConfig(Section):
    stow_config_override: dict[str, SecretText] = {}
    """Replaces settings of `stow.config` for URLs handed to clients, usually `endpoint`."""


class StorageLimits(Section):
    max_download_mbs: int = Field(default=2, ge=0)
    """Largest object that is read whole, in MiB; 0 for no limit."""


class StorageCache(Section):
    max_size_mbs: int = Field(default=0, ge=0)
    """Memory that cached objects may take, in MiB; 0 for no cache."""
    target_gc_percent: int = 70


class StorageConfig(Section):
    type: Literal["s3", "minio", "stow", "local", "mem"] = "s3"
    container: str = ""
    """The bucket; for `local` the absolute path of a directory; for `mem` a name."""
    containers: tuple[str, ...] = ()
    """Further buckets or directories that references may lie in."""
    connection: StorageConnection = StorageConnection()
    stow: StowConfig = StowConfig()
    limits: StorageLimits = StorageLimits()
    cache: StorageCache = StorageCache()
    enable_multicontainer: bool = False
    """Whether `containers` may be used too."""
    signed_url: SignedUrlConfig = SignedUrlConfig()
    sync_writes: bool = False
    """For `local`: flush every object to the disk before a write returns, so that a power failure loses none."""


class OtelFile(Section):
    filename: str = "/tmp/trace.txt"


class OtelEndpoint(Section):
    endpoint: str = ""


class OtelSampler(Section):
    parent_sampler: Literal["always", "traceid"] = "always"
    trace_id_ratio: float = Field(default=0.01, ge=0, le=1)


class TelemetryConfig(Section):
    """The `otel` section: where spans and metrics are sent.  Nothing leaves the process while `type` is `noop`."""

    type: Literal["noop", "file", "otlphttp", "otlpgrpc", "jaeger"] = "noop"
    file: OtelFile = OtelFile()
    jaeger: OtelEndpoint = OtelEndpoint(endpoint="http://localhost:14268/api/traces")
    otlpgrpc: OtelEndpoint = OtelEndpoint(endpoint="http://localhost:4317")
    otlphttp: OtelEndpoint = OtelEndpoint(endpoint="http://localhost:4318/v1/traces")
    sampler: OtelSampler = OtelSampler()
    service_name: str = "aerodrome"
    export_interval: Duration = timedelta(seconds=15)
    """How often metrics are sent."""
