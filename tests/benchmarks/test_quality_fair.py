"""The fair form: its rows train and are drawn in every way, it goes on where it stopped, its page says what was run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality import fair, judge, methods, oracle, sampler
from benchmarks.quality.jobs import make_prompts
from benchmarks.quality.measures import Reference, all_features
from benchmarks.quality.plan import WAYS
from demo.far_styles import FAR_STYLES
from demo.scenes import render_scene
from demo.styles import HELD_OUT_STYLES
from pair_network import create_network
from pair_network.pseudo_pairs import gate
from pair_network.sampling.pipelines import Style, style_guidance


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a few updates, pictures of two steps, maps of a few updates, a judge of four."""
    monkeypatch.setattr(methods, "ROW_UPDATES", 40)
    monkeypatch.setattr(sampler, "STEPS", 2)
    monkeypatch.setattr(judge, "STEPS", 4)
    monkeypatch.setattr(judge, "POOL", 8)
    monkeypatch.setattr(gate, "STEPS", 20)
    monkeypatch.setattr(gate, "TRIAL_STEPS", 10)
    monkeypatch.setattr(fair, "MADE", 2)
    monkeypatch.setattr(fair, "MADE_LIMIT", 9.0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize(("row", "style"), [("ours, pseudo-pairs", "duotone"), ("map alone", "blueprint")])
def test_rows_are_made_and_scored(row: str, style: str, short: None, work: Path) -> None:
    found = fair.run_case(fair.Case(row, style, prompts=3), work)
    assert 0 < found["ceiling"] <= 1 and 0 < found["truth_structure"] <= 1 and found["map"]
    assert list(found["curves"]) == (["the map"] if row == "map alone" else list(WAYS))
    points = [point for curve in found["curves"].values() for point in curve]
    assert all(np.isfinite(value) for point in points for value in point.values())
    if row == "map alone":
        assert points[1]["pixel_error"] < 1, "a map that does not come nearer to the style than the photo is no map"


def test_ways_of_drawing_are_what_they_are_called(short: None, tmp_path: Path) -> None:
    """Guidance whose CFG ends is the pipelines'; the prompt's rows alone differ from all rows, but not without CFG."""
    painter, file = sampler.Sampler(), tmp_path / "style.safetensors"
    painter.dtype, painter.unet = torch.float32, painter.pipe.unet
    prompts, words = make_prompts("house", 1), "in poster style"
    network = create_network(1.0, 4, 4, None, None, painter.pipe.unet)
    for layer in network.coupled_layers():
        torch.nn.init.normal_(layer.style_up, std=0.1)
    network.save_weights(str(file), None, {})
    drawn = painter.draw(prompts, words, file, "guidance", 2.0, 0.5)
    painter.pipe.scheduler = painter.scheduler
    style = Style(file, words, scale=2.0, start=sampler.STYLE_START)
    with style_guidance(painter.pipe, style, cfg_end=0.5):
        images = painter.pipe(
            [prompts[0].text], latents=painter._noise(prompts) / painter.scheduler.init_noise_sigma,
            num_inference_steps=2, guidance_scale=sampler.GUIDANCE_SCALE, output_type="np",
        ).images  # fmt: skip
    assert np.abs(images - drawn).max() < 1e-3
    every, positive = (painter.draw(prompts, words, file, mode, 1.0) for mode in ("lora", "positive"))
    assert np.abs(every - positive).max() > 1e-3
    every, positive = (painter.draw(prompts, words, file, mode, 1.0, 0.0) for mode in ("lora", "positive"))
    assert np.abs(every - positive).max() < 1e-5


@pytest.mark.parametrize("name", HELD_OUT_STYLES | FAR_STYLES)
def test_set_strength_does_not_see_content(name: str) -> None:
    """T of the pictures of other prompts has the whole strength of the set, where the picture's own falls short."""
    style = (HELD_OUT_STYLES | FAR_STYLES)[name]
    base = np.stack([render_scene(i).image for i in range(12)])
    truth = np.stack([np.clip(style(image), 0, 1) for image in base])

    reference = Reference(base, truth, all_features(truth), 1.0, np.zeros(12), 0, None)  # type: ignore[arg-type]
    assert reference.set_strength(np.roll(truth, 1, axis=0)) == pytest.approx(1)
    assert reference.set_strength(base) == 0
    assert reference.set_strength((base + truth) / 2) < 0.8


def test_it_goes_on_where_it_stopped_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = {"strength": 0.5, "set_strength": 0.6, "structure": 0.8, "pixel_error": 0.7, "accuracy": 1.0, "leak": 0.0}
    base = {**dict.fromkeys(point, 0.0), "accuracy": 1.0, "structure": 1.0, "pixel_error": 1.0}
    ran = []

    def run(case: fair.Case, work: Path) -> dict:
        ran.append(case.key)
        better = {**point, "strength": 0.75} if case.row == "ours" else point
        curves = {way: [{"at": 1.0, **better}] for way in WAYS}
        return {**vars(case), "ceiling": 0.8, "truth_structure": 0.9, "base": base, "curves": curves, "cpu_seconds": 1}

    monkeypatch.setattr(fair, "run_case", run)
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path), "--rows", "released", "ours", "--styles"]
    for styles, minutes in ((["poster", "pixel"], "1"), (["poster", "pixel", "ink"], "1"), (["duotone"], "0")):
        monkeypatch.setattr(sys, "argv", ["fair", *places, *styles, "--minutes", minutes])
        fair.main()
    assert len(ran) == len(set(ran)) == 6
    assert "2 of 2 are not done yet" in capsys.readouterr().out
    page = (tmp_path / "fair.md").read_text(encoding="utf-8")
    assert "| ours | guidance | 3 | 0.75 | 0.60 | 0.94 | 0.70 | 0.75 |" in page
    assert "Styles (structure of T(base)): pixel (0.90)." in page, "reserved styles stand apart"
    assert len(json.loads((tmp_path / "fair.json").read_text(encoding="utf-8"))["jobs"]) == 6
    monkeypatch.setattr(sys, "argv", ["fair", *places, "ink", "--budget", "2"])
    fair.main()
    page = (tmp_path / "fair.md").read_text(encoding="utf-8")
    assert "## All trainings, 2 times the updates" in page and page.count("| ours | guidance | 3 |") == 1
    assert "| ours | guidance | 1 |" in page, "trainings of unlike length are not averaged"


def test_the_judge_was_shown_all_that_it_judges() -> None:
    """In a style that it had not seen it took true answers for broken pictures: enamel had half of its structure."""
    assert set(oracle.STYLES) <= set(judge.SEEN_STYLES)
    scene, drawn = render_scene(3).image, []
    for seed in range(200):
        drawn.append(judge.styled(np.random.default_rng(seed), scene))
    for style in (HELD_OUT_STYLES | FAR_STYLES).values():
        assert min(np.abs(image - style(scene)).mean() for image in drawn) < 0.06


def test_a_longer_training_has_more_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(fair, "train_on", lambda job, folder, preset, options: given.append(list(options)) or folder)
    for budget in (1, 3):
        fair.train_row(fair.Case("plain", "ink", budget=budget), tmp_path, None, tmp_path)  # type: ignore[arg-type]
    steps = [options[options.index("--max_train_steps") + 1] for options in given]
    assert int(steps[1]) == 3 * int(steps[0]) == 3 * methods.METHODS["plain"].steps
