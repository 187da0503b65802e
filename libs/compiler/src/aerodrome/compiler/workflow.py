"""Workflow templates in, compiled closures or located errors out.

A closure holds the workflow and the sub-workflows it uses, each with a start node, an end node and the connections of
its graph, and every task it refers to.  References are resolved first; if one is missing nothing else is checked.
Then each template is compiled by itself (`graph`), and all errors are reported together.  Source: control-plane
specification, sections 2.1 to 2.4.
"""

from collections.abc import Iterable, Mapping, Sequence

from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflowClosure
from flyteidl.core.workflow_pb2 import WorkflowTemplate
from google.protobuf.message import DecodeError

from aerodrome.compiler.depth import check_depth, too_deep
from aerodrome.compiler.errors import START_NODE, Code, Collector, clip_list
from aerodrome.compiler.graph import compile_graph
from aerodrome.compiler.identity import Key, key_of
from aerodrome.compiler.library import LaunchPlanInterface, Library
from aerodrome.compiler.requirements import References, references


def compile_workflow(
    template: WorkflowTemplate,
    sub_workflows: Sequence[WorkflowTemplate],
    tasks: Iterable[CompiledTask],
    launch_plans: Mapping[Key, LaunchPlanInterface],
) -> CompiledWorkflowClosure:
    """The closure of a workflow.

    `tasks` and `launch_plans` are at least what `requirements` names; what is not referred to is left out.  The closure
    depends on the arguments' content only, not on the order of `tasks` or of any map; `sub_workflows` keep their order,
    and those that nothing refers to are carried along without connections.  Arguments are not changed.
    Raises CompileErrors with everything that is wrong; nothing else, whatever the messages hold.
    """
    return compile_closure(template, sub_workflows, tasks, launch_plans, may_be_empty=False)


def compile_closure(
    template: WorkflowTemplate,
    sub_workflows: Sequence[WorkflowTemplate],
    tasks: Iterable[CompiledTask],
    launch_plans: Mapping[Key, LaunchPlanInterface],
    *,
    may_be_empty: bool,
) -> CompiledWorkflowClosure:
    """As `compile_workflow`; `may_be_empty` permits a workflow without nodes, which a dynamic task may make."""
    for one in (template, *sub_workflows):
        check_depth(one)
    try:
        closure = _compile(template, sub_workflows, tasks, launch_plans, may_be_empty)
    except (DecodeError, RecursionError) as why:  # copying a message that is nested too deeply
        raise too_deep() from why
    check_depth(closure)
    return closure


def _compile(
    template: WorkflowTemplate,
    sub_workflows: Sequence[WorkflowTemplate],
    tasks: Iterable[CompiledTask],
    launch_plans: Mapping[Key, LaunchPlanInterface],
    may_be_empty: bool,
) -> CompiledWorkflowClosure:
    errors = Collector()
    given = _distinct_workflows(sub_workflows, errors)
    known = _distinct_tasks(tasks, errors)
    used = _used_references(template, given, errors)
    needed = _check_references(used, known, launch_plans, errors)
    errors.check()

    library = Library(known, {key_of(template.id): template, **given}, launch_plans)
    closure = CompiledWorkflowClosure()
    closure.primary.template.CopyFrom(template)
    compile_graph(closure.primary, library, errors, may_be_empty=may_be_empty)
    for sub_workflow in sub_workflows:
        compiled = closure.sub_workflows.add()
        compiled.template.CopyFrom(sub_workflow)
        key = key_of(sub_workflow.id)
        if key in used:
            errors.locate(key.name)
            compile_graph(compiled, library, errors)
    errors.check()
    for key in needed:
        closure.tasks.add().CopyFrom(known[key])
    return closure


def _distinct_workflows(workflows: Sequence[WorkflowTemplate], errors: Collector) -> dict[Key, WorkflowTemplate]:
    distinct: dict[Key, WorkflowTemplate] = {}
    for one in workflows:
        key = key_of(one.id)
        if key in distinct:
            errors.add(Code.VALUE_COLLISION, START_NODE, f"The sub-workflow [{key}] is given more than once.")
        distinct.setdefault(key, one)
    return distinct


def _distinct_tasks(tasks: Iterable[CompiledTask], errors: Collector) -> dict[Key, CompiledTask]:
    distinct: dict[Key, CompiledTask] = {}
    for task in tasks:
        key = key_of(task.template.id)
        if distinct.setdefault(key, task) != task:
            errors.add(Code.VALUE_COLLISION, START_NODE, f"The task [{key}] is given with different contents.")
    return distinct


def _used_references(
    template: WorkflowTemplate, given: Mapping[Key, WorkflowTemplate], errors: Collector
) -> dict[Key, References]:
    """What the workflow and each sub-workflow that it uses refer to; records the missing and the recursive ones."""
    own = key_of(template.id)
    used = {own: references(template)}
    path = [own]
    on_path = {own}
    pending = [iter(sorted(used[own].sub_workflows))]
    while pending:
        key = next(pending[-1], None)
        if key is None:
            pending.pop()
            on_path.discard(path.pop())
        elif key in on_path:
            names = [one.name for one in path[path.index(key) :]]
            errors.add(
                Code.CYCLE_DETECTED,
                START_NODE,
                f"Workflows must not contain themselves: {clip_list([*names, key.name], '>')}.",
            )
        elif key in used:
            continue
        elif key not in given:
            errors.add(
                Code.WORKFLOW_REFERENCE_NOT_FOUND, START_NODE, f"The sub-workflow [{key}] is not among those given."
            )
        else:
            used[key] = references(given[key])
            path.append(key)
            on_path.add(key)
            pending.append(iter(sorted(used[key].sub_workflows)))
    return used


def _check_references(
    used: Mapping[Key, References],
    tasks: Mapping[Key, CompiledTask],
    launch_plans: Mapping[Key, LaunchPlanInterface],
    errors: Collector,
) -> list[Key]:
    """The tasks that are needed, in order; records those and the launch plans that are missing."""
    needed = sorted({key for found in used.values() for key in found.tasks})
    for key in needed:
        if key not in tasks:
            errors.add(Code.TASK_REFERENCE_NOT_FOUND, START_NODE, f"The task [{key}] is not registered.")
    for workflow, found in used.items():
        for key in found.launch_plans:
            if key not in launch_plans and key != workflow:
                errors.add(Code.WORKFLOW_REFERENCE_NOT_FOUND, START_NODE, f"The launch plan [{key}] is not registered.")
    return needed
