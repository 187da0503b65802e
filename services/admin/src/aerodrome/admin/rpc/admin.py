"""AdminService: all of its parts in one servicer."""

from __future__ import annotations

from dataclasses import dataclass

from flyteidl.service.admin_pb2_grpc import AdminServiceServicer

from aerodrome.admin.managers.attributes import AttributeManager
from aerodrome.admin.managers.data import DataManager
from aerodrome.admin.managers.executions import ExecutionManager
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.admin.managers.launch_plans import LaunchPlanManager
from aerodrome.admin.managers.metrics import MetricsManager
from aerodrome.admin.managers.named_entities import NamedEntityManager
from aerodrome.admin.managers.projects import ProjectManager
from aerodrome.admin.managers.reading import ReadingManager
from aerodrome.admin.managers.tasks import TaskManager
from aerodrome.admin.managers.workflows import WorkflowManager
from aerodrome.admin.rpc.attributes import AttributeRpcs
from aerodrome.admin.rpc.events import EventRpcs
from aerodrome.admin.rpc.launching import LaunchingRpcs
from aerodrome.admin.rpc.projects import ProjectRpcs
from aerodrome.admin.rpc.reading import ReadingRpcs
from aerodrome.admin.rpc.registration import RegistrationRpcs


@dataclass(frozen=True, slots=True, kw_only=True)
class Managers:
    """Everything that the rpcs call."""

    projects: ProjectManager
    tasks: TaskManager
    workflows: WorkflowManager
    launch_plans: LaunchPlanManager
    names: NamedEntityManager
    executions: ExecutionManager
    reading: ReadingManager
    data: DataManager
    attributes: AttributeManager
    metrics: MetricsManager
    journal: JournalWriter


class AdminRpcs(
    RegistrationRpcs, ProjectRpcs, LaunchingRpcs, ReadingRpcs, AttributeRpcs, EventRpcs, AdminServiceServicer
):
    """The servicer of flyteidl.service.AdminService."""

    def __init__(self, managers: Managers) -> None:
        self._projects = managers.projects
        self._tasks = managers.tasks
        self._workflows = managers.workflows
        self._launch_plans = managers.launch_plans
        self._names = managers.names
        self._executions = managers.executions
        self._reading = managers.reading
        self._data = managers.data
        self._attributes = managers.attributes
        self._metrics = managers.metrics
        self._journal = managers.journal
