"""Command line: ``python -m convert VERB INPUT… -o OUTPUT``."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from pair_network.errors import PairError

from .notes import notes, os_reason, report
from .verbs import SUMMARIES, verb_named


@functools.cache
def build_parser(verbs: tuple[str, ...] = tuple(SUMMARIES)) -> argparse.ArgumentParser:
    """The command line with the options of these verbs; of the others it knows the names."""
    parser = argparse.ArgumentParser(prog="python -m convert", description="Converts LoRA files between formats.")
    each = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in SUMMARIES.items():
        verb = verb_named(name) if name in verbs else None
        description = verb.description if verb is not None else None
        own = each.add_parser(name, help=summary, description=description, allow_abbrev=False)
        if verb is not None:
            verb.add_arguments(own)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit status: 0 done, 1 failed in part or whole, 2 not understood."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(tuple(given[:1]))  # the verb stands first
    # batch takes the options of the verb that it runs; only that verb knows them.
    options, rest = parser.parse_known_args(given)
    if rest and options.verb != "batch":
        parser.parse_args(given)
    with notes(_print_note):
        return _run(argparse.Namespace(**vars(options), rest=rest))


def _print_note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    try:
        return verb_named(options.verb).run(options)
    except PairError as error:
        return report(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing is wrong with the files
        return 1
    except OSError as error:
        return report(os_reason(error, options.verb))
