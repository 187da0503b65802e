"""What a zygote does ahead of need: none of it may differ from what each attempt would do for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from flytekit.bin.entrypoint import execute_task_cmd, fast_execute_task_cmd, map_execute_task_cmd
from hypothesis import given
from hypothesis import strategies as st

from aerodrome.propeller.runtimes import LocalRuntime, templates, zygote
from aerodrome.propeller.runtimes.zygote.addresses import Addresses
from aerodrome.propeller.runtimes.zygote.reading import Reader

from .harness import Task, literals, make_pod, run_pod
from .test_flytekit import EXECUTION, distribution
from .test_templates import template_of

# -- the arguments of a command ----------------------------------------------------------------------------------------

COMMANDS = (execute_task_cmd, map_execute_task_cmd)
OPTIONS = (
    "--inputs", "--output-prefix", "--raw-output-data-prefix", "--checkpoint-path", "--prev-checkpoint", "--test",
    "--dynamic-addl-distro", "--dynamic-dest-dir", "--resolver", "--max-concurrency", "--help", "--", "-", "--inputs=x",
)  # fmt: skip
WORDS = st.sampled_from((*OPTIONS, *OPTIONS, "", '""', "a value", "-x", "--unknown", "7"))


def by_click(command: Any, arguments: list[str]) -> dict[str, Any] | None:
    """What click reads; None if it objects."""
    try:
        context = command.make_context(command.name, list(arguments))
    except (click.ClickException, click.exceptions.Exit):
        return None
    values: dict[str, Any] = context.params
    return values


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_what_propeller_writes_is_read_without_click(command: Any) -> None:
    reader = Reader.of(command)
    assert reader is not None
    arguments = [
        "--inputs", "/i", "--output-prefix", "/o", "--raw-output-data-prefix", "/r", "--checkpoint-path", "/c",
        "--prev-checkpoint", '""', "--dynamic-addl-distro", "/d", "--dynamic-dest-dir", "/x", "--resolver", "r",
        "--", "task-module", "m", "--", "--x",
    ]  # fmt: skip
    assert reader.read(arguments) == by_click(command, arguments)
    reader.read_for(command, arguments)
    try:
        context = command.make_context(command.name, [])
        assert context.params["resolver_args"] == ("task-module", "m", "--", "--x")
        assert context.args == []
    finally:
        del command.parse_args


@given(arguments=st.lists(WORDS, max_size=12), least=st.booleans(), command=st.sampled_from(COMMANDS))
def test_arguments_are_read_as_click_reads_them_or_left_to_it(arguments: list[str], least: bool, command: Any) -> None:
    if least:
        arguments = ["--inputs", "i", "--output-prefix", "o", "--resolver", "r", *arguments]
    reader = Reader.of(command)
    assert reader is not None
    values = reader.read(arguments)
    if values is not None:
        assert values == by_click(command, arguments)


@click.command()
@click.option("--several", multiple=True)
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def several(several: Any, rest: Any) -> None:
    """Takes what is not plain."""


@click.command()
@click.option("--upper", callback=lambda context, parameter, value: value and value.upper())
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def upper(upper: Any, rest: Any) -> None:
    """Makes something else of what it takes."""


def test_what_is_not_plain_is_left_to_click() -> None:
    assert Reader.of(upper) is None
    assert Reader.of(fast_execute_task_cmd) is not None
    assert Reader.of(object()) is None
    reader = Reader.of(several)
    assert reader is None or reader.read(["--several", "x"]) is None


# -- the context of a task ---------------------------------------------------------------------------------------------


class _Holder:
    __module__ = "flytekit.mine"
    path: Path
    text: str
    other: str

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_addresses_are_moved_wherever_they_are() -> None:
    inner = _Holder(path=Path("/old/a"), other="/elsewhere/old")
    outer = _Holder(text="/old/b/", inner=(1, [{"x": inner}]), same=inner, number=3)
    addresses = Addresses([outer], "/old/")
    assert addresses.is_complete
    addresses.move("/new/")
    assert (inner.path, inner.other, outer.text) == (Path("/new/a"), "/elsewhere/old", "/new/b/")
    addresses.move("/newer/")
    assert (inner.path, outer.text) == (Path("/newer/a"), "/newer/b/")


@pytest.mark.parametrize(
    "value",
    [("/old/a",), ["x", "/old/a"], {"/old/a": 1}, {"k": "/old/a"}, frozenset({"/old/a"}), "in /old/a", [("/old/a",)]],
)
def test_an_address_that_cannot_be_moved_is_noticed(value: Any) -> None:
    assert not Addresses([_Holder(value=value)], "/old/").is_complete


CONTEXT = """
import gc, json, os, pathlib, runpy, signal, sys
zygote = runpy.run_path({program!r})["load"]("preloaded")
preloaded = zygote.preloaded.Preloaded()
preloaded.load()
before = signal.getsignal(signal.SIGINT)
if {ahead}:
    preloaded.renew_ahead()
    assert preloaded._ahead is not None
    assert signal.getsignal(signal.SIGINT) is before
os.environ["FLYTE_AWS_ENDPOINT"] = "http://later"
preloaded.renew_for_job(dict(os.environ), {folder!r})

