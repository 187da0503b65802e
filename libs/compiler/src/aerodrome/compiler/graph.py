"""One workflow template compiled: nodes and bindings checked, edges derived, start and end node put in place.

Branch bodies and the failure node know what they wait for, but nothing is connected to them downstream: the branch,
or the failure, decides whether they run.  Everything is linear in nodes and bindings, and nothing recurses along the
graph.  Source: control-plane specification, sections 2.3 to 2.7.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from flyteidl.core.compiler_pb2 import CompiledWorkflow
from flyteidl.core.condition_pb2 import BooleanExpression, ComparisonExpression, Operand
from flyteidl.core.literals_pb2 import Binding, BindingData, Scalar
from flyteidl.core.types_pb2 import LiteralType, OutputReference
from flyteidl.core.workflow_pb2 import ArrayNode, GateNode, IfElseBlock, Node, WorkflowNode

from aerodrome.compiler.errors import END_NODE, START_NODE, Code, Collector, clip, clip_list
from aerodrome.compiler.identity import Key, key_of
from aerodrome.compiler.library import UNKNOWN, Interface, Library, Types, must_be_bound, types_of
from aerodrome.compiler.requirements import branch_bodies
from aerodrome.compiler.tasks import check_variables, normalize_interface
from aerodrome.compiler.types import (
    Budget,
    InvalidLiteralType,
    castable,
    declares_fields,
    field_type,
    primitive_type,
    scalar_type,
    type_text,
    type_texts,
)

MAX_NODE_ID_CHARS = 1_024
"""Length of the id of a node: ids are repeated in the ids of branch bodies and in the connections."""

MAX_PROBLEMS_PER_BINDING = 5
"""Errors reported about one nested binding."""

MAX_BINDING_STEPS = 2_000_000
"""Parts of nested bindings compared with types in one template, before its bindings count as too large."""

MAX_NAMES = 100
"""Names among which a missing one is looked for by the reader; of more, only their number is said."""

MAX_CASTING_STEPS = 1_000_000
"""Pairs of parts of types compared in one template, before its types count as too large."""

_INDEXED_VARIABLE = re.compile(r"\[[0-9]+\]\.(.+)", re.ASCII | re.DOTALL)
"""`[2].x`: the element 2 of the output x."""


def compile_graph(
    compiled: CompiledWorkflow, library: Library, errors: Collector, *, may_be_empty: bool = False
) -> None:
    """Compile `compiled.template` in place and fill in `compiled.connections`; what is wrong is added to `errors`.

    After an error the message is only partly compiled, and not to be used.
    """
    _Graph(compiled, library, errors).compile(may_be_empty)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why a value cannot be used; the caller knows where."""

    code: Code
    text: str


@dataclass(slots=True)
class _Vertex:
    """A node with what is known about it."""

    id: str
    bindings: Sequence[Binding]
    interface: Interface
    branch: str | None = None
    """For a branch body: the node of the graph that it is in."""
    passed: Mapping[str, Binding] = field(default_factory=dict)
    """For an approval: the binding whose value each output repeats."""
    passed_types: dict[str, LiteralType | None] = field(default_factory=dict)
    """For an approval: its outputs; their types are filled in when they are known."""
    explicit: Sequence[str] = ()
    """Ids of the nodes that it waits for without reading their outputs."""
    upstream: set[str] = field(default_factory=set)
    """Ids of the nodes that it waits for."""


