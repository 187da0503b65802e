"""Learning which launch plans have an active schedule: from announcements, and by reading all of them now and then.

The control plane is the only source.  An announcement is a hint: what counts is what the launch plan says when read.
"""

from __future__ import annotations

from collections.abc import Callable

from flyteidl.admin.launch_plan_pb2 import LaunchPlan, LaunchPlanUpdateRequest
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from google.protobuf.message import DecodeError

from aerodrome.scheduler.config import SchedulerSection
from aerodrome.scheduler.control_plane import ControlPlane
from aerodrome.scheduler.domain.naming import Key
from aerodrome.scheduler.domain.plans import Plan, plan_of, settings_of
from aerodrome.scheduler.domain.records import Decision, Origin, Outcome
from aerodrome.scheduler.repositories.schedules import ScheduleRepository
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import InvalidArgument, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Database

log = get_logger(__name__)


class LearningManager:
    """Keeps the table of schedules as the control plane has them; `changed` is told the id of each that changed."""

    def __init__(
        self,
        section: SchedulerSection,
        database: Database,
        control_plane: ControlPlane,
        clock: Clock,
        changed: Callable[[int], None],
    ) -> None:
        self._defaults = section.misfire.as_policy()
        self._zone = section.time_zone
        self._db = database
        self._control_plane = control_plane
        self._clock = clock
        self._changed = changed

    async def launch_plan_changed(self, message: bytes) -> None:
        """Handle an announcement, a flyteidl.admin.LaunchPlanUpdateRequest; repeating it changes nothing.

        Raises Unavailable and its like if the launch plan cannot be read now: deliver it again.
        """
        try:
            identifier = LaunchPlanUpdateRequest.FromString(message).id
        except DecodeError:
            log.error("announcement of a launch plan cannot be read", size_bytes=len(message))
            return
        try:
            found = await self._control_plane.launch_plan(identifier)
        except (NotFound, InvalidArgument) as error:
            log.warning("announced launch plan cannot be read", error=error.message)
            return
        await self._learn(found)

    async def resync(self) -> None:
        """Read all active launch plans; those that are active here and not among them are read one by one.

        Raises Unavailable and its like.
        """
        seen: set[Key] = set()
        async for launch_plan in self._control_plane.active_launch_plans():
            identifier = launch_plan.id
            seen.add(Key(identifier.project, identifier.domain, identifier.name, identifier.version))
            await self._learn(launch_plan)
        async with self._db.connection() as conn:
            known = await ScheduleRepository(conn).active()
        for each in known:
            if each.plan.key in seen:
                continue
            key = each.plan.key
            identifier = Identifier(
                resource_type=ResourceType.LAUNCH_PLAN,
                project=key.project, domain=key.domain, name=key.name, version=key.version,
            )  # fmt: skip
            try:
                await self._learn(await self._control_plane.launch_plan(identifier))
            except NotFound:
                gone = Plan(
                    key, False, max(self._clock.now(), each.plan.activated_at), each.plan.expression, each.plan.period,
                    each.plan.kickoff_arg, each.plan.annotations,
                )  # fmt: skip
                await self._keep(gone, "the launch plan is gone")

    async def _learn(self, launch_plan: LaunchPlan) -> None:
        try:
            plan = plan_of(launch_plan)
        except InvalidArgument as error:
            log.warning("schedule cannot be read", launch_plan=launch_plan.id.name, error=error.message)
            return
        if plan is None:
            return
        problem = ""
        try:
            settings_of(plan, self._defaults, self._zone)
        except InvalidArgument as error:
            problem = error.message
        await self._keep(plan, problem)

    async def _keep(self, plan: Plan, problem: str) -> None:
        async with self._db.transaction() as conn:
            schedules = ScheduleRepository(conn)
            changed = await schedules.learn(plan, problem)
            if changed is None:
                return
            if problem and plan.active:
                log.warning("schedule cannot be run", schedule=str(plan.key), error=problem)
                decision = Decision(changed, Outcome.UNUSABLE, Origin.ON_TIME, self._clock.now(), reason=problem)
                await schedules.add_decisions([decision])
            await schedules.announce(changed)
        log.info("schedule learned", schedule=str(plan.key), active=plan.active)
        self._changed(changed)
