"""Retention: what is kept for how long, and deleting executions for good.

A deletion begins with one short transaction: the execution's own row goes, a tombstone keeps its name taken, and a
record says that the rest has to go.  The rest follows in stages, each of which may be repeated: cache entries that
lead to its blobs, blobs, and the rows that grew with it, a batch at a time.  Whatever ends this process in between,
another continues from the record.  Nothing here locks what a running execution or a launch needs.

An execution goes together with all that it launched, since they use each other's data, and stays while others use its
data: executions that recovered from it, and executions that took outputs of it from the cache.  That an execution was
given a reference to another one's data as an input is not known here; whoever does that pins the other one.

Source: design.md section 2, "Keys"; protos/aerodrome/retention/v1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from aerodrome.admin.config import AdminConfig, NamespaceMapping
from aerodrome.admin.domain.naming import namespace
from aerodrome.admin.domain.phases import WORKFLOW_NAMES, WORKFLOW_TERMINAL
from aerodrome.admin.domain.retention import (
    AttemptName,
    Policy,
    Stored,
    attempts_of_item,
    attempts_of_node,
    check_policy,
    dynamic_directory,
    effective,
    namesakes,
    own_directories,
)
from aerodrome.admin.domain.validation import check_text, missing
from aerodrome.admin.repositories.retention import Cause, Kind, Member, Pending, RetentionRepository, Stage
from aerodrome.stdlib.clock import Clock
from aerodrome.stdlib.errors import AerodromeError, Conflict, FailedPrecondition, InvalidArgument, NotFound
from aerodrome.stdlib.logger import get_logger
from aerodrome.stdlib.postgres.database import Connection, Database, Record
from aerodrome.stdlib.storage import Storage

log = get_logger(__name__)

CLAIM = timedelta(minutes=5)
"""For how long a deletion belongs to the process that works on it; it is prolonged with each step."""
MAX_BACKOFF = timedelta(hours=1)
CHUNK = 200
"""Executions whose own rows go in one transaction."""
ROWS = 2_000
"""Rows that go in one transaction."""
PAGE = 500
"""Rows that are read at a time."""
MAX_FAMILY = 100_000
"""Most executions that one launched, directly or not, for it to be deleted."""
AT_ONCE = 8
"""Prefixes of the store that are deleted at the same time."""
SLACK = timedelta(days=1)
"""How long after an execution ended its raw outputs may still have been written."""
LOCK_TIMEOUT_MS = 2_000
MAX_LISTED = 1_000
LOOKED_AT = 20_000
"""Executions that a dry run looks at."""
MAX_REASON_CHARS = 1_000

_TERMINAL = tuple(sorted(WORKFLOW_NAMES[phase] for phase in WORKFLOW_TERMINAL))
_BEGINNING = (datetime(1970, 1, 1, tzinfo=UTC), 0)


class Catalog(Protocol):
    """Who knows which cache entries lead to an execution's blobs."""

    async def evict_execution(self, project: str, domain: str, name: str) -> None:
        """Forget every entry that the execution made; fine if there is none.  Raises AerodromeError: try again."""
        ...


class Runtime(Protocol):
    """Who keeps logs and records of pods where neither the database nor the store reaches."""

    async def forget_pods(self, namespace: str, names: Sequence[str]) -> None:
        """Remove all that is kept of these pods; fine if that is nothing.  Raises AerodromeError: try again."""
        ...


@dataclass(slots=True)
class Due:
    """What policies would delete in a project and domain."""

    project: str
    domain: str
    executions: int = 0
    blobs_only: int = 0
    kept: int = 0
    oldest: datetime | None = None
    measured: int = 0
    blobs: int = 0
    blob_bytes: int = 0


@dataclass(slots=True)
class DryRun:
    """What policies would delete; lower bounds when `truncated`."""

    places: list[Due] = field(default_factory=list)
    truncated: bool = False


@dataclass(slots=True)
class _Taken:
    blobs: int = 0
    blob_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.blobs += 1
        self.blob_bytes += size_bytes


