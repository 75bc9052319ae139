"""The oracle: pairs are true, the strongest style with its structure intact counts, the command leaves its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.quality import oracle, sampler
from benchmarks.quality.jobs import make_prompts
from benchmarks.quality.judge import Judge, Seen
from benchmarks.quality.plan import THREE
from demo.far_styles import blueprint
from demo.scenes import render_scene
from pair_network import create_network


def test_pairs_are_the_style_of_their_photos_and_say_so(tmp_path: Path) -> None:
    content, style = oracle.write_pairs(tmp_path, "blueprint", 3)
    names = [f"{i:02}" for i in range(3)]
    assert sorted(path.stem for path in content.glob("*.png")) == names == sorted(p.stem for p in style.glob("*.png"))
    for name in names:
        photo, styled_one = (
            np.asarray(Image.open(place / f"{name}.png"), np.float32) / 255 for place in (content, style)
        )
        assert np.abs(blueprint(photo) - styled_one).mean() < 0.01
        plain, styled = ((place / f"{name}.txt").read_text(encoding="utf-8").strip() for place in (content, style))
        assert styled == f"{plain} in blueprint style"


class Blender(sampler.Sampler):
    """Draws scenes in place of base pictures, and at every strength a blend with their true answer."""

    def draw(self, prompts, words="", style=None, mode="lora", strength=0.0, cfg_end=1.0):  # type: ignore[no-untyped-def]
        base = np.stack([render_scene(prompt.seed, prompt.subject).image for prompt in prompts])
        share = strength / 1.6 if mode == "lora" else 0.0
        return base + share * (np.stack([blueprint(image) for image in base]) - base)


class Unmoved(Judge):
    """Sees the same silhouette in every picture."""

    def look(self, images):  # type: ignore[no-untyped-def]
        return Seen(np.ones(images.shape[:3], np.float32), np.zeros(len(images), int))


def test_the_strongest_style_whose_structure_stays_is_the_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    painter, judge, prompts = Blender(), Unmoved(), make_prompts("house", 4)
    found, rows = oracle.measure(painter, judge, prompts, "blueprint", Path("unused"))
    strongest = max(THREE["lora"])
    assert found.at == f"lora {strongest:g}"
    assert found.share == pytest.approx(found.strength / found.ceiling)
    assert 0 < found.strength < found.ceiling <= 1
    assert found.pixel_error == pytest.approx(1 - strongest / 1.6, abs=1e-3)
    np.testing.assert_array_equal(rows[3], [blueprint(image) for image in rows[0]])
    monkeypatch.setattr(oracle, "LEAST_STRUCTURE", 1.1)
    lost, _ = oracle.measure(painter, judge, prompts, "blueprint", Path("unused"))
    assert (lost.strength, lost.share, lost.at) == (0, 0, "none")


def test_the_command_leaves_figures_a_page_and_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = create_network(1.0, 4, 4, None, None, sampler.Sampler().pipe.unet)
    network.save_weights(str(tmp_path / "style.safetensors"), None, {})
    monkeypatch.setattr(sampler, "STEPS", 1)
    monkeypatch.setattr(oracle, "train", lambda *_: tmp_path / "style.safetensors")
    monkeypatch.setattr(oracle, "load_judge", lambda _: Judge().eval())
    argv = ["oracle", "--styles", "ink", "enamel", "night", "--prompts", "2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    oracle.main()
    figures = json.loads((tmp_path / "out" / "oracle.json").read_text(encoding="utf-8"))
    assert list(figures["styles"]) == ["ink", "enamel", "night"]
    learnt, known = (tmp_path / "out" / "oracle.md").read_text(encoding="utf-8").split("by their names in the prompt")
    assert "| enamel |" in learnt and "| night |" not in learnt and "| night |" in known
    assert Image.open(tmp_path / "out" / "oracle.webp").height == 3 * (4 * 64 + 8)


def test_a_style_that_the_base_model_knows_is_drawn_by_its_name() -> None:
    painter, judge, prompts = sampler.Sampler(), Unmoved(), make_prompts("house", 2)
    found, (base, drawn, _, truth) = oracle.measure(painter, judge, prompts, "night", None)
    assert found.at != "none"
    assert np.abs(drawn - truth).mean() < np.abs(base - truth).mean()
    np.testing.assert_array_equal(painter.draw(prompts, "in night style", None, "lora", 0.0), base)


def test_a_folder_without_a_model_is_one_line(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", ["oracle", "--model", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        oracle.main()
    assert stopped.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("no model_index.json there, a folder in diffusers layout is needed")
    )
