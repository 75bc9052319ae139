"""Layers of the U-Nets of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from .entry import Entry

WIDENING = (1, 2)  # down blocks whose first resnet changes the width, and so has a shortcut
PER_BLOCK = 2  # resnets in a down block; an up block has one more

# Transformer depth of each down block, of the middle, and of each up block; 0: no attention there.
DEPTHS = {
    "sd": ((1, 1, 1, 0), 1, (0, 1, 1, 1)),
    "sdxl": ((0, 2, 10), 10, (10, 2, 0)),
}

ATTENTION = tuple(f"attn{number}.{part}" for number in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0"))
TRANSFORMER = (*ATTENTION, "ff.net.0.proj", "ff.net.2")

# diffusers' names within a block and beside the blocks, with the original ones.
RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3"}
SHORTCUT = {"conv_shortcut": "skip_connection"}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
OUTSIDE_XL = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


@lru_cache
def unet_entries(kind: str) -> tuple[Entry, ...]:
    """Every linear and convolution layer of the "sd" or "sdxl" U-Net."""
    down, middle, up = DEPTHS[kind]
    pairs = [*_down(down), *_middle(middle), *_up(up), *OUTSIDE.items()]
    if kind == "sdxl":
        pairs += OUTSIDE_XL.items()
    return tuple(Entry(native, (module,)) for module, native in pairs)


def _down(depths: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    for block, depth in enumerate(depths):
        first = 1 + (PER_BLOCK + 1) * block
        for index in range(PER_BLOCK):
            widens = index == 0 and block in WIDENING
            yield from _resnet(f"down_blocks.{block}.resnets.{index}", f"input_blocks.{first + index}.0", widens)
            yield from _attention(f"down_blocks.{block}.attentions.{index}", f"input_blocks.{first + index}.1", depth)
        if block + 1 < len(depths):
            yield f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{first + PER_BLOCK}.0.op"


def _middle(depth: int) -> Iterator[tuple[str, str]]:
    for index in range(2):
        yield from _resnet(f"mid_block.resnets.{index}", f"middle_block.{2 * index}", False)
    yield from _attention("mid_block.attentions.0", "middle_block.1", depth)


def _up(depths: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    for block, depth in enumerate(depths):
        first = (PER_BLOCK + 1) * block
        for index in range(PER_BLOCK + 1):
            # An up block reads its input joined with a down block's output, so every resnet has a shortcut.
            yield from _resnet(f"up_blocks.{block}.resnets.{index}", f"output_blocks.{first + index}.0", True)
            yield from _attention(f"up_blocks.{block}.attentions.{index}", f"output_blocks.{first + index}.1", depth)
        if block + 1 < len(depths):
            place = f"output_blocks.{first + PER_BLOCK}.{2 if depth else 1}.conv"
            yield f"up_blocks.{block}.upsamplers.0.conv", place


def _resnet(module: str, native: str, has_shortcut: bool) -> Iterator[tuple[str, str]]:
    names = {**RESNET, **SHORTCUT} if has_shortcut else RESNET
    return ((f"{module}.{name}", f"{native}.{original}") for name, original in names.items())


def _attention(module: str, native: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth:
        names = ["proj_in", "proj_out"]
        names += [f"transformer_blocks.{number}.{name}" for number in range(depth) for name in TRANSFORMER]
        yield from ((f"{module}.{name}", f"{native}.{name}") for name in names)