class _Graph:
    def __init__(self, compiled: CompiledWorkflow, library: Library, errors: Collector) -> None:
        self._compiled = compiled
        self._template = compiled.template
        self._own_key = key_of(compiled.template.id)
        self._library = library
        self._errors = errors
        self._nodes: dict[str, _Vertex] = {}
        """The nodes of the graph, by id."""
        self._aside: dict[str, _Vertex] = {}
        """Branch bodies and the failure node, by id."""
        self._steps = MAX_BINDING_STEPS
        self._budget = Budget(MAX_CASTING_STEPS)
        self._casting: dict[tuple[int | bytes, int], tuple[LiteralType, LiteralType, bool]] = {}

    def compile(self, may_be_empty: bool) -> None:
        template = self._template
        normalize_interface(template.interface)
        check_variables(self._errors, START_NODE, "input", template.interface.inputs)
        check_variables(self._errors, END_NODE, "output", template.interface.outputs)
        nodes = list(template.nodes)
        if not nodes and not may_be_empty:
            self._errors.add(Code.NO_NODES_FOUND, START_NODE, "The workflow has no nodes.")
            return
        start = Interface({}, types_of(template.interface.inputs))
        outputs = types_of(template.interface.outputs)
        end = Interface(outputs, {}, must_be_bound(outputs))
        self._nodes[START_NODE] = _Vertex(START_NODE, (), start)
        self._nodes[END_NODE] = _Vertex(END_NODE, template.outputs, end)
        for node in nodes:
            self._add(node, self._nodes, None)
        if template.HasField("failure_node"):
            self._add(template.failure_node, self._aside, None)
        self._settle_approvals()
        for vertex in (*self._nodes.values(), *self._aside.values()):
            self._bind(vertex)
            self._wait_for_explicit(vertex)
        self._connect_ends()
        self._check_reachability()
        self._write()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _add(self, node: Node, among: dict[str, _Vertex], branch: str | None) -> None:
        """Make `node` a vertex: of the graph, or aside of it, then with the `branch` that it is a body of."""
        if not node.id:
            self._errors.add(Code.VALUE_REQUIRED, node.id, "A node has no id.")
            return
        if len(node.id) > MAX_NODE_ID_CHARS and branch is None:
            self._errors.add(
                Code.INVALID_VALUE, node.id, f"The id of the node is longer than {MAX_NODE_ID_CHARS} characters."
            )
            return
        if node.id in self._nodes or node.id in self._aside:
            self._errors.add(Code.DUPLICATE_ID, node.id, f"More than one node has the id [{clip(node.id)}].")
            return
        node.upstream_node_ids.sort()
        vertex = _Vertex(node.id, node.inputs, UNKNOWN, branch, explicit=node.upstream_node_ids)
        among[node.id] = vertex
        if node.WhichOneof("target") == "branch_node":
            interface = self._branch(node, branch or (node.id if among is self._nodes else None))
        else:
            interface = self._interface(node, node.id)
            if node.gate_node.HasField("approve"):
                vertex.passed = {binding.var: binding for binding in node.inputs}
                vertex.passed_types = dict.fromkeys(vertex.passed)
                interface = Interface(None, vertex.passed_types)
        self._alias(node, vertex, interface)

    def _interface(self, node: Node, node_id: str) -> Interface:
        """Inputs and outputs of a node that is not a branch; of an approval, `_add` knows the outputs."""
        match node.WhichOneof("target"):
            case "task_node":
                if not node.task_node.HasField("reference_id"):
                    self._errors.add(Code.VALUE_REQUIRED, node_id, "TaskNode.ReferenceId is required.")
                    return UNKNOWN
                key = key_of(node.task_node.reference_id)
                return self._found(self._library.task(key), Code.TASK_REFERENCE_NOT_FOUND, node_id, "task", key)
            case "workflow_node":
                return self._workflow(node.workflow_node, node_id)
            case "gate_node":
                return self._gate(node.gate_node, node_id)
            case "array_node":
                return self._array(node.array_node, node_id)
            case _:
                self._errors.add(Code.VALUE_REQUIRED, node_id, "Target is required: the node does nothing.")
                return UNKNOWN

    def _workflow(self, node: WorkflowNode, node_id: str) -> Interface:
        missing = Code.WORKFLOW_REFERENCE_NOT_FOUND
        match node.WhichOneof("reference"):
            case "sub_workflow_ref":
                key = key_of(node.sub_workflow_ref)
                return self._found(self._library.workflow(key), missing, node_id, "sub-workflow", key)
            case "launchplan_ref":
                key = key_of(node.launchplan_ref)
                if key == self._own_key:
                    return self._found(self._library.workflow(key), missing, node_id, "workflow", key)
                return self._found(self._library.launch_plan(key), missing, node_id, "launch plan", key)
            case _:
                self._errors.add(Code.VALUE_REQUIRED, node_id, "WorkflowNode.Reference is required.")
                return UNKNOWN

    def _found(self, interface: Interface | None, code: Code, node_id: str, what: str, key: Key) -> Interface:
        if interface is None:
            self._errors.add(code, node_id, f"The {what} [{key}] is not known.")
            return UNKNOWN
        return interface

    def _gate(self, node: GateNode, node_id: str) -> Interface:
        match node.WhichOneof("condition"):
            case "approve":
                if not node.approve.signal_id:
                    self._errors.add(Code.VALUE_REQUIRED, node_id, "Approve.SignalId is required.")
                return UNKNOWN
            case "signal":
                signal = node.signal
                typed = signal.type.WhichOneof("type") is not None
                for name, present in (
                    ("SignalId", signal.signal_id),
                    ("OutputVariableName", signal.output_variable_name),
                    ("Type", typed),
                ):
                    if not present:
                        self._errors.add(Code.VALUE_REQUIRED, node_id, f"Signal.{name} is required.")
                return Interface({}, {signal.output_variable_name: signal.type if typed else None})
            case "sleep":
                return Interface({}, {})
            case _:
                self._errors.add(Code.NO_CONDITION_FOUND, node_id, "The gate node has no condition.")
                return UNKNOWN

    def _array(self, node: ArrayNode, node_id: str) -> Interface:
        """The interface of the inner node; as lists, where the inner node's own interface was left as it is."""
        if not node.HasField("node"):
            self._errors.add(Code.VALUE_REQUIRED, node_id, "ArrayNode.Node is required.")
            return UNKNOWN
        if node.node.WhichOneof("target") in ("branch_node", "gate_node"):
            self._errors.add(Code.INVALID_VALUE, node_id, "An array node maps a task or a workflow, nothing else.")
            return UNKNOWN
        for binding in node.node.inputs:
            for promise in _promises(binding.binding):
                promise.node_id = promise.node_id or START_NODE
        inner = self._interface(node.node, node_id)
        if not node.is_original_sub_node_interface.value:
            return inner
        some_may_fail = node.HasField("min_success_ratio") and node.min_success_ratio != 1.0
        return self._library.mapped(inner, frozenset(node.bound_inputs), some_may_fail)

    def _alias(self, node: Node, vertex: _Vertex, interface: Interface) -> None:
        """Give the vertex its interface, with outputs under the names that others know them by."""
        vertex.interface = interface
        if not node.output_aliases:
            return
        names: dict[str, str] = {}
        for alias in node.output_aliases:
            if alias.var in names:
                self._errors.add(
                    Code.DUPLICATE_ALIAS, node.id, f"The output [{clip(alias.var)}] has more than one alias."
                )
            elif interface.outputs is not None and alias.var not in interface.outputs:
                self._errors.add(
                    Code.PARAMETER_NOT_BOUND, node.id, f"The alias of [{clip(alias.var)}] is of no output of the node."
                )
            else:
                names[alias.var] = alias.alias
        if interface.outputs is None:
            return
        outputs: dict[str, LiteralType | None] = {}
        passed: dict[str, Binding] = {}
        for name, declared in interface.outputs.items():
            known_as = names.get(name, name)
            if known_as in outputs:
                self._errors.add(
                    Code.DUPLICATE_ALIAS, node.id, f"More than one output of the node is called [{clip(known_as)}]."
                )
            outputs[known_as] = declared
            if name in vertex.passed:
                passed[known_as] = vertex.passed[name]
        vertex.interface = Interface(interface.inputs, outputs, interface.required)
        vertex.passed, vertex.passed_types = passed, outputs

    # --- branches ----------------------------------------------------------------------------------------------------

    def _branch(self, node: Node, branch: str | None) -> Interface:
        """Check the cases of a branch node, and make its bodies vertices aside, with the branch's id before their own.

        The outputs are those that all bodies have.
        """
        if_else = node.branch_node.if_else
        self._check_cases(if_else, node.id, frozenset(binding.var for binding in node.inputs))
        first_of: dict[str, Node] = {}
        repeated: list[tuple[Node, Node]] = []
        bodies: list[Node] = []
        for body in branch_bodies(node.branch_node):
            first = first_of.setdefault(body.id, body)
            if first is not body and first == body:  # several cases that run the same node
                repeated.append((body, first))
            elif len(body.id) > MAX_NODE_ID_CHARS:
                self._errors.add(
                    Code.INVALID_VALUE, body.id, f"The id of the node is longer than {MAX_NODE_ID_CHARS} characters."
                )
            else:
                bodies.append(body)
        common: dict[str, LiteralType | None] | None = None
        known = True
        for body in bodies:
            if body.id:
                body.id = f"{node.id}-{body.id}"
            clash = body.id in self._nodes or body.id in self._aside
            self._add(body, self._aside, branch)
            outputs = self._aside[body.id].interface.outputs if body.id in self._aside and not clash else None
            if outputs is None:
                known = False
            elif common is None:
                common = dict(outputs)
            else:
                common = self._common_outputs(node.id, common, outputs)
        for body, first in repeated:
            body.CopyFrom(first)
        return Interface(None, (common or {}) if known else None)

    def _common_outputs(
        self, node_id: str, common: dict[str, LiteralType | None], outputs: Types
    ) -> dict[str, LiteralType | None]:
        both: dict[str, LiteralType | None] = {}
        for name, declared in common.items():
            if name not in outputs:
                continue
            other = outputs[name]
            both[name] = declared
            if declared is None or other is None:
                both[name] = None
            elif declared != other:
                one, two = type_texts(declared, other)
                self._errors.add(
                    Code.MISMATCHING_TYPES,
                    node_id,
                    f"The output [{clip(name)}] is {one} in one case of the branch and {two} in another.",
                )
        return both

    def _check_cases(self, if_else: IfElseBlock, node_id: str, bound: frozenset[str]) -> None:
        if not if_else.HasField("case"):
            self._errors.add(Code.BRANCH_NODE_HAS_NO_CONDITION, node_id, "IfElse.Case is required.")
        blocks = [if_else.case] if if_else.HasField("case") else []
        for block in (*blocks, *if_else.other):
            if not block.HasField("condition"):
                self._errors.add(Code.BRANCH_NODE_HAS_NO_CONDITION, node_id, "A case of the branch has no condition.")
            else:
                self._check_condition(block.condition, node_id, bound)
            if not block.HasField("then_node"):
                self._errors.add(Code.BRANCH_NODE_ID_NOT_FOUND, node_id, "A case of the branch has no node to run.")
        if if_else.WhichOneof("default") is None:
            self._errors.add(
                Code.BRANCH_NODE_HAS_NO_DEFAULT, node_id, "The branch needs an else case, or an error to fail with."
            )

    def _check_condition(self, condition: BooleanExpression, node_id: str, bound: frozenset[str]) -> None:
        pending = [condition]
        while pending:
            expression = pending.pop()
            match expression.WhichOneof("expr"):
                case "comparison":
                    self._check_comparison(expression.comparison, node_id, bound)
                case "conjunction":
                    both = expression.conjunction
                    for name, side in (("left_expression", "LeftExpression"), ("right_expression", "RightExpression")):
                        if both.HasField(name):
                            pending.append(getattr(both, name))
                        else:
                            self._errors.add(Code.VALUE_REQUIRED, node_id, f"Conjunction.{side} is required.")
                case _:
                    self._errors.add(Code.VALUE_REQUIRED, node_id, "A condition of the branch is empty.")

    def _check_comparison(self, comparison: ComparisonExpression, node_id: str, bound: frozenset[str]) -> None:
        left = self._operand_type(comparison.left_value, "LeftValue", node_id, bound)
        right = self._operand_type(comparison.right_value, "RightValue", node_id, bound)
        if left is not None and right is not None and left != right:
            self._errors.add(
                Code.MISMATCHING_TYPES,
                node_id,
                f"A condition compares {type_text(left)} with {type_text(right)}.",
            )

    def _operand_type(self, operand: Operand, side: str, node_id: str, bound: frozenset[str]) -> LiteralType | None:
        """The type of an operand; None for a variable, whose value decides at run time, and after an error."""
        try:
            match operand.WhichOneof("val"):
                case "primitive":
                    return primitive_type(operand.primitive)
                case "scalar":
                    return scalar_type(operand.scalar)
                case "var" if operand.var:
                    if operand.var not in bound:
                        self._errors.add(
                            Code.VARIABLE_NAME_NOT_FOUND,
                            node_id,
                            f"A condition reads [{clip(operand.var)}], which is not bound on the branch node.",
                        )
                case _:
                    self._errors.add(Code.VALUE_REQUIRED, node_id, f"Comparison.{side} is required.")
        except InvalidLiteralType as why:
            self._errors.add(Code.UNRECOGNIZED_VALUE, node_id, f"Comparison.{side}: {why}.")
        return None

    # --- approvals ---------------------------------------------------------------------------------------------------

    def _settle_approvals(self) -> None:
        """Find the types of what approvals pass on, following chains of them; a circle stays of unknown type."""
        settled: set[tuple[str, str]] = set()
        for vertex in self._nodes.values():
            for name in vertex.passed:
                pending = [(vertex.id, name)]
                waiting = {pending[0]}
                while pending:
                    at = pending[-1]
                    binding = self._nodes[at[0]].passed[at[1]].binding
                    source = self._passed_source(binding)
                    if source is not None and source not in settled and source not in waiting:
                        pending.append(source)
                        waiting.add(source)
                        continue
                    pending.pop()
                    if at in settled:
                        continue
                    settled.add(at)
                    if source is None or source in settled:
                        self._nodes[at[0]].passed_types[at[1]] = self._value_type(binding)

    def _passed_source(self, binding: BindingData) -> tuple[str, str] | None:
        """The output of another approval that a binding reads."""
        if binding.WhichOneof("value") != "promise":
            return None
        promise = binding.promise
        source = self._nodes.get(promise.node_id)
        return (promise.node_id, promise.var) if source is not None and promise.var in source.passed else None

    def _value_type(self, binding: BindingData) -> LiteralType | None:
        match binding.WhichOneof("value"):
            case "promise":
                found = self._resolve(binding.promise)
                return None if isinstance(found, _Problem) else found
            case "scalar":
                try:
                    return scalar_type(binding.scalar)
                except InvalidLiteralType:  # reported when the binding is checked
                    return None
            case _:
                return None

    # --- bindings ----------------------------------------------------------------------------------------------------

    def _bind(self, vertex: _Vertex) -> None:
        """Check what a node's inputs are bound to, and note what it therefore waits for."""
        inputs = vertex.interface.inputs
        seen: set[str] = set()
        for binding in vertex.bindings:
            var, data = binding.var, binding.binding
            expected: LiteralType | None = None
            if var in seen:
                self._errors.add(
                    Code.PARAMETER_BOUND_MORE_THAN_ONCE, vertex.id, f"The input [{clip(var)}] is bound more than once."
                )
            seen.add(var)
            if inputs is not None:
                if var in inputs:
                    expected = inputs[var]
                else:
                    self._errors.add(Code.VARIABLE_NAME_NOT_FOUND, vertex.id, self._no_input(vertex.id, var, inputs))
            match data.WhichOneof("value"):
                case None:
                    self._errors.add(Code.VALUE_REQUIRED, vertex.id, f"The input [{clip(var)}] is bound to nothing.")
                case "promise":
                    self._bind_promise(vertex, var, data.promise, expected)
                case _:
                    for promise in _promises(data):
                        self._bind_promise(vertex, var, promise, None)
                    if expected is not None:
                        for problem in islice(self._misfits(data, expected), MAX_PROBLEMS_PER_BINDING):
                            self._errors.add(problem.code, vertex.id, f"The input [{clip(var)}]: {problem.text}")
        for name in sorted(vertex.interface.required - seen):
            what = "The workflow output" if vertex.id == END_NODE else "The input"
            self._errors.add(Code.PARAMETER_NOT_BOUND, vertex.id, f"{what} [{clip(name)}] is not bound.")

    def _no_input(self, node_id: str, var: str, inputs: Types) -> str:
        what = "output of the workflow" if node_id == END_NODE else "input of what the node runs"
        return f"[{clip(var)}] is no {what}; {_there_are(inputs)}."

    def _bind_promise(self, vertex: _Vertex, var: str, promise: OutputReference, expected: LiteralType | None) -> None:
        promise.node_id = promise.node_id or START_NODE
        if promise.node_id in self._nodes:
            vertex.upstream.add(promise.node_id)
        found = self._resolve(promise)
        if isinstance(found, _Problem):
            self._errors.add(found.code, vertex.id, f"The input [{clip(var)}]: {found.text}")
        elif found is not None and expected is not None and not self._casts(found, expected):
            up, down = type_texts(found, expected)
            self._errors.add(
                Code.MISMATCHING_TYPES,
                vertex.id,
                f"The input [{clip(var)}] is of type {down}, but [{_promise_text(promise)}] is of type {up}.",
            )

    def _resolve(self, promise: OutputReference) -> LiteralType | _Problem | None:
        """The type of what a promise refers to; None if it exists and its type is not known."""
        node_id, name, indexed = promise.node_id or START_NODE, promise.var, False
        source = self._nodes.get(node_id)
        if source is None:
            hint = " outside its branch" if node_id in self._aside else ""
            return _Problem(Code.NODE_REFERENCE_NOT_FOUND, f"there is no node [{clip(node_id)}]{hint}.")
        if not name or name.startswith("["):
            match = _INDEXED_VARIABLE.fullmatch(name)
            if match is None:
                return _Problem(Code.SYNTAX_ERROR, f"[{clip(name)}] is neither `name` nor `[index].name`.")
            name, indexed = match.group(1), True
        outputs = source.interface.outputs
        if outputs is None:
            return None
        if name not in outputs:
            what = "input of the workflow" if node_id == START_NODE else f"output of the node [{clip(node_id)}]"
            return _Problem(
                Code.VARIABLE_NAME_NOT_FOUND,
                f"[{clip(name)}] is no {what}; {_there_are(outputs)}.",
            )
        declared = outputs[name]
        if declared is None:
            return None
        if indexed:
            if declared.WhichOneof("type") != "collection_type":
                return _Problem(
                    Code.MISMATCHING_TYPES, f"[{clip(promise.var)}] takes an element of {type_text(declared)}."
                )
            declared = declared.collection_type
        for attribute in promise.attr_path:
            kind = declared.WhichOneof("type")
            if kind == "collection_type":
                declared = declared.collection_type
            elif kind == "map_value_type":
                declared = declared.map_value_type
            elif declares_fields(declared.structure):
                inner = field_type(declared, attribute.string_value)
                if inner is None:
                    return _Problem(
                        Code.FIELD_NOT_FOUND,
                        f"[{clip(node_id)}.{clip(name)}] has no field [{clip(attribute.string_value)}]; "
                        f"{_there_are(declared.structure.dataclass_type)}.",
                    )
                declared = inner
        return declared

    def _misfits(self, data: BindingData, expected: LiteralType) -> Iterator[_Problem]:
        """Why a bound value does not fit its type.  What is wrong with a promise itself is reported elsewhere."""
        self._steps -= 1
        if self._steps < 0:
            self._errors.add(Code.INVALID_VALUE, START_NODE, "The bindings of the workflow are too large to check.")
            self._errors.check()
        kind, wanted = data.WhichOneof("value"), expected.WhichOneof("type")
        match kind:
            case None:
                yield _Problem(Code.VALUE_REQUIRED, "an element is bound to nothing.")
            case "scalar":
                yield from self._scalar_misfits(data.scalar, expected)
            case "promise":
                found = self._resolve(data.promise)
                if isinstance(found, LiteralType) and not self._casts(found, expected):
                    up, down = type_texts(found, expected)
                    yield _Problem(
                        Code.MISMATCHING_TYPES,
                        f"an element is of type {down}, but [{_promise_text(data.promise)}] is of type {up}.",
                    )
            case "offloaded_metadata":
                inferred = data.offloaded_metadata.inferred_type
                if inferred.WhichOneof("type") is None:
                    yield _Problem(Code.UNRECOGNIZED_VALUE, "the offloaded value has no inferred type.")
                elif not self._value_casts(inferred, expected):
                    yield _mismatch(inferred, expected)
            case _ if wanted == "union_type":
                yield from self._union_misfits(data, expected)
            case "collection" if wanted == "collection_type":
                for item in data.collection.bindings:
                    yield from self._misfits(item, expected.collection_type)
            case "map" if wanted == "map_value_type":
                for name in sorted(data.map.bindings):
                    yield from self._misfits(data.map.bindings[name], expected.map_value_type)
            case _:
                what = "a list" if kind == "collection" else "a map"
                yield _Problem(Code.MISMATCHING_BINDINGS, f"{what} is bound where {type_text(expected)} is expected.")

    def _union_misfits(self, data: BindingData, expected: LiteralType) -> Iterator[_Problem]:
        fitting = 0
        for variant in expected.union_type.variants:
            fitting += next(self._misfits(data, variant), None) is None
            if fitting > 1:
                yield _Problem(
                    Code.AMBIGUOUS_BINDING_UNION_VALUE, f"more than one variant of {type_text(expected)} accepts it."
                )
                return
        if fitting == 0:
            yield _Problem(Code.INCOMPATIBLE_BINDING_UNION_VALUE, f"no variant of {type_text(expected)} accepts it.")

    def _scalar_misfits(self, scalar: Scalar, expected: LiteralType) -> Iterator[_Problem]:
        try:
            found = scalar_type(scalar)
        except InvalidLiteralType as why:
            yield _Problem(Code.UNRECOGNIZED_VALUE, f"{why}.")
            return
        if not self._value_casts(found, expected):
            yield _mismatch(found, expected)
        elif expected.WhichOneof("type") == "enum_type" and scalar.primitive.HasField("string_value"):
            value = scalar.primitive.string_value
            if value not in expected.enum_type.values:
                yield _Problem(Code.ILLEGAL_ENUM_VALUE, f"[{clip(value)}] is no value of {type_text(expected)}.")

    def _casts(self, found: LiteralType, expected: LiteralType) -> bool:
        """`castable`, remembered: the same output is read many times."""
        return self._remembered((id(found), id(expected)), found, expected)

    def _value_casts(self, found: LiteralType, expected: LiteralType) -> bool:
        """The same for the type of a value, which is made anew for each value."""
        content = found.SerializeToString(deterministic=True)
        return self._remembered((content, id(expected)), found, expected)

    def _remembered(self, key: tuple[int | bytes, int], found: LiteralType, expected: LiteralType) -> bool:
        if key not in self._casting:
            # The types are kept as well, so that no others can get their identities.
            self._casting[key] = found, expected, castable(found, expected, self._budget)
            if self._budget.left <= 0:
                self._errors.add(Code.INVALID_VALUE, START_NODE, "The types of the workflow are too large to compare.")
                self._errors.check()
        return self._casting[key][2]

    # --- edges -------------------------------------------------------------------------------------------------------

    def _wait_for_explicit(self, vertex: _Vertex) -> None:
        for node_id in vertex.explicit:
            if node_id not in self._nodes:
                self._errors.add(
                    Code.UNREACHABLE_NODES,
                    vertex.id,
                    f"[{clip(vertex.id)}] can never run: it waits for [{clip(node_id)}], "
                    "which is no node of the workflow's graph.",
                )
        vertex.upstream.update(node_id for node_id in vertex.explicit if node_id in self._nodes)

    def _connect_ends(self) -> None:
        """Hang what waits for nothing below the start node, and what nothing waits for above the end node."""
        end = self._nodes[END_NODE]
        with_downstream = {node_id for vertex in self._nodes.values() for node_id in vertex.upstream}
        between = [vertex for vertex in self._nodes.values() if vertex.id not in (START_NODE, END_NODE)]
        for vertex in between:
            if not vertex.upstream and not vertex.explicit:
                vertex.upstream.add(START_NODE)
            if vertex.id not in with_downstream:
                end.upstream.add(vertex.id)
        if not between:
            end.upstream.add(START_NODE)

    def _check_reachability(self) -> None:
        """Find cycles, and nodes that no path from the start node leads to.

        A branch counts as waiting for what its bodies wait for, since it cannot end before them.
        """
        downstream: dict[str, list[str]] = {node_id: [] for node_id in self._nodes}
        for node_id in sorted(self._nodes):
            for source in self._nodes[node_id].upstream:
                downstream[source].append(node_id)
        for body in self._aside.values():
            if body.branch is not None:
                for source in body.upstream:
                    downstream[source].append(body.branch)
        visited: set[str] = set()
        cycle = _find_cycle(START_NODE, downstream, visited)
        unreachable = sorted(self._nodes.keys() - visited - {END_NODE})
        for node_id in unreachable:
            if cycle is not None:
                break
            if node_id not in visited:
                cycle = _find_cycle(node_id, downstream, visited)
        if cycle is not None:
            self._errors.add(
                Code.CYCLE_DETECTED, START_NODE, f"The nodes wait for each other: {clip_list(cycle, '>')}."
            )
        if unreachable:
            self._errors.add(
                Code.UNREACHABLE_NODES,
                START_NODE,
                f"No path leads from the start of the workflow to: {clip_list(unreachable, ',')}.",
            )

    def _write(self) -> None:
        """Put the start and end node first, and fill in the connections."""
        template, connections = self._template, self._compiled.connections
        template.nodes.insert(0, Node(id=START_NODE))
        template.nodes.insert(1, Node(id=END_NODE, inputs=template.outputs))
        downstream: dict[str, list[str]] = {}
        for node_id in sorted(self._nodes):
            upstream = self._nodes[node_id].upstream
            for source in upstream:
                downstream.setdefault(source, []).append(node_id)
            if upstream:
                connections.upstream[node_id].ids.extend(sorted(upstream))
        for node_id in sorted(self._aside):
            connections.upstream[node_id].ids.extend(sorted(self._aside[node_id].upstream))
        for node_id in sorted(downstream):
            connections.downstream[node_id].ids.extend(downstream[node_id])


