"""Writes a Stable Diffusion 1.5 checkpoint of random weights, to drive a real back end with.

    python tests/convert/random_checkpoint.py OUT_FOLDER [--width 320]

2.1 GB in fp16 at the real width, 320; about half a minute on one core. The layout is the original release's, so that
every UI recognises it; a smaller ``--width`` (a multiple of 32) also needs the .yaml that is then written beside it,
which A1111 reads and Forge does not. It draws nothing meaningful, but every layer passes a signal of ordinary size on,
so that two ways of computing the same picture can be compared.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

Shape = tuple[int, ...]
Layout = Iterator[tuple[str, Shape]]
MULTIPLIERS, CONTEXT = (1, 2, 4, 4), 768
CLIP_LAYERS, CLIP_MLP, TOKENS, POSITIONS = 12, 3072, 49408, 77
LATENT = 4


def layer(name: str, *shape: int) -> Layout:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def conv(name: str, into: int, out: int, kernel: int = 3) -> Layout:
    return layer(name, out, into, kernel, kernel)


def unet_resnet(name: str, into: int, out: int, time: int) -> Layout:
    yield from layer(f"{name}.in_layers.0", into)
    yield from conv(f"{name}.in_layers.2", into, out)
    yield from layer(f"{name}.emb_layers.1", out, time)
    yield from layer(f"{name}.out_layers.0", out)
    yield from conv(f"{name}.out_layers.3", out, out)
    if into != out:
        yield from conv(f"{name}.skip_connection", into, out, 1)


def unet_attention(name: str, width: int) -> Layout:
    block = f"{name}.transformer_blocks.0"
    yield from layer(f"{name}.norm", width)
    yield from conv(f"{name}.proj_in", width, width, 1)
    for attention, context in (("attn1", width), ("attn2", CONTEXT)):
        yield f"{block}.{attention}.to_q.weight", (width, width)
        yield f"{block}.{attention}.to_k.weight", (width, context)
        yield f"{block}.{attention}.to_v.weight", (width, context)
        yield from layer(f"{block}.{attention}.to_out.0", width, width)
    yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from layer(f"{block}.{norm}", width)
    yield from conv(f"{name}.proj_out", width, width, 1)


def unet(width: int) -> Layout:
    """The U-Net's tensors without their prefix; 320 is the real width."""
    time, current, skips = 4 * width, width, [width]
    yield from layer("time_embed.0", time, width)
    yield from layer("time_embed.2", time, time)
    yield from conv("input_blocks.0.0", LATENT, width)
    number = 1
    for level, multiplier in enumerate(MULTIPLIERS):
        for _ in range(2):
            yield from unet_resnet(f"input_blocks.{number}.0", current, width * multiplier, time)
            current = width * multiplier
            if level < 3:
                yield from unet_attention(f"input_blocks.{number}.1", current)
            skips.append(current)
            number += 1
        if level < 3:
            yield from conv(f"input_blocks.{number}.0.op", current, current)
            skips.append(current)
            number += 1
    yield from unet_resnet("middle_block.0", current, current, time)
    yield from unet_attention("middle_block.1", current)
    yield from unet_resnet("middle_block.2", current, current, time)
    for number in range(12):
        level = 3 - number // 3
        out = width * MULTIPLIERS[level]
        yield from unet_resnet(f"output_blocks.{number}.0", current + skips.pop(), out, time)
        current = out
        if level < 3:
            yield from unet_attention(f"output_blocks.{number}.1", current)
        if number % 3 == 2 and level > 0:
            yield from conv(f"output_blocks.{number}.{1 if level == 3 else 2}.conv", current, current)
    yield from layer("out.0", width)
    yield from conv("out.2", width, LATENT)


def vae_resnet(name: str, into: int, out: int) -> Layout:
    yield from layer(f"{name}.norm1", into)
    yield from conv(f"{name}.conv1", into, out)
    yield from layer(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out)
    if into != out:
        yield from conv(f"{name}.nin_shortcut", into, out, 1)


