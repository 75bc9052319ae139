"""Pair training inside a checkout of kohya-ss sd-scripts."""

from __future__ import annotations


def train(checkout: str, argv: list[str]) -> None:
    """Trains as the command line says; see ``entry.train``."""
    from .entry import train as run  # its families are asked before torch is needed

    run(checkout, argv)
