"""The embedded host's command line: a parser made from its options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from pair_network.errors import PairError, nearest
from pair_network.network.config import PairConfig
from pair_network.options import add_options, options_of

from ...options import PairOptions, add_pair_options
from .config import EmbeddedOptions


class OptionParser(argparse.ArgumentParser):
    """An argument parser whose every complaint is a PairError, with the nearest option for an unknown one."""

    def __init__(self, description: str, epilog: str):
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=epilog, formatter_class=as_written, allow_abbrev=False)

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((text for text in unknown if text.startswith("-")), unknown[0]).split("=")[0]
            accepted = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise PairError(
                f"unknown option {name}{nearest(name, accepted)}; the embedded host has some of sd-scripts' options; "
                "--help lists them"
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        raise PairError(re.sub(r"^argument (--\S+?)(?:/\S+)?:", r"\1:", message))


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
