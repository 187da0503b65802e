"""What must hold of a finished execution, and what it came to.

Which invariant of the design is checked where:

- I1: `simulated.Process` ends, or says that nothing happens any more; here: the execution is over.
- I2: every entry is judged by the control plane's tables when it is appended; here: everything that was told of is
  over, and nothing has succeeded that contains a failure.
- I4: `simulated.World.start` refuses an attempt beside another, and the journal one that is recorded beside another.
- I5: here: who succeeded has outputs in place; where there are references, nobody else shows any.
- I6: here, with user and system budgets apart.
- I7: here: nothing runs.
- I8: `check_fold` of the journal: telling its entries again gives the same rows and the same past.
- I15: `cases` compares executions with restarts to the same ones without: same phases, attempts, items.
"""

from __future__ import annotations

from collections.abc import Mapping

from kept import Attempted, Told
from simulated import Broken, World

from aerodrome.propeller.engine.graph import START

GOOD = frozenset({"SUCCEEDED", "RECOVERED"})
_BAD = frozenset({"FAILED", "TIMED_OUT", "ABORTED"})


def check(world: World) -> None:
    """Raises Broken unless what must hold of a finished execution does."""
    plane = world.plane
    phase = plane.phase
    if not plane.over:
        raise Broken(f"the execution is {phase} and nobody drives it any more")
    if world.running:
        raise Broken(f"{world.running} still run after the end")
    if world.abort_wanted and phase == "ABORTED" and not plane.abort_cause:
        raise Broken("it is ABORTED without a cause")
    if plane.has_references and bool(plane.outputs) != (phase == "SUCCEEDED"):
        raise Broken(f"the execution is {phase} and shows outputs: {plane.outputs!r}")
    told = plane.told()
    limits = world.course.limits
    for name, node in told.items():
        if not node.over:
            raise Broken(f"node {name} is {node.phase} after the end, attempts {node.attempts}")
        around = None
        if node.parent is not None:
            around = told.get(node.parent)
            if around is None:
                raise Broken(f"node {name} is in {node.parent}, which is not shown")
        array = around is not None and around.array
        good = node.phase in GOOD
        if plane.has_references and bool(node.outputs) != good:
            raise Broken(f"node {name} is {node.phase} and shows outputs: {node.outputs!r}")
        if good and not array and name != START and name not in world.published:
            raise Broken(f"node {name} is {node.phase}, and its outputs are not in place")
        if node.attempts:
            _check_attempts(name, node.attempts, world.budgets.get(name), limits.max_system_failures,
                            ignore_cause=limits.ignore_retry_cause)  # fmt: skip
        if node.phase in _BAD and not array:
            _check_around(phase, name, node, around)


def _check_around(phase: str, name: str, node: Told, around: Told | None) -> None:
    """What contains a node that failed has failed too, unless it was tried again since."""
    if around is None:
        if phase == "SUCCEEDED":
            raise Broken(f"the execution SUCCEEDED, and {name} is {node.phase}")
    elif around.phase == "SUCCEEDED":
        last = max((attempt.number for attempt in around.attempts), default=0)
        if node.parent_attempt == last:
            raise Broken(f"{node.parent} SUCCEEDED, and {name} in it is {node.phase}")


def _check_attempts(
    name: str, attempts: tuple[Attempted, ...], most: int | None, most_systems: int, *, ignore_cause: bool
) -> None:
    first = attempts[0].number
    if any(attempt.number != first + place for place, attempt in enumerate(attempts)):
        raise Broken(f"node {name} has attempts {attempts}")
    if most is None:
        return
    failed = [attempt for attempt in attempts if attempt.phase == "FAILED"]
    systems = sum(attempt.by_system for attempt in failed)
    if ignore_cause:
        if len(attempts) > most:
            raise Broken(f"node {name} has {len(attempts)} attempts, {most} are allowed")
    elif (
        systems > most_systems + 1
        or len(failed) - systems > most
        or len(attempts) > most + most_systems  # those that failed when what they made was collected too
    ):
        raise Broken(f"node {name} has {len(attempts)} attempts, {systems} by the system; {most} are allowed")


def outcome(world: World, *, whole: bool) -> Mapping[str, object]:
    """What an execution came to: phases, attempts and outputs.

    With `whole` items of arrays that were not awaited are part of it.  Texts of errors are not: of several nodes that
    failed, which one is named is decided by who was last, and that is not recorded.
    """
    told = world.plane.told()
    facts: dict[str, object] = {"": (world.plane.phase, world.plane.outputs)}
    for name, node in told.items():
        around = told.get(node.parent) if node.parent is not None else None
        if not whole:
            if around is not None and around.array and around.phase != "SUCCEEDED":
                continue  # which items had ended by then is chance
            if node.items and node.phase != "SUCCEEDED":
                node = node._replace(items=())
        facts[name] = node
    return facts


def same(one: World, other: World) -> list[str]:
    """In what two courses of the same history differ, whatever their journals are; items as nodes left out."""
    mine, others = (
        {
            name: node._replace(outputs="")
            for name, node in world.plane.told().items()
            if node.parent is None or not world.plane.told()[node.parent].array
        }
        for world in (one, other)
    )
    told = [
        f"{name}: {mine.get(name)} or {others.get(name)}"
        for name in sorted(mine.keys() | others.keys())
        if mine.get(name) != others.get(name)
    ]
    if one.plane.phase != other.plane.phase:
        told.append(f"the execution: {one.plane.phase} or {other.plane.phase}")
    return told
