"""kohya's LoRA files on diffusers' transformers, exactly.

kohya's files follow the original models, which fuse q, k, v (and a single block's MLP) into one layer; diffusers keeps
them apart. One fused layer's LoRA is each part's LoRA with the same down and that part's rows of the up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.families import FAMILIES, Family
from pair_network.network.loading import FileLayers


def _family_of(model: nn.Module) -> Family | None:
    """The family of diffusers' transformer that kohya's files name otherwise."""
    name = type(model).__name__
    known = (family for family in FAMILIES.values() if family.component == "transformer" and family.blocks)
    return next((family for family in known if family.diffusers_class == name), None)


def is_split_transformer(model: nn.Module) -> bool:
    """Whether kohya's files name this model's layers otherwise than the model does."""
    return _family_of(model) is not None


def split_layers(layers: FileLayers, model: nn.Module, source: str) -> FileLayers:
    """A kohya LoRA's layers under the keys of diffusers' model, fused ones taken apart; other keys unchanged.

    Args:
        layers: Down ``(rank, in)``, up ``(out, rank)`` and alpha by kohya's key.
        model: diffusers' transformer.
        source: The file, for errors.

    Raises:
        PairError: A fused layer's up has another height than the model's parts together.
    """
    family = _family_of(model)
    places = {_key(entry.native): entry for entry in family.entries} if family else {}
    modules = dict(model.named_modules())
    split: FileLayers = {}
    for key, (down, up, alpha) in layers.items():
        place = places.get(key)
        if place is None or any(path not in modules for path in place.modules):
            split[key] = (down, up, alpha)
            continue
        widths = [_out_width(modules[path]) for path in place.modules]
        if sum(widths) != up.shape[0]:
            raise PairError(
                f"{source}: {key} has {up.shape[0]} outputs, this model's layer has {sum(widths)}; was it trained on "
                "another model?"
            )
        # (shift, scale) in the original, (scale, shift) in diffusers: only where these two are all there is.
        if place.swaps and up.shape[0] == 2 * _in_width(modules[place.modules[0]]):
            up = torch.cat(up.chunk(2)[::-1])
        for path, rows in zip(place.modules, up.split(widths), strict=True):
            split[_key(path)] = (down, rows, alpha)
    return split


def _key(path: str) -> str:
    return f"lora_unet_{path}".replace(".", "_")


def _in_width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return int(getattr(module, "in_features", weight.shape[1]))


def _out_width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    # Quantised weights are packed; the layer still knows its width.
    return int(getattr(module, "out_features", weight.shape[0]))
