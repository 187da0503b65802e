"""The echo plugin gives inputs back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from flyteidl.core import interface_pb2, literals_pb2, types_pb2

from aerodrome.plugins.api import AtOncePlugin, InProcessPlugin, Phase, PluginError, TaskContext
from aerodrome.plugins.config import EchoConfig
from aerodrome.plugins.echo import EchoPlugin
from aerodrome.stdlib.clock import ManualClock

from .conftest import MakeContext, MakeTask

INTEGER = types_pb2.LiteralType(simple=types_pb2.INTEGER)
STRING = types_pb2.LiteralType(simple=types_pb2.STRING)


@pytest.fixture
def echo_context(make_context: MakeContext, make_task: MakeTask) -> object:
    def make(
        inputs: dict[str, types_pb2.LiteralType], outputs: dict[str, types_pb2.LiteralType], **values: int | str
    ) -> TaskContext:
        task = make_task(type="echo")
        task.ClearField("container")
        for variables, types in ((task.interface.inputs, inputs), (task.interface.outputs, outputs)):
            for name, kind in types.items():
                variables.variables[name].CopyFrom(interface_pb2.Variable(type=kind))
        known = literals_pb2.LiteralMap()
        for name, value in values.items():
            primitive = known.literals[name].scalar.primitive
            if isinstance(value, int):
                primitive.integer = value
            else:
                primitive.string_value = value
        return make_context(task, inputs=lambda: known)

    return make


def values(outputs: literals_pb2.LiteralMap | None) -> dict[str, int | str]:
    assert outputs is not None
    found: dict[str, int | str] = {}
    for name, literal in outputs.literals.items():
        primitive = literal.scalar.primitive
        found[name] = getattr(primitive, primitive.WhichOneof("value") or "")
    return found


@pytest.mark.parametrize(
    ("inputs", "outputs", "given", "expected"),
    [
        ({}, {}, {}, {}),
        ({"a": INTEGER}, {"o0": INTEGER}, {"a": 3}, {"o0": 3}),
        ({"a": INTEGER, "b": STRING}, {"o1": INTEGER, "o0": STRING}, {"a": 3, "b": "x"}, {"o1": 3, "o0": "x"}),
        ({"a": INTEGER, "b": INTEGER}, {"b": INTEGER, "o0": INTEGER}, {"a": 1, "b": 2}, {"b": 2, "o0": 1}),
        ({"a": INTEGER, "b": INTEGER}, {"o0": INTEGER, "o1": INTEGER}, {"a": 1, "b": 2}, {"o0": 1, "o1": 2}),
        ({"a": INTEGER, "b": STRING}, {"o0": INTEGER}, {"a": 1, "b": "x"}, {"o0": 1}),
        ({"a": INTEGER}, {}, {"a": 1}, {}),
    ],
)
async def test_outputs_repeat_inputs(echo_context: Any, inputs: Any, outputs: Any, given: Any, expected: Any) -> None:
    outcome = await EchoPlugin().run(echo_context(inputs, outputs, **given))
    assert outcome.info.phase is Phase.SUCCEEDED
    assert values(outcome.outputs) == expected


@pytest.mark.parametrize(
    ("inputs", "outputs", "given", "why"),
    [
        ({"a": INTEGER}, {"o0": STRING}, {"a": 1}, "no input of the type of the output 'o0' is left; inputs: a"),
        ({}, {"o0": STRING}, {}, "inputs: none"),
        ({"a": INTEGER}, {"o0": INTEGER}, {}, "its input 'a' was not given"),
    ],
)
async def test_what_does_not_fit_is_refused_for_good(
    echo_context: Any, inputs: Any, outputs: Any, given: Any, why: Any
) -> None:
    with pytest.raises(PluginError, match=why) as raised:
        await EchoPlugin().run(echo_context(inputs, outputs, **given))
    assert not raised.value.failure.retryable


async def test_it_takes_as_long_as_it_was_told(echo_context: Any) -> None:
    clock = ManualClock()
    plugin = EchoPlugin(EchoConfig(sleep_duration=timedelta(seconds=5)), clock)
    assert isinstance(plugin, InProcessPlugin)
    running = asyncio.ensure_future(plugin.run(echo_context({}, {})))
    await asyncio.sleep(0)  # it begins
    await clock.advance(4.5)
    assert not running.done()
    await clock.advance(0.5)
    assert (await running).info.phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("inputs", "outputs", "given"),
    [
        ({}, {}, {}),
        ({"a": INTEGER}, {"a": INTEGER}, {"a": 3}),
        ({"a": INTEGER}, {"a": STRING}, {"a": 3}),
        ({"a": INTEGER}, {"o0": INTEGER}, {"a": 3}),
        ({"a": INTEGER, "b": INTEGER}, {"a": INTEGER}, {"a": 1, "b": 2}),
        ({"a": INTEGER}, {"a": INTEGER}, {}),
    ],
)
async def test_what_is_told_at_once_is_what_running_it_gives(
    echo_context: Any,
    inputs: dict[str, types_pb2.LiteralType],
    outputs: dict[str, types_pb2.LiteralType],
    given: dict[str, int],
) -> None:
    context = echo_context(inputs, outputs, **given)
    told = EchoPlugin().at_once(context.task, context.inputs())
    assert isinstance(EchoPlugin(), AtOncePlugin)
    assert (told is not None) == (set(inputs) == set(outputs) == set(given) and inputs == outputs)
    if told is not None:
        assert told == await EchoPlugin().run(context)
    slow = EchoPlugin(EchoConfig(sleep_duration=timedelta(seconds=1)))
    assert slow.at_once(context.task, context.inputs()) is None, "that takes time"
