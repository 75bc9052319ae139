"""The embedded model as one file: `python -m demo.single_file -o embedded.safetensors`.

The keys are those of the original Stable Diffusion checkpoints (model.diffusion_model.*, first_stage_model.*,
cond_stage_model.transformer.*), so that whatever takes a checkpoint in one file takes this model too; the folder's
configuration has to be named beside it, since its shapes are not Stable Diffusion's.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from demo.model_config import MODEL_DIR
from pair_network.families.unet import OUTSIDE, RESNET, SHORTCUT
from pair_network.files import atomic_file
from pair_network.training.hosts.embedded.model_files import read_settings

UNET_RESNET = {**RESNET, **SHORTCUT, "norm1": "in_layers.0", "norm2": "out_layers.0"}
UNET_OUTSIDE = {**OUTSIDE, "conv_norm_out": "out.0"}
UNET_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
VAE_MIDDLE = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(path: str, names: dict[str, str]) -> str:
    """A path whose leading part, where the table has it, gets its other name."""
    for own, original in names.items():
        if path == own or path.startswith(f"{own}."):
            return original + path.removeprefix(own)
    return path


def unet_key(key: str, layers: int, attends: list[bool]) -> str:
    """The original U-Net's name of a tensor.

    Args:
        key: diffusers' name.
        layers: Resnets of a down block; an up block has one more.
        attends: Whether each up block has attention, which moves its upsampler.
    """
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key)
    if match is None:
        inside = re.match(r"mid_block\.(\w+\.\d)\.(.+)", key)
        if inside is None:
            return renamed(key, UNET_OUTSIDE)
        return f"middle_block.{UNET_MIDDLE[inside[1]]}.{renamed(inside[2], UNET_RESNET)}"
    side, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    first = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{1 + attends[block]}.{rest}"
    place = f"input_blocks.{first + 1 + index}" if side == "down" else f"output_blocks.{first + index}"
    return f"{place}.0.{renamed(rest, UNET_RESNET)}" if kind == "resnets" else f"{place}.1.{rest}"


def vae_key(key: str, blocks: int) -> str:
    """The original autoencoder's name of a tensor; its decoder counts blocks from the picture's side."""
    match = re.match(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key)
    if match is None:
        inside = re.match(r"(encoder|decoder)\.mid_block\.(\w+\.\d)\.(.+)", key)
        if inside is None:
            return key.replace("conv_norm_out", "norm_out")
        return f"{inside[1]}.mid.{VAE_MIDDLE[inside[2]]}.{renamed(inside[3], VAE_ATTENTION)}"
    coder, side, block, kind, index, rest = match.groups()
    place = f"{coder}.{side}.{int(block) if side == 'down' else blocks - 1 - int(block)}"
    if kind == "resnets":
        return f"{place}.block.{index}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    return f"{place}.{side}sample.{rest}"


def original_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a diffusers folder of Stable Diffusion 1's kind under its original name."""
    unet, vae = (read_settings(folder / part / "config.json") for part in ("unet", "vae"))
    attends = ["Attn" in kind for kind in unet["up_block_types"]]
    tensors = {}
    for key, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{unet_key(key, unet['layers_per_block'], attends)}"] = value
    for key, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        name = vae_key(key, len(vae["block_out_channels"]))
        # The original's attention is made of 1 x 1 convolutions.
        is_projection = ".mid.attn_1." in name and value.dim() == 2
        tensors[f"first_stage_model.{name}"] = value[:, :, None, None] if is_projection else value
    for key, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        tensors[f"cond_stage_model.transformer.{key}"] = value
    return {key: value.contiguous() for key, value in tensors.items()}


def write_single_file(path: Path, folder: Path = MODEL_DIR) -> None:
    """Writes the model whole or not at all."""
    with atomic_file(path) as temporary:
        save_file(original_tensors(folder), temporary, metadata={"format": "pt"})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="diffusers folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors to write")
    args = parser.parse_args()
    write_single_file(args.output, args.model)
    print(args.output)


if __name__ == "__main__":
    main()
