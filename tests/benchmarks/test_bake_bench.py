"""benchmarks/bake.py: every way is drawn and scored, and the guided picture is at distance 0 from itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import bake
from benchmarks.quality import judge, sampler
from benchmarks.quality.jobs import base_pictures
from demo.model_config import MODEL_DIR, load_pipeline
from pair_network import create_network

pytestmark = pytest.mark.skipif(not MODEL_DIR.exists(), reason="the model is not in this checkout")
ROOT = Path(__file__).parents[2]


def test_ways_are_compared_with_the_guided_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "STEPS", 2)
    monkeypatch.setattr(bake, "STEPS", 2)
    monkeypatch.setattr(judge, "STEPS", 2)
    monkeypatch.setattr(judge, "POOL", 8)
    network = create_network(1.0, 2, 2.0, None, None, load_pipeline().unet)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05)
    network.save_weights(str(tmp_path / "ink.safetensors"), None, None)
    options = SimpleNamespace(loras=tmp_path, scale=2.0, prompts=5, fit_prompts=3, fit_steps=3)
    prompts, base = base_pictures(tmp_path, "house", options.prompts)
    found = bake.measure(sampler.Sampler(), judge.load_judge(tmp_path), "ink", prompts, base, options)
    assert list(found) == ["base model", "style guidance", *bake.WAYS]
    assert found["base model"]["distance"] == 1 and found["style guidance"]["distance"] == 0
    assert len({found[way]["distance"] for way in bake.WAYS}) == len(bake.WAYS)
    kept = {**vars(options), "steps": 2, "start": 0.2}
    text = bake.report({"options": kept, "styles": {"ink": found}, "machine": "a test", "seconds": 1.0})
    assert "| ink | ups fitted |" in text


def test_the_page_is_what_the_results_say():
    results = json.loads((ROOT / "benchmarks" / "results" / "bake.json").read_text(encoding="utf-8"))
    assert (ROOT / "benchmarks" / "results" / "bake.md").read_text(encoding="utf-8") == bake.report(results)
