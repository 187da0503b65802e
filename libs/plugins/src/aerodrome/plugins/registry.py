"""Which plugins there are, and which of them runs a task.

Plugins come from this package and from the entry points of installed distributions in the group `aerodrome.plugins`:
each entry point is a function that takes a `Host` and returns one plugin or several.
Source: spec/data-plane.md, section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeAlias

from flyteidl.admin.matchable_resource_pb2 import PluginOverride

from aerodrome.plugins.api import ErrorKind, Failure, Plugin, PluginError, all_of
from aerodrome.plugins.config import EchoConfig, LogConfig, TaskPluginsConfig
from aerodrome.plugins.container import CONTAINER_TYPES, SIDECAR_TYPES, ContainerPlugin
from aerodrome.plugins.echo import EchoPlugin
from aerodrome.plugins.logs import LogLinks
from aerodrome.plugins.pods import PodSettings
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.errors import FailedPrecondition

GROUP: Final = "aerodrome.plugins"
DEFAULT: Final = "container"
"""The plugin for task types that no other plugin claims."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the platform gives to the plugins that it makes."""

    settings: PodSettings = field(default_factory=PodSettings)
    links: LogLinks = field(default_factory=lambda: LogLinks(LogConfig()))
    clock: Clock = field(default_factory=SystemClock)
    echo: EchoConfig = field(default_factory=EchoConfig)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The raw sections below `plugins` by name, for plugins that bring their own settings."""


Factory: TypeAlias = Callable[[Host], Plugin | Iterable[Plugin]]


def built_in(host: Host) -> tuple[Plugin, ...]:
    """The plugins of this package.  `pod` claims no task type: it is there to be chosen."""

    def container(plugin_id: str, task_types: frozenset[str]) -> ContainerPlugin:
        return ContainerPlugin(host.settings, host.links, host.clock, plugin_id, task_types)

    return (
        container(DEFAULT, CONTAINER_TYPES),
        container("sidecar", SIDECAR_TYPES),
        container("pod", frozenset()),
        EchoPlugin(host.echo, host.clock),
    )


class Registry:
    """All plugins by id."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        """Raises FailedPrecondition if two plugins share an id."""
        try:
            self._plugins = all_of(tuple(plugins))
        except ValueError as error:
            raise FailedPrecondition(str(error)) from error

    @classmethod
    def load(cls, host: Host) -> Registry:
        """The built-in plugins and those of installed distributions.

        Raises FailedPrecondition that names the entry point which cannot be used.
        """
        plugins = list(built_in(host))
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            plugins.extend(_made_by(entry, host))
        return cls(plugins)

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """All plugins by id, whether enabled or not."""
        return dict(self._plugins)

    def check(self, config: TaskPluginsConfig) -> None:
        """Raise FailedPrecondition if `config` names unknown plugins or leaves open which plugin runs a task type."""
        enabled = self._enabled(config)
        problems = [
            f"tasks.task-plugins.default-for-task-types: {task_type} is given to {plugin!r}, which is not an enabled "
            f"plugin (enabled: {', '.join(sorted(enabled))})"
            for task_type, plugin in config.default_for_task_types.items()
            if plugin not in enabled
        ]
        claims: dict[str, list[str]] = {}
        for plugin in enabled.values():
            for task_type in plugin.task_types:
                claims.setdefault(task_type, []).append(plugin.id)
        problems.extend(
            f"the plugins {', '.join(sorted(ids))} all run {task_type} tasks: choose one in "
            f"tasks.task-plugins.default-for-task-types or enable only one"
            for task_type, ids in sorted(claims.items())
            if len(ids) > 1 and task_type not in config.default_for_task_types
        )
        if problems:
            raise FailedPrecondition("; ".join(problems))

    def resolve(
        self,
        task_type: str,
        overrides: Sequence[PluginOverride] = (),
        config: TaskPluginsConfig | None = None,
    ) -> Plugin:
        """The plugin that runs tasks of `task_type`.

        In this order: what the execution's `overrides` choose; the configured default for the type; the plugin that
        claims it; the default plugin.  Raises PluginError that says what to configure.
        """
        config = config or TaskPluginsConfig()
        enabled = self._enabled(config)
        for override in overrides:
            if override.task_type != task_type:
                continue
            if (chosen := next((name for name in override.plugin_id if name in enabled), None)) is not None:
                return enabled[chosen]
            if override.missing_plugin_behavior == PluginOverride.FAIL:
                raise _no_plugin(
                    f"the execution's plugin overrides give {task_type!r} to {', '.join(override.plugin_id)}, none of "
                    f"which is enabled here (enabled: {', '.join(sorted(enabled))})"
                )
        if (named := config.default_for_task_types.get(task_type)) is not None:
            if named not in enabled:
                raise _no_plugin(
                    f"tasks.task-plugins.default-for-task-types gives {task_type!r} to {named!r}, which is not an "
                    f"enabled plugin (enabled: {', '.join(sorted(enabled))})"
                )
            return enabled[named]
        for plugin in enabled.values():
            if task_type in plugin.task_types:
                return plugin
        if DEFAULT in enabled:
            return enabled[DEFAULT]
        raise _no_plugin(
            f"no plugin runs tasks of type {task_type!r}: install one, enable it in tasks.task-plugins.enabled-plugins "
            f"or choose one in tasks.task-plugins.default-for-task-types (enabled: {', '.join(sorted(enabled))})"
        )

    def _enabled(self, config: TaskPluginsConfig) -> dict[str, Plugin]:
        if not config.enabled_plugins:
            return self._plugins
        return {name: plugin for name, plugin in self._plugins.items() if name in config.enabled_plugins}


def _made_by(entry: EntryPoint, host: Host) -> list[Plugin]:
    place = f"the entry point {entry.name} = {entry.value} of {entry.dist.name if entry.dist else 'unknown'}"
    try:
        made = entry.load()(host)
    except Exception as error:
        raise FailedPrecondition(f"{place} cannot be loaded: {type(error).__name__}: {error}") from error
    plugins = [made] if isinstance(made, Plugin) else list(made)
    for plugin in plugins:
        if not isinstance(plugin, Plugin):
            raise FailedPrecondition(f"{place} returned {plugin!r}, which is no plugin")
    return plugins


def _no_plugin(message: str) -> PluginError:
    return PluginError(Failure("PluginNotFound", message, ErrorKind.USER, retryable=False))
