"""Learning which launch plans have an active schedule: from announcements, and by reading all of them now and then.

The control plane is the only source.  An announcement is a hint: what counts is what the launch plan says when read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
        await self._learn([found])

    async def resync(self) -> None:
        """Read all active launch plans; those that are active here and not among them are read one by one.

        Raises Unavailable and its like.
        """
        seen: set[Key] = set()
        async for page in self._control_plane.active_launch_plans():
            await self._learn(page)
            seen.update(_key(each.id) for each in page)
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
                await self._learn([await self._control_plane.launch_plan(identifier)])
            except NotFound:
                at = max(self._clock.now(), each.plan.activated_at)
                gone = replace(each.plan, active=False, activated_at=at)
                await self._keep([(gone, "the launch plan is gone")])

    async def _learn(self, launch_plans: Sequence[LaunchPlan]) -> None:
        found: dict[Key, tuple[Plan, str]] = {}
        for launch_plan in launch_plans:
            plan = plan_of(launch_plan)
            if plan is None:
                continue
            problem = ""
            try:
                settings_of(plan, self._defaults, self._zone)
            except InvalidArgument as error:
                problem = error.message
            found[plan.key] = plan, problem
        if found:
            await self._keep(list(found.values()))

    async def _keep(self, plans: Sequence[tuple[Plan, str]]) -> None:
        now = self._clock.now()
        async with self._db.transaction() as conn:
            schedules = ScheduleRepository(conn)
            changed = await schedules.learn(plans)
            if not changed:
                return
            unusable = {plan.key: problem for plan, problem in plans if problem and plan.active and plan.key in changed}
            await schedules.add_decisions(
                [
                    Decision(changed[key], Outcome.UNUSABLE, Origin.ON_TIME, now, reason=problem)
                    for key, problem in unusable.items()
                ]
            )
            await schedules.announce(changed.values())
        for key, problem in unusable.items():
            log.warning("schedule cannot be run", schedule=str(key), error=problem)
        log.info("schedules learned", changed=len(changed), first=str(next(iter(changed))))
        for schedule_id in changed.values():
            self._changed(schedule_id)


def _key(identifier: Identifier) -> Key:
    return Key(identifier.project, identifier.domain, identifier.name, identifier.version)