from flytekit.configuration import Config
from flytekit.core import context_manager, data_persistence

def told(value, depth=0):
    if isinstance(value, (str, int, float, bool, type(None), pathlib.PurePath)):
        return repr(value)
    if isinstance(value, (list, tuple, set)):
        return [told(each, depth) for each in value]
    if isinstance(value, dict):
        return {{str(name): told(each, depth) for name, each in value.items()}}
    if not type(value).__module__.startswith("flytekit") or depth > 8:
        return type(value).__name__
    attributes = dict(getattr(value, "__dict__", {{}}))
    for name in [name for name in attributes if name == "_fs_token_" or "stackframe" in name]:
        del attributes[name]  # where it was called from, and which process that was
    return {{"": type(value).__name__, **told(attributes, depth + 1)}}

context = context_manager.FlyteContextManager.current_context()
left = [
    str(each) for holder in gc.get_objects() if type(holder) in (dict, list, tuple)
    for each in list(holder.values() if type(holder) is dict else holder)
    if isinstance(each, (str, pathlib.PurePath)) and str(each).startswith({stand_in!r}) and str(each) != {stand_in!r}
]
print(json.dumps({{
    "context": told(context), "size": context_manager.FlyteContextManager.size(),
    "age": (__import__("datetime").datetime.now(__import__("datetime").timezone.utc)
            - context.user_space_params.execution_date).total_seconds() < 5,
    "provider": told(data_persistence.default_local_file_access_provider),
    "same": data_persistence.default_local_file_access_provider is context.file_access
            is context_manager.default_local_file_access_provider,
    "configuration": [Config.local_sandbox_path, Config.auto().local_sandbox_path, data_persistence.flyte_tmp_dir],
    "signal": signal.getsignal(signal.SIGINT).__qualname__, "rooms": sorted(p for p, _, _ in os.walk({folder!r})),
    "left": left,
}}))
"""


def test_a_context_that_was_made_ahead_is_the_one_that_an_attempt_would_make(tmp_path: Path) -> None:
    seen = []
    for ahead in (False, True):
        folder = tmp_path / "scratch"
        folder.mkdir()
        program = CONTEXT.format(
            program=zygote.PROGRAM, ahead=ahead, folder=str(folder), stand_in=f"{tmp_path}/stand-in-"
        )
        environment = {**os.environ, "TMPDIR": str(tmp_path), "FLYTE_INTERNAL_EXECUTION_ID": "zygote"}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        seen.append(json.loads(done.stdout))
        folder.rename(tmp_path / f"done-{ahead}")
    made, moved = seen
    assert made == moved
    assert moved["age"]
    assert moved["same"]
    assert not moved["left"]
    assert str(tmp_path / "scratch") in json.dumps(moved["context"])
    assert "http://later" in json.dumps(moved["context"])


# -- map tasks ---------------------------------------------------------------------------------------------------------

MAPPED = """
import json, os
from flytekit import map_task, task, workflow
from flytekit.core import array_node_map_task
from flytekit.core.context_manager import FlyteEntities

@task
def look(a: int) -> str:
    load = array_node_map_task.ArrayNodeMapTaskResolver.load_task
    made = [each.cell_contents for each in load.__closure__ if each.cell_contents is not load.__wrapped__]
    maps = [each for each in FlyteEntities.entities if "ArrayNode" in type(each).__name__]
    return json.dumps([
        a, any(getattr(each, "__name__", "") == "find" for each in made), len(FlyteEntities.entities),
        [(each.name, str(each._module_file), each.instantiated_in, sorted(each.bound_inputs), str(each.interface),
          str(each.python_interface), str(each.metadata), each.task_type, each._lhs) for each in maps],
    ])
"""


async def test_a_map_task_that_was_made_ahead_is_the_one_that_an_item_would_make(
    forking: LocalRuntime, tmp_path: Path
) -> None:
    archive = distribution(tmp_path / "fast.tar.gz", flow=MAPPED)
    many = literals()
    for number in (7, 8):
        many.literals["a"].collection.literals.add().scalar.primitive.integer = number
    seen = []
    for number in range(templates.OFTEN + 1):
        if number == templates.OFTEN:
            await template_of(forking)
        item = Task(tmp_path / f"item-{number}", "flow", "look", many)
        inner = item.command("pyflyte-map-execute", "flytekit.core.array_node_map_task.ArrayNodeMapTaskResolver")
        place = inner.index("--") + 1
        inner[place:place] = ["vars", "", "resolver", "flytekit.core.python_auto_container.default_task_resolver"]
        fast = item.fast(archive)
        command = [*fast[: fast.index("--") + 1], *inner]
        env = {**EXECUTION, "BATCH_JOB_ARRAY_INDEX_VAR_NAME": "INDEX", "INDEX": str(number % 2)}
        pod = await run_pod(forking, make_pod(f"item-{number}", args=command, env=env))
        assert pod["status"]["phase"] == "Succeeded", await forking.tail("tests", f"item-{number}")
        seen.append(json.loads(item.outputs["o0"]))
    assert [each[:2] for each in seen] == [[7, False], [8, False], [7, False], [8, True]]
    assert seen[0][2:] == seen[-1][2:]
    assert len(seen[0][3]) == 1
