"""Pair training inside a checkout of kohya-ss musubi-tuner, the trainer of newer models."""

from .entry import train

__all__ = ["train"]
