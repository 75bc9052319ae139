"""The ways that benchmarks/guidance.py compares make the same picture, and its report says what it measured."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from demo.model_config import MODEL_DIR

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("guidance_benchmark", ROOT / "benchmarks" / "guidance.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not MODEL_DIR.exists(), reason="the model is not in this checkout")
def test_all_ways_give_the_same_latents(bench, tmp_path, monkeypatch):
    argv = ["guidance.py", "--device", "cpu", "--latents", "8", "--steps", "3", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", [*argv, "--machine", "a test", "--output", str(tmp_path / "guidance")])
    bench.main()
    ways = json.loads((tmp_path / "guidance.json").read_text())["embedded, cpu"]["ways"]
    for way in (bench.SPLIT, bench.AUTHORS, bench.SINGLE):
        assert ways[way]["distance"] < 1e-4, way
    assert ways[bench.CFG]["distance"] > 1e-2, "the style must show"
    assert ways[bench.ENDED]["distance"] > 1e-2, "without its CFG the picture is another one"
    assert ways[bench.CFG]["ratio"] == 1 and ways[bench.JOINED]["ratio"] > 1
    report = (tmp_path / "guidance.md").read_text()
    assert "latents 8 × 8, rank 16, fp32" in report and "Machine: a test" in report


def test_every_model_keeps_its_own_entry_in_the_report(bench):
    row = {"seconds": 1.0, "ratio": 1.5, "least": 1.4, "most": 1.6, "peak_mb": 2048.0, "distance": 1e-7}
    entry = {
        "shape": "U-Net", "options": {"dtype": "bf16", "steps": 4, "repeats": 2}, "machine": "m", "load": [0.1, 0.2],
        "ways": dict.fromkeys(bench.WAYS, row),
    }  # fmt: skip
    text = bench.report({"embedded, cpu": entry, "sdxl, cuda": entry})
    assert text.count("| **1.50** (1.40 to 1.60) | 2048 |") == 2 * (len(bench.WAYS) - 1)
    assert "## embedded, cpu" in text and "## sdxl, cuda" in text
