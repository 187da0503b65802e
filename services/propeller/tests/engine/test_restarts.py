"""The engine as a model: nodes of every kind, outcomes, aborts, and processes that die at any point of the journal.

Through the transcript, the control plane's folding and what it hands to the next holder.  Invariants I1, I2, I4 to I8.
`ENGINE_CASES` is how many cases to try, `ENGINE_SEED` where to begin; `cases.py` tries many on several cores.
"""

from __future__ import annotations

import os
import time

import pytest
from cases import Tally, run

_CASES = int(os.environ.get("ENGINE_CASES", "2000"))
_SHARES = 4


@pytest.mark.timeout(max(120, _CASES))
@pytest.mark.parametrize("share", range(_SHARES))
def test_restarts_at_any_point_end_in_the_same_phases_and_outputs(share: int) -> None:
    seed = int(os.environ.get("ENGINE_SEED", time.time_ns() // 1_000_000)) * _SHARES + share
    total = Tally()
    while total.cases < _CASES // _SHARES:
        tally = run(seed)
        total.cases += tally.cases
        total.restarts += tally.restarts
        seed += _SHARES
    assert total.restarts, "no process died: nothing was tried"


@pytest.mark.parametrize("seed", [13, 253, 617, 1078, 1372])
def test_seeds_that_broke_something_once_do_not_any_more(seed: int) -> None:
    assert run(seed).cases
