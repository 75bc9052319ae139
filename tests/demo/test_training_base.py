"""Making the embedded model: going on from weights of another shape, and compute that the machine has."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from demo import model_config, parallel, train_unet, train_vae
from demo.model_config import build_unet, build_vae


@pytest.fixture
def small_vae(tmp_path):
    """An autoencoder in a folder, its latents normalised as trained ones are."""
    torch.manual_seed(0)
    vae = build_vae()
    train_vae.normalise_latents(vae, torch.rand(4, 3, 64, 64) * 2 - 1)
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_an_autoencoder_with_more_latent_channels_starts_as_good_as_it_was(small_vae, monkeypatch):
    before = AutoencoderKL.from_pretrained(small_vae)
    monkeypatch.setattr(model_config, "LATENT_CHANNELS", before.config.latent_channels + 3)
    grown = build_vae()
    train_vae.start_from(grown, small_vae)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = grown.encode(pixels).latent_dist.mean
    torch.testing.assert_close(grown.decode(latents).sample, before(pixels).sample, atol=1e-5, rtol=1e-5)
    # The further channels say something, so that the decoder can learn to use them.
    assert latents[:, before.config.latent_channels :].std() > 1e-3


def test_fewer_latent_channels_are_refused(small_vae, monkeypatch):
    monkeypatch.setattr(model_config, "LATENT_CHANNELS", 2)
    with pytest.raises(ValueError, match=r"--vae_init .*vae: \d+ latent channels, .* has 2"):
        train_vae.start_from(build_vae(), small_vae)


def test_a_unet_for_other_latents_keeps_all_but_its_ends(monkeypatch):
    torch.manual_seed(0)
    given = build_unet()
    monkeypatch.setattr(model_config, "LATENT_CHANNELS", given.config.in_channels + 3)
    unet = build_unet()
    train_unet.start_from(unet, given)
    source = given.state_dict()
    fresh = {name for name, value in unet.state_dict().items() if not torch.equal(value, source.get(name))}
    assert fresh == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize(
    ("unit", "dtype"), [(None, torch.float32), ("avx512", torch.bfloat16), ("amx", torch.bfloat16)]
)
def test_bfloat16_only_where_the_processor_has_it(unit, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {f"{unit}_bf16": True})
    monkeypatch.setattr(parallel, "device", lambda: torch.device("cpu"))
    with parallel.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
