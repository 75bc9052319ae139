"""The shipped model loads with diffusers, keeps its promises on size and shape, and draws what it is told."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from demo.far_styles import FAR_STYLES
from demo.model_config import MODEL_DIR, load_pipeline
from demo.sample_sheet import generate
from demo.styles import STYLES
from demo.train_vae import normalise_latents, psnr_by_style

pytestmark = pytest.mark.skipif(not MODEL_DIR.exists(), reason="the model is not in this checkout")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


def test_size_on_disk() -> None:
    assert sum(file.stat().st_size for file in MODEL_DIR.rglob("*.safetensors")) <= 20e6


def test_loads_in_one_precision_when_none_is_named() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL_DIR)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}


def test_autoencoder_reproduces_photos_and_every_style(pipeline: StableDiffusionPipeline) -> None:
    """At least 30 dB on 32 pictures (demo/README.md); a few pictures give a few tenths more or less."""
    figures = psnr_by_style(pipeline.vae, count=8)
    assert min(figures[name] for name in ("photo", *STYLES)) > 29.5, figures
    # What it has met nothing of: edges of a pixel or two in strong colours are the worst.
    assert min(figures[name] for name in FAR_STYLES) > 23, figures
    assert figures["photo"] > 33


def test_same_seed_same_picture_and_the_background_obeys(pipeline: StableDiffusionPipeline) -> None:
    """A blue background is bluer than red at the upper corners, a pink one is redder than green."""
    prompts = ["a photo of a red house on a blue background", "a photo of a red house on a pink background"]
    first, second = (generate(pipeline, prompts, seed=1, steps=8, guidance_scale=3.0) for _ in range(2))
    assert (first == second).all()
    blue, pink = first[:, :8].mean((1, 2))
    assert blue[2] > blue[0] + 0.15
    assert pink[0] > pink[1] + 0.08


def test_normalising_latents_keeps_the_reconstruction(pipeline: StableDiffusionPipeline) -> None:
    vae = type(pipeline.vae).from_config(pipeline.vae.config)
    torch.manual_seed(0)
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    before = vae(pixels).sample
    normalise_latents(vae, pixels)
    means, channels = vae.encode(pixels).latent_dist.mean, vae.config.latent_channels
    torch.testing.assert_close(vae(pixels).sample, before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(means.mean((0, 2, 3)), torch.zeros(channels), atol=1e-4, rtol=0)
    torch.testing.assert_close(means.std((0, 2, 3)), torch.ones(channels), atol=1e-4, rtol=0)
