"""Puts or updates the guidance script into A1111's or Forge's extensions."""

from __future__ import annotations

import argparse
from pathlib import Path

from convert.command import Command

from .install import RESTART, install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="the UI's extensions folder")


def run(options: argparse.Namespace) -> int:
    """Installs the extension, prints its folder and what to do next; returns the exit status."""
    print(install("webui", options.into))
    print(RESTART)
    return 0


VERB = Command(__doc__, add_arguments, run)
