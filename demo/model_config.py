"""The shapes of the embedded model: Stable Diffusion's architecture, small enough to train on two CPU cores."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.scenes import SIZE
from demo.vocabulary import MAX_LENGTH

MODEL_DIR = Path(__file__).parent / "model"
LATENT_SIZE = 16
TEXT_WIDTH = 128


@dataclass(frozen=True)
class Shape:
    """What depends on the size of the pictures.

    Attributes:
        size: side of the square pictures, in pixels.
        vae_widths: the autoencoder's channels by resolution, each half of the one before.
        latent_channels: more than Stable Diffusion's 4: screens and outlines of a few pixels do not fit into 4 numbers.
    """

    size: int
    vae_widths: tuple[int, ...]
    latent_channels: int


SHAPES: dict[int, Shape] = {64: Shape(64, (24, 48, 64), 8), 128: Shape(128, (24, 48, 64, 96), 16)}


def build_vae(shape: Shape = SHAPES[SIZE]) -> AutoencoderKL:
    """Autoencoder: (batch, 3, size, size) in [-1, 1] to and from latents (batch, latent_channels, 16, 16)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(shape.vae_widths),
        up_block_types=("UpDecoderBlock2D",) * len(shape.vae_widths),
        block_out_channels=shape.vae_widths,
        layers_per_block=1,
        latent_channels=shape.latent_channels,
        norm_num_groups=8,
        sample_size=shape.size,
        scaling_factor=1.0,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Text encoder: token ids (batch, 32) to states (batch, 32, TEXT_WIDTH)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(shape: Shape = SHAPES[SIZE]) -> UNet2DConditionModel:
    """U-Net over latents (batch, latent_channels, 16, 16).

    Attention at every resolution but the lowest, as in Stable Diffusion 1.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # diffusers' name for the number of heads in this family.
        attention_head_dim=2,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save_pipeline(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Writes the model as a diffusers folder in fp16 safetensors; the old folder stays whole until the new one is.

    Args:
        folder: where to.
        vae: the autoencoder.
        text_encoder: the text encoder.
        tokenizer: as `write_tokenizer` or `from_pretrained` gave it, its files still in place.
        unet: the U-Net.
    """
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    _use_hub_format(fresh, Path(tokenizer.name_or_path))
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _use_hub_format(folder: Path, tokenizer: Path) -> None:
    """Rewrites what transformers 5 saves in its own way, so that older versions read it too.

    That is the tokenizer as vocab.json and merges.txt, and the text encoder's keys behind "text_model.".
    """
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer, folder / "tokenizer")
    file = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    # transformers 5 loads in the saved precision, diffusers in fp32: without this the two would not fit together.
    config_file = folder / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def load_pipeline(folder: Path = MODEL_DIR) -> StableDiffusionPipeline:
    """The saved model in fp32, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
