"""Settings that keep one tenant's requests from taking what others need."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from aerodrome.stdlib.config import Duration, Section


class RequestBudget(Section):
    """How much a project may ask for: a bucket that fills at a rate, and out of which each request takes its cost."""

    requests_per_second: float = Field(default=0.0, ge=0)
    """How fast the budget grows again; 0 is no limit."""
    burst: int = Field(default=1_000, ge=1)
    """How much of it can be saved up, and so be asked for at once."""


class LimitsConfig(Section):
    """The `limits` section; everything in it holds for one process of the control plane."""

    request_budget: RequestBudget = RequestBudget()
    """The budget of each project that has none of its own."""
    project_request_budgets: dict[str, RequestBudget] = Field(default_factory=dict)
    """Budgets of single projects, by their ids."""
    requests_in_flight: int = Field(default=16, ge=1)
    """How many requests that create something are worked on at a time; half as many are that list something.  One
    project has three quarters of these places, or a quarter while others ask for something too; further requests wait,
    and projects take turns; a crowd's go one at a time beside a project that asks for little."""
    requests_waiting: int = Field(default=5_000, ge=1)
    """How many expensive requests of one project may wait; further ones are refused."""
    waiting_interval: Duration = timedelta(seconds=5)
    """How often executions that wait for room under their launch plan's limit are looked at without a reason."""
