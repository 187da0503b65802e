"""Logging: one line for each thing that happened, as a fixed phrase and fields.

    log = get_logger(__name__)
    with bind(execution="p:d:f123"):
        log.info("phase advanced", phase="RUNNING")

Identifiers are bound once at the door (`bind`, a context variable, so tasks and threads started inside inherit them).
Lines are JSON objects, or a form for people.  A field whose name looks secret loses its value, nested ones and tokens
in URLs included.  Library loggers (the `logging` module) are written the same way, from WARNING on: what they say below
that is theirs, and may hold credentials.

Until `configure` was called, lines from INFO on go to standard error.  Nothing heavy is imported and a line below the
level costs a comparison: structlog would give the same calls, but importing it takes up to 200 ms of a cold start, and
all that would remain of it here is the passing on of keyword arguments.
"""

from __future__ import annotations

import enum
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from aerodrome.stdlib.config import LoggerConfig

Fields = Mapping[str, object]

MAX_VALUE_CHARACTERS = 16_384
"""Longer values are cut, stack traces too, so that no line grows without bound."""

TRACE = 5
LEVELS: Mapping[str, int] = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
NUMBERED = ("panic", "fatal", "error", "warn", "info", "debug", "trace")
"""What the numbers in `logger.level` mean: 4 is info, 5 is debug."""

REDACTED = "[redacted]"


class Sink(Protocol):
    """Where a finished line's parts go."""

    def __call__(self, level: int, name: str, event: str, fields: Mapping[str, object]) -> None: ...


def level_number(level: int | str) -> int:
    """The `logging` module's number for a configured level: 0 to 6 or a name.  Raises ValueError for anything else."""
    text = str(level).strip().lower()
    if text.isdigit():
        if int(text) >= len(NUMBERED):
            raise ValueError(f"log level {level} is not one of 0 (panic) to 6 (trace)")
        text = NUMBERED[int(text)]
    if text not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(NUMBERED)} (or 0 to 6)")
    return LEVELS[text]


