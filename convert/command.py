"""A verb with a command line of its own: the record that such a module of ``verbs/`` ends with.

Needs the standard library alone, as the installers do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pair_network.options import add_options, settings_of

if TYPE_CHECKING:
    from .conversion import Conversion

Options = TypeVar("Options")


@dataclass(frozen=True)
class Command(Generic[Options]):
    """A verb with a command line of its own.

    Attributes:
        description: For ``--help``.
        options: What its command line is read into.
        work: Does what they say; returns the exit status.
        conversion: What it is in a batch; None: it is in none.
    """

    description: str
    options: type[Options]
    work: Callable[[Options], int]
    conversion: Conversion[Any] | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The command line of the verb."""
        add_options(parser, self.options)

    def run(self, given: argparse.Namespace) -> int:
        """Does what a command line says; returns the exit status."""
        return self.work(settings_of(self.options, given))
