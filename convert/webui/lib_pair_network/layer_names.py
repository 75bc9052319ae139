"""kohya's layer names for the modules of a U-Net or transformer in its original (LDM, BFL) layout.

A1111 and Forge both keep that layout. kohya names SDXL, FLUX and SD3 layers by it (``lora_unet_input_blocks_…``,
``lora_unet_double_blocks_…``), SD 1 and 2 by diffusers' blocks (``lora_unet_down_blocks_…``), which are counted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIX = "lora_unet_"
PER_BLOCK = 3  # input blocks: two resnets and a downsampler; output blocks: three resnets
BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)|middle_block\.(\d+)\.(.+)")
RESNET = {
    "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}  # fmt: skip
OUTSIDE = {
    "input_blocks.0.0": "conv_in", "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
}  # fmt: skip


def kohya_names(modules: Iterable[str]) -> dict[str, str]:
    """Every name under which a kohya LoRA may give a module -> the module's own name."""
    names: dict[str, str] = {}
    for module in modules:
        diffusers = diffusers_name(module)
        for name in (module, diffusers):
            if name:
                names.setdefault(PREFIX + name.replace(".", "_"), module)
    return names


def diffusers_name(module: str) -> str | None:
    """``input_blocks.4.1.proj_in`` -> ``down_blocks.1.attentions.0.proj_in``; None: not a layer of a U-Net's block."""
    if module in OUTSIDE:
        return OUTSIDE[module]
    found = BLOCK.fullmatch(module)
    if not found:
        return None
    side, number, part, rest, middle_part, middle_rest = found.groups()
    if middle_part is not None:
        index = int(middle_part)
        kind = "attentions.0" if index == 1 else f"resnets.{index // 2}"
        return f"mid_block.{kind}.{_inner(middle_rest)}"
    if side == "input_blocks":
        block, index = divmod(int(number) - 1, PER_BLOCK)
        if rest == "op":
            return f"down_blocks.{block}.downsamplers.0.conv"
        return f"down_blocks.{block}.{_kind(part)}.{index}.{_inner(rest)}"
    block, index = divmod(int(number), PER_BLOCK)
    if rest == "conv":
        return f"up_blocks.{block}.upsamplers.0.conv"
    return f"up_blocks.{block}.{_kind(part)}.{index}.{_inner(rest)}"


def _kind(part: str) -> str:
    return "resnets" if part == "0" else "attentions"


def _inner(rest: str) -> str:
    return RESNET.get(rest, rest)
