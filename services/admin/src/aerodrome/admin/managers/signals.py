"""Signals: what the gates of an execution wait for, and what people answer.

A signal is made by the engine when it reaches a gate, and by anybody who knows its id and type before that.  Its value
is a decision of the control plane: the journal writes it, and tells the engine, in one transaction.  The newest value
counts; whether a gate has already passed on an older one is the engine's knowledge.
Source: spec/control-plane.md, section 9.6.
"""

from __future__ import annotations

from flyteidl.admin.signal_pb2 import Signal, SignalGetOrCreateRequest, SignalList, SignalListRequest, SignalSetRequest
from flyteidl.core.identifier_pb2 import SignalIdentifier
from flyteidl.core.literals_pb2 import Literal
from flyteidl.core.types_pb2 import LiteralType

from aerodrome.admin.config import AdminConfig
from aerodrome.admin.domain.phases import WORKFLOW_NAMES, WORKFLOW_TERMINAL
from aerodrome.admin.domain.validation import (
    check_execution_id,
    check_size,
    check_text,
    missing,
    not_found,
    proto_text,
    shown,
)
from aerodrome.admin.domain.verdicts import already_terminal
from aerodrome.admin.managers.journal import JournalWriter
from aerodrome.admin.repositories.listing import Ask, Scope, check_limit, list_page
from aerodrome.admin.repositories.signals import SIGNALS, SignalRepository
from aerodrome.admin.transformers.signals import fill_signal
from aerodrome.compiler import InvalidLiteralType, castable, literal_type, type_text
from aerodrome.stdlib.errors import InvalidArgument
from aerodrome.stdlib.postgres.database import Database

_OVER = frozenset(WORKFLOW_NAMES[phase] for phase in WORKFLOW_TERMINAL)


class SignalManager:
    """Signals of executions."""

    def __init__(self, database: Database, journal: JournalWriter, config: AdminConfig) -> None:
        self._db = database
        self._journal = journal
        self._max_bytes = config.journal.signal_bytes

    async def get_or_create(self, request: SignalGetOrCreateRequest) -> Signal:
        """The signal, made if there is none; one that exists is returned as it is, whatever type is asked for.

        Raises InvalidArgument, NotFound for an unknown execution, and FailedPrecondition where it would have to be made
        for an execution that is over.
        """
        _check_id(request.id)
        if not request.HasField("type"):
            raise missing("type")
        if request.type.WhichOneof("type") is None:
            raise InvalidArgument(
                f"the type of signal [{shown(request.id.signal_id)}] says nothing; set one of its kinds"
            )
        check_size("the signal's type is", request.type.ByteSize(), self._max_bytes)
        key, signal_id = request.id.execution_id, request.id.signal_id
        async with self._db.connection() as conn:
            signals = SignalRepository(conn)
            execution = await signals.find_execution(key)
            if execution is None:
                raise not_found("execution", key)
            row = await signals.find(execution.execution_id, signal_id)
            if row is None:
                if execution.phase in _OVER:
                    raise already_terminal(
                        f"signal [{signal_id}] cannot be made: the execution is over ({execution.phase})",
                        execution.phase,
                    )
                await signals.insert(execution.execution_id, signal_id, request.type.SerializeToString())
                row = await signals.find(execution.execution_id, signal_id)
        if row is None:  # the execution has been deleted meanwhile
            raise not_found("execution", key)
        return fill_signal(Signal(), key, row)

    async def list(self, request: SignalListRequest) -> SignalList:
        """The signals of an execution; none for an unknown one."""
        key = request.workflow_execution_id
        try:
            check_execution_id(key)
        except InvalidArgument:
            raise missing("execution_id") from None
        check_limit(request.limit)
        async with self._db.connection() as conn:
            execution = await SignalRepository(conn).find_execution(key)
        ask = Ask(
            "ListSignals",
            limit=request.limit,
            token=request.token,
            filters=request.filters,
            sort_by=request.sort_by if request.HasField("sort_by") else None,
        )
        # of an unknown execution nothing is found, but a request that makes no sense is told so all the same
        page = await list_page(self._db, SIGNALS, Scope(execution_id=execution.execution_id if execution else 0), ask)
        answer = SignalList(token=page.token)
        for row in page.rows:
            fill_signal(answer.signals.add(), key, row)
        return answer

    async def set(self, request: SignalSetRequest) -> None:
        """Give a signal its value, and tell the engine.  May be repeated.

        Raises InvalidArgument for an unknown signal and for a value that does not fit its type, and FailedPrecondition
        once the execution is over.
        """
        _check_id(request.id)
        if not request.HasField("value"):
            raise missing("value")
        key, signal_id = request.id.execution_id, request.id.signal_id
        async with self._db.connection() as conn:
            signals = SignalRepository(conn)
            execution = await signals.find_execution(key)
            row = None if execution is None else await signals.find(execution.execution_id, signal_id)
        if row is None:
            reason = "missing entity of type execution" if execution is None else "entry not found"
            raise InvalidArgument(
                f"failed to validate that signal [{proto_text(request.id)}] exists, err: [{reason}]; "
                "a signal exists once the execution has reached its gate"
            )
        check_size("the signal's value is", request.value.ByteSize(), self._max_bytes)
        _check_fits(request.value, LiteralType.FromString(row["type"]))
        await self._journal.set_signal(key, signal_id, request.value.SerializeToString())


def _check_id(identifier: SignalIdentifier) -> None:
    if not identifier.ByteSize():
        raise missing("id")
    if not identifier.HasField("execution_id"):
        raise missing("execution_id")
    if not identifier.signal_id:
        raise missing("signal_id")
    check_text("signal_id", identifier.signal_id)
    check_execution_id(identifier.execution_id)


def _check_fits(value: Literal, declared: LiteralType) -> None:
    """The value can be cast to the type or the type to the value's: a union's value is one of its variants."""
    try:
        found = literal_type(value)
    except InvalidLiteralType as error:
        raise InvalidArgument(f"the value of the signal has no type: {error}") from error
    if not (castable(found, declared) or castable(declared, found)):
        raise InvalidArgument(
            f"requested signal value [{proto_text(value)}] is not castable to existing signal type "
            f"[{type_text(declared)}]"
        )
