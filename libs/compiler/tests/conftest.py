"""Short ways to write the messages that the tests compile."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.condition_pb2 import BooleanExpression, ComparisonExpression, Operand
from flyteidl.core.identifier_pb2 import Identifier
from flyteidl.core.interface_pb2 import Parameter, ParameterMap, TypedInterface, Variable, VariableMap
from flyteidl.core.literals_pb2 import (
    Binding,
    BindingData,
    BindingDataCollection,
    BindingDataMap,
    Literal,
    LiteralCollection,
    LiteralMap,
    Primitive,
    Scalar,
)
from flyteidl.core.tasks_pb2 import Container, TaskTemplate
from flyteidl.core.types_pb2 import LiteralType, OutputReference, PromiseAttribute, SimpleType, UnionType
from flyteidl.core.workflow_pb2 import BranchNode, IfBlock, IfElseBlock, Node, TaskNode, WorkflowNode, WorkflowTemplate

from aerodrome.compiler import (
    CompileErrors,
    Key,
    LaunchPlanInterface,
    compile_task,
    compile_workflow,
    identifier_of,
)

SIMPLE = {
    "none": SimpleType.NONE,
    "int": SimpleType.INTEGER,
    "float": SimpleType.FLOAT,
    "str": SimpleType.STRING,
    "bool": SimpleType.BOOLEAN,
    "struct": SimpleType.STRUCT,
    "datetime": SimpleType.DATETIME,
}


class Build:
    """Builders; a type may be given as one of the names in `SIMPLE`."""

    def identifier(self, kind: int, name: str) -> Identifier:
        return identifier_of(Key(kind, "p", "d", name, "v"))

    def type(self, declared: "str | LiteralType") -> LiteralType:
        return LiteralType(simple=SIMPLE[declared]) if isinstance(declared, str) else declared

    def list_of(self, element: "str | LiteralType") -> LiteralType:
        return LiteralType(collection_type=self.type(element))

    def map_of(self, value: "str | LiteralType") -> LiteralType:
        return LiteralType(map_value_type=self.type(value))

    def union(self, *variants: "str | LiteralType") -> LiteralType:
        return LiteralType(union_type=UnionType(variants=[self.type(variant) for variant in variants]))

    def variables(self, **types: Any) -> VariableMap:
        return VariableMap(variables={name: Variable(type=self.type(one)) for name, one in types.items()})

    def interface(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> TypedInterface:
        return TypedInterface(inputs=self.variables(**inputs), outputs=self.variables(**outputs))

    def template(self, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> TaskTemplate:
        return TaskTemplate(
            id=self.identifier(1, name),
            type="python-task",
            interface=self.interface(inputs, outputs),
            container=Container(image="image", args=["run"]),
        )

    def task(self, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> CompiledTask:
        return compile_task(self.template(name, inputs, outputs))

    def promise(self, node_id: str, var: str, *path: "str | int") -> BindingData:
        steps = [
            PromiseAttribute(string_value=p) if isinstance(p, str) else PromiseAttribute(int_value=p) for p in path
        ]
        return BindingData(promise=OutputReference(node_id=node_id, var=var, attr_path=steps))

    def value(self, value: Any) -> BindingData:
        """A binding to a Python value: None, numbers, text, lists and maps of these and of bindings."""
        match value:
            case BindingData():
                return value
            case list():
                return BindingData(collection=BindingDataCollection(bindings=[self.value(item) for item in value]))
            case dict():
                return BindingData(map=BindingDataMap(bindings={k: self.value(v) for k, v in value.items()}))
            case _:
                return BindingData(scalar=self.literal(value).scalar)

    def literal(self, value: Any) -> Literal:
        match value:
            case Literal():
                return value
            case None:
                return Literal(scalar=Scalar(none_type={}))
            case list():
                return Literal(collection=LiteralCollection(literals=[self.literal(item) for item in value]))
            case dict():
                return Literal(map=self.literals(**value))
            case _:
                kind = {bool: "boolean", int: "integer", float: "float_value", str: "string_value"}[type(value)]
                return Literal(scalar=Scalar(primitive=Primitive(**{kind: value})))

    def literals(self, **values: Any) -> LiteralMap:
        return LiteralMap(literals={name: self.literal(value) for name, value in values.items()})

    def bindings(self, **values: Any) -> list[Binding]:
        """Bindings by name; a text such as `n0.o` is a promise, `.x` an input of the workflow."""
        made = []
        for name, value in values.items():
            if isinstance(value, str) and "." in value:
                made.append(Binding(var=name, binding=self.promise(*value.split(".", 1))))
            else:
                made.append(Binding(var=name, binding=self.value(value)))
        return made

    def node(self, node_id: str, task: str, upstream: Iterable[str] = (), **inputs: Any) -> Node:
        return Node(
            id=node_id,
            inputs=self.bindings(**inputs),
            upstream_node_ids=upstream,
            task_node=TaskNode(reference_id=self.identifier(1, task)),
        )

    def sub(self, node_id: str, workflow: str, **inputs: Any) -> Node:
        reference = WorkflowNode(sub_workflow_ref=self.identifier(2, workflow))
        return Node(id=node_id, inputs=self.bindings(**inputs), workflow_node=reference)

    def launch(self, node_id: str, launch_plan: str, **inputs: Any) -> Node:
        reference = WorkflowNode(launchplan_ref=self.identifier(3, launch_plan))
        return Node(id=node_id, inputs=self.bindings(**inputs), workflow_node=reference)

    def equals(self, var: str, value: Any) -> BooleanExpression:
        right = Operand(primitive=self.literal(value).scalar.primitive)
        return BooleanExpression(comparison=ComparisonExpression(left_value=Operand(var=var), right_value=right))

    def branch(self, node_id: str, then: Node, otherwise: Node, **inputs: Any) -> Node:
        """If the first of `inputs` is 1."""
        block = IfBlock(condition=self.equals(next(iter(inputs)), 1), then_node=then)
        return Node(
            id=node_id,
            inputs=self.bindings(**inputs),
            branch_node=BranchNode(if_else=IfElseBlock(case=block, else_node=otherwise)),
        )

    def workflow(
        self,
        *nodes: Node,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, tuple[Any, Any]] | None = None,
        name: str = "wf",
    ) -> WorkflowTemplate:
        """`outputs` are pairs of a type and what it is bound to."""
        given = outputs or {}
        return WorkflowTemplate(
            id=self.identifier(2, name),
            interface=self.interface(inputs or {}, {key: declared for key, (declared, _) in given.items()}),
            nodes=nodes,
            outputs=self.bindings(**{key: source for key, (_, source) in given.items()}),
        )

    def parameters(self, **parameters: Any) -> ParameterMap:
        """A parameter is a type if it is required, else a pair of a type and a default."""
        made = {}
        for name, one in parameters.items():
            declared, *default = one if isinstance(one, tuple) else (one,)
            variable = Variable(type=self.type(declared))
            made[name] = (
                Parameter(var=variable, default=self.literal(default[0]))
                if default
                else Parameter(var=variable, required=True)
            )
        return ParameterMap(parameters=made)

    def library(self) -> list[CompiledTask]:
        """Tasks: `one` int -> int, `text` str -> str, `two` int and str -> int, `nothing`."""
        return [
            self.task("one", {"a": "int"}, {"o": "int"}),
            self.task("text", {"s": "str"}, {"o": "str"}),
            self.task("two", {"a": "int", "s": "str"}, {"o": "int"}),
            self.task("nothing", {}, {}),
        ]

    def compile(
        self,
        template: WorkflowTemplate,
        *sub_workflows: WorkflowTemplate,
        tasks: Sequence[CompiledTask] = (),
        launch_plans: Mapping[Key, LaunchPlanInterface] | None = None,
    ) -> CompiledWorkflowClosure:
        return compile_workflow(template, sub_workflows, [*self.library(), *tasks], launch_plans or {})

    def errors(self, template: WorkflowTemplate, *sub_workflows: WorkflowTemplate, **options: Any) -> list[str]:
        """`Code@node` for each error of a workflow that does not compile."""
        with pytest.raises(CompileErrors) as caught:
            self.compile(template, *sub_workflows, **options)
        return [f"{error.code}@{error.node_id}" for error in caught.value.errors]

    def edges(self, compiled: CompiledWorkflow, side: str = "upstream") -> dict[str, list[str]]:
        return {node_id: list(ids.ids) for node_id, ids in getattr(compiled.connections, side).items()}


@pytest.fixture(scope="session")
def build() -> Build:
    return Build()
