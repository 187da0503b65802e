"""What lines look like, what is on them, and what never is."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.stdlib.config import LogFormat, LoggerConfig
from aerodrome.stdlib.logger import REDACTED, bind, bound, capture, configure, get_logger, level_number, redact

log = get_logger("aerodrome.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Whatever a test configures ends with it."""
    from aerodrome.stdlib import logger

    state = (logger._state.level, logger._state.sink, logger._state.show_source)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logger._state.level, logger._state.sink, logger._state.show_source = state
    root.setLevel(level)
    root.handlers = handlers


def written(form: str = "json", level: int | str = "debug", **more: Any) -> io.StringIO:
    stream = io.StringIO()
    configure(LoggerConfig(level=level, formatter=LogFormat(type=form), **more), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Phase(Enum):
    RUNNING = 1


class TestJson:
    def test_a_line_is_an_object_with_the_phrase_and_the_fields(self) -> None:
        stream = written()
        log.info("phase advanced", execution="p:d:f", phase=Phase.RUNNING, count=3, nothing=None, ok=True)
        (line,) = lines(stream)
        assert datetime.fromisoformat(line.pop("ts")).tzinfo is not None
        assert line == {
            "level": "info", "logger": "aerodrome.test", "msg": "phase advanced", "execution": "p:d:f",
            "phase": "RUNNING", "count": 3, "nothing": None, "ok": True,
        }  # fmt: skip

    def test_values_of_any_type_are_written(self) -> None:
        stream = written()
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        log.info("x", at=moment, took=timedelta(1), raw=b"\0", many={3}, error=ValueError("why"), nest=[{"a": moment}])
        (line,) = lines(stream)
        assert line["at"] == "2026-01-01T00:00:00+00:00"
        assert line["raw"] == "00"
        assert line["error"] == "ValueError: why"
        assert line["nest"] == [{"a": "2026-01-01T00:00:00+00:00"}]

    def test_fields_do_not_replace_the_lines_own(self) -> None:
        stream = written()
        log.info("real", msg="fake", level="fake", ts="fake", logger="fake")
        (line,) = lines(stream)
        assert (line["msg"], line["level"], line["logger"]) == ("real", "info", "aerodrome.test")
        assert line["msg_"] == "fake"

    def test_an_exception_is_there_with_its_stack(self) -> None:
        stream = written()
        try:
            raise ValueError("the reason")
        except ValueError:
            log.exception("it failed", execution="x")
        (line,) = lines(stream)
        assert line["error"] == "ValueError: the reason"
        assert "test_logger.py" in line["stack"]
        assert line["level"] == "error"

    def test_long_values_are_cut(self) -> None:
        stream = written()
        log.info("x", value="y" * 1_000_000)
        assert len(stream.getvalue()) < 20_000

    @given(
        st.text(),
        st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text())),
    )
    def test_every_line_is_one_line_of_json(self, event: str, fields: dict[str, Any]) -> None:
        stream = written()
        log.bind(**fields).info(event)
        assert stream.getvalue().count("\n") == 1
        json.loads(stream.getvalue())


class TestText:
    def test_it_reads_well(self) -> None:
        stream = written("text")
        log.warning("lease lost", execution="f1", reason="two words", holder={"id": 1})
        head, _, rest = stream.getvalue().partition("lease lost")
        assert head.split()[1:] == ["WARN", "test"]
        assert rest.split(None, 1)[1].strip() == """reason="two words" holder={"id":1}"""
        assert "\x1b" not in stream.getvalue()

    def test_nothing_that_is_logged_moves_the_cursor(self) -> None:
        stream = written("text")
        log.info("phrase\x1b[2J", name="evil\x1b]0;title\x07\nforged line", plain="a\rb")
        assert stream.getvalue().count("\n") == 1
        assert not {"\x1b", "\x07", "\r"} & set(stream.getvalue())

    def test_a_stack_is_indented_below(self) -> None:
        stream = written("text")
        log.error("failed", exc_info=ValueError("why"))
        assert "\n    ValueError: why" in stream.getvalue()

    def test_terminals_get_colours(self) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        stream = Terminal()
        configure(LoggerConfig(formatter=LogFormat(type="text")), stream)
        log.info("hello")
        assert "\x1b[" in stream.getvalue()


def test_the_gcp_form_has_its_own_keys() -> None:
    stream = written("gcp")
    log.error("failed", execution="x")
    (line,) = lines(stream)
    assert line["severity"] == "ERROR"
    assert line["message"] == "failed"
    assert line["data"]["execution"] == "x"


