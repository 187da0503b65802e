"""Jobs elsewhere: followed, found again, ended; none is left and none is made twice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flyteidl.core import literals_pb2

from aerodrome.plugins.api import ErrorKind, Failure, Outcome, Phase, PhaseInfo, PluginError, TaskContext, failed
from aerodrome.propeller.engine.phases import TaskPhase
from aerodrome.propeller.engine.state import NodeState
from aerodrome.propeller.nodes.handler import Observation, Run
from aerodrome.propeller.nodes.remote import LONGEST_WAIT, PATIENCE, RemoteAttempts
from aerodrome.stdlib.clock import ManualClock
from aerodrome.stdlib.errors import AerodromeError, Unavailable
from aerodrome.stdlib.storage.memory import MemStorage

RUNNING = Outcome(PhaseInfo(Phase.RUNNING, reason="it runs"))
DONE = Outcome(PhaseInfo(Phase.SUCCEEDED), literals_pb2.LiteralMap())
BROKEN = Outcome(failed(Failure("Broken", "it broke", ErrorKind.USER, retryable=False)))


class Service:
    """A remote plugin whose jobs stand as a test says."""

    id = "service"
    task_types = frozenset({"job"})
    max_generated_name = 50

    def __init__(self) -> None:
        self.created = 0
        self.deleted: list[bytes] = []
        self.stands: Outcome | AerodromeError = RUNNING
        self.looked = 0
        self.may_create = asyncio.Event()
        self.may_create.set()
        self.creating = asyncio.Event()
        self.refuses_deletes = 0

    async def create(self, context: TaskContext) -> bytes:
        self.created += 1
        self.creating.set()
        await self.may_create.wait()
        return f"job {self.created}".encode()

    async def get(self, context: TaskContext, resource: bytes) -> Outcome:
        self.looked += 1
        if isinstance(self.stands, AerodromeError):
            raise self.stands
        return self.stands

    async def delete(self, context: TaskContext, resource: bytes) -> None:
        if self.refuses_deletes:
            self.refuses_deletes -= 1
            raise Unavailable("not now")
        self.deleted.append(resource)


class Attempt:
    """One attempt on a fresh driver over what earlier ones stored."""

    def __init__(self, service: Service, storage: MemStorage, clock: ManualClock, phase: TaskPhase) -> None:
        self.service = service
        self.clock = clock
        self.reported: list[TaskPhase] = []
        self.ended: list[Outcome] = []
        self.node = cast(NodeState, SimpleNamespace(memo={}, task_phase=phase))
        layout = SimpleNamespace(output_dir=lambda node, attempt: f"mem://store/n0/data/{attempt}")
        run = SimpleNamespace(literals=SimpleNamespace(storage=storage), layout=layout, post=self.post)
        self.run = cast(Run, run)
        self.context = cast(TaskContext, SimpleNamespace(generated_name="f-n0-0"))
        self.driver = RemoteAttempts(clock)

    def post(self, observation: Observation) -> None:
        def task_phase(node: Any, attempt: int, phase: TaskPhase, version: int, now: float, info: Any) -> None:
            self.reported.append(phase)

        observation(cast(Any, SimpleNamespace(task_phase=task_phase)), 0.0)

    async def conclude(self, ended: Outcome) -> Observation:
        self.ended.append(ended)
        return lambda engine, now: None

    def follow(self) -> asyncio.Task[None]:
        return asyncio.create_task(
            self.driver.follow(self.run, self.node, 0, self.service, self.context, self.conclude)
        )

    async def end(self) -> None:
        ending = asyncio.create_task(self.driver.end(self.run, self.node, 0, self.service, self.context))
        while not ending.done():
            await self.clock.advance(1.0)
        await ending


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
def make(service: Service) -> Any:
    clock = ManualClock()
    storage = MemStorage("store", clock=clock)
    return lambda phase=TaskPhase.QUEUED: Attempt(service, storage, clock, phase)


async def until(attempt: Attempt, task: asyncio.Task[None], seconds: float = 300.0) -> None:
    """Let time pass until the task is done."""
    for _ in range(int(seconds)):
        if task.done():
            break
        await attempt.clock.advance(1.0)
    await asyncio.wait_for(task, 5.0)


async def test_a_job_is_followed_to_its_end(service: Service, make: Any) -> None:
    attempt = make()
    following = attempt.follow()
    await attempt.clock.advance(5.0)
    assert attempt.reported == [TaskPhase.RUNNING]
    service.stands = DONE
    await until(attempt, following)
    assert attempt.ended == [DONE]
    assert service.created == 1
    assert not service.deleted


async def test_a_failed_job_is_concluded_with_its_failure(service: Service, make: Any) -> None:
    service.stands = BROKEN
    attempt = make()
    await until(attempt, attempt.follow())
    assert attempt.ended[0].info.failure == BROKEN.info.failure


async def test_looking_gets_rarer(service: Service, make: Any) -> None:
    attempt = make()
    following = attempt.follow()
    for _ in range(600):
        await attempt.clock.advance(1.0)
    assert service.looked < 600 / LONGEST_WAIT + 20
    following.cancel()


async def test_another_process_goes_on_with_the_same_job(service: Service, make: Any) -> None:
    first = make()
    following = first.follow()
    await first.clock.advance(1.0)
    following.cancel()
    service.stands = DONE
    second = make(TaskPhase.RUNNING)
    await until(second, second.follow())
    assert second.ended == [DONE]
    assert service.created == 1


async def test_a_job_that_ran_and_is_not_known_any_more_is_lost_and_not_made_again(service: Service, make: Any) -> None:
    attempt = make(TaskPhase.RUNNING)
    await until(attempt, attempt.follow())
    failure = attempt.ended[0].info.failure
    assert failure is not None
    assert (failure.code, failure.kind, failure.retryable) == ("ResourceDeletedExternally", ErrorKind.SYSTEM, True)
    assert service.created == 0


async def test_a_state_that_cannot_be_read_for_a_while_ends_nothing(service: Service, make: Any) -> None:
    attempt = make()
    following = attempt.follow()
    await attempt.clock.advance(1.0)
    service.stands = Unavailable("restarting")
    for _ in range(int(PATIENCE / 2)):
        await attempt.clock.advance(1.0)
    service.stands = DONE
    await until(attempt, following)
    assert attempt.ended == [DONE]


async def test_a_job_whose_state_stays_unknown_is_given_up_and_ended(service: Service, make: Any) -> None:
    service.stands = Unavailable("gone for good")
    attempt = make()
    await until(attempt, attempt.follow())
    failure = attempt.ended[0].info.failure
    assert failure is not None
    assert failure.code == "AutoRefreshCacheFailed"
    assert "gone for good" in failure.message
    assert service.deleted == [b"job 1"]


async def test_an_abort_ends_the_job(service: Service, make: Any) -> None:
    attempt = make()
    following = attempt.follow()
    await attempt.clock.advance(1.0)
    following.cancel()
    service.refuses_deletes = 2
    await attempt.end()
    assert service.deleted == [b"job 1"]


async def test_an_abort_while_a_job_is_being_made_leaves_none(service: Service, make: Any) -> None:
    service.may_create.clear()
    attempt = make()
    following = attempt.follow()
    await service.creating.wait()
    following.cancel()
    ending = asyncio.create_task(attempt.end())
    await asyncio.sleep(0)
    service.may_create.set()
    await asyncio.wait_for(ending, 5.0)
    assert service.deleted == [b"job 1"]


async def test_an_abort_of_what_was_never_made_asks_nobody(service: Service, make: Any) -> None:
    await make().end()
    assert not service.deleted


async def test_an_abort_ends_although_the_job_cannot_be_ended(service: Service, make: Any) -> None:
    attempt = make()
    following = attempt.follow()
    await attempt.clock.advance(1.0)
    following.cancel()
    service.refuses_deletes = 100
    await attempt.end()
    assert not service.deleted


async def test_what_the_service_refuses_is_the_callers(service: Service, make: Any) -> None:
    async def refuse(context: TaskContext) -> bytes:
        raise PluginError(Failure("No", "no", ErrorKind.USER, retryable=False))

    service.create = refuse  # type: ignore[method-assign]
    attempt = make()
    with pytest.raises(PluginError):
        await attempt.follow()
