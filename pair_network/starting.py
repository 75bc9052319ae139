"""Programs that are started and modules that are imported by name: ours and installed ones, never what lies around."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from .errors import PairError, printable

PROJECT = Path(__file__).resolve().parents[1]
# "python -m" would search the current folder first, where models from anywhere lie, and a torch.py of theirs.
START = (
    "import sys; root = sys.argv.pop(1); sys.path = [*([root] * (root not in sys.path)), *filter(None, sys.path)]; "
    "import runpy; runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
)


def command(package: str, *arguments: str) -> list[str]:
    """A command line that runs one of this project's packages in a process of its own."""
    return [sys.executable, "-c", START, str(PROJECT), package, *arguments]


def environment() -> dict[str, str]:
    """This process's variables, with the project first where a child looks for modules.

    An empty entry of PYTHONPATH would mean the current folder.
    """
    places = [str(PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def installed_module(name: str, option: str) -> ModuleType:
    """The module that an option, or a config file from elsewhere, names.

    Raises:
        PairError: It is one of Python's own, some of which do things when they are imported.
        ImportError: There is none.
    """
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise PairError(f"{option} {printable(name)}: is a part of Python itself; name another module")
    return importlib.import_module(name)
