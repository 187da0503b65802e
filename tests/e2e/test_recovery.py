"""Recovery runs exactly what did not succeed, wherever it is nested."""

from __future__ import annotations

from pathlib import Path

import pytest
from flytekit.remote import FlyteRemote

from .conftest import Registered
from .seen import Seen, phases_of, runs


@pytest.fixture(scope="module")
def seen(remote: FlyteRemote) -> Seen:
    return Seen(remote)


def test_only_what_did_not_succeed_runs_again(registered: Registered, seen: Seen, tmp_path: Path) -> None:
    execution = registered.run("nodes.everything_broken", {"value": 1, "folder": str(tmp_path)})
    nodes = seen.nodes(execution)
    assert phases_of(nodes) == {
        "n0": "SUCCEEDED",
        "n1": ("FAILED", {"n0": "SUCCEEDED", "n1": "FAILED"}),
        "n2": "FAILED",
        "n3": ("FAILED", {"dn0": "SUCCEEDED", "dn1": "FAILED"}),
        "n4": ("SUCCEEDED", {"n4-n0": "SUCCEEDED"}),
        "n5": "SKIPPED",
    }
    assert nodes["end-node"].phase == "SKIPPED"
    once = {"done": 1, "part": 1, "inner": 1, "spread": 1, "fine": 1, "chosen": 1}
    assert runs(tmp_path) == {**once, "broken-part": 1, "broken": 2}

    (tmp_path / "mended").touch()
    recovered = seen.recover(execution)
    assert seen.finished(recovered) == "SUCCEEDED"
    again = seen.nodes(recovered)
    assert phases_of(again) == {
        "n0": "RECOVERED",
        "n1": ("SUCCEEDED", {"n0": "RECOVERED", "n1": "SUCCEEDED"}),
        "n2": "SUCCEEDED",
        "n3": ("SUCCEEDED", {"dn0": "RECOVERED", "dn1": "SUCCEEDED"}),
        "n4": "RECOVERED",
        "n5": "SUCCEEDED",
    }
    assert runs(tmp_path) == {**once, "broken-part": 2, "broken": 4, "after": 1}
    child = seen.nodes(again["n2"].child)
    assert phases_of(child) == {"n0": "RECOVERED", "n1": "SUCCEEDED"}
    assert again["n3"].flags == {"parent", "dynamic"}
    assert seen.attempts(again["n3"]) == [], "the dynamic task was not to run again"
    assert seen.dynamic_workflow(again["n3"]).primary.template.id.name == "dynamic_n3"
    read = registered.remote.fetch_execution(name=recovered.name)
    assert registered.finish(read).outputs["o0"] == [4, 4, 4, 3, 5]

    once_more = seen.recover(read)
    assert seen.finished(once_more) == "SUCCEEDED"
    last = phases_of(seen.nodes(once_more))
    assert set(last.values()) == {"RECOVERED"}
    assert runs(tmp_path) == {**once, "broken-part": 2, "broken": 4, "after": 1}
