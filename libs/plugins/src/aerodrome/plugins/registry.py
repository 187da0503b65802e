"""Which plugins there are, and which of them runs a task.

Plugins come from this package and from the entry points of installed distributions in the group `aerodrome.plugins`:
each entry point is a function that takes a `Host` and returns one plugin or several.
Source: spec/data-plane.md, section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeAlias

from flyteidl.admin.matchable_resource_pb2 import PluginOverride

from aerodrome.plugins.api import DiscoveringPlugin, ErrorKind, Failure, Plugin, PluginError, all_of
from aerodrome.plugins.config import EchoConfig, LogConfig, TaskPluginsConfig
from aerodrome.plugins.connectors import ConnectorPlugin
from aerodrome.plugins.connectors.config import AgentServiceConfig, ConnectorServiceConfig
from aerodrome.plugins.container import CONTAINER_TYPES, SIDECAR_TYPES, ContainerPlugin
from aerodrome.plugins.echo import EchoPlugin
from aerodrome.plugins.logs import LogLinks
from aerodrome.plugins.pods import PodSettings
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.errors import FailedPrecondition

GROUP: Final = "aerodrome.plugins"
DEFAULT: Final = "container"
"""The plugin for task types that no other plugin claims."""


NEEDS_OPERATOR: Final[Mapping[str, str]] = {
    "spark": "the Spark operator",
    "ray": "the Ray operator",
    "dask": "the Dask operator",
    "pytorch": "the Kubeflow training operator",
    "tensorflow": "the Kubeflow training operator",
    "mpi": "the Kubeflow training operator",
    "aws-batch": "AWS Batch",
    "container_array": "the array plugin of older registrations",
}
"""Types whose container does not do the work by itself: run as a plain process it would do something else."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the platform gives to the plugins that it makes."""

    settings: PodSettings = field(default_factory=PodSettings)
    links: LogLinks = field(default_factory=lambda: LogLinks(LogConfig()))
    clock: Clock = field(default_factory=SystemClock)
    echo: EchoConfig = field(default_factory=EchoConfig)
    agents: ConnectorServiceConfig = field(default_factory=AgentServiceConfig)
    connectors: ConnectorServiceConfig = field(default_factory=ConnectorServiceConfig)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The raw sections below `plugins` by name, for plugins that bring their own settings."""


Factory: TypeAlias = Callable[[Host], Plugin | Iterable[Plugin]]


def built_in(host: Host) -> tuple[Plugin, ...]:
    """The plugins of this package.  `pod` claims no task type: it is there to be chosen."""

    def container(plugin_id: str, task_types: frozenset[str]) -> ContainerPlugin:
        return ContainerPlugin(host.settings, host.links, host.clock, plugin_id, task_types)

    sections = (("agent-service", host.agents), ("connector-service", host.connectors))
    services = tuple(ConnectorPlugin(config, host.clock, name) for name, config in sections if config.endpoints())
    return (
        *services,
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
        self._discovering = tuple(each for each in self._plugins.values() if isinstance(each, DiscoveringPlugin))

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

        In this order: what the execution's `overrides` choose; the configured default for the type; a connector that
        offers it; the plugin that claims it; the default plugin, unless the type needs a cluster of its own.  Raises
        PluginError that says what to configure.
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
        for plugin in (*self._discovering, *enabled.values()):
            if plugin.id in enabled and task_type in plugin.task_types:
                return plugin
        if task_type in NEEDS_OPERATOR:
            raise _no_plugin(
                f"no plugin runs tasks of type {task_type!r}, which need {NEEDS_OPERATOR[task_type]}: install one and "
                f"enable it (tasks.task-plugins.enabled-plugins), name a connector that runs them "
                f"(plugins.connector-service.connectors), or run the task's container as a single process "
                f"(tasks.task-plugins.default-for-task-types: {{{task_type}: {DEFAULT}}}){self._troubles()}"
            )
        if DEFAULT in enabled:
            return enabled[DEFAULT]
        raise _no_plugin(
            f"no plugin runs tasks of type {task_type!r}: install one, enable it in tasks.task-plugins.enabled-plugins "
            f"or choose one in tasks.task-plugins.default-for-task-types (enabled: {', '.join(sorted(enabled))})"
        )

    async def discover(self, task_type: str) -> None:
        """Let connectors that were not asked yet say whether they run `task_type`; to be called before `resolve`."""
        for plugin in self._discovering:
            await plugin.discover(task_type)

    @property
    def names(self) -> Mapping[str, str]:
        """The id of the plugin that claims a task type, by type, as it is whenever it is looked at."""
        return _Names(self)

    @property
    def discovering(self) -> tuple[DiscoveringPlugin, ...]:
        """The plugins whose `serve` has to run."""
        return self._discovering

    def problems(self) -> list[str]:
        """What keeps plugins from learning which types they run."""
        return [problem for plugin in self._discovering for problem in plugin.problems()]

    def _troubles(self) -> str:
        problems = "; ".join(self.problems())
        return f". Connectors that do not answer: {problems}" if problems else ""

    def _enabled(self, config: TaskPluginsConfig) -> dict[str, Plugin]:
        if not config.enabled_plugins:
            return self._plugins
        return {name: plugin for name, plugin in self._plugins.items() if name in config.enabled_plugins}


class _Names(Mapping[str, str]):
    """A live view: connectors offer other types now and then."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._fixed = {
            task_type: plugin.id
            for plugin in registry.plugins.values()
            if plugin not in registry.discovering
            for task_type in sorted(plugin.task_types)
        }

    def __getitem__(self, task_type: str) -> str:
        for plugin in self._registry.discovering:
            if task_type in plugin.task_types:
                return plugin.id
        return self._fixed[task_type]

    def __iter__(self) -> Iterator[str]:
        offered = {task_type for plugin in self._registry.discovering for task_type in plugin.task_types}
        return iter(sorted({*self._fixed, *offered}))

    def __len__(self) -> int:
        return len(list(iter(self)))


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