class RetentionManager:
    """Policies, pins and deletions; `run` does what the policies say.

    Without a `catalog` no cache is told; with one, blobs stay until it has forgotten them.  What a runtime keeps of the
    pods of an execution goes with its blobs, if there is a runtime that can be told (`use_runtime`).
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        clock: Clock,
        config: AdminConfig,
        *,
        catalog: Catalog | None = None,
    ) -> None:
        self._db = database
        self._storage = storage
        self._clock = clock
        self._config = config
        self._settings = config.retention
        self._catalog = catalog
        self._runtime: Runtime | None = None
        self._domains = [domain.id for domain in config.domains]
        self._slots = asyncio.Semaphore(AT_ONCE)

    def use_catalog(self, catalog: Catalog) -> None:
        """Tell this catalog from now on; for who composes services that know of each other."""
        self._catalog = catalog

    def use_runtime(self, runtime: Runtime) -> None:
        """Have this runtime forget the pods of what is deleted from now on; for who composes both."""
        self._runtime = runtime

    # Policies

    async def set_policy(self, policy: Policy, by: str) -> Policy:
        """Set a policy.  Raises InvalidArgument; NotFound for a project that does not exist."""
        self._check_place(policy.project, policy.domain)
        check_policy(policy)
        policy = Policy(
            policy.project, policy.domain, policy.keep_executions_days, policy.keep_blobs_days, self._clock.now(), by
        )
        async with self._db.transaction() as conn:
            retention = RetentionRepository(conn)
            if policy.project and policy.project not in await retention.list_projects():
                raise NotFound(f"project {policy.project} does not exist")
            await retention.put_policy(policy)
        log.info("retention policy set", project=policy.project, domain=policy.domain, by=by)
        return policy

    async def get_policy(self, project: str, domain: str) -> Policy:
        """The policy that counts for a place.  Raises NotFound if there is none."""
        self._check_place(project, domain)
        found = effective(await self._policies(), project, domain)
        if found is None:
            raise NotFound(
                f"no retention policy counts for project [{project}] and domain [{domain}]: everything is kept"
            )
        return found

    async def list_policies(self, project: str) -> list[Policy]:
        """Those that are set, of one project or of all."""
        check_text("project", project)
        return [each for each in await self._policies() if not project or each.project == project]

    async def delete_policy(self, project: str, domain: str, by: str) -> bool:
        """Remove the policy of exactly this place; False if there was none.  Raises InvalidArgument."""
        self._check_place(project, domain)
        async with self._db.connection() as conn:
            was_set = await RetentionRepository(conn).delete_policy(project, domain)
        if was_set:
            log.info("retention policy deleted", project=project, domain=domain, by=by)
        return was_set

    # Pins

    async def pin(self, project: str, domain: str, name: str, reason: str, by: str) -> None:
        """Keep an execution whatever the policies say.  Raises InvalidArgument, NotFound."""
        _check_key(project, domain, name)
        check_text("reason", reason, max_chars=MAX_REASON_CHARS, max_bytes=None)
        async with self._db.connection() as conn:
            if not await RetentionRepository(conn).pin(project, domain, name, self._clock.now(), by, reason):
                raise _unknown(project, domain, name)

    async def unpin(self, project: str, domain: str, name: str) -> bool:
        """Take a pin away; False if there was none.  Raises InvalidArgument, NotFound."""
        _check_key(project, domain, name)
        async with self._db.connection() as conn:
            retention = RetentionRepository(conn)
            execution_id = await retention.find(project, domain, name)
            if execution_id is None:
                raise _unknown(project, domain, name)
            return await retention.unpin(execution_id)

    # Deleting one

    async def delete_execution(self, project: str, domain: str, name: str, by: str) -> list[Record]:
        """Delete an execution with all that it launched; returns the records, its own first.

        Raises NotFound; FailedPrecondition, with what to do, if it cannot be deleted; Conflict if it is in use right
        now.  What cannot be finished at once goes on in the background, and its record says why.
        """
        _check_key(project, domain, name)
        async with self._db.connection() as conn:
            retention = RetentionRepository(conn)
            root = await retention.find(project, domain, name)
            if root is None:
                deleted = await retention.find_deleted(project, domain, name)
                if deleted is None or not await retention.deletions_of([deleted]):
                    raise _unknown(project, domain, name)
                ids = [deleted]
        if root is not None:
            ids = await self._mark(root, "execution", "request", by)
        async with self._db.connection() as conn:
            pending = await RetentionRepository(conn).claim_these(ids, "execution", self._until())
        for each in sorted(pending, key=lambda each: ids.index(each.stored.execution_id)):
            await self._advance(each)
        async with self._db.connection() as conn:
            records = await RetentionRepository(conn).deletions_of(ids)
        position = {execution_id: index for index, execution_id in enumerate(ids)}
        return sorted(records, key=lambda row: position[row["execution_id"]])

    async def list_deletions(
        self, project: str, domain: str, limit: int, token: str, *, unfinished_only: bool
    ) -> tuple[list[Record], str]:
        """Deletions, the latest first, and the token of the next page.  Raises InvalidArgument."""
        for what, value in (("project", project), ("domain", domain)):
            check_text(what, value)
        before = 2**63 - 1
        if token:
            if not (token.isascii() and token.isdecimal() and len(token) <= 18):
                raise InvalidArgument("invalid pagination token for ListDeletions")
            before = int(token)
        limit = min(limit or 100, MAX_LISTED)
        async with self._db.connection() as conn:
            rows = await RetentionRepository(conn).list_deletions(
                project, domain, before, limit, unfinished_only=unfinished_only
            )
        return rows, str(rows[-1]["id"]) if len(rows) == limit else ""

    # What is due

    async def dry_run(self, project: str, domain: str, tried: Policy | None, measured: int) -> DryRun:
        """What the policies, or `tried` instead of them, would delete now.  Raises InvalidArgument."""
        self._check_place(project, domain)
        if tried is not None:
            tried = Policy("", "", tried.keep_executions_days, tried.keep_blobs_days)
            check_policy(tried)
        await self._settle_hits()
        outcome, looked_at = DryRun(), 0
        for place, policy in await self._places(None if tried is None else [tried]):
            if (project and place[0] != project) or (domain and place[1] != domain):
                continue
            due = Due(*place)
            seen: set[int] = set()
            async for execution_id, kind in self._due(place, policy):
                if execution_id in seen:
                    continue
                seen.add(execution_id)
                looked_at += 1
                if looked_at > LOOKED_AT:
                    outcome.truncated = True
                    break
                await self._look(due, execution_id, kind, measure=due.measured < measured)
            if due.executions or due.blobs_only or due.kept:
                outcome.places.append(due)
            if outcome.truncated:
                break
        return outcome

    async def _look(self, due: Due, execution_id: int, kind: Kind, *, measure: bool) -> None:
        async with self._db.connection() as conn:
            retention = RetentionRepository(conn)
            ids = await retention.family(execution_id, MAX_FAMILY + 1)
            members = [each for chunk in _chunks(ids) for each in await retention.describe(chunk)]
            obstacle = await self._obstacle(retention, ids, members)
        if obstacle is not None:
            due.kept += 1
            return
        if kind == "execution":
            due.executions += len(members)
        else:
            due.blobs_only += len(members)
        oldest = min((each.ended_at for each in members), default=None)
        if oldest is not None and (due.oldest is None or oldest < due.oldest):
            due.oldest = oldest
        if not measure:
            return
        for member in members:
            taken = await self._blobs(
                member.stored, self._raw_base(member.raw_output_location), None, (member.ended_at, member.ended_at)
            )
            due.measured += 1
            due.blobs += taken.blobs
            due.blob_bytes += taken.blob_bytes

    async def _places(self, instead: list[Policy] | None = None) -> list[tuple[tuple[str, str], Policy]]:
        """Every project and domain for which a policy counts."""
        policies = await self._policies() if instead is None else instead
        if not policies:
            return []
        async with self._db.connection() as conn:
            projects = await RetentionRepository(conn).list_projects()
        places = ((project, domain) for project in projects for domain in self._domains)
        found = ((place, effective(policies, *place)) for place in places)
        return [(place, policy) for place, policy in found if policy is not None]

    async def _due(self, place: tuple[str, str], policy: Policy) -> AsyncIterator[tuple[int, Kind]]:
        """Executions of a place that are due, the oldest first within a phase; whole ones before those of which only
        the blobs go."""
        now = self._clock.now()
        kinds: tuple[tuple[Kind, datetime | None], ...] = (
            ("execution", policy.executions_before(now)),
            ("blobs", policy.blobs_before(now)),
        )
        for kind, before in kinds:
            if before is None:
                continue
            for phase in _TERMINAL:
                after = _BEGINNING
                while True:
                    async with self._db.connection() as conn:
                        rows = await RetentionRepository(conn).due(*place, phase, before, after, kind, PAGE)
                    for each in rows:
                        yield each[1], kind
                    if len(rows) < PAGE:
                        break
                    after = rows[-1]

    # In the background

    async def run(self) -> None:
        """Continue what was begun, and sweep from time to time, until cancelled."""
        next_sweep = self._clock.boottime()
        while True:
            try:
                if self._clock.boottime() >= next_sweep:
                    next_sweep = self._clock.boottime() + self._settings.sweep_interval.total_seconds()
                    await self.sweep()
                await self.resume()
            except AerodromeError as error:
                log.warning("retention goes on later", error=error.message)
            await self._clock.sleep(self._settings.retry_interval.total_seconds())

    async def sweep(self) -> int:
        """Delete what is due, one execution after the other; how many with all that they launched."""
        deleted = 0
        places = await self._places()
        if places:
            await self._settle_hits()
        for place, policy in places:
            async for execution_id, kind in self._due(place, policy):
                try:
                    ids = await self._mark(execution_id, kind, "policy", "")
                except (FailedPrecondition, NotFound, Conflict) as error:
                    log.debug("execution is kept", execution_id=execution_id, why=error.message)
                    continue
                async with self._db.connection() as conn:
                    pending = await RetentionRepository(conn).claim_these(ids, kind, self._until())
                for each in pending:
                    await self._advance(each)
                deleted += len(ids)
                # room for those who wait for the database or the store
                await self._clock.sleep(self._settings.pause.total_seconds())
        await self.drop_partitions()
        if deleted:
            log.info("retention has swept", deleted=deleted)
        return deleted

    async def resume(self) -> int:
        """Continue deletions that others left, as far as they go; how many were taken up."""
        taken = 0
        while True:
            now = self._clock.now()
            async with self._db.connection() as conn:
                pending = await RetentionRepository(conn).claim(now, now + CLAIM, 1)
            if not pending:
                return taken
            for each in pending:
                await self._advance(each)
            taken += len(pending)

    async def drop_partitions(self) -> list[str]:
        """Drop the partitions of quarters that are over and of which nothing is left; their names."""
        async with self._db.connection() as conn:
            retention = RetentionRepository(conn)
            for partition in await retention.old_partitions():
                if not partition.detaching and not await retention.is_droppable(partition):
                    continue
                try:
                    await retention.detach(partition)
                except AerodromeError as error:  # somebody reads for long; the next sweep finishes it
                    log.info("partition not detached yet", partition=partition.name, error=error.message)
            dropped = await retention.drop_orphans()
        if dropped:
            log.info("partitions dropped", partitions=dropped)
        return dropped

    # Beginning a deletion

    async def _mark(self, root: int, kind: Kind, cause: Cause, by: str) -> list[int]:
        """Begin to delete an execution and all that it launched; returns who they are, it first.

        Those that were launched go first, a chunk in a transaction, so that whatever happens in between leaves an
        execution that is still there and due.
        """
        await self._settle_hits()
        async with self._db.connection() as conn:
            retention = RetentionRepository(conn)
            ids = await retention.family(root, MAX_FAMILY + 1)
            if not ids:
                raise NotFound("the execution is gone")
            members = [each for chunk in _chunks(ids) for each in await retention.describe(chunk)]
            await self._refuse(retention, ids, members)
        for chunk in _chunks(ids[::-1]):
            async with self._locking() as conn:
                retention = RetentionRepository(conn)
                await retention.lock(chunk)
                members = await retention.describe(chunk)
                await self._refuse(retention, ids, members)
                now = self._clock.now()
                bases = [(each.stored.execution_id, self._raw_base(each.raw_output_location)) for each in members]
                await retention.begin(bases, kind, at=now, by=by, cause=cause, retry_at=now + CLAIM)
        return ids

    async def _refuse(self, retention: RetentionRepository, ids: Sequence[int], members: Sequence[Member]) -> None:
        obstacle = await self._obstacle(retention, ids, members)
        if obstacle is not None:
            raise FailedPrecondition(obstacle)

    async def _obstacle(
        self, retention: RetentionRepository, ids: Sequence[int], members: Sequence[Member]
    ) -> str | None:
        """Why `members`, of the family `ids`, cannot be deleted, and what to do about it."""
        if len(ids) > MAX_FAMILY:
            return f"it launched more than {MAX_FAMILY} executions: delete those first, a part at a time"
        for member in members:
            name = _name(member.stored)
            if member.phase not in _TERMINAL:
                return f"execution {name} is {member.phase}: terminate it and wait until it has ended, then delete it"
            if member.is_held:
                return f"execution {name} has ended, but its data plane has not let go of it yet: try again shortly"
            if member.pin_reason is not None:
                because = f" ({member.pin_reason})" if member.pin_reason else ""
                return f"execution {name} is pinned{because}: unpin it first"
            if member.has_parent and member.stored.execution_id == ids[0]:
                parent = await retention.name_of(member.parent_execution_id or 0)
                return f"execution {name} is a part of {parent}, which uses its data: delete that one"
        user = await retention.find_user(ids)
        if user is None:
            return None
        return f"execution {user.project}/{user.domain}/{user.name} {user.how} and uses its data: delete that one first"

    @asynccontextmanager
    async def _locking(self) -> AsyncIterator[Connection]:
        async with self._db.transaction() as conn:
            await conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            yield conn

    # Going on with one

    async def _advance(self, pending: Pending) -> None:
        """Take a deletion as far as it goes; what stands in the way is recorded, and it is tried again."""
        try:
            await self._stages(pending)
        except AerodromeError as error:
            pause = min(self._settings.retry_interval * 2 ** min(pending.attempts, 10), MAX_BACKOFF)
            log.warning(
                "deletion is postponed", execution=_name(pending.stored), kind=pending.kind, error=error.message
            )
            async with self._db.connection() as conn:
                await RetentionRepository(conn).postpone(
                    pending.id, self._clock.now() + pause, error.message[:MAX_REASON_CHARS]
                )

    async def _stages(self, pending: Pending) -> None:
        stored, stage = pending.stored, pending.stage
        if stage == "cache":
            if self._catalog is not None:
                await self._catalog.evict_execution(stored.project, stored.domain, stored.name)
            await self._reach(pending, "blobs")
            stage = "blobs"
        if stage == "blobs":
            await self._check_unused(stored)
            taken = await self._blobs(
                stored, pending.raw_output_base, pending.id, (pending.started_at, pending.ended_at)
            )
            stage = "rows" if pending.kind == "execution" else "done"
            await self._reach(pending, stage, blobs=taken.blobs, blob_bytes=taken.blob_bytes)
        if stage == "rows":
            while True:
                async with self._db.transaction() as conn:
                    retention = RetentionRepository(conn)
                    deleted = await retention.delete_rows(stored.execution_id, ROWS)
                    await retention.advance(
                        pending.id, "rows" if deleted else "done", now=self._clock.now(), until=self._until(),
                        rows=deleted,
                    )  # fmt: skip
                if not deleted:
                    break
        log.info("deletion finished", execution=_name(stored), kind=pending.kind)

    async def _reach(self, pending: Pending, stage: Stage, *, blobs: int = 0, blob_bytes: int = 0) -> None:
        async with self._db.connection() as conn:
            await RetentionRepository(conn).advance(
                pending.id, stage, now=self._clock.now(), until=self._until(), blobs=blobs, blob_bytes=blob_bytes
            )

    async def _check_unused(self, stored: Stored) -> None:
        """A hit may have been found between the decision and the eviction; then the blobs stay for its sake."""
        await self._settle_hits()
        async with self._db.connection() as conn:
            user = await RetentionRepository(conn).find_user([stored.execution_id])
        if user is not None:
            raise FailedPrecondition(
                f"{user.project}/{user.domain}/{user.name} {user.how} while it was being deleted: its blobs stay until "
                "that one is deleted"
            )

    async def _settle_hits(self) -> None:
        while True:
            async with self._db.transaction() as conn:
                if not await RetentionRepository(conn).settle_hits(PAGE):
                    return

    # Blobs

    async def _blobs(
        self, stored: Stored, raw_base: str, deletion: int | None, lived: tuple[datetime, datetime]
    ) -> _Taken:
        """Delete the execution's blobs, or with no `deletion` only count them."""
        taken, delete = _Taken(), deletion is not None
        join = self._storage.join
        for elements in own_directories(stored):
            await self._prefix(join(*elements), taken, delete=delete)
        await self._dynamic(stored, taken, delete=delete)
        async with self._db.connection() as conn:
            retention = RetentionRepository(conn)
            shared_directory = await retention.exists_any(namesakes(stored))
            shared_name = await retention.exists_name(stored, self._domains)
        if not shared_directory:
            await self._prefix(join(self._settings.metadata_prefix, stored.identity), taken, delete=delete)
        template = self._config.namespace_mapping.template
        # Pods of other executions may be called the same: with the usual namespaces, those that share the directory.
        shared_pods = shared_directory if template == NamespaceMapping().template else shared_name
        runtime = self._runtime if delete and not shared_pods else None
        if not raw_base and runtime is None:
            return taken
        async for page in self._attempts(stored):
            if runtime is not None:
                pods = [each.pod for each in page]
                await runtime.forget_pods(namespace(template, stored.project, stored.domain), pods)
            if not raw_base:
                async with self._db.connection() as conn:
                    await self._prolong(RetentionRepository(conn), deletion)
                continue
            if shared_name:
                if delete:
                    async with self._db.connection() as conn:
                        retention = RetentionRepository(conn)
                        await retention.retain_prefixes(stored.name, [f"{raw_base}/{each.raw_output}" for each in page])
                        await self._prolong(retention, deletion)
                continue
            async with asyncio.TaskGroup() as group:
                for each in page:
                    group.create_task(
                        self._slotted(
                            f"{raw_base}/{each.raw_output}", taken, lived if each.hashed else None, delete=delete
                        )
                    )
            if delete:
                async with self._db.connection() as conn:
                    await self._prolong(RetentionRepository(conn), deletion)
        if raw_base and not shared_name and delete:
            await self._retained(stored.name, taken, lived[1])
        return taken

    async def _prolong(self, retention: RetentionRepository, deletion: int | None) -> None:
        if deletion is not None:
            await retention.advance(deletion, "blobs", now=self._clock.now(), until=self._until())

    async def _attempts(self, stored: Stored) -> AsyncIterator[list[AttemptName]]:
        """The attempts of its tasks and map items."""
        node = ""
        while True:
            async with self._db.connection() as conn:
                attempts = await RetentionRepository(conn).list_attempts(stored.execution_id, node, PAGE)
            if attempts:
                node = attempts[-1][0]
                yield [each for node_id, count in attempts for each in attempts_of_node(stored.name, node_id, count)]
            if len(attempts) < PAGE:
                break
        item = ("", -1)
        while True:
            async with self._db.connection() as conn:
                items = await RetentionRepository(conn).list_items(stored.execution_id, item, PAGE)
            if items:
                item = items[-1][:2]
                yield [
                    each
                    for node_id, index, count in items
                    for each in attempts_of_item(stored.name, node_id, index, count)
                ]
            if len(items) < PAGE:
                return

    async def _retained(self, name: str, taken: _Taken, ended_at: datetime) -> None:
        """What deletions of other executions of this name left, because this one was there."""
        written = (_BEGINNING[0] + SLACK, ended_at)
        while True:
            async with self._db.connection() as conn:
                prefixes = await RetentionRepository(conn).retained_prefixes(name, PAGE)
            for prefix in prefixes:
                hashed = not prefix.rpartition("/")[2].startswith(f"{name}-")
                await self._prefix(prefix, taken, written if hashed else None, delete=True)
            async with self._db.connection() as conn:
                await RetentionRepository(conn).forget_prefixes(name, prefixes)
            if len(prefixes) < PAGE:
                return

    async def _dynamic(self, stored: Stored, taken: _Taken, *, delete: bool) -> None:
        """The workflows that dynamic nodes made; a workflow may be registered whose version is the same number."""
        prefix = self._storage.join(*dynamic_directory(stored, self._config.flyteadmin.metadata_storage_prefix))
        async with self._db.connection() as conn:
            closure = await RetentionRepository(conn).workflow_closure(
                stored.project, stored.domain, stored.name, str(stored.execution_id)
            )
        if closure is None:
            await self._prefix(prefix, taken, delete=delete)
            return
        async for reference, metadata in self._storage.list(prefix):
            if reference != closure:
                taken.add(metadata.size_bytes)
                if delete:
                    await self._storage.delete(reference)

    async def _slotted(
        self, prefix: str, taken: _Taken, lived: tuple[datetime, datetime] | None, *, delete: bool
    ) -> None:
        async with self._slots:
            await self._prefix(prefix, taken, lived, delete=delete)

    async def _prefix(
        self, prefix: str, taken: _Taken, lived: tuple[datetime, datetime] | None = None, *, delete: bool
    ) -> None:
        """Delete what is below a prefix; with `lived`, only what was written while the execution lived."""
        mine: list[str] = []
        async for reference, metadata in self._storage.list(prefix):
            if lived is not None and not lived[0] - SLACK <= metadata.modified_at <= lived[1] + SLACK:
                continue
            taken.add(metadata.size_bytes)
            if lived is not None:
                mine.append(reference)
        if not delete:
            return
        if lived is None:
            await self._storage.delete_prefix(prefix)
        for reference in mine:
            await self._storage.delete(reference)

    def _raw_base(self, location: str) -> str:
        """What raw outputs of an execution are below, if that is ours; empty if its user chose the place."""
        default = self._storage.join(self._settings.raw_output_prefix).rstrip("/")
        if not location:
            return default
        ours = {default, self._config.flyteadmin.output_location_prefix.rstrip("/")}
        return location.rstrip("/") if location.rstrip("/") in ours else ""

    # Helpers

    async def _policies(self) -> list[Policy]:
        async with self._db.connection() as conn:
            return await RetentionRepository(conn).list_policies()

    def _until(self) -> datetime:
        return self._clock.now() + CLAIM

    def _check_place(self, project: str, domain: str) -> None:
        check_text("project", project)
        check_text("domain", domain)
        if domain and domain not in self._domains:
            raise InvalidArgument(f"domain {domain} is not configured; there are {', '.join(self._domains)}")


def _check_key(project: str, domain: str, name: str) -> None:
    for what, value in (("project", project), ("domain", domain), ("name", name)):
        if not value:
            raise missing(what)
        check_text(what, value)


def _unknown(project: str, domain: str, name: str) -> NotFound:
    return NotFound(f"there is no execution {project}/{domain}/{name}")


def _name(stored: Stored) -> str:
    return f"{stored.project}/{stored.domain}/{stored.name}"


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