class BoundLogger:
    """Writes lines under a name, each with the fields that were bound to it."""

    __slots__ = ("_fields", "_name")

    def __init__(self, name: str, fields: Mapping[str, object] | None = None) -> None:
        self._name = name
        self._fields = dict(fields or {})

    def bind(self, **fields: object) -> BoundLogger:
        """A logger that adds `fields` to each of its lines; this one stays as it is."""
        return BoundLogger(self._name, {**self._fields, **fields})

    def enabled(self, level: str) -> bool:
        """Whether a line of `level` would be written; for lines whose fields are costly to make."""
        return LEVELS[level] >= _state.level

    def debug(self, event: str, /, **fields: object) -> None:
        if _state.level <= logging.DEBUG:
            _emit(logging.DEBUG, self._name, event, self._fields, fields)

    def info(self, event: str, /, **fields: object) -> None:
        if _state.level <= logging.INFO:
            _emit(logging.INFO, self._name, event, self._fields, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        if _state.level <= logging.WARNING:
            _emit(logging.WARNING, self._name, event, self._fields, fields)

    def error(self, event: str, /, **fields: object) -> None:
        if _state.level <= logging.ERROR:
            _emit(logging.ERROR, self._name, event, self._fields, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error line with the exception that is being handled (or `exc_info=`)."""
        if _state.level <= logging.ERROR:
            fields.setdefault("exc_info", True)
            _emit(logging.ERROR, self._name, event, self._fields, fields)

    def critical(self, event: str, /, **fields: object) -> None:
        if _state.level <= logging.CRITICAL:
            _emit(logging.CRITICAL, self._name, event, self._fields, fields)


def get_logger(name: str) -> BoundLogger:
    """The logger of a module; cheap, and follows `configure` whenever that is called."""
    return BoundLogger(name)


@contextmanager
def bind(**ids: object) -> Iterator[None]:
    """Put `ids` on every line written inside, by whatever logger, in tasks started inside too."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def bound() -> Mapping[str, object]:
    """The identifiers that `bind` has put in place here."""
    return _bound.get()


def configure(config: LoggerConfig, stream: TextIO | None = None) -> None:
    """Write lines as `config` says to `stream` (standard error if None), those of the `logging` module included."""
    target = stream if stream is not None else sys.stderr
    level = level_number(config.level)
    renderer = _renderer(config.formatter.type, coloured=config.formatter.type == "text" and _is_terminal(target))
    _state.sink = _StreamSink(target, renderer)
    _state.level = logging.CRITICAL + 1 if config.mute else level
    _state.show_source = config.show_source
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    threshold = logging.INFO if level <= TRACE else max(level, logging.WARNING)
    root.addHandler(_Bridge(threshold))
    root.setLevel(threshold)


@contextmanager
def capture(level: str = "debug") -> Iterator[list[dict[str, Any]]]:
    """For tests: collect lines as dictionaries (`level`, `logger`, `msg` and the fields) in place of writing them."""
    lines: list[dict[str, Any]] = []

    def sink(level: int, name: str, event: str, fields: Mapping[str, object]) -> None:
        lines.append({"level": _level_name(level), "logger": name, "msg": event, **fields})

    before = (_state.sink, _state.level)
    _state.sink, _state.level = sink, LEVELS[level]
    try:
        yield lines
    finally:
        _state.sink, _state.level = before


@contextmanager
def restored() -> Iterator[None]:
    """For tests: what is configured within the block ends with it."""
    before = (_state.sink, _state.level, _state.show_source)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        _state.sink, _state.level, _state.show_source = before
        for bridge in [each for each in root.handlers if isinstance(each, _Bridge) and each not in handlers]:
            root.removeHandler(bridge)
        for handler in handlers:
            if handler not in root.handlers:
                root.addHandler(handler)
        root.setLevel(level)


def redact(name: str, value: object) -> object:
    """`value` as it may be shown under the field `name`: secrets replaced, inside of mappings and URLs too."""
    return _redact(name, value, depth=0)


class _Bridge(logging.Handler):
    """Writes the records of the `logging` module as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, object] = {"exc_info": record.exc_info[1]} if record.exc_info else {}
            _emit(record.levelno, record.name, record.getMessage(), {}, fields)
        except Exception:  # noqa: BLE001 - a library's malformed log call must not become its failure
            self.handleError(record)


class _StreamSink:
    def __init__(self, stream: TextIO, render: Callable[[int, str, str, Mapping[str, object]], str]) -> None:
        self._stream = stream
        self._render = render
        self._lock = threading.Lock()

    def __call__(self, level: int, name: str, event: str, fields: Mapping[str, object]) -> None:
        line = self._render(level, name, event, fields) + "\n"
        try:
            with self._lock:
                try:
                    self._stream.write(line)
                except UnicodeEncodeError:
                    self._stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
                self._stream.flush()
        except (OSError, ValueError):
            pass  # the reader of our log went away: there is no other place to say so, and the work goes on


class _State:
    """What `configure` decides; one for the process."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.show_source = False
        self.sink: Sink | None = None


_state = _State()
_bound: ContextVar[Mapping[str, object]] = ContextVar("aerodrome_log_fields", default={})  # noqa: B039 - never changed


def _emit(level: int, name: str, event: str, own: Mapping[str, object], fields: dict[str, object]) -> None:
    merged: dict[str, object] = {**_bound.get(), **own, **fields}
    exc_info = merged.pop("exc_info", None)
    shown = {key: _redact(key, value, depth=0) for key, value in merged.items()}
    if exc_info:
        error = sys.exc_info()[1] if exc_info is True else exc_info
        if isinstance(error, tuple):
            error = error[1]
        if isinstance(error, BaseException):
            shown["error"] = _cut(_without_secrets(f"{type(error).__name__}: {error}"))
            shown["stack"] = _cut(_without_secrets("".join(traceback.format_exception(error))))
    if _state.show_source:
        shown["src"] = _source()
    sink = _state.sink
    if sink is None:
        sink = _StreamSink(sys.stderr, _renderer("text" if _is_terminal(sys.stderr) else "json", coloured=False))
    sink(level, name, event, shown)


def _source() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in (__file__, logging.__file__):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


# What a line looks like


def _renderer(form: str, *, coloured: bool) -> Callable[[int, str, str, Mapping[str, object]], str]:
    if form == "json":
        return _json_line
    if form == "gcp":
        return _gcp_line
    return _coloured_line if coloured else _plain_line


def _json_line(level: int, name: str, event: str, fields: Mapping[str, object]) -> str:
    return _json({"ts": _timestamp(), "level": _level_name(level), "logger": name, "msg": event, **_renamed(fields)})


def _gcp_line(level: int, name: str, event: str, fields: Mapping[str, object]) -> str:
    severity = logging.getLevelName(level) if level >= logging.DEBUG else "DEBUG"
    return _json(
        {"timestamp": _timestamp(), "severity": severity, "message": event, "data": {"logger": name, **fields}}
    )


def _plain_line(level: int, name: str, event: str, fields: Mapping[str, object]) -> str:
    return _text_line(level, name, event, fields, colour=("", "", "", ""))


def _coloured_line(level: int, name: str, event: str, fields: Mapping[str, object]) -> str:
    strong = "\x1b[31m" if level >= logging.ERROR else "\x1b[33m" if level >= logging.WARNING else "\x1b[32m"
    return _text_line(level, name, event, fields, colour=(strong, "\x1b[2m", "\x1b[1m", "\x1b[0m"))


def _text_line(
    level: int, name: str, event: str, fields: Mapping[str, object], *, colour: tuple[str, str, str, str]
) -> str:
    strong, faint, bold, reset = colour
    stack = fields.get("stack")
    shown = [f"{faint}{key}={reset}{_word(value)}" for key, value in fields.items() if key != "stack"]
    clock = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    short = name.removeprefix("aerodrome.")
    word = _SHORT.get(_level_name(level), _level_name(level)).upper()
    head = f"{faint}{clock}{reset} {strong}{word:<5}{reset} {faint}{short:<22}{reset} "
    line = head + f"{bold}{_printable(event):<32}{reset} " + " ".join(shown)
    return line.rstrip() + (f"\n{_indented(str(stack))}" if stack else "")


def _indented(text: str) -> str:
    return "\n".join(f"    {_printable(line)}" for line in text.rstrip().splitlines())


def _word(value: object) -> str:
    plain = _plain(value)
    text = plain if isinstance(plain, str) else _json(plain)
    if text and _BARE.fullmatch(text):
        return text
    return text if not isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _printable(text: str) -> str:
    """`text` without control characters: a name must not be able to move the cursor of whoever reads the log."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError):  # keys that are no strings, or a mapping that contains itself
        return json.dumps(_cut(repr(value)), ensure_ascii=False)


def _plain(value: object) -> object:
    """`value` in JSON's own types."""
    match value:
        case enum.Enum():
            return value.name
        case bool() | int() | float() | str() | None:
            return value
        case datetime():
            return value.isoformat()
        case bytes():
            return _cut(value.hex())
        case BaseException():
            return _cut(f"{type(value).__name__}: {value}")
        case set() | frozenset():
            return sorted(map(str, value))
        case list() | tuple() | dict():
            return value
        case Mapping():
            return dict(value)
    return _cut(str(value))


def _renamed(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Fields under names that do not replace the line's own keys."""
    if _RESERVED.isdisjoint(fields):
        return fields
    return {f"{key}_" if key in _RESERVED else key: value for key, value in fields.items()}


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level_name(level: int) -> str:
    if level >= logging.CRITICAL:
        return "critical"
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warning"
    if level >= logging.INFO:
        return "info"
    return "debug" if level >= logging.DEBUG else "trace"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _cut(text: str) -> str:
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    return f"{text[:MAX_VALUE_CHARACTERS]}... ({len(text)} characters)"


# Secrets


def _redact(name: str, value: object, *, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if _looks_secret(name):
        return REDACTED
    if isinstance(value, str):
        return _cut(_without_secrets(value))
    if depth < 4:
        if isinstance(value, Mapping):
            return {str(key): _redact(str(key), item, depth=depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [_redact("", item, depth=depth + 1) for item in value]
    return value


def _without_secrets(text: str) -> str:
    if "=" in text or "://" in text or "earer " in text:
        text = _SECRET_IN_URL.sub(rf"\1{REDACTED}", text)
        text = _PASSWORD_IN_URL.sub(rf"\1{REDACTED}", text)
    return text


def _looks_secret(name: str) -> bool:
    known = _secret_names.get(name)
    if known is None:
        plain = name.lower().replace("-", "").replace("_", "")
        known = bool(_SECRET_NAME.search(plain)) and not _ABOUT_A_SECRET.search(plain)
        if len(_secret_names) < 4096:
            _secret_names[name] = known
    return known


_secret_names: dict[str, bool] = {}
_SECRET_NAME = re.compile(r"token|passw|secret|authorization|credential|cookie|privatekey|accesskey|apikey")
_ABOUT_A_SECRET = re.compile(r"(path|file|name|count|type|group|version|expiresat|expiresin|location)$")
_SECRET_IN_URL = re.compile(
    r"((?:token|signature|credential|password|secret|access_key)=|\b[Bb]earer )[^&\s\"']+", re.IGNORECASE
)
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s/@]+(?=@)")
_BARE = re.compile(r"[^\s\"'=\x00-\x1f\x7f-\x9f]+")
_SHORT = {"warning": "warn", "critical": "crit"}
_RESERVED = frozenset({"ts", "level", "logger", "msg"})
