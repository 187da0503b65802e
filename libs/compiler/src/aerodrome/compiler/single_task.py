"""The workflow that runs one task by itself.  Source: control-plane specification, section 4.7."""

import re

from flyteidl.admin.workflow_pb2 import WorkflowSpec
from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.identifier_pb2 import Identifier, ResourceType
from flyteidl.core.literals_pb2 import Binding, BindingData, RetryStrategy
from flyteidl.core.types_pb2 import OutputReference
from flyteidl.core.workflow_pb2 import Node, NodeMetadata, TaskNode, WorkflowMetadata, WorkflowTemplate

from aerodrome.compiler.errors import END_NODE, START_NODE

NAME_PREFIX = ".flytegen."
"""Names of generated workflows and launch plans start so."""

DEFAULT_RETRIES = 3
"""Retries of the node where the task does not say."""

_MAX_NODE_ID_CHARS = 63


def single_task_workflow(task: CompiledTask) -> tuple[Identifier, WorkflowSpec]:
    """The identifier and the specification of the workflow with one node that runs `task`.

    Its interface is the task's: every input comes from the workflow, every output goes to it.
    """
    template = task.template
    identifier = Identifier(
        resource_type=ResourceType.WORKFLOW,
        project=template.id.project,
        domain=template.id.domain,
        name=NAME_PREFIX + template.id.name,
        version=template.id.version,
    )
    node_id = _node_id(template.id.name)
    retries = RetryStrategy(retries=DEFAULT_RETRIES)
    if template.metadata.HasField("retries"):
        retries.CopyFrom(template.metadata.retries)
    node = Node(
        id=node_id,
        metadata=NodeMetadata(name=node_id, retries=retries),
        inputs=[_promise(name, START_NODE) for name in sorted(template.interface.inputs.variables)],
        task_node=TaskNode(reference_id=template.id),
    )
    workflow = WorkflowTemplate(
        id=identifier,
        metadata=WorkflowMetadata(),
        interface=template.interface,
        nodes=[node],
        outputs=[_promise(name, node_id) for name in sorted(template.interface.outputs.variables)],
    )
    return identifier, WorkflowSpec(template=workflow)


def _node_id(task_name: str) -> str:
    reduced = re.sub(r"[^A-Za-z0-9-]", "", task_name[-_MAX_NODE_ID_CHARS:])
    return reduced if reduced not in ("", START_NODE, END_NODE) else f"task-{reduced}".strip("-")


def _promise(variable: str, node_id: str) -> Binding:
    return Binding(var=variable, binding=BindingData(promise=OutputReference(node_id=node_id, var=variable)))
