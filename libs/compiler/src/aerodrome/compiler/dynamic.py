"""The workflow that a dynamic task made at run time.  Source: data-plane specification, section 3.6."""

from collections.abc import Iterable, Mapping

from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflowClosure
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.core.interface_pb2 import TypedInterface
from flyteidl.core.workflow_pb2 import WorkflowMetadata, WorkflowTemplate

from aerodrome.compiler.errors import Collector, CompileErrors
from aerodrome.compiler.identity import Key, key_of
from aerodrome.compiler.library import LaunchPlanInterface
from aerodrome.compiler.requirements import Requirements, requirements
from aerodrome.compiler.tasks import compile_task
from aerodrome.compiler.workflow import compile_closure

NAME_PREFIX = "dynamic_"
"""Names of the workflows of dynamic tasks start so; the id of the node follows."""


def dynamic_template(
    spec: DynamicJobSpec, *, project: str, domain: str, node_id: str, version: str, interface: TypedInterface
) -> WorkflowTemplate:
    """The template of what a dynamic task made.

    `project` and `domain` are the execution's, `node_id` is that of the dynamic node, `version` is any text that
    makes the identifier unique, and `interface` is the task's, whose outputs the workflow has.
    """
    return WorkflowTemplate(
        id=Identifier(
            resource_type=ResourceType.WORKFLOW,
            project=project,
            domain=domain,
            name=NAME_PREFIX + node_id,
            version=version,
        ),
        metadata=WorkflowMetadata(),
        interface=TypedInterface(outputs=interface.outputs),
        nodes=spec.nodes,
        outputs=spec.outputs,
    )


def dynamic_requirements(spec: DynamicJobSpec) -> Requirements:
    """The tasks and launch plans that a dynamic task's nodes refer to and that its specification does not hold."""
    found = requirements(WorkflowTemplate(nodes=spec.nodes), spec.subworkflows)
    given = {key_of(task.id) for task in spec.tasks}
    return Requirements(tuple(one for one in found.tasks if key_of(one) not in given), found.launch_plans)


def compile_dynamic(
    spec: DynamicJobSpec,
    *,
    project: str,
    domain: str,
    node_id: str,
    version: str,
    interface: TypedInterface,
    tasks: Iterable[CompiledTask] = (),
    launch_plans: Mapping[Key, LaunchPlanInterface] | None = None,
) -> CompiledWorkflowClosure:
    """The closure of what a dynamic task made; the parameters are those of `dynamic_template`.

    Tasks come from the specification, else from `tasks`.  A specification without nodes is permitted: its outputs
    come from its bindings alone.  Raises CompileErrors.
    """
    errors = Collector()
    known = {key_of(task.template.id): task for task in tasks}
    for template in spec.tasks:
        try:
            known[key_of(template.id)] = compile_task(template)
        except CompileErrors as why:
            errors.extend(why.errors)
    errors.check()
    workflow = dynamic_template(
        spec, project=project, domain=domain, node_id=node_id, version=version, interface=interface
    )
    return compile_closure(workflow, spec.subworkflows, known.values(), launch_plans or {}, may_be_empty=True)