def vae_half(name: str, wide: int, into: int, out: int, levels: list[int], resnets: int, scale: str) -> Layout:
    """Encoder (levels from 0 up) or decoder (from 3 down, where the middle comes first)."""
    is_encoder = scale == "down"
    current = wide * (1 if is_encoder else MULTIPLIERS[-1])
    yield from conv(f"{name}.conv_in", into, current)
    for level in levels:
        for block in range(resnets):
            width = wide * MULTIPLIERS[level]
            yield from vae_resnet(f"{name}.{scale}.{level}.block.{block}", current, width)
            current = width
        if level != levels[-1]:
            yield from conv(f"{name}.{scale}.{level}.{scale}sample.conv", current, current)
    middle = wide * MULTIPLIERS[-1]
    for block in ("block_1", "block_2"):
        yield from vae_resnet(f"{name}.mid.{block}", middle, middle)
    yield from layer(f"{name}.mid.attn_1.norm", middle)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.mid.attn_1.{part}", middle, middle, 1)
    yield from layer(f"{name}.norm_out", current)
    yield from conv(f"{name}.conv_out", current, out)


def vae(width: int) -> Layout:
    """The autoencoder's tensors; 128 is the real width."""
    yield from vae_half("encoder", width, 3, 2 * LATENT, [0, 1, 2, 3], 2, "down")
    yield from vae_half("decoder", width, LATENT, 3, [3, 2, 1, 0], 3, "up")
    yield from conv("quant_conv", 2 * LATENT, 2 * LATENT, 1)
    yield from conv("post_quant_conv", LATENT, LATENT, 1)


def text_encoder() -> Layout:
    yield "embeddings.token_embedding.weight", (TOKENS, CONTEXT)
    yield "embeddings.position_embedding.weight", (POSITIONS, CONTEXT)
    for number in range(CLIP_LAYERS):
        block = f"encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from layer(f"{block}.self_attn.{part}", CONTEXT, CONTEXT)
        yield from layer(f"{block}.mlp.fc1", CLIP_MLP, CONTEXT)
        yield from layer(f"{block}.mlp.fc2", CONTEXT, CLIP_MLP)
        yield from layer(f"{block}.layer_norm1", CONTEXT)
        yield from layer(f"{block}.layer_norm2", CONTEXT)
    yield from layer("final_layer_norm", CONTEXT)


def drawn(name: str, shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Norms as at the start of a training, weights of unit gain, small biases."""
    if name.endswith(".bias"):
        return 0.02 * torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return torch.ones(shape)
    scale = 0.05 if "embedding" in name else 1 / math.sqrt(math.prod(shape[1:]))
    return scale * torch.randn(shape, generator=generator)


def vae_width(width: int) -> int:
    """128 beside the real U-Net's 320, and small beside a small one."""
    return 128 if width == 320 else 32


def checkpoint(width: int, seed: int = 0, vae_channels: int | None = None) -> dict[str, torch.Tensor]:
    """A whole checkpoint in the original layout, fp16."""
    generator = torch.Generator().manual_seed(seed)
    parts = {
        "model.diffusion_model.": unet(width),
        "first_stage_model.": vae(vae_channels or vae_width(width)),
        "cond_stage_model.transformer.text_model.": text_encoder(),
    }
    tensors = {
        prefix + name: drawn(name, shape, generator).half() for prefix, part in parts.items() for name, shape in part
    }
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    tensors["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
    return tensors


YAML = """\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 64
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {{image_size: 32, in_channels: 4, out_channels: 4, model_channels: {width},
        attention_resolutions: [4, 2, 1], num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_heads: 8,
        use_spatial_transformer: true, transformer_depth: 1, context_dim: 768, use_checkpoint: false, legacy: false}}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig: {{double_z: true, z_channels: 4, resolution: 256, in_channels: 3, out_ch: 3, ch: {vae},
          ch_mult: [1, 2, 4, 4], num_res_blocks: 2, attn_resolutions: [], dropout: 0.0}}
        lossconfig: {{target: torch.nn.Identity}}
    cond_stage_config: {{target: ldm.modules.encoders.modules.FrozenCLIPEmbedder}}
"""


def write_checkpoint(folder: Path, width: int = 320, vae_channels: int | None = None) -> Path:
    """Writes the checkpoint unless it is there, with its configuration where the width is not the real one."""
    file = folder / f"random-sd15{'' if width == 320 else f'-{width}'}.safetensors"
    if not file.exists():
        unfinished = file.with_suffix(".part")
        save_file(checkpoint(width, vae_channels=vae_channels), unfinished, {"format": "pt"})
        unfinished.rename(file)
    if width != 320:
        file.with_suffix(".yaml").write_text(
            YAML.format(width=width, vae=vae_channels or vae_width(width)), encoding="utf-8"
        )
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=320, help="the U-Net's first width; 320 is SD 1.5's")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(write_checkpoint(options.folder, options.width))


if __name__ == "__main__":
    main()
