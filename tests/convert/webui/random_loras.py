"""Random kohya LoRAs for the random checkpoint: what the live tests apply, and what the extension must refuse.

Styles and a prompt LoRA cover U-Net attention, feed-forward and convolutions at rank 4; one style is of zeros.
"""

from __future__ import annotations

import math

import torch

Shape = tuple[int, ...]
MULTIPLIERS, CONTEXT, CLIP_MLP = (1, 2, 4, 4), 768, 3072


def style_lora(width: int, seed: int, strength: float = 1.0, rank: int = 4) -> dict[str, torch.Tensor]:
    """A kohya LoRA with diffusers' block names: all of down_blocks.1's first attention, and a few convolutions.

    Args:
        width: The U-Net's first width.
        seed: Of the factors.
        strength: Factor on the ups; 0 gives a LoRA without effect.
        rank: Of every layer; alpha is half of it.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in style_layers(width).items():
        down = torch.randn(rank, *shape[1:], generator=generator) / math.sqrt(math.prod(shape[1:]))
        up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), generator=generator)
        tensors[f"lora_unet_{name}.lora_down.weight"] = down.contiguous()
        tensors[f"lora_unet_{name}.lora_up.weight"] = (strength * up).contiguous()
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(rank / 2)
    return tensors


def style_layers(width: int) -> dict[str, Shape]:
    """kohya's names, without the prefix, of the layers that the style LoRAs cover -> shapes of their weights."""
    layers: dict[str, Shape] = {}
    places = {f"down_blocks_{block}_attentions_0": width * MULTIPLIERS[block] for block in range(3)}
    places |= {"mid_block_attentions_0": 4 * width}
    places |= {f"up_blocks_{block}_attentions_2": width * MULTIPLIERS[3 - block] for block in (1, 2, 3)}
    for place, size in places.items():
        layers |= {f"{place}_proj_in": (size, size, 1, 1), f"{place}_proj_out": (size, size, 1, 1)}
        block = f"{place}_transformer_blocks_0"
        layers |= {f"{block}_attn1_{part}": (size, size) for part in ("to_q", "to_k", "to_v", "to_out_0")}
        layers |= {f"{block}_attn2_to_q": (size, size), f"{block}_attn2_to_out_0": (size, size)}
        layers |= {f"{block}_attn2_{part}": (size, CONTEXT) for part in ("to_k", "to_v")}
        layers |= {f"{block}_ff_net_0_proj": (8 * size, size), f"{block}_ff_net_2": (size, 4 * size)}
    layers |= {f"down_blocks_{block}_downsamplers_0_conv": (w, w, 3, 3) for block, w in ((0, width), (1, 2 * width))}
    layers |= {f"up_blocks_{block}_upsamplers_0_conv": (w, w, 3, 3) for block, w in ((0, 4 * width), (2, 2 * width))}
    layers["down_blocks_1_resnets_0_conv_shortcut"] = (2 * width, width, 1, 1)
    layers["mid_block_resnets_1_time_emb_proj"] = (4 * width, 4 * width)
    return layers


def loras(width: int) -> dict[str, dict[str, torch.Tensor]]:
    """File names -> tensors of all the LoRAs that the live tests use."""
    encoder = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    made = {name: style_lora(width, seed) for name, seed in (("style-a", 1), ("style-b", 2), ("prompt-lora", 3))}
    made["style-zero"] = style_lora(width, 1, strength=0.0)
    made["te-style"] = {
        **made["style-a"],
        f"{encoder}.lora_down.weight": torch.ones(1, CONTEXT),
        f"{encoder}.lora_up.weight": torch.ones(CLIP_MLP, 1),
        f"{encoder}.alpha": torch.tensor(1.0),
    }
    made["wrong-style"] = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(1, 2048),
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.ones(640, 1),
    }
    return made
