"""Puts or updates the guidance nodes into ComfyUI's custom_nodes."""

from __future__ import annotations

import argparse
from pathlib import Path

from convert.command import Command

from .install import RESTART, install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="the UI's custom_nodes folder")


def run(options: argparse.Namespace) -> int:
    """Installs the extension, prints its folder and what to do next; returns the exit status."""
    print(install("comfyui", options.into))
    print(RESTART)
    return 0


VERB = Command(__doc__, add_arguments, run)
