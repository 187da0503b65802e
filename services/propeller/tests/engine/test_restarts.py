"""The engine as a model: nodes of every kind, outcomes, aborts, and processes that die at any point of the journal.

At two depths, which `cases` describes: the engine and its own record, and of one history in twenty the whole chain of
transcript, messages, the control plane's folding and what it hands to the next holder.  Invariants I1, I2, I4 to I8.
`ENGINE_CASES` is how many cases to try, `ENGINE_SEED` where to begin: the same by default, so that whoever changes
something else is not told of a defect that was there before.  `cases.py` tries many fresh ones on several cores.
"""

from __future__ import annotations

import os

import pytest
from cases import BOTH, ENGINE, WHOLE, Tally, run

_CASES = int(os.environ.get("ENGINE_CASES", "6000"))
_SHARES = 4


@pytest.mark.timeout(max(120, _CASES // 50))
@pytest.mark.parametrize("share", range(_SHARES))
def test_restarts_at_any_point_end_in_the_same_phases_and_outputs(share: int) -> None:
    seed = int(os.environ.get("ENGINE_SEED", "1000")) * _SHARES + share
    total = Tally()
    while total.cases < _CASES // _SHARES:
        total.join(run(seed, BOTH))
        seed += _SHARES
    assert total.restarts, "no process died: nothing was tried"
    assert total.whole, "nothing was tried through messages and folding"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_depths_try_the_same_histories(seed: int) -> None:
    engine, whole = run(seed, ENGINE), run(seed, WHOLE)
    assert (engine.cases, engine.restarts) == (whole.cases, whole.restarts)
    assert whole.whole == whole.cases
    assert engine.transitions < whole.transitions, "what histories have in common was gone through once"


@pytest.mark.parametrize("seed", [77071, 77072, 77148, 1000365, 20000819, 30001271])
def test_seeds_that_broke_something_once_do_not_any_more(seed: int) -> None:
    assert run(seed).cases
