"""The labelled picture of strength and λ."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from demo import sweep
from demo.model_config import MODEL_DIR, load_pipeline
from demo.styles import ink
from pair_network import create_network
from pair_network.sampling.previews import grid

pytestmark = pytest.mark.skipif(not MODEL_DIR.exists(), reason="the model is not in this checkout")


def test_rows_are_strengths_and_columns_are_scales(tmp_path, monkeypatch):
    network = create_network(1.0, 2, 2.0, None, None, load_pipeline().unet)
    with torch.no_grad():
        for layer in network.coupled_layers():
            layer.style_up.normal_(generator=torch.Generator().manual_seed(0))
    network.save_weights(str(tmp_path / "ink.safetensors"), None, {"modelspec.trigger_phrase": "in ink style"})
    picture = tmp_path / "sweep.png"
    argv = ["sweep", "--style", "ink", "--loras", str(tmp_path), "--scales", "0", "2", "--strengths", "0.5", "1"]
    monkeypatch.setattr(sys, "argv", [*argv, "--steps", "3", "--tile", "64", "--out", str(picture)])
    shown = []

    def kept(rows, *labels, **options):
        shown.append(([[None if image is None else np.asarray(image) for image in row] for row in rows], labels))
        return grid(rows, *labels, **options)

    monkeypatch.setattr(sweep, "grid", kept)
    sweep.main()
    assert picture.stat().st_size < 400_000
    ((first, second), labels) = shown[0]
    assert labels == (["scale 0: base", "scale 2", "true answer"], ["strength 0.5", "strength 1"])
    assert (first[0] == second[0]).all(), "λ 0 is the base picture at any strength"
    assert (first[1] != second[1]).any() and (first[1] != first[0]).any()
    assert second[2] is None and (first[2] == sweep.to_picture(ink(np.float32(first[0]) / 255))).all()
