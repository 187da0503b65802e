"""Settings of the journal, its leases and its sessions."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from aerodrome.stdlib.config import Duration, Section


class JournalConfig(Section):
    """How executions are leased to data planes, and how their transitions are grouped."""

    session_term: Duration = timedelta(seconds=10)
    """How long a data plane's session lives after a heartbeat; its leases pass to others when it ends."""
    poll_interval: Duration = timedelta(seconds=1)
    """How often work is looked for without having been announced."""
    assignment_batch: int = Field(default=64, ge=1, le=10_000)
    """Most executions that are handed out in one transaction."""
    writers: int = Field(default=2, ge=1, le=32)
    """How many transactions write the journal at the same time; each execution belongs to one writer."""
    group_transitions: int = Field(default=1000, ge=1)
    """Most transitions that one transaction takes, unless a single append has more."""
    append_transitions: int = Field(default=2000, ge=1)
    """Most transitions of one execution in one append."""
    append_items: int = Field(default=100_000, ge=1)
    """Most map items of one execution in one append, so that the database writes them within its time."""
    max_items: int = Field(default=1_000_000, ge=1)
    """Most items of one map."""
    release_leases: int = Field(default=10_000, ge=1)
    """Most leases that are given back or handed over at a time."""
    pending_transitions: int = Field(default=50_000, ge=1)
    """How many transitions may wait in memory to be written; appends beyond wait to be accepted."""
    cached_nodes: int = Field(default=40_000, ge=0)
    """How many nodes of executions in progress are remembered between transactions."""
    cache_idle: Duration = timedelta(seconds=30)
    """How long an execution is remembered while nothing happens to it."""
    signal_bytes: int = Field(default=64 * 2**10, ge=1)
    """Largest type, and largest value, of a signal, serialized: both lie in a row and travel to whoever waits."""
