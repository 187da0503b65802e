"""Rows of launch plans, and of the schedules that are active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flyteidl.admin.common_pb2 import NamedEntityIdentifier
from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanClosure, LaunchPlanSpec
from flyteidl.admin.schedule_pb2 import Schedule
from flyteidl.core.identifier_pb2 import Identifier, ResourceType

from aerodrome.admin.domain.schedules import expression_of
from aerodrome.admin.transformers.registration import identifier_of, launch_plan_of
from aerodrome.compiler import Key, LaunchPlanInterface, key_of
from aerodrome.stdlib.postgres.database import Connection, Record
from aerodrome.stdlib.postgres.queries import load_queries

_SQL = load_queries(__package__, "launch_plans.sql")


@dataclass(frozen=True, slots=True)
class LaunchPlanRow:
    """A launch plan as it is now, and what its content hashes to."""

    id: int
    message: LaunchPlan
    digest: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What is launched: a launch plan with its workflow.  Nothing of it ever changes; the messages are shared."""

    launch_plan_id: int
    launch_plan: Identifier
    spec: LaunchPlanSpec
    closure: LaunchPlanClosure
    workflow_id: int
    workflow: Identifier
    closure_reference: str


class LaunchPlanRepository:
    """Launch plans, on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def insert(
        self,
        launch_plan: LaunchPlan,
        *,
        workflow_id: int,
        digest: bytes,
        schedule_type: str,
        at: datetime,
    ) -> bool:
        """Add an inactive launch plan; False if its key is taken."""
        row = await self._conn.fetchrow(
            _SQL.insert,
            *_key(launch_plan.id),
            at,
            launch_plan.spec.SerializeToString(),
            launch_plan.closure.SerializeToString(),
            workflow_id,
            digest,
            schedule_type,
            None if schedule_type == "NONE" else "SCHED",
        )
        return row is not None

    async def find(self, identifier: Identifier) -> LaunchPlanRow | None:
        """A launch plan."""
        return _row(await self._conn.fetchrow(_SQL.get, *_key(identifier)))

    async def find_active(self, name: Identifier | NamedEntityIdentifier) -> LaunchPlanRow | None:
        """The active version under a name."""
        return _row(await self._conn.fetchrow(_SQL.active, name.project, name.domain, name.name))

    async def find_target(self, identifier: Identifier) -> Target | None:
        """A launch plan with its workflow, to launch it."""
        row = await self._conn.fetchrow(_SQL.target, *_key(identifier))
        if row is None:
            return None
        return Target(
            launch_plan_id=row["launch_plan_id"],
            launch_plan=Identifier(
                resource_type=ResourceType.LAUNCH_PLAN,
                project=identifier.project,
                domain=identifier.domain,
                name=identifier.name,
                version=identifier.version,
            ),
            spec=LaunchPlanSpec.FromString(row["spec"]),
            closure=LaunchPlanClosure.FromString(row["closure"]),
            workflow_id=row["workflow_id"],
            workflow=identifier_of(row, ResourceType.WORKFLOW),
            closure_reference=row["remote_closure_identifier"],
        )

    async def interfaces(self, identifiers: Sequence[Identifier]) -> dict[Key, LaunchPlanInterface]:
        """What those of the launch plans that exist expect and give."""
        if not identifiers:
            return {}
        rows = await self._conn.fetch(
            _SQL.closures,
            [each.project for each in identifiers],
            [each.domain for each in identifiers],
            [each.name for each in identifiers],
            [each.version for each in identifiers],
        )
        result = {}
        for row in rows:
            closure = LaunchPlanClosure.FromString(row["closure"])
            result[key_of(identifier_of(row, ResourceType.LAUNCH_PLAN))] = LaunchPlanInterface(
                expected_inputs=closure.expected_inputs, expected_outputs=closure.expected_outputs
            )
        return result

    async def lock_name(self, identifier: Identifier) -> None:
        """Keep others from changing which version under this name is active, until the transaction ends."""
        await self._conn.execute(_SQL.lock_name, identifier.project, identifier.domain, identifier.name)

    async def set_state(self, identifier: Identifier, state: int, at: datetime) -> None:
        """Activate or deactivate one version; `at` is kept if that changes anything, and fixed rates count from it."""
        await self._conn.execute(_SQL.set_state, *_key(identifier), state, at)

    async def enable_schedule(self, identifier: Identifier, schedule: Schedule) -> None:
        """Let the scheduler fire a version from now on."""
        await self._conn.execute(
            _SQL.enable_schedule,
            *_key(identifier),
            expression_of(schedule),
            schedule.rate.value,
            schedule.rate.unit,
            schedule.kickoff_time_input_arg,
        )

    async def disable_schedule(self, identifier: Identifier) -> None:
        """Keep the scheduler from firing a version; one that it never fired is fine."""
        await self._conn.execute(_SQL.disable_schedule, *_key(identifier))


def _key(identifier: Identifier) -> tuple[str, str, str, str]:
    return identifier.project, identifier.domain, identifier.name, identifier.version


def _row(row: Record | None) -> LaunchPlanRow | None:
    return None if row is None else LaunchPlanRow(id=row["id"], message=launch_plan_of(row), digest=row["digest"])
