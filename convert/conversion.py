"""A verb that turns one file into another: the record that such a module of ``verbs/`` ends with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pair_network.errors import PairError

from . import paths, verify
from .notes import os_reason, report
from .options import add_reading

Arguments = Callable[[argparse.ArgumentParser], None]


def as_named(target: Path, options: argparse.Namespace) -> Path:
    """The place that -o names, or the one beside the input."""
    return target


@dataclass(frozen=True)
class Conversion:
    """A verb that turns one input into one output, alone or in a batch.

    Attributes:
        description: For ``--help``.
        ending: Of a result that lies beside its input; a function of the options where they decide.
        add_own: Adds its own options.
        convert: Writes an input to an output; returns all that was written.
        place: Where the options put a result.
        verify: Reads a result again and compares it.
        base: Name of the option for the checkpoint that all inputs of a batch share; "": there is none.
        is_complete: ``add_own`` adds all there is: the command line of the verb alone is another.
    """

    description: str
    ending: str | Callable[[argparse.Namespace], str]
    add_own: Arguments
    convert: Callable[[Path, Path, argparse.Namespace], list[Path]]
    place: Callable[[Path, argparse.Namespace], Path] = as_named
    verify: Callable[[Path, Path, argparse.Namespace], None] = verify.check
    base: str = ""
    is_complete: bool = False

    @property
    def conversion(self) -> Conversion:
        """What a batch runs."""
        return self

    def suffix(self, options: argparse.Namespace) -> str:
        """The ending under these options."""
        return self.ending if isinstance(self.ending, str) else self.ending(options)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The command line of the verb alone."""
        self.add_options(parser)
        parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
        parser.add_argument("-o", "--output", type=Path, help="file, or folder for several inputs (beside each input)")

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """All options of the conversion, for a batch too."""
        if not self.is_complete:
            add_reading(parser)
            parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
            verify_help = "read each output again and compare every layer's delta"
            parser.add_argument("--verify", action="store_true", help=verify_help)
        self.add_own(parser)

    def run(self, options: argparse.Namespace) -> int:
        """Every input on its own: one that fails is named, the others are converted; returns the exit status."""
        targets = self._targets(options)
        failures = 0
        for source, target in zip(options.inputs, targets, strict=True):
            try:
                for written in self.convert_one(source, target, options):
                    print(written)
            except PairError as error:
                failures += report(error)
            except OSError as error:
                failures += report(os_reason(error, options.verb))
        return int(failures > 0)

    def _targets(self, options: argparse.Namespace) -> list[Path]:
        several, suffix = len(options.inputs) > 1, self.suffix(options)
        targets = [
            self.place(paths.target_for(source, options.output, suffix, several), options) for source in options.inputs
        ]
        taken: dict[str, Path] = {}
        for source, target in zip(options.inputs, targets, strict=True):
            other = taken.setdefault(str(target).casefold(), source)
            if other is not source:
                raise PairError(
                    f"{other} and {source} would both be written to {target}; give other names, or use batch"
                )
        return targets

    def convert_one(self, source: Path, target: Path, options: argparse.Namespace) -> list[Path]:
        """One input to one output, checked before and, with ``--verify``, after.

        Raises:
            PairError: The conversion is refused or failed; the output is as it was.
        """
        if not source.exists():
            raise PairError(f"{source}: no such file")
        paths.check_target(source, target, options.overwrite)
        written = self.convert(source, target, options)
        if options.verify:
            self.verify(source, target, options)
        return written
