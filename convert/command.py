"""A verb with a command line of its own: the record that such a module of ``verbs/`` ends with.

Needs the standard library alone, as the installers do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conversion import Conversion


@dataclass(frozen=True)
class Command:
    """A verb with a command line of its own.

    Attributes:
        description: For ``--help``.
        add_arguments: Adds its options.
        run: Does what they say; returns the exit status.
        conversion: What it is in a batch; None: it is in none.
    """

    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    conversion: Conversion | None = None
