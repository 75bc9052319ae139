"""Options that verbs share, and what they mean."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pair_network.errors import PairError

from .files import lazy
from .formats.families import FAMILIES
from .formats.layers import Adapter, Branch, Layer, concatenated, fold_alpha
from .formats.read import read_adapter

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BRANCHES = ("style", "content", "both")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How an input is read."""
    parser.add_argument("--family", choices=list(FAMILIES), help="model family, where the file leaves it open")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="also read .pt and .ckpt, through torch's weights_only loading"
    )


def add_branch(parser: argparse.ArgumentParser) -> None:
    """Which branch of a coupled checkpoint becomes the LoRA."""
    parser.add_argument("--branch", choices=BRANCHES, default="style", help="branch of a .pair.safetensors (style)")
    parser.add_argument("--pair", type=int, default=0, metavar="N", help="which pair's content branch, from 0 (0)")


def read_source(source: Path, options: argparse.Namespace) -> Adapter:
    return read_adapter(source, options.family, options.allow_pickle)


def chosen_branch(adapter: Adapter, options: argparse.Namespace) -> Branch:
    """The layers that ``--branch`` and ``--pair`` name.

    Raises:
        PairError: The file has no content branch, or not so many pairs.
    """
    name = getattr(options, "branch", "style")
    if name == "style":
        return adapter.style
    if not adapter.content:
        raise PairError(f"{adapter.source}: has no content branch; only a .pair.safetensors has")
    content = of_pair(adapter, options.pair)
    if name == "content":
        return content
    both = dict(adapter.style)
    for key, layer in content.items():
        both[key] = stacked([both[key], layer]) if key in both else layer
    return both


def of_pair(adapter: Adapter, pair: int) -> Branch:
    """The content branch of one pair."""
    return {key: content_of_pair(layer, pair, adapter.source) for key, layer in adapter.content.items()}


def content_of_pair(layer: Layer, pair: int, source: object) -> Layer:
    """One pair's layer of a content branch, whose up holds every pair's."""
    count = layer.up.shape[0]
    if not 0 <= pair < count:
        raise PairError(f"{source}: --pair {pair}: it holds {count} pair(s), numbered from 0")
    if count == 1:
        return replace(layer, up=lazy.reshaped(layer.up, layer.up.shape[1:]))
    return replace(layer, up=lazy.mapped(layer.up, lambda up: up[pair], layer.up.shape[1:]))


def stacked(layers: list[Layer]) -> Layer:
    """The sum of several layers over the same modules: their ranks side by side, exactly."""
    if len(layers) == 1:
        return layers[0]
    if len({layer.scale for layer in layers}) > 1:
        layers = [fold_alpha(layer) for layer in layers]
    rank = sum(layer.rank for layer in layers)
    down = concatenated([layer.down for layer in layers])
    up = concatenated([layer.up for layer in layers], dim=1)
    return Layer(layers[0].modules, down, up, layers[0].scale * rank)
