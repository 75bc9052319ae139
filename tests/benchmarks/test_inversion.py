"""benchmarks/inversion.py: its measure, its verdict and its bounds."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from demo.model_config import MODEL_DIR, load_pipeline
from demo.scenes import render_scene
from pair_network import create_network
from pair_network.sampling.cli.options import RestyleOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("inversion_benchmark", ROOT / "benchmarks" / "inversion.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_psnr_of_a_known_error(bench):
    wanted = np.zeros((4, 4, 3), np.float32)
    assert bench.psnr(wanted + 0.1, wanted) == pytest.approx(20)


def test_the_winner_is_the_closer_one_at_each_styles_best_scale(bench):
    direct = {"photo again": [30.0], "ink, λ 1": [10.0, 14.0], "ink, λ 3": [11.0, 11.0]}
    ddim = {"photo again": [20.0], "ink, λ 1": [9.0, 9.0], "ink, λ 3": [11.0, 12.0]}
    assert bench.winner({"direct": direct, "ddim": ddim}) == "direct"
    assert bench.winner({"direct": direct, "ddim": {**ddim, "ink, λ 3": [13.0, 13.0]}}) == "ddim"


def test_the_default_is_the_one_that_won(bench):
    results = json.loads((ROOT / "benchmarks" / "results" / "inversion.json").read_text())
    assert RestyleOptions.inversion == bench.winner(results["psnr"])
    assert (ROOT / "benchmarks" / "results" / "inversion.md").read_text() == bench.report(results)


def test_the_gap_is_paired(bench):
    assert bench.gap([3.0, 5.0], [1.0, 4.0]) == "+1.50 ± 0.50"


@pytest.mark.skipif(not MODEL_DIR.exists(), reason="the model is not in this checkout")
def test_direct_inversion_comes_back_as_well_as_the_vae_can(bench, tmp_path):
    pipe = load_pipeline()
    network = create_network(1.0, 2, 2.0, None, None, pipe.unet)
    network.save_weights(str(tmp_path / "ink.safetensors"), None, None)
    options = SimpleNamespace(steps=4, cfg=1.0, scales=[1.0], start=0.0)
    found = bench.measure(pipe, render_scene(bench.FIRST_SEED), {"ink": tmp_path / "ink.safetensors"}, options)
    (vae,), (direct,), (ddim,) = (found[way]["photo again"] for way in ("VAE", "direct", "ddim"))
    assert direct == pytest.approx(vae, abs=0.1) and ddim < vae - 0.1
    results = {
        "options": {"scenes": 1, "steps": 4, "cfg": 1.0, "start": 0.0, "styles": ["ink"], "scales": [1.0]},
        "psnr": bench.gathered([found]), "machine": "a test", "seconds": 1.0, "load": 0.0,
    }  # fmt: skip
    assert "| ink, λ 1 |" in bench.report(results)
