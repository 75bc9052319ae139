"""A checkpoint of Stable Diffusion 1.5's full size and layout with random weights, for running a real back end.

    python tests/convert/random_checkpoint.py model.safetensors

It draws nothing meaningful, but every layer passes a signal of ordinary size on, so that two ways of computing the same
picture can be compared. 2.1 GB in fp16; about half a minute on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
Shape = tuple[str, tuple[int, ...]]


def write_random_checkpoint(path: Path, seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """Writes the checkpoint, unless the file is there already, and returns its path."""
    path = Path(path)
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        shapes = [*_unet(), *_vae(), *_clip()]
        tensors = {name: _values(name, shape, generator).to(dtype) for name, shape in shapes}
        unfinished = path.with_suffix(".part")
        save_file(tensors, unfinished, {"format": "pt"})
        unfinished.rename(path)
    return path


def _values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Weights with unit gain, embeddings of CLIP's size, norms that change nothing; biases are zero."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    fan_in = torch.Size(shape[1:]).numel()
    scale = 0.02 if "embedding" in name else fan_in**-0.5
    return torch.randn(shape, generator=generator) * scale


def _layer(name: str, *shape: int) -> Iterator[Shape]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _unet() -> Iterator[Shape]:
    yield from _layer(f"{UNET}time_embed.0", 1280, 320)
    yield from _layer(f"{UNET}time_embed.2", 1280, 1280)
    yield from _layer(f"{UNET}input_blocks.0.0", 320, 4, 3, 3)
    skips, width, number = [320], 320, 1
    for level, out in enumerate((320, 640, 1280, 1280)):
        for _ in range(2):
            yield from _block(f"{UNET}input_blocks.{number}", width, out, attends=level < 3)
            width, number = out, number + 1
            skips.append(width)
        if level < 3:
            yield from _layer(f"{UNET}input_blocks.{number}.0.op", width, width, 3, 3)
            number += 1
            skips.append(width)
    yield from _resnet(f"{UNET}middle_block.0", width, width)
    yield from _transformer(f"{UNET}middle_block.1", width)
    yield from _resnet(f"{UNET}middle_block.2", width, width)
    for number in range(12):
        level = 3 - number // 3
        out = (320, 640, 1280, 1280)[level]
        yield from _block(f"{UNET}output_blocks.{number}", width + skips.pop(), out, attends=level < 3)
        width = out
        if number % 3 == 2 and level > 0:
            yield from _layer(f"{UNET}output_blocks.{number}.{2 if level < 3 else 1}.conv", width, width, 3, 3)
    yield from _layer(f"{UNET}out.0", 320)
    yield from _layer(f"{UNET}out.2", 4, 320, 3, 3)


def _block(name: str, width: int, out: int, attends: bool) -> Iterator[Shape]:
    yield from _resnet(f"{name}.0", width, out)
    if attends:
        yield from _transformer(f"{name}.1", out)


def _resnet(name: str, width: int, out: int) -> Iterator[Shape]:
    yield from _layer(f"{name}.in_layers.0", width)
    yield from _layer(f"{name}.in_layers.2", out, width, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", out, 1280)
    yield from _layer(f"{name}.out_layers.0", out)
    yield from _layer(f"{name}.out_layers.3", out, out, 3, 3)
    if width != out:
        yield from _layer(f"{name}.skip_connection", out, width, 1, 1)


def _transformer(name: str, width: int) -> Iterator[Shape]:
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, 1, 1)
    inside = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", width), ("attn2", 768)):
        yield f"{inside}.{attention}.to_q.weight", (width, width)
        yield f"{inside}.{attention}.to_k.weight", (width, context)
        yield f"{inside}.{attention}.to_v.weight", (width, context)
        yield from _layer(f"{inside}.{attention}.to_out.0", width, width)
    yield from _layer(f"{inside}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{inside}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        yield from _layer(f"{inside}.norm{number}", width)
    yield from _layer(f"{name}.proj_out", width, width, 1, 1)


def _vae() -> Iterator[Shape]:
    widths = (128, 256, 512, 512)
    encoder, decoder = f"{VAE}encoder", f"{VAE}decoder"
    yield from _layer(f"{encoder}.conv_in", 128, 3, 3, 3)
    width = 128
    for level, out in enumerate(widths):
        for number in range(2):
            yield from _vae_resnet(f"{encoder}.down.{level}.block.{number}", width, out)
            width = out
        if level < 3:
            yield from _layer(f"{encoder}.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_ends(encoder, width, 8, 512)
    yield from _layer(f"{decoder}.conv_in", 512, 4, 3, 3)
    for level, out in reversed(list(enumerate(widths))):
        for number in range(3):
            yield from _vae_resnet(f"{decoder}.up.{level}.block.{number}", width, out)
            width = out
        if level > 0:
            yield from _layer(f"{decoder}.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _vae_ends(decoder, 512, 3, width)
    yield from _layer(f"{VAE}quant_conv", 8, 8, 1, 1)
    yield from _layer(f"{VAE}post_quant_conv", 4, 4, 1, 1)


def _vae_ends(name: str, middle: int, out: int, last: int) -> Iterator[Shape]:
    yield from _vae_resnet(f"{name}.mid.block_1", middle, middle)
    yield from _layer(f"{name}.mid.attn_1.norm", middle)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.mid.attn_1.{part}", middle, middle, 1, 1)
    yield from _vae_resnet(f"{name}.mid.block_2", middle, middle)
    yield from _layer(f"{name}.norm_out", last)
    yield from _layer(f"{name}.conv_out", out, last, 3, 3)


def _vae_resnet(name: str, width: int, out: int) -> Iterator[Shape]:
    yield from _layer(f"{name}.norm1", width)
    yield from _layer(f"{name}.conv1", out, width, 3, 3)
    yield from _layer(f"{name}.norm2", out)
    yield from _layer(f"{name}.conv2", out, out, 3, 3)
    if width != out:
        yield from _layer(f"{name}.nin_shortcut", out, width, 1, 1)


def _clip() -> Iterator[Shape]:
    yield f"{CLIP}embeddings.token_embedding.weight", (49408, 768)
    yield f"{CLIP}embeddings.position_embedding.weight", (77, 768)
    for number in range(12):
        layer = f"{CLIP}encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _layer(f"{layer}.self_attn.{part}", 768, 768)
        yield from _layer(f"{layer}.layer_norm1", 768)
        yield from _layer(f"{layer}.layer_norm2", 768)
        yield from _layer(f"{layer}.mlp.fc1", 3072, 768)
        yield from _layer(f"{layer}.mlp.fc2", 768, 3072)
    yield from _layer(f"{CLIP}final_layer_norm", 768)


if __name__ == "__main__":
    print(write_random_checkpoint(Path(sys.argv[1])))