class TestLevels:
    @pytest.mark.parametrize(
        ("level", "shown"),
        [(5, 4), ("debug", 4), (4, 3), ("info", 3), (3, 2), ("WARNING", 2), (2, 1), ("error", 1), (0, 0)],
    )
    def test_what_is_below_is_not_written(self, level: int | str, shown: int) -> None:
        stream = written(level=level)
        for write in (log.debug, log.info, log.warning, log.error):
            write("x")
        assert len(lines(stream)) == shown

    def test_muted_nothing_is_written(self) -> None:
        stream = written(mute=True)
        log.critical("x")
        assert stream.getvalue() == ""

    def test_loggers_follow_a_later_configuration(self) -> None:
        early = get_logger("early").bind(a=1)
        early.debug("unseen")
        stream = written()
        early.debug("seen")
        assert [line["msg"] for line in lines(stream)] == ["seen"]
        assert early.enabled("debug")

    @pytest.mark.parametrize("level", [7, "x", "", -1])
    def test_unknown_levels_are_refused(self, level: int | str) -> None:
        with pytest.raises(ValueError, match="log level"):
            level_number(level)

    def test_the_source_is_shown_on_request(self) -> None:
        stream = written(show_source=True)
        log.info("x")
        logging.getLogger("library").warning("y")
        assert [line["src"].split(":")[0] for line in lines(stream)] == ["test_logger.py", "test_logger.py"]


class TestBinding:
    def test_identifiers_appear_on_every_line_inside(self) -> None:
        with capture() as found:
            with bind(execution="f1", node="n0"), bind(node="n1"):
                log.info("inside", attempt=2)
            log.info("outside")
        assert found[0]["execution"] == "f1"
        assert found[0]["node"] == "n1"
        assert found[0]["attempt"] == 2
        assert "execution" not in found[1]

    async def test_tasks_carry_what_was_bound_where_they_started(self) -> None:
        async def work(name: str) -> None:
            with bind(part=name):
                await asyncio.sleep(0)
                log.info("working")

        with capture() as found, bind(execution="f1"):
            async with asyncio.TaskGroup() as group:
                group.create_task(work("a"))
                group.create_task(work("b"))
        assert sorted((line["execution"], line["part"]) for line in found) == [("f1", "a"), ("f1", "b")]
        assert bound() == {}

    def test_a_bound_logger_leaves_its_parent_alone(self) -> None:
        with capture() as found:
            log.bind(a=1).info("x")
            log.info("y")
        assert found[0]["a"] == 1
        assert "a" not in found[1]


class TestSecrets:
    @pytest.mark.parametrize(
        "name", ["token", "access_token", "password", "PASSWORD", "db-password", "client_secret", "secretKey",
                 "Authorization", "flyte-authorization", "access_key", "cookie", "api_key"],
    )  # fmt: skip
    def test_fields_that_look_secret_lose_their_value(self, name: str) -> None:
        stream = written()
        log.bind(**{name: "hidden"}).info("x", nested={"deep": [{name: "hidden"}]})
        assert "hidden" not in stream.getvalue()
        assert stream.getvalue().count(REDACTED) == 2

    @pytest.mark.parametrize("name", ["secret_name", "password_path", "token_type", "secret_group", "phase", "key"])
    def test_fields_about_secrets_keep_theirs(self, name: str) -> None:
        assert redact(name, "shown") == "shown"

    @pytest.mark.parametrize(
        "text",
        ["http://h/data/v1/x?token=hidden", "https://s3/x?X-Amz-Signature=hidden&a=b", "postgresql://user:hidden@host/db",
         "Authorization: Bearer hidden"],
    )  # fmt: skip
    def test_secrets_in_texts_and_errors_are_cut_out(self, text: str) -> None:
        stream = written()
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("failed", url=text)
        assert "hidden" not in stream.getvalue()


class TestLibraries:
    def test_their_warnings_are_lines_of_ours(self) -> None:
        stream = written()
        logging.getLogger("aiohttp.access").warning("strange %s", "request")
        logging.getLogger("botocore").debug("a credential")
        (line,) = lines(stream)
        assert (line["logger"], line["msg"], line["level"]) == ("aiohttp.access", "strange request", "warning")

    def test_a_malformed_call_fails_nobody(self, capsys: pytest.CaptureFixture[str]) -> None:
        root = logging.getLogger()
        root.handlers = []  # pytest's own would raise
        written()
        root.error("%d", "no number")
        assert "no number" in capsys.readouterr().err

    def test_configuring_twice_writes_once(self) -> None:
        first, second = written(), written()
        logging.getLogger("library").error("x")
        assert first.getvalue() == ""
        assert len(lines(second)) == 1


def test_a_stream_that_was_closed_fails_nobody() -> None:
    stream = written()
    stream.close()
    log.info("x")


def test_a_stream_that_cannot_write_a_character_gets_it_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    configure(LoggerConfig(), stream)
    log.info("grün")
    assert b"gr\\xfcn" in raw.getvalue()
