"""Filling a network from a file: a coupled checkpoint, or a plain kohya LoRA for the style branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pair_network.errors import PairError

from . import checkpoint
from .config import PairConfig
from .layer import CoupledLayer
from .orthogonal import layer_generator, orthonormal_rows
from .pair_file import is_pair_file

FileLayers = dict[str, tuple[Tensor, Tensor, float]]


@torch.no_grad()
def load_file(layers: Sequence[CoupledLayer], config: PairConfig, file: str) -> str:
    """Loads ``file`` into a network's layers; returns a sentence that says what was loaded.

    Raises:
        PairError: Keys, shapes or number of pairs differ from the network's.
    """
    tensors, metadata = checkpoint.read(file)
    if not is_pair_file(metadata):
        load_style(layers, checkpoint.layers_of(tensors, file), file)
        _renew_content(layers, config)
        return f"style branch of {len(layers)} layers; the content branch starts from zero"
    content, style = checkpoint.split_branches(tensors, file)
    load_style(layers, checkpoint.layers_of(style, file), file)
    _load_content(layers, config, checkpoint.layers_of(content, file), file)
    return f"content and style branch of {len(layers)} layers, {config.num_pairs} pair(s)"


@torch.no_grad()
def load_style(layers: Sequence[CoupledLayer], loaded: FileLayers, source: str) -> None:
    """Fills the style branch; PairError when keys or shapes differ from the layers'."""
    for layer, down, up, alpha in _matched(layers, loaded, source):
        _, style = layer.downs()
        _check_shape(source, layer.name, down, style)
        _check_up(source, layer.name, up, down, layer)
        style.copy_(down)
        # Another alpha goes into the up-factor alone: the down's rows must stay orthonormal.
        ratio = alpha / down.shape[0] / layer.style_scale
        layer.set_up("style", up * ratio)


def _load_content(layers: Sequence[CoupledLayer], config: PairConfig, loaded: FileLayers, source: str) -> None:
    for layer, down, up, alpha in _matched(layers, loaded, source):
        content, _ = layer.downs()
        _check_shape(source, layer.name, down, content)
        if up.shape[0] != config.num_pairs:
            raise PairError(
                f"{source}: holds {up.shape[0]} pair(s), but the dataset has {config.num_pairs}; train with "
                "the same pairs, or continue from the style LoRA alone (NAME.safetensors)"
            )
        _check_up(source, layer.name, up[0], down, layer)
        content.copy_(down)
        ratio = alpha / down.shape[0] / layer.content_scale
        layer.set_up("content", up * ratio)


def _renew_content(layers: Sequence[CoupledLayer], config: PairConfig) -> None:
    """Content ups at zero; frozen content rows drawn anew, orthogonal to the style rows that were just loaded."""
    for layer in layers:
        layer.content_up.zero_()
        if not config.trains_downs:
            content, style = layer.downs()
            generator = layer_generator(config.basis_seed, layer.name)
            style_rows = style.flatten(1)
            rows = orthonormal_rows(
                layer.content_rank, style_rows.shape[1], generator, orthogonal_to=style_rows, layer_name=layer.name
            )
            content.copy_(rows.reshape(content.shape))


def _matched(
    layers: Sequence[CoupledLayer], found: FileLayers, source: str
) -> list[tuple[CoupledLayer, Tensor, Tensor, float]]:
    """Every layer of the network with its down, up and alpha.

    Raises:
        PairError: The file has other layers than the network.
    """
    names = {layer.name for layer in layers}
    missing, unexpected = names - set(found), set(found) - names
    if missing or unexpected:
        raise PairError(
            f"{source}: its layers are not this network's: {len(missing)} missing {sorted(missing)[:3]}, "
            f"{len(unexpected)} unexpected {sorted(unexpected)[:3]}; use --dim_from_weights, or the targets and "
            "block_dims it was trained with"
        )
    return [(layer, *found[layer.name]) for layer in layers]


def _check_up(source: str, key: str, up: Tensor, down: Tensor, layer: CoupledLayer) -> None:
    wanted = (layer.style_up.shape[0], down.shape[0])
    if tuple(up.shape[:2]) != wanted or up.numel() != wanted[0] * wanted[1]:
        raise PairError(
            f"{source}: {key} has an up of shape {tuple(up.shape)}, the layer needs {wanted}; is it damaged?"
        )


def _check_shape(source: str, key: str, found: Tensor, own: Tensor) -> None:
    if found.shape != own.shape:
        raise PairError(
            f"{source}: {key} has a down of shape {tuple(found.shape)}, this network's is {tuple(own.shape)}; "
            "use --dim_from_weights, or the rank it was trained with"
        )
