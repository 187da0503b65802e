"""What a workflow refers to, and must therefore be known before it can be compiled.

Source: control-plane specification, section 2.1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.workflow_pb2 import BranchNode, Node, WorkflowTemplate

from aerodrome.compiler.identity import Key, identifier_of, key_of


@dataclass(frozen=True, slots=True)
class Requirements:
    """Identifiers of the tasks and launch plans that a workflow uses: distinct, sorted by their keys."""

    tasks: tuple[Identifier, ...]
    launch_plans: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class References:
    """What the nodes of one template refer to, not looking into sub-workflows."""

    tasks: frozenset[Key]
    launch_plans: frozenset[Key]
    sub_workflows: frozenset[Key]


def requirements(template: WorkflowTemplate, sub_workflows: Sequence[WorkflowTemplate]) -> Requirements:
    """The tasks and launch plans that a workflow and the sub-workflows it uses refer to.

    References inside branches, array nodes and failure nodes count; sub-workflows that nothing refers to do not.  A
    reference to a sub-workflow that is not given is left for `compile_workflow` to report.
    """
    given: dict[Key, WorkflowTemplate] = {}
    for sub_workflow in sub_workflows:
        given.setdefault(key_of(sub_workflow.id), sub_workflow)
    tasks: set[Key] = set()
    launch_plans: set[Key] = set()
    seen: set[Key] = set()
    pending = [template]
    while pending:
        found = references(pending.pop())
        tasks |= found.tasks
        launch_plans |= found.launch_plans
        for key in found.sub_workflows - seen:
            seen.add(key)
            if key in given:
                pending.append(given[key])
    return Requirements(
        tasks=tuple(identifier_of(key) for key in sorted(tasks)),
        launch_plans=tuple(identifier_of(key) for key in sorted(launch_plans)),
    )


def references(template: WorkflowTemplate) -> References:
    """What the nodes of one template refer to, wherever they are in it."""
    tasks: set[Key] = set()
    launch_plans: set[Key] = set()
    sub_workflows: set[Key] = set()
    for node in _nodes(template):
        match node.WhichOneof("target"):
            case "task_node":
                if node.task_node.HasField("reference_id"):
                    tasks.add(key_of(node.task_node.reference_id))
            case "workflow_node":
                match node.workflow_node.WhichOneof("reference"):
                    case "launchplan_ref":
                        launch_plans.add(key_of(node.workflow_node.launchplan_ref))
                    case "sub_workflow_ref":
                        sub_workflows.add(key_of(node.workflow_node.sub_workflow_ref))
                    case _:
                        pass
            case _:
                pass
    return References(frozenset(tasks), frozenset(launch_plans), frozenset(sub_workflows))


def _nodes(template: WorkflowTemplate) -> Iterator[Node]:
    """Every node of a template, also those inside branches and array nodes, and the failure node."""
    pending: list[Node] = list(template.nodes)
    if template.HasField("failure_node"):
        pending.append(template.failure_node)
    while pending:
        node = pending.pop()
        yield node
        match node.WhichOneof("target"):
            case "branch_node":
                pending.extend(branch_bodies(node.branch_node))
            case "array_node":
                if node.array_node.HasField("node"):
                    pending.append(node.array_node.node)
            case _:
                pass


def branch_bodies(branch: BranchNode) -> Iterable[Node]:
    """The nodes that a branch may run, in the order of its cases."""
    if_else = branch.if_else
    if if_else.case.HasField("then_node"):
        yield if_else.case.then_node
    for block in if_else.other:
        if block.HasField("then_node"):
            yield block.then_node
    if if_else.HasField("else_node"):
        yield if_else.else_node