def _find_cycle(root: str, downstream: Mapping[str, Sequence[str]], visited: set[str]) -> list[str] | None:
    """Visit all that can be reached from `root`; the first cycle found, its first node repeated at its end, or None."""
    cycle: list[str] | None = None
    visited.add(root)
    path = {root: 0}  # the nodes from the root to here, with their positions
    pending = [iter(downstream[root])]
    while pending:
        node_id = next(pending[-1], None)
        if node_id is None:
            pending.pop()
            path.popitem()
        elif node_id in path:
            if cycle is None:
                cycle = [*islice(path, path[node_id], None), node_id]
        elif node_id not in visited:
            visited.add(node_id)
            path[node_id] = len(path)
            pending.append(iter(downstream[node_id]))
    return cycle


def _promises(data: BindingData) -> Iterator[OutputReference]:
    """Every promise inside a binding."""
    pending = [data]
    while pending:
        one = pending.pop()
        match one.WhichOneof("value"):
            case "promise":
                yield one.promise
            case "collection":
                pending.extend(one.collection.bindings)
            case "map":
                pending.extend(one.map.bindings.values())
            case _:
                pass


def _promise_text(promise: OutputReference) -> str:
    text = f"{clip(promise.node_id)}.{clip(promise.var)}"
    for attribute in islice(promise.attr_path, 5):
        text += f"[{attribute.int_value}]" if attribute.HasField("int_value") else f".{clip(attribute.string_value)}"
    return text


def _mismatch(found: LiteralType, expected: LiteralType) -> _Problem:
    up, down = type_texts(found, expected)
    return _Problem(Code.MISMATCHING_TYPES, f"a value of type {up} is bound where {down} is expected.")


def _there_are(names: Collection[str]) -> str:
    if len(names) > MAX_NAMES:
        return f"there are {len(names)} others"
    return f"there are [{clip_list(sorted(names), ', ')}]"
