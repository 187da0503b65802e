"""Templates: a zygote with the code of one distribution read, and its module of tasks imported."""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from . import mapped, plain
from .commands import MAP_RESOLVER, Command, allows_template, loader_of, module_of_tasks
from .distributions import DistributionError, Distributions, Laid
from .surroundings import surroundings


class NotTemplated(BaseException):
    """Why there is no template for a distribution.  No `except Exception` of what is imported takes it for its own."""


class Template:
    """The code of one distribution, and its module of tasks, imported."""

    LIMIT_BYTES = 16 << 20

    def __init__(self, reference: str, facts: str, laid: Laid, distributions: Distributions) -> None:
        self._reference = reference
        self._facts = facts
        self._distributions = distributions
        self._laid = laid
        self._code: dict[str, types.CodeType] = {}
        """The code of each module that was imported from the distribution."""
        self._tracked: list[Any] = []
        """What flytekit notes the file of the module in."""
        self._compiled: list[str] = []

    @classmethod
    def load(cls, reference: str, arguments: list[str], distributions: Distributions) -> Template:
        """Import the module of tasks that a command of flytekit names.  Raises NotTemplated if attempts could tell."""
        module = module_of_tasks(arguments)
        if module is None:
            raise NotTemplated("its command names none of flytekit's own resolvers")
        try:
            facts = distributions.facts(reference)  # before it is read: what it gets then has others
            laid = distributions.read(reference, cls.LIMIT_BYTES)
        except DistributionError as error:
            raise NotTemplated(str(error)) from error
        if laid is None:
            raise NotTemplated("the distribution was not unpacked here, has changed, or is too large")
        if any(relative == "__init__.py" for relative, _, _, _ in laid.files):
            raise NotTemplated("the distribution is a package, whose name is that of the folder which it lies in")
        template = cls(reference, facts, laid, distributions)
        template._import(module, arguments)
        return template

    def _import(self, module: str, arguments: list[str]) -> None:
        for name in plain.KNOWN:
            importlib.import_module(name)  # so that a file of this name in the distribution is not taken for it
        before = surroundings()
        tree = self._laid.tree
        finder = _Finder(tree, plain.objection, self._code)
        sys.path.insert(0, tree)
        sys.meta_path.insert(0, finder)
        try:
            importlib.import_module(module)
            if MAP_RESOLVER in arguments:
                mapped.make_ahead(loader_of(arguments))
        except Exception as error:
            raise NotTemplated(f"the import of {module} fails: {type(error).__name__}: {error}") from error
        finally:
            sys.meta_path.remove(finder)
            sys.path.remove(tree)
        if module not in self._code:
            raise NotTemplated(f"{module} does not come from the distribution")
        for name in self._code:
            imported = sys.modules[name]
            spec: Any = imported.__spec__
            spec.loader = imported.__loader__ = importlib.machinery.SourceFileLoader(name, spec.origin)
            if spec.cached:
                self._compiled.append(os.path.relpath(spec.cached, tree))
        for each in gc.get_objects():  # those of the zygote itself are frozen, and not among them
            attributes = getattr(each, "__dict__", None)
            if isinstance(attributes, dict) and "_module_file" in attributes:
                self._tracked.append(each)
        for place in [each for each in sys.path_importer_cache if each == tree or each.startswith(tree + os.sep)]:
            del sys.path_importer_cache[place]
        changed = [what for what, value in surroundings().items() if before[what] != value]
        if changed:
            raise NotTemplated(f"the import of {module} changes {', '.join(changed)}")

    def fits(self, command: Command, environment: Mapping[str, str]) -> bool:
        """Whether this is what the attempt would import itself."""
        if command.distribution != self._reference or not allows_template(environment):
            return False
        try:
            return self._distributions.facts(self._reference) == self._facts
        except DistributionError:
            return False

    def stamps(self, folder: str) -> list[tuple[int, ...]] | None:
        """What says that the code in the folder of an attempt is what it was; see `Laid.stamps`."""
        return self._laid.stamps(folder, without=self._compiled)

    def is_intact(self, folder: str) -> bool:
        """Whether the code in the folder of an attempt that ended is as it was laid."""
        return self._laid.is_in(folder, without=self._compiled)

    def settle_in(self, folder: str, recycled: str | None) -> None:
        """Lay the code into the folder of an attempt, where one works already, and let all imports be from there.

        `recycled` is a folder in which it lies, to be used instead.
        """
        if recycled is None:
            self._laid.lay(folder, without=self._compiled)  # nobody imports these modules again
        else:
            os.rename(recycled, folder)
            os.chdir(folder)
        tree = self._laid.tree
        fix = importlib.import_module("_imp")._fix_co_filename  # as import itself does with code compiled elsewhere
        for name, code in self._code.items():
            module: Any = sys.modules[name]
            spec = module.__spec__
            path = folder + spec.origin[len(tree) :]
            fix(code, path)
            module.__file__ = spec.origin = spec.loader.path = path
            if spec.cached:
                spec.cached = module.__cached__ = importlib.util.cache_from_source(path)
            if spec.submodule_search_locations is not None:
                module.__path__ = spec.submodule_search_locations = [
                    folder + place[len(tree) :] for place in spec.submodule_search_locations
                ]
        moved: dict[str, Any] = {}  # there are many tasks in a file, and to resolve a path asks for each of its parts
        for each in self._tracked:
            file = str(each._module_file)
            if file.startswith(tree + os.sep):
                if file not in moved:
                    moved[file] = type(each._module_file)(folder + file[len(tree) :]).resolve()
                each._module_file = moved[file]


class _Finder:
    """Finds modules as usual, and objects to those that attempts have to import for themselves."""

    _NEVER = frozenset(("antigravity", "this", "readline", "curses", "tkinter", "turtle", "idlelib", "test", "site"))

    def __init__(self, tree: str, objection: Callable[[bytes], str | None], code: dict[str, types.CodeType]) -> None:
        self._tree = tree
        self._objection = objection
        self._code = code
        self._standard: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset()) - self._NEVER

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the other finders find.  Raises NotTemplated."""
        spec: Any = None
        for finder in sys.meta_path:
            if finder is not self and spec is None:
                spec = finder.find_spec(name, path, target)
        if spec is None:
            return None
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
        if any(place.startswith(self._tree + os.sep) for place in places):
            return self._own(name, spec)
        top = name.partition(".")[0]
        if top in self._standard or top == "flytekit":
            return spec
        raise NotTemplated(f"it imports {name}, which may do anything")

    def _own(self, name: str, spec: Any) -> Any:
        if not spec.has_location:
            return spec  # a package without code, whose places follow sys.path by themselves
        if type(spec.loader) is not importlib.machinery.SourceFileLoader:
            raise NotTemplated(f"{name} is no source")
        objection = self._objection(spec.loader.get_data(spec.origin))
        if objection is not None:
            raise NotTemplated(f"{name}, {objection}")
        spec.loader = _Loader(name, spec.origin, self._code)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Keeps the code that it loads."""

    def __init__(self, name: str, path: str, code: dict[str, types.CodeType]) -> None:
        super().__init__(name, path)
        self._kept = code

    def get_code(self, fullname: str) -> types.CodeType | None:
        """The code of the module."""
        code = super().get_code(fullname)
        if code is not None:
            self._kept[fullname] = code
        return code
