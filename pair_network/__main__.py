"""``pair-network VERB …`` and ``python -m pair_network VERB …``: everything that the package can be told to do."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from .errors import PairError, nearest, reported
from .files import with_home
from .signals import exit_status, run_main

Run = Callable[[list[str]], int]
LESS_MEMORY = "--gradient_checkpointing or a smaller --resolution"


def train(argv: list[str]) -> int:
    from .training import launch

    return launch.train(argv)


def check(argv: list[str]) -> int:
    from .training.check import cli

    return cli.run(argv)


def generate(argv: list[str]) -> int:
    from .sampling.cli.options import read_generate

    options = read_generate(argv)  # --help ends here, before torch is imported
    from .sampling.cli import generate as verb

    verb.run(options)
    return 0


def restyle(argv: list[str]) -> int:
    from .sampling.cli.options import read_restyle

    options = read_restyle(argv)
    from .sampling.cli import restyle as verb

    verb.run(options)
    return 0


def pairs(argv: list[str]) -> int:
    from .pseudo_pairs.options import read_pairs

    options = read_pairs(argv)
    from .pseudo_pairs import command

    return command.main(options)


def app(argv: list[str]) -> int:
    from .app import command

    return command.run(argv)


def convert(argv: list[str]) -> int:
    return run_package("convert", argv)


def demo(argv: list[str]) -> int:
    root = Path(__file__).resolve().parents[1]
    if not (root / "demo" / "__main__.py").is_file():
        raise PairError("the demo and its model are in the source tree, not in the package: python run.py demo there")
    sys.path.insert(0, str(root))
    return run_package("demo", argv)


# Verb -> what it does, and its function; a verb's own parser is imported when it is asked for.
VERBS: dict[str, tuple[str, Run]] = {
    "train": ("a style from pairs: one photo and the same photo in the style, or many", train),
    "check": ("what a training would say about its pictures; the pairs side by side in one picture", check),
    "generate": (
        "pictures with a style: from text or a picture, inpainting, ControlNet, grids, comparisons",
        generate,
    ),
    "restyle": ("a photo in a style, by DDIM inversion", restyle),
    "pairs": ("many training pairs out of one: its change learnt by pixels, checked, made to other pictures", pairs),
    "convert": ("LoRA files between formats; what a file is; merging, extracting, installing into the UIs", convert),
    "app": ("a page in the browser: learn, compare, restyle, send to a UI; on this computer alone", app),
    "demo": ("learns a style from one bundled pair and shows it (in the source tree)", demo),
}


def usage() -> str:
    """What --help prints."""
    verbs = "\n".join(f"  {verb:10}{meaning}" for verb, (meaning, _) in VERBS.items())
    return f"usage: pair-network VERB ...\n\n{verbs}\n\npair-network VERB --help lists a verb's options."


def run_package(name: str, argv: Sequence[str]) -> int:
    """Runs a package that has a command line of its own; returns its exit status."""
    sys.argv[1:] = list(argv)
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; a user's mistake is one line on stderr and exit status 2."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help", "--version"):
        print(__version__ if verb == "--version" else usage())
        return 0
    remedy = LESS_MEMORY if verb == "train" else "--low_memory, or smaller --width and --height"
    try:
        return reported(lambda: _run(verb, with_home(rest)), remedy)
    except KeyboardInterrupt as stop:
        print(f"{verb}: stopped; what was saved before is whole", file=sys.stderr)
        return exit_status(stop)


def _run(verb: str, argv: list[str]) -> int:
    if verb not in VERBS:
        raise PairError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; known are {', '.join(VERBS)}")
    return VERBS[verb][1](argv)


def command() -> int:
    """The installed command ``pair-network``: signals end it cleanly."""
    return run_main(main)


if __name__ == "__main__":
    sys.exit(command())
