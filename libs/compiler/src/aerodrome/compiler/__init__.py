"""Workflow closures in, compiled closures or located errors out; pure.

Nothing here reads, waits or keeps state, and the same input always gives the same bytes.  What is compiled is
described in `workflow`, when types fit in `types`, what inputs an execution gets in `interface`, and when two
entities are the same in `digest`.
"""

from aerodrome.compiler.digest import digest_launch_plan, digest_task, digest_workflow, structural_diff
from aerodrome.compiler.dynamic import compile_dynamic, dynamic_requirements, dynamic_template
from aerodrome.compiler.errors import END_NODE, START_NODE, Code, CompileError, CompileErrors
from aerodrome.compiler.identity import Key, identifier_of, key_of
from aerodrome.compiler.interface import (
    InterfaceError,
    expected_inputs,
    literal_map_problems,
    resolve_execution_inputs,
    strip_interface,
)
from aerodrome.compiler.library import LaunchPlanInterface
from aerodrome.compiler.requirements import Requirements, requirements
from aerodrome.compiler.single_task import single_task_workflow
from aerodrome.compiler.tasks import compile_task
from aerodrome.compiler.types import InvalidLiteralType, castable, literal_type, type_text
from aerodrome.compiler.workflow import compile_workflow

__all__ = [
    "END_NODE",
    "START_NODE",
    "Code",
    "CompileError",
    "CompileErrors",
    "InterfaceError",
    "InvalidLiteralType",
    "Key",
    "LaunchPlanInterface",
    "Requirements",
    "castable",
    "compile_dynamic",
    "compile_task",
    "compile_workflow",
    "digest_launch_plan",
    "digest_task",
    "digest_workflow",
    "dynamic_requirements",
    "dynamic_template",
    "expected_inputs",
    "identifier_of",
    "key_of",
    "literal_map_problems",
    "literal_type",
    "requirements",
    "resolve_execution_inputs",
    "single_task_workflow",
    "strip_interface",
    "structural_diff",
    "type_text",
]
