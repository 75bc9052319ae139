"""Command line: ``python -m convert VERB INPUT… -o OUTPUT``."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from convert import paths, verify
from pair_network.errors import PairError
from pair_network.signals import Interrupted, received

from .notes import notes
from .options import add_reading

# Verbs that turn one input into one output, on one command line; and those with a command line of their own.
CONVERSIONS = ("a1111", "diffusers", "peft", "kohya", "pair", "official", "resize", "bake")
OTHERS = ("info", "blend", "merge", "extract", "batch", "webui", "comfyui", "package")


def verb_module(name: str) -> ModuleType:
    return import_module(f"{__package__}.verbs.{name}")


def suffix_of(module: ModuleType, options: argparse.Namespace) -> str:
    """The verb's ending of a result that lies beside its input."""
    suffix: str = module.suffix(options) if hasattr(module, "suffix") else module.SUFFIX
    return suffix


@functools.cache
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m convert", description="Converts LoRA files between formats.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in (*CONVERSIONS, *OTHERS):
        module = verb_module(name)
        own = verbs.add_parser(name, help=module.HELP, description=module.__doc__, allow_abbrev=False)
        if name in CONVERSIONS:
            add_conversion(own)
            own.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
            own.add_argument("-o", "--output", type=Path, help="file, or folder for several inputs (beside each input)")
        module.add_arguments(own)
    return parser


def add_conversion(parser: argparse.ArgumentParser) -> None:
    """Options of every verb that turns one input into one output."""
    add_reading(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--verify", action="store_true", help="read each output again and compare every layer's delta")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit status: 0 done, 1 failed in part or whole, 2 not understood."""
    # batch takes the options of the verb that it runs; only that verb knows them.
    options, rest = build_parser().parse_known_args(arguments)
    if rest and options.verb != "batch":
        build_parser().parse_args(arguments)
    with notes(_print_note):
        return _run(options, rest)


def _print_note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    try:
        module = verb_module(options.verb)
        if options.verb == "batch":
            return int(module.run(options, rest))
        return run_conversions(module, options) if options.verb in CONVERSIONS else int(module.run(options))
    except PairError as error:
        return report(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing is wrong with the files
        return 1
    except OSError as error:
        return report(os_reason(error, options.verb))


def os_reason(error: OSError, verb: str) -> str:
    """What the system refused, by the name that the user knows: not that of the temporary file beside it."""
    place = Path(error.filename) if error.filename else Path(verb)
    name = re.sub(r"^\.(.+)\.\w{8}\.tmp$", r"\1", place.name)
    is_blocked = isinstance(error, (FileExistsError, NotADirectoryError))
    remedy = "a file is where a folder is needed" if is_blocked else "check space and permissions"
    return f"{place.with_name(name) if place.name else place}: {error.strerror or error}; {remedy}"


def report(error: object) -> int:
    """Says it in one line, unless it is what a library made of a signal."""
    if received():
        raise Interrupted(received())
    print(f"error: {error}", file=sys.stderr)
    return 1


def run_conversions(module: ModuleType, options: argparse.Namespace) -> int:
    """Every input on its own: one that fails is named, the others are converted."""
    place = getattr(module, "place", lambda target, options: target)
    several = len(options.inputs) > 1
    targets = [
        place(paths.target_for(source, options.output, module.SUFFIX, several), options) for source in options.inputs
    ]
    taken: dict[str, Path] = {}
    for source, target in zip(options.inputs, targets, strict=True):
        if str(target).casefold() in taken:
            other = taken[str(target).casefold()]
            raise PairError(f"{other} and {source} would both be written to {target}; give other names, or use batch")
        taken[str(target).casefold()] = source
    failures = 0
    for source, target in zip(options.inputs, targets, strict=True):
        try:
            for written in convert_one(module, source, target, options):
                print(written)
        except PairError as error:
            failures += report(error)
        except OSError as error:
            failures += report(os_reason(error, options.verb))
    return int(failures > 0)


def convert_one(module: ModuleType, source: Path, target: Path, options: argparse.Namespace) -> list[Path]:
    """One input to one output, checked before and, with ``--verify``, after.

    Raises:
        PairError: The conversion is refused or failed; the output is as it was.
    """
    if not source.exists():
        raise PairError(f"{source}: no such file")
    paths.check_target(source, target, options.overwrite)
    written: list[Path] = module.convert(source, target, options)
    if options.verify:
        getattr(module, "verify", verify.check)(source, target, options)
    return written
