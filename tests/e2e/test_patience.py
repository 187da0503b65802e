"""Clients that take their time.  They run beside the other tests, and are looked at when their turn comes."""

from __future__ import annotations

import pytest

from .conftest import Finish


@pytest.mark.timeout(240)
def test_execute_with_wait_returns_the_named_outputs(patient_clients: dict[str, Finish]) -> None:
    code, said, complained = patient_clients["waiting"]()
    assert code == 0, complained
    assert said.split() == ["True", "6", "ABC"]


@pytest.mark.timeout(240)
def test_a_client_that_was_idle_for_two_minutes_goes_on_over_the_same_connection(
    patient_clients: dict[str, Finish],
) -> None:
    code, said, complained = patient_clients["idle"]()
    assert code == 0, complained
    assert said.strip() == "same=True", complained
    for trouble in ("GOAWAY", "too_many_pings", "Traceback", "UNAVAILABLE"):
        assert trouble not in complained
