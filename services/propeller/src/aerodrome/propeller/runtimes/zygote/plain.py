"""Plain modules: those whose import does nothing but define, so that one import serves many attempts.

A module of a user's may do anything when it is imported: read the environment, draw a random number, print, open a
connection.  Whoever imports it once and forks afterwards changes what each attempt sees.  So the source is read first.
Plain is what only imports, defines functions and classes, and binds names to constants and to what is made of them;
decorators, base classes and calls are those of a short list, none of which runs the user's code or looks around.  What
is not known to be plain is not plain, which costs time and nothing else.

Like the rest of the zygote, this file runs in the chosen environment: any Python from 3.9 on, nothing but the
standard library, nothing of ours.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable
from typing import Optional

_OWN = ""
"""Where something comes from that the module itself, or another module of the user's, defines."""
_OWN_ENUM = "enum"

_FLYTEKIT_CALLS = ("Resources", "Secret", "kwtypes", "Documentation", "Description", "FlyteFile", "FlyteDirectory")
CALLS = frozenset(
    {f"flytekit.{name}" for name in _FLYTEKIT_CALLS}
    | {f"datetime.{name}" for name in ("timedelta", "date", "time")}
    | {f"typing.{name}" for name in ("NamedTuple", "NewType", "TypeVar", "ParamSpec", "cast")}
    | {"collections.namedtuple", "dataclasses.field", "logging.getLogger", "enum.auto", "decimal.Decimal"}
)
"""What may be called: it makes a value of its arguments, and calls nothing that it is given."""
_BUILTIN_CALLS = frozenset(
    ("abs", "bool", "bytes", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max", "min", "range",
     "round", "set", "sorted", "str", "sum", "tuple", "zip")
)  # fmt: skip
DECORATORS = frozenset(
    {f"flytekit.{name}" for name in ("task", "workflow", "dynamic")}
    | {f"functools.{name}" for name in ("cache", "lru_cache", "total_ordering", "cached_property")}
    | {"dataclasses.dataclass", "contextlib.contextmanager", "abc.abstractmethod", "enum.unique"}
    | {f"typing.{name}" for name in ("overload", "final", "runtime_checkable", "no_type_check")}
)
_BUILTIN_DECORATORS = frozenset(("property", "staticmethod", "classmethod"))
_TYPES = frozenset(("typing", "typing_extensions", "collections", "flytekit"))
"""Packages whose names can be subscripted: it makes a type."""
_OTHER_TYPES = frozenset(("os.PathLike", "re.Pattern", "re.Match", "asyncio.Queue", "queue.Queue"))
_BASES = frozenset(("typing", "typing_extensions", "abc", "enum", "collections", "dataclasses"))
KNOWN = frozenset(name.partition(".")[0] for name in CALLS | DECORATORS) | _BASES
"""Packages whose names are trusted: whoever relies on this looks that they are not the user's own."""

STATEFUL = frozenset(("os", "sys", "time", "tempfile", "locale", "site", "sysconfig", "platform", "socket", "builtins"))
"""Modules with values that differ from process to process, of which only what is known to be the same may be taken."""
_STATELESS = {
    "os": "path PathLike environ getenv getcwd makedirs mkdir listdir remove rename walk cpu_count getpid fspath sep",
    "sys": "exit version_info",
    "time": "sleep time time_ns monotonic perf_counter process_time strftime gmtime localtime",
    "tempfile": "mkdtemp mkstemp gettempdir TemporaryDirectory NamedTemporaryFile TemporaryFile",
}
_ALWAYS_THERE = frozenset(("__name__", "__doc__", "__debug__"))
_MAY_BE_SET = frozenset(("__all__", "__version__", "__author__", "__doc__", "__slots__", "__match_args__"))
_NEVER_DEFINED = frozenset(
    ("__getattr__", "__dir__", "__init_subclass__", "__class_getitem__", "__set_name__", "__prepare__",
     "__mro_entries__")
)  # fmt: skip
"""Functions that imports and class statements call."""


