"""Launch plans that limit how many of their executions are in progress."""

import time
from pathlib import Path

from flytekit import Annotations, LaunchPlan, task, workflow
from flytekit.models.concurrency import ConcurrencyLimitBehavior, ConcurrencyPolicy


@task
def hold(marker: str) -> int:
    """Say that it began, and go on until somebody says `end`."""
    own = Path(marker)
    own.write_text("began")
    while own.read_text() != "end":
        time.sleep(0.02)
    return 1


@workflow
def holding(marker: str) -> int:
    return hold(marker=marker)


ONE = ConcurrencyPolicy(max_concurrency=1, behavior=ConcurrencyLimitBehavior.SKIP)
skipping = LaunchPlan.get_or_create(holding, name="limited.skipping", concurrency=ONE)
waiting = LaunchPlan.get_or_create(
    holding, name="limited.waiting", concurrency=ONE, annotations=Annotations({"aerodrome/concurrency": "wait"})
)
replacing = LaunchPlan.get_or_create(
    holding, name="limited.replacing", concurrency=ONE, annotations=Annotations({"aerodrome/concurrency": "replace"})
)
