"""The program of a zygote: loads the package that this file is in, and serves; the last argument is its settings.

It is executed by its path, by a Python that knows nothing of ours, and whose tasks must find what they would find in a
process of their own: the folder of this file is not searched, and the package is in no list of modules.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose modules would otherwise shadow those of the environment

import importlib
import importlib.util
import os
from typing import Any

NAME = "_aerodrome_zygote"


def load(*modules: str) -> Any:
    """The package that this file is in, with some of its modules as attributes; `import` finds none of them."""
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(NAME, path, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    try:
        spec.loader.exec_module(package)
        for name in modules:
            importlib.import_module(f"{NAME}.{name}")
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] == NAME]:
            del sys.modules[name]
        sys.path_importer_cache.pop(folder, None)
    return package


if __name__ == "__main__":
    load("server").server.main(sys.argv[1:])
