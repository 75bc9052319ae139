"""kohya's FLUX and SD3 LoRA files on diffusers' transformers, exactly.

kohya's files follow the original models, which fuse q, k, v (and a single block's MLP) into one layer; diffusers keeps
them apart. One fused layer's LoRA is each part's LoRA with the same down and that part's rows of the up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.network.loading import FileLayers


class Place(NamedTuple):
    """Where one layer of the original model went.

    Attributes:
        parts: Paths in diffusers' model; the original's output rows are theirs, one after the other.
        swaps_halves: diffusers stores scale before shift here, the original shift before scale.
    """

    parts: tuple[str, ...]
    swaps_halves: bool = False


def _qkv(block: str) -> tuple[str, ...]:
    return (f"{block}.to_q", f"{block}.to_k", f"{block}.to_v")


def _added_qkv(block: str) -> tuple[str, ...]:
    return (f"{block}.add_q_proj", f"{block}.add_k_proj", f"{block}.add_v_proj")


def _embedders(names: dict[str, str], first: str, second: str) -> Iterator[tuple[str, Place]]:
    for original, own in names.items():
        yield f"{original}.{first}", Place((f"time_text_embed.{own}.linear_1",))
        yield f"{original}.{second}", Place((f"time_text_embed.{own}.linear_2",))


def _flux_places(model: nn.Module) -> Iterator[tuple[str, Place]]:
    for i in range(len(model.transformer_blocks)):  # type: ignore[arg-type]
        old, new = f"double_blocks.{i}", f"transformer_blocks.{i}"
        yield f"{old}.img_attn.qkv", Place(_qkv(f"{new}.attn"))
        yield f"{old}.txt_attn.qkv", Place(_added_qkv(f"{new}.attn"))
        yield f"{old}.img_attn.proj", Place((f"{new}.attn.to_out.0",))
        yield f"{old}.txt_attn.proj", Place((f"{new}.attn.to_add_out",))
        for side, suffix in (("img", ""), ("txt", "_context")):
            yield f"{old}.{side}_mlp.0", Place((f"{new}.ff{suffix}.net.0.proj",))
            yield f"{old}.{side}_mlp.2", Place((f"{new}.ff{suffix}.net.2",))
            yield f"{old}.{side}_mod.lin", Place((f"{new}.norm1{suffix}.linear",))
    for i in range(len(model.single_transformer_blocks)):  # type: ignore[arg-type]
        old, new = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        yield f"{old}.linear1", Place((*_qkv(f"{new}.attn"), f"{new}.proj_mlp"))
        yield f"{old}.linear2", Place((f"{new}.proj_out",))
        yield f"{old}.modulation.lin", Place((f"{new}.norm.linear",))
    names = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}
    yield from _embedders(names, "in_layer", "out_layer")
    yield "img_in", Place(("x_embedder",))
    yield "txt_in", Place(("context_embedder",))
    yield "final_layer.linear", Place(("proj_out",))
    yield "final_layer.adaLN_modulation.1", Place(("norm_out.linear",), swaps_halves=True)


def _sd3_places(model: nn.Module) -> Iterator[tuple[str, Place]]:
    last = len(model.transformer_blocks) - 1  # type: ignore[arg-type]
    for i in range(last + 1):
        old, new = f"joint_blocks.{i}", f"transformer_blocks.{i}"
        yield f"{old}.x_block.attn.qkv", Place(_qkv(f"{new}.attn"))
        yield f"{old}.x_block.attn2.qkv", Place(_qkv(f"{new}.attn2"))
        yield f"{old}.context_block.attn.qkv", Place(_added_qkv(f"{new}.attn"))
        yield f"{old}.x_block.attn.proj", Place((f"{new}.attn.to_out.0",))
        yield f"{old}.x_block.attn2.proj", Place((f"{new}.attn2.to_out.0",))
        yield f"{old}.context_block.attn.proj", Place((f"{new}.attn.to_add_out",))
        for side, suffix in (("x_block", ""), ("context_block", "_context")):
            yield f"{old}.{side}.mlp.fc1", Place((f"{new}.ff{suffix}.net.0.proj",))
            yield f"{old}.{side}.mlp.fc2", Place((f"{new}.ff{suffix}.net.2",))
            # The last block's context only passes through a final norm, where diffusers puts scale first.
            is_final = i == last and side == "context_block"
            yield f"{old}.{side}.adaLN_modulation.1", Place((f"{new}.norm1{suffix}.linear",), swaps_halves=is_final)
    yield from _embedders({"t_embedder": "timestep_embedder", "y_embedder": "text_embedder"}, "mlp.0", "mlp.2")
    yield "x_embedder.proj", Place(("pos_embed.proj",))
    yield "context_embedder", Place(("context_embedder",))
    yield "final_layer.linear", Place(("proj_out",))
    yield "final_layer.adaLN_modulation.1", Place(("norm_out.linear",), swaps_halves=True)


FAMILIES = {"FluxTransformer2DModel": _flux_places, "SD3Transformer2DModel": _sd3_places}


def is_split_transformer(model: nn.Module) -> bool:
    """Whether kohya's files name this model's layers otherwise than the model does."""
    return type(model).__name__ in FAMILIES


def split_layers(layers: FileLayers, model: nn.Module, source: str) -> FileLayers:
    """A kohya LoRA's layers under the keys of diffusers' model, fused ones taken apart; other keys unchanged.

    Args:
        layers: Down ``(rank, in)``, up ``(out, rank)`` and alpha by kohya's key.
        model: diffusers' FLUX or SD3 transformer.
        source: The file, for errors.

    Raises:
        PairError: A fused layer's up has another height than the model's parts together.
    """
    places = {_key(old): place for old, place in FAMILIES[type(model).__name__](model)}
    modules = dict(model.named_modules())
    split: FileLayers = {}
    for key, (down, up, alpha) in layers.items():
        place = places.get(key)
        if place is None or any(path not in modules for path in place.parts):
            split[key] = (down, up, alpha)
            continue
        widths = [_out_width(modules[path]) for path in place.parts]
        if sum(widths) != up.shape[0]:
            raise PairError(
                f"{source}: {key} has {up.shape[0]} outputs, this model's layer has {sum(widths)}; was it trained on "
                "another model?"
            )
        if place.swaps_halves:
            up = torch.cat(up.chunk(2)[::-1])
        for path, rows in zip(place.parts, up.split(widths), strict=True):
            split[_key(path)] = (down, rows, alpha)
    return split


def _key(path: str) -> str:
    return f"lora_unet_{path}".replace(".", "_")


def _out_width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    # Quantised weights are packed; the layer still knows its width.
    return int(getattr(module, "out_features", weight.shape[0]))
