"""The embedded host's command line: a parser made from its options."""

from __future__ import annotations

import argparse

from pair_network.network.config import PairConfig
from pair_network.options import OneLineParser, add_options, options_of

from ...options import PairOptions, add_pair_options
from .config import EmbeddedOptions


class OptionParser(OneLineParser):
    """The embedded host's parser, which takes no abbreviations."""

    def __init__(self, description: str, epilog: str):
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=epilog, formatter_class=as_written, allow_abbrev=False)

    def about_unknown(self) -> str:
        return "the embedded host has some of sd-scripts' options; --help lists them"


def network_args_help() -> str:
    """The keys of --network_args, one in a line."""
    lines = [f"  {key}: {one.help.replace('`', '')}" for _, key, _, one in options_of(PairConfig)]
    return "\n".join(["keys of --network_args, each as KEY=VALUE:", *lines])


def setup_parser() -> argparse.ArgumentParser:
    """A parser with all options of the embedded host; the plug-in adds its own to it."""
    parser = OptionParser(
        description="Train a coupled content and style LoRA on one or more image pairs.",
        epilog=network_args_help(),
    )
    add_options(parser, EmbeddedOptions, without=PairOptions)
    return parser


def training_parser() -> argparse.ArgumentParser:
    """A parser with the options of the host and of pair training."""
    parser = setup_parser()
    add_pair_options(parser)
    return parser
