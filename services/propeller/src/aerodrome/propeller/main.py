"""Wires propeller together; alone (`serve`) or inside another process (`Propeller`)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from aerodrome.idl.journal.v1 import journal_pb2
from aerodrome.plugins.api import LogUri
from aerodrome.plugins.logs import LogLinks
from aerodrome.plugins.pods import PodSettings
from aerodrome.plugins.registry import Host, Registry
from aerodrome.propeller.caching import TaskCache
from aerodrome.propeller.config import CatalogCacheConfig, PropellerConfig
from aerodrome.propeller.engine.graph import NodeKind
from aerodrome.propeller.execution import ClosureCache, Execution, Surroundings
from aerodrome.propeller.leftovers import Key, Leftovers
from aerodrome.propeller.literals import Literals
from aerodrome.propeller.measuring import Measures
from aerodrome.propeller.nodes.admin_client import AdminClient
from aerodrome.propeller.nodes.arrays import ArrayHandler
from aerodrome.propeller.nodes.cached import NodeCache
from aerodrome.propeller.nodes.children import ChildWatch
from aerodrome.propeller.nodes.dynamic import Expander
from aerodrome.propeller.nodes.gates import GateHandler
from aerodrome.propeller.nodes.handler import Handler
from aerodrome.propeller.nodes.launch_plans import LaunchPlanHandler
from aerodrome.propeller.nodes.tasks import TaskHandler
from aerodrome.propeller.nodes.workflows import BranchHandler, EndHandler, SubWorkflowHandler
from aerodrome.propeller.patience import PatientStorage
from aerodrome.propeller.pods import PodHub
from aerodrome.propeller.runtimes import LocalRuntime, Runtime
from aerodrome.propeller.runtimes.secrets import SecretStore
from aerodrome.propeller.source import LeaseSource, Session
from aerodrome.stdlib import logger
from aerodrome.stdlib.clock import Clock, SystemClock
from aerodrome.stdlib.config import load
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.rpc.client import Tls, network_channel
from aerodrome.stdlib.service import Operations, check_exposure, serve_until_told
from aerodrome.stdlib.storage import Storage, open_storage
from aerodrome.stdlib.telemetry import Metrics, Telemetry

log = logger.get_logger(__name__)

_PAUSE_SECONDS = 2.0
"""Before an execution is tried again that could not be driven on."""


class Propeller:
    """A data plane: takes executions from the control plane behind `channel` and runs them on `runtime`."""

    def __init__(
        self,
        config: PropellerConfig,
        *,
        channel: grpc.aio.Channel,
        storage: Storage,
        runtime: Runtime,
        clock: Clock,
        holder: str | None = None,
        log_uri: LogUri | None = None,
        catalog: grpc.aio.Channel | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`catalog` leads to the data catalog; without it nothing is cached."""
        section = config.propeller
        metrics = metrics or Metrics()
        self._measures = Measures(metrics, prefix=section.metrics_prefix)
        self._clock = clock
        self._runtime = runtime
        self._hub = PodHub(runtime)
        self._executions: dict[int, Execution] = {}
        self._driving: dict[int, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.source = LeaseSource(
            channel,
            cluster=section.cluster_id,
            holder=holder or f"{socket.gethostname()}:{os.getpid()}",
            capacity=section.capacity,
            clock=clock,
            on_assignment=self._assigned,
            on_control=self._controlled,
        )
        host = Host(
            settings=PodSettings(config=config.plugins.k8s, environ=dict(os.environ)),
            links=LogLinks(config.plugins.logs, log_uri),
            clock=clock,
            echo=config.plugins.echo,
            agents=config.plugins.agent_service,
            connectors=config.plugins.connector_service,
        )
        registry = Registry.load(host)
        registry.check(config.tasks.task_plugins)
        self._registry = registry
        storage = PatientStorage(storage, clock, metrics, scope=f"{section.metrics_prefix}:propeller:all:storage")
        literals = Literals(storage)
        limits = section.node_config.limits()
        admin = AdminClient(channel)
        self._admin = admin
        self._children = ChildWatch(admin, clock)
        self._leftovers = Leftovers(self._hub, admin, clock, self._driven)
        self._expander = Expander(admin, default_max_attempts=section.node_config.default_max_attempts)
        tasks = TaskHandler(
            registry,
            config.tasks.task_plugins,
            self._hub,
            self._expander,
            limits=limits,
            max_output_bytes=config.storage.limits.max_download_mbs << 20,
            clock=clock,
            cached=None if catalog is None else NodeCache(_task_cache(config.catalog_cache, catalog, storage, clock)),
        )
        launch_plans = LaunchPlanHandler(admin, self._children)
        items: dict[NodeKind, Handler] = {NodeKind.TASK: tasks, NodeKind.LAUNCH_PLAN: launch_plans}
        handlers: dict[NodeKind, Handler] = {
            NodeKind.END: EndHandler(),
            NodeKind.TASK: tasks,
            NodeKind.SUBWORKFLOW: SubWorkflowHandler(),
            NodeKind.BRANCH: BranchHandler(),
            NodeKind.LAUNCH_PLAN: launch_plans,
            NodeKind.GATE: GateHandler(admin),
            NodeKind.ARRAY: ArrayHandler(section.array_node_config, items, admin),
        }
        self._around = Surroundings(
            source=self.source,
            literals=literals,
            handlers=handlers,
            plugin_names=registry.names,
            limits=limits,
            metadata_prefix=section.metadata_prefix,
            raw_output_prefix=section.rawoutput_prefix or "data",
            default_max_attempts=section.node_config.default_max_attempts,
            admin=admin,
            children=self._children,
            expander=self._expander,
            measures=self._measures,
            item_nodes=section.array_node_config.event_version == 1,
            closures=ClosureCache(literals, default_max_attempts=section.node_config.default_max_attempts),
        )
        self._measures.watch_depths(
            {
                "free_workers_count": lambda: section.capacity - self.driving,
                "main_depth": self._observations,
                "sub_depth": lambda: self.source.waiting,
                "k8s_resources": lambda: self._hub.followed,
            }
        )

    def _observations(self) -> float:
        return sum(execution.waiting for execution in list(self._executions.values()))  # read by another thread

    @property
    def ready(self) -> bool:
        """Whether it can take executions: the control plane has heard of it lately."""
        session = self.source.session
        return session is not None and session.valid

    @property
    def driving(self) -> int:
        """How many executions this process drives."""
        return len(self._executions)

    async def run(self) -> None:
        """Work until cancelled; the runtime drains and the leases go back before it returns."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            self._group = group
            stack.push_async_callback(self._expander.close)
            group.create_task(self._runtime.run(), name="runtime")
            group.create_task(self._hub.run(), name="pod watch")
            for plugin in self._registry.discovering:
                group.create_task(plugin.serve(), name=f"plugin {plugin.id}")
            group.create_task(self._children.run(), name="child executions")
            group.create_task(self._leftovers.run(), name="leftovers")
            group.create_task(self.source.run(), name="lease source")

    def _assigned(self, assignment: journal_pb2.Assignment, session: Session) -> None:
        known = self._executions.get(assignment.execution_id)
        if known is not None and (known.epoch >= assignment.epoch and known.session is session):
            self._measures.redundant.add()
            return
        self._measures.enqueued.add()
        assert self._group is not None
        execution = Execution(assignment, session, self._around, self._dropped)
        self._executions[assignment.execution_id] = execution
        earlier = self._driving.get(assignment.execution_id)
        log.info("execution leased", execution=execution.name, id=execution.execution_id, epoch=execution.epoch)
        driving = self._drive(execution, known, earlier)
        task = self._driving[execution.execution_id] = self._group.create_task(
            driving, name=f"execution {execution.name}"
        )
        task.add_done_callback(lambda done: self._driven_no_more(execution.execution_id, done))

    def _driven_no_more(self, execution_id: int, task: asyncio.Task[None]) -> None:
        if self._driving.get(execution_id) is task:
            del self._driving[execution_id]

    async def _drive(self, execution: Execution, known: Execution | None, earlier: asyncio.Task[None] | None) -> None:
        try:
            if known is not None and earlier is not None:
                # By an earlier lease: what it follows (pods, children) is followed anew, and not to be forgotten later.
                earlier.cancel()
                await asyncio.wait([earlier])
                await self._forget_pods(known)
            if await execution.run() and execution.untidy:
                await self._leftovers.clear(execution.key)
        except Exception:  # one execution's trouble stays its own
            self._measures.panics.add()
            log.exception("driving an execution failed", execution=execution.name)
            await self._pass_on(execution)
        finally:
            if self._executions.get(execution.execution_id) is execution:
                del self._executions[execution.execution_id]

    async def _pass_on(self, execution: Execution) -> None:
        """Give the lease of an execution back that could not be driven on, for another try from its journal."""
        await self._clock.sleep(_PAUSE_SECONDS)
        if self._executions.get(execution.execution_id) is execution:
            del self._executions[execution.execution_id]
        try:
            await self.source.release(execution.session, execution.execution_id, execution.epoch)
        except grpc.aio.AioRpcError as error:
            log.warning("a lease could not be given back", execution=execution.name, code=error.code().name)

    async def _dropped(self, execution: Execution) -> None:
        """Nobody here may follow the execution's pods any more; whoever holds it now finds them by name."""
        self._measures.stale.add()
        self._leftovers.hint()
        if self._executions.get(execution.execution_id) is execution:
            await self._forget_pods(execution)

    async def _forget_pods(self, execution: Execution) -> None:
        run = execution.run_view
        if run is None:
            return
        for pod in await self._runtime.list({"execution-id": run.id.name}):
            metadata = pod["metadata"]
            if metadata.get("namespace", run.namespace) != run.namespace:
                continue
            self._hub.forget(run.namespace, metadata["name"])
            if execution.forced:
                await self._runtime.delete(run.namespace, metadata["name"])

    def _driven(self) -> set[Key]:
        return {execution.key for execution in self._executions.values()}

    def _controlled(self, control: journal_pb2.Control) -> None:
        execution = self._executions.get(control.execution_id)
        if execution is not None:
            execution.control(control)


async def serve(files: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> None:
    """Propeller by itself, until SIGTERM or SIGINT: control plane and storage are where the configuration says.

    Raises ConfigError, InvalidArgument and FailedPrecondition for what cannot be served (safely), Unavailable if the
    operational port is taken.
    """
    config = load(PropellerConfig, files, overrides=dict(overrides or {}))
    logger.configure(config.logger)
    section = config.propeller
    if section.runtime.directory is None:
        raise InvalidArgument(
            "propeller.runtime.directory is not set: name the directory in which the local runtime keeps its pods"
        )
    check_exposure(section.host, insecure_bind=section.insecure_bind, section="propeller")
    clock = SystemClock()
    async with (
        network_channel(config.admin.endpoint) as channel,
        open_storage(config.storage, clock=clock) as storage,
        AsyncExitStack() as stack,
    ):
        telemetry = Telemetry(config.otel)
        stack.push_async_callback(telemetry.aclose)
        catalog = None
        if config.catalog_cache.type == "datacatalog":
            tls = None if config.catalog_cache.insecure else Tls()
            catalog = await stack.enter_async_context(network_channel(config.catalog_cache.endpoint, tls=tls))
        environment = {"FLYTE_PLATFORM_URL": config.admin.endpoint}
        environment["FLYTE_PLATFORM_INSECURE"] = "true" if config.admin.insecure else "false"
        runtime = local_runtime(config, section.runtime.directory, environment, clock)
        propeller = Propeller(
            config,
            channel=channel,
            storage=storage,
            runtime=runtime,
            clock=clock,
            catalog=catalog,
            metrics=telemetry.metrics,
        )
        at = Operations(telemetry, config, section.host, section.prof_port, "propeller.prof-port")
        await serve_until_told(
            None, "propeller", propeller.run, at, grace=section.runtime.grace, ready=lambda: propeller.ready
        )


def _task_cache(config: CatalogCacheConfig, channel: grpc.aio.Channel, storage: Storage, clock: Clock) -> TaskCache:
    return TaskCache(
        channel, storage, clock=clock, max_age=config.max_cache_age, heartbeat=config.reservation_heartbeat
    )


def local_runtime(
    config: PropellerConfig, directory: Path, environment: Mapping[str, str], clock: Clock
) -> LocalRuntime:
    """The local runtime as configured; `environment` is given to every task.

    Raises FailedPrecondition if secrets lie about where others can read them.
    """
    secrets = SecretStore(config.secrets.secrets_prefix, os.environ, config.secrets.env_prefix)
    secrets.check()
    section = config.propeller.runtime
    optional: dict[str, Any] = {} if section.python is None else {"python": section.python}
    return LocalRuntime(
        directory,
        slots=section.slots,
        images=section.images,
        environment=environment,
        clock=clock,
        grace=section.grace,
        outlive=section.outlive,
        keep_logs=section.keep_logs,
        secrets=secrets,
        **optional,
    )
