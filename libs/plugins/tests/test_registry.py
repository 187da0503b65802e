"""Which plugin runs a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from flyteidl.admin.matchable_resource_pb2 import PluginOverride

from aerodrome.plugins import registry as registry_module
from aerodrome.plugins.api import PluginError
from aerodrome.plugins.config import TaskPluginsConfig
from aerodrome.plugins.registry import Host, Registry, built_in
from aerodrome.stdlib.errors import FailedPrecondition


@dataclass(frozen=True)
class Extra:
    """A plugin of someone else."""

    id: str = "extra"
    task_types: frozenset[str] = frozenset({"extra-task"})
    max_generated_name: int = 50


def echo_factory(host: Host) -> Extra:
    return Extra()


def several_factory(host: Host) -> list[Extra]:
    return [Extra("one", frozenset()), Extra("two", frozenset())]


def wrong_factory(host: Host) -> list[Any]:
    return ["not a plugin"]


def broken_factory(host: Host) -> Extra:
    raise RuntimeError("no licence")


def override(task_type: str, *plugins: str, use_default: bool = False) -> PluginOverride:
    behaviour = PluginOverride.USE_DEFAULT if use_default else PluginOverride.FAIL
    return PluginOverride(task_type=task_type, plugin_id=plugins, missing_plugin_behavior=behaviour)


@pytest.fixture
def plugins() -> Registry:
    return Registry([*built_in(Host()), Extra()])


@pytest.mark.parametrize(
    ("task_type", "plugin"),
    [
        ("container", "container"),
        ("python-task", "container"),
        ("raw-container", "container"),
        ("sidecar", "sidecar"),
        ("extra-task", "extra"),
        ("anything-else", "container"),
    ],
)
def test_a_task_type_runs_on_the_plugin_that_claims_it(plugins: Registry, task_type: str, plugin: str) -> None:
    assert plugins.resolve(task_type).id == plugin


def test_configuration_wins_over_claims_and_the_execution_over_configuration(plugins: Registry) -> None:
    config = TaskPluginsConfig(default_for_task_types={"python-task": "pod"})
    assert plugins.resolve("python-task", (), config).id == "pod"
    chosen = [override("other", "sidecar"), override("python-task", "gone", "extra")]
    assert plugins.resolve("python-task", chosen, config).id == "extra"


def test_a_missing_override_fails_or_goes_on_as_it_says(plugins: Registry) -> None:
    assert plugins.resolve("python-task", [override("python-task", "gone", use_default=True)]).id == "container"
    with pytest.raises(PluginError, match="'python-task' to gone, none of which is enabled") as raised:
        plugins.resolve("python-task", [override("python-task", "gone")])
    assert not raised.value.failure.retryable


def test_only_enabled_plugins_are_used(plugins: Registry) -> None:
    config = TaskPluginsConfig(enabled_plugins=["extra", "sidecar", "hiveExecutor"])
    assert plugins.resolve("extra-task", (), config).id == "extra"
    with pytest.raises(PluginError, match="no plugin runs tasks of type 'spark'") as raised:
        plugins.resolve("spark", (), config)
    assert "enabled-plugins" in raised.value.failure.message
    default = TaskPluginsConfig(enabled_plugins=["extra"], default_for_task_types={"x": "container"})
    with pytest.raises(PluginError, match="'x' to 'container', which is not an enabled plugin"):
        plugins.resolve("x", (), default)


def test_a_check_finds_what_would_fail_later(plugins: Registry) -> None:
    plugins.check(TaskPluginsConfig())
    with pytest.raises(FailedPrecondition, match="x is given to 'gone'"):
        plugins.check(TaskPluginsConfig(default_for_task_types={"x": "gone"}))
    rivals = Registry([*built_in(Host()), Extra(), Extra("rival")])
    with pytest.raises(FailedPrecondition, match="extra, rival all run extra-task tasks"):
        rivals.check(TaskPluginsConfig())
    rivals.check(TaskPluginsConfig(default_for_task_types={"extra-task": "rival"}))
    rivals.check(TaskPluginsConfig(enabled_plugins=["container", "rival"]))


def test_two_plugins_cannot_share_an_id() -> None:
    with pytest.raises(FailedPrecondition, match="two plugins are called extra"):
        Registry([Extra(), Extra()])


def installed(monkeypatch: pytest.MonkeyPatch, *factories: Callable[[Host], Any]) -> None:
    """Pretend that a distribution offers `factories` as entry points."""
    entries = [
        EntryPoint(factory.__name__, f"{__name__}:{factory.__name__}", "aerodrome.plugins") for factory in factories
    ]
    by_value = {entry.value: factory for entry, factory in zip(entries, factories, strict=True)}
    monkeypatch.setattr(EntryPoint, "load", lambda entry: by_value[entry.value])
    monkeypatch.setattr(registry_module, "entry_points", lambda group: EntryPoints(entries).select(group=group))


def test_installed_plugins_join_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, echo_factory, several_factory)
    assert set(Registry.load(Host()).plugins) == {"container", "sidecar", "pod", "echo", "extra", "one", "two"}


@pytest.mark.parametrize(
    ("factory", "why"),
    [(wrong_factory, "returned 'not a plugin', which is no plugin"), (broken_factory, "RuntimeError: no licence")],
)
def test_an_installed_plugin_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, factory: Callable[[Host], Any], why: str
) -> None:
    installed(monkeypatch, factory)
    with pytest.raises(FailedPrecondition, match=why) as raised:
        Registry.load(Host())
    assert factory.__name__ in raised.value.message