def objection(source: bytes) -> Optional[str]:  # noqa: UP045  (Python 3.9)
    """Why a module is not plain: its first statement that is not, and the line; None if it is plain."""
    try:
        tree = ast.parse(source)
        _Reader().statements(tree.body)
    except _NotPlain as found:
        return f"line {getattr(found.node, 'lineno', 0)}: {found.what}"
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"it cannot be read: {error}"
    return None


class _NotPlain(Exception):
    def __init__(self, node: ast.AST, what: str) -> None:
        super().__init__(what)
        self.node = node
        self.what = what


class _Reader:
    """Reads the statements of a module in their order, and knows where each name comes from by then."""

    def __init__(self) -> None:
        self._origins: dict[str, str] = {}
        self._in_enum = False

    # -- statements --

    def statements(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return
        if isinstance(node, ast.Import):
            self._import(node)
        elif isinstance(node, ast.ImportFrom):
            self._import_from(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node)
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.Assign):
            self._value(node.value)
            for target in node.targets:
                self._bind(target)
        elif isinstance(node, ast.AnnAssign):
            self._annotation(node.annotation)
            if node.value is not None:
                self._value(node.value)
            self._bind(node.target)
        elif isinstance(node, ast.If):
            if not self._is_never(node.test):
                raise _NotPlain(node, "a condition")
            self.statements(node.orelse)
        else:
            raise _NotPlain(node, f"a statement of the kind {type(node).__name__}")

    def _is_never(self, test: ast.expr) -> bool:
        """Whether a condition is false whenever a module is imported: of a script, or of a type checker."""
        if isinstance(test, ast.Compare):
            return (
                isinstance(test.left, ast.Name)
                and test.left.id == "__name__"
                and isinstance(test.ops[0], ast.Eq)
                and isinstance(test.comparators[0], ast.Constant)
                and test.comparators[0].value == "__main__"
                and len(test.ops) == 1
            )
        return self._origin(test) == "typing.TYPE_CHECKING"

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self._set(node, name, alias.name if alias.asname else name)

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for alias in node.names:
            if alias.name == "*":
                raise _NotPlain(node, "an import of everything that a module has")
            if not node.level and module in STATEFUL and alias.name not in _STATELESS.get(module, "").split():
                raise _NotPlain(node, f"{module}.{alias.name}, which may differ from process to process")
            if alias.name.startswith("__") and alias.name not in _MAY_BE_SET:
                raise _NotPlain(node, f"the name {alias.name}")
            origin = f"{'.' * node.level}{module}.{alias.name}"  # never _OWN: who knows what it derives from
            self._set(node, alias.asname or alias.name, origin)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in _NEVER_DEFINED or (self._in_enum and node.name.startswith("_")):
            raise _NotPlain(node, f"the function {node.name}, which is called on import")
        for decorator in node.decorator_list:
            self._decorator(decorator)
        self._arguments(node.args)
        if node.returns is not None:
            self._annotation(node.returns)
        self._set(node, node.name, _OWN)

    def _arguments(self, arguments: ast.arguments) -> None:
        for default in (*arguments.defaults, *(each for each in arguments.kw_defaults if each is not None)):
            self._value(default)
        named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        for argument in named:
            if argument is not None and argument.annotation is not None:
                self._annotation(argument.annotation)

    def _class(self, node: ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self._decorator(decorator)
        is_enum = False
        for base in node.bases:
            self._value(base)
            target = base.value if isinstance(base, ast.Subscript) else base
            origin = self._origin(target)
            root = (origin or "").partition(".")[0]
            is_enum = is_enum or root == _OWN_ENUM
            if origin is None or (origin != _OWN and root not in _BASES and not self._is_builtin(target)):
                raise _NotPlain(base, f"the base class {ast.unparse(base)}")
        for keyword in node.keywords:
            if keyword.arg != "total":
                raise _NotPlain(node, f"the keyword {keyword.arg} of a class")
            self._value(keyword.value)
        inner = _Reader()
        inner._origins = dict(self._origins)
        inner._in_enum = is_enum
        inner.statements(node.body)
        self._set(node, node.name, _OWN_ENUM if is_enum else _OWN)

    def _decorator(self, node: ast.expr) -> None:
        target = node.func if isinstance(node, ast.Call) else node
        origin = self._origin(target)
        if origin not in DECORATORS and not (isinstance(target, ast.Name) and self._is_builtin(target, "decorators")):
            raise _NotPlain(node, f"the decorator {ast.unparse(target)}")
        if isinstance(node, ast.Call):
            self._passed(node)

    def _bind(self, target: ast.expr) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for each in target.elts:
                self._bind(each)
        elif isinstance(target, ast.Name):
            self._set(target, target.id, _OWN)
        else:
            raise _NotPlain(target, "an assignment to something else than a name")

    def _set(self, node: ast.AST, name: str, origin: str) -> None:
        if name.startswith("__") and name.endswith("__") and name not in _MAY_BE_SET and origin != _OWN:
            raise _NotPlain(node, f"the name {name}")
        if name in _NEVER_DEFINED or name in ("__name__", "__file__", "__path__", "__spec__", "__loader__"):
            raise _NotPlain(node, f"the name {name}")
        self._origins[name] = origin

    # -- where a name comes from --

    def _origin(self, node: ast.expr) -> Optional[str]:  # noqa: UP045 - any Python of a user reads this file
        """The dotted name of what an expression names; empty if it is the user's own, None if it is no name."""
        if isinstance(node, ast.Name):
            return self._origins.get(node.id, f"builtins.{node.id}" if hasattr(builtins, node.id) else _OWN)
        if isinstance(node, ast.Attribute):
            origin = self._origin(node.value)
            return origin if origin is None or origin == _OWN else f"{origin}.{node.attr}"
        return None

    def _is_builtin(self, node: ast.expr, what: str = "class") -> bool:
        if not isinstance(node, ast.Name) or node.id in self._origins:
            return False
        if what == "decorators":
            return node.id in _BUILTIN_DECORATORS
        return isinstance(getattr(builtins, node.id, None), type) and node.id != "type"

    # -- expressions --

    def _annotation(self, node: ast.expr) -> None:
        """An annotation, whose strings are evaluated by whoever asks for the types."""
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                try:
                    inner = ast.parse(each.value.strip(), mode="eval").body
                except (SyntaxError, ValueError):
                    continue  # of a Literal or an Annotated, or an error wherever it is evaluated
                self._annotation(inner)
        self._value(node)

    def _value(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant):
            return
        if isinstance(node, ast.Name):
            if node.id.startswith("__") and node.id not in _ALWAYS_THERE | _MAY_BE_SET:
                raise _NotPlain(node, f"the name {node.id}")
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Subscript):
            origin = self._origin(node.value) or ""
            if (
                origin.partition(".")[0] not in _TYPES
                and origin not in _OTHER_TYPES
                and not self._is_builtin(node.value)
            ):
                raise _NotPlain(node, f"the subscript {ast.unparse(node)}")
            self._value(node.value)
            self._value(node.slice)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Lambda):
            self._arguments(node.args)
        elif isinstance(node, _MADE_OF_PARTS):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    self._value(part)
        else:
            raise _NotPlain(node, f"an expression of the kind {type(node).__name__}")

    def _attribute(self, node: ast.Attribute) -> None:
        module = self._origin(node.value)
        if node.attr.startswith("__"):
            raise _NotPlain(node, f"the attribute {node.attr}")
        if module in STATEFUL and node.attr not in _STATELESS.get(module, "").split():
            raise _NotPlain(node, f"{module}.{node.attr}, which may differ from process to process")
        self._value(node.value)

    def _call(self, node: ast.Call) -> None:
        origin = self._origin(node.func)
        if origin in CALLS:
            self._passed(node)
            return
        if (
            isinstance(node.func, ast.Name)
            and node.func.id in _BUILTIN_CALLS
            and node.func.id not in self._origins
            and (not node.keywords or node.func.id == "dict")
        ):
            self._passed(node)
            return
        raise _NotPlain(node, f"a call of {ast.unparse(node.func)}")

    def _passed(self, node: ast.Call) -> None:
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self._value(argument)


_MADE_OF_PARTS = (
    ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred, ast.Slice, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip
"""Expressions that do nothing but with the values of their parts."""
