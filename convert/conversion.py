"""A verb that turns one file into another: the record that such a module of ``verbs/`` ends with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pair_network.errors import PairError
from pair_network.options import add_options, option, settings_of

from . import paths
from .notes import os_reason, report
from .options import Writing

Options = TypeVar("Options", bound=Writing)


@dataclass(frozen=True)
class Files:
    """What a verb alone reads and writes."""

    inputs: Sequence[Path] = option((), "", Path, is_positional=True, nargs="+", metavar="INPUT")
    output: Path | None = option(
        None, "file, or folder for several inputs", Path, short="-o", default="beside each input"
    )


@dataclass(frozen=True)
class Conversion(Generic[Options]):
    """A verb that turns one input into one output, alone or in a batch.

    Attributes:
        description: For ``--help``.
        options: What its options are read into.
        ending: Of a result that lies beside its input; a function of the options where they decide.
        convert: Writes an input to an output; returns all that was written.
        verify: Reads a result again and compares it.
        place: Where the options put a result; by default the place that -o names, or the one beside the input.
        base: Name of the option for the checkpoint that all inputs of a batch share; "": there is none.
    """

    description: str
    options: type[Options]
    ending: str | Callable[[Options], str]
    convert: Callable[[Path, Path, Options], list[Path]]
    verify: Callable[[Path, Path, Options], None]
    place: Callable[[Path, Options], Path] = lambda target, options: target
    base: str = ""

    @property
    def conversion(self) -> Conversion[Options]:
        """What a batch runs."""
        return self

    def suffix(self, options: Options) -> str:
        """The ending under these options."""
        return self.ending if isinstance(self.ending, str) else self.ending(options)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The command line of the verb alone."""
        add_options(parser, self.options)
        add_options(parser, Files)

    def run(self, given: argparse.Namespace) -> int:
        """Every input on its own: one that fails is named, the others are converted; returns the exit status."""
        options, files = settings_of(self.options, given), settings_of(Files, given)
        failures = 0
        for source, target in zip(files.inputs, self._targets(files, options), strict=True):
            try:
                for written in self.convert_one(source, target, options):
                    print(written)
            except PairError as error:
                failures += report(error)
            except OSError as error:
                failures += report(os_reason(error, source))
        return int(failures > 0)

    def _targets(self, files: Files, options: Options) -> list[Path]:
        several, suffix = len(files.inputs) > 1, self.suffix(options)
        targets = [
            self.place(paths.target_for(source, files.output, suffix, several), options) for source in files.inputs
        ]
        paths.refuse_collisions(zip(files.inputs, targets, strict=True), "give other names, or use batch")
        return targets

    def convert_one(self, source: Path, target: Path, options: Options) -> list[Path]:
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
