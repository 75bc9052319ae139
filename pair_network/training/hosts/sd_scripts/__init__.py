"""Pair training inside a checkout of kohya-ss sd-scripts."""

from .entry import train

__all__ = ["train"]
