"""``restyle``: scale 0 must give the photo back, as far as the VAE can."""

import numpy as np
import pytest
import torch
from PIL import Image

from pair_network.sampling.cli import restyle
from pair_network.sampling.cli.options import read_restyle


def restyled(argv):
    return restyle.run(read_restyle(argv))


@torch.no_grad()
def through_the_vae(pipe, photo):
    latents = restyle.encode_photo(pipe, photo) / pipe.vae.config.scaling_factor
    return np.asarray(pipe.image_processor.postprocess(pipe.vae.decode(latents).sample)[0]).astype(int)


@pytest.mark.parametrize("cfg", ["1", "3", "3 --cfg_end 0.4"])
def test_direct_inversion_gives_the_photo_back(args, folder, builders, cfg):
    photo = Image.open(folder / "photo.png")
    expected = through_the_vae(builders.make_sd().to(torch.float32), photo)
    line = ["--prompt", "a dog", "--negative", "bad", "--cfg", *cfg.split()]
    (same,) = restyled([str(folder / "photo.png"), *args("--scale 0", steps=5), *line])
    assert np.abs(np.asarray(Image.open(same)).astype(int) - expected).max() <= 1
    (styled,) = restyled([str(folder / "photo.png"), *args("--scale 5", steps=5), *line])
    assert np.abs(np.asarray(Image.open(styled)).astype(int) - expected).max() > 1
    (drifted,) = restyled([str(folder / "photo.png"), *args("--scale 0 --inversion ddim", steps=5), *line])
    assert np.abs(np.asarray(Image.open(drifted)).astype(int) - expected).max() > 1, "plain DDIM must miss the photo"


def test_comparison_and_infotext(args, folder):
    picture, sheet = restyled([str(folder / "photo.png"), *args("--compare"), "--prompt", "a dog"])
    assert picture.name == "restyle_0001_photo.png"
    assert sheet.name == "restyle_0001_photo_sheet.png"
    assert "Inversion: direct" in Image.open(picture).info["parameters"]
    assert "start 1: 0," in Image.open(picture).info["parameters"], "a photo is styled from the first step on"
    assert "Size: 16x16, Model: model, " in Image.open(picture).info["parameters"]
