"""The bench end to end on the embedded model: every method trains, draws, is scored and ends in the tables."""

from __future__ import annotations

import json
import multiprocessing.dummy
import sys
from pathlib import Path

import numpy as np
import pytest
import toml
import torch

from benchmarks.quality import __main__ as bench
from benchmarks.quality import judge, methods, report, sampler
from benchmarks.quality.jobs import PRESET, Job, make_prompts, run_job
from benchmarks.quality.methods import ABLATIONS, METHODS, RIVALS
from benchmarks.quality.plan import LEARNING_RATES, THREE, full_jobs, quick_jobs, search_jobs
from benchmarks.quality.sampler import Sampler
from demo.styles import HELD_OUT_STYLES
from pair_network import create_network
from pair_network.sampling.pipelines import Style, style_guidance

FEW = {"lora": (1.0,), "guidance": (2.0,)}


# One method for each way of training.
TRAINERS = {method.trainer: name for name, method in METHODS.items()}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of three updates or so, pictures of two steps, and a judge of four updates."""
    monkeypatch.setattr(methods, "ROW_UPDATES", 40)
    monkeypatch.setattr(sampler, "STEPS", 2)
    monkeypatch.setattr(judge, "STEPS", 4)
    monkeypatch.setattr(judge, "POOL", 8)
    monkeypatch.setattr(bench, "validate", lambda judge, styles: {})
    monkeypatch.setattr(bench, "judge_figures", lambda judge, styles: {})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for judge and base pictures, so that they are made once."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("method", TRAINERS.values())
def test_every_method_trains_draws_and_is_scored(method: str, short: None, work: Path, tmp_path: Path) -> None:
    job = Job(method, "poster", "house", 0, 5, FEW)
    key, result = run_job(job, work, tmp_path)
    assert key == job.key
    assert (tmp_path / f"{method}-poster.webp").exists()
    assert result["base"]["strength"] == 0
    for mode in ("lora", "guidance"):
        (point,) = result["curves"][mode]
        assert all(np.isfinite(value) for value in point.values()), point
        assert point["strength"] != 0  # the training left a mark


def test_ours_is_the_preset() -> None:
    values = {
        key: value for group in toml.loads(PRESET.read_text(encoding="utf-8")).values() for key, value in group.items()
    }
    ours = METHODS["ours"]
    assert (values["train_batch_size"], values["max_train_steps"]) == (methods.PAIRS, ours.steps)
    assert values["style_start_step"] == ours.steps // 3
    assert values["learning_rate"] == ours.learning_rate
    assert tuple(values["network_args"]) == ours.network_args
    assert not ours.options


def test_budgets_are_equal() -> None:
    for name, method in METHODS.items():
        assert method.steps * method.rows * methods.PAIRS == pytest.approx(methods.ROW_UPDATES, rel=0.01), name


def test_official_rows_are_the_same_in_all_layers_of_a_width() -> None:
    unet = Sampler().pipe.unet
    network = create_network(1.0, 4, 4, None, None, unet)
    trainer = METHODS["official"].trainer()
    args = type("Args", (), {"network_module": "pair_network", "network_weights": None, "network_args": []})()
    accelerator = type("Accelerator", (), {"register_save_state_pre_hook": id, "register_load_state_pre_hook": id})()
    trainer.post_process_network(args, accelerator, network, None, unet)
    rows: dict[tuple[int, ...], torch.Tensor] = {}
    for layer in network.coupled_layers():
        content, style = layer.downs()
        assert torch.equal(rows.setdefault(tuple(style.shape), style), style)
        assert not torch.equal(content, style)
    assert len(rows) > 1


def test_strength_zero_draws_the_base_picture(short: None, tmp_path: Path) -> None:
    painter, file = Sampler(), tmp_path / "style.safetensors"
    prompts = make_prompts("house", 2)
    network = create_network(1.0, 4, 4, None, None, painter.pipe.unet)
    for layer in network.coupled_layers():
        torch.nn.init.normal_(layer.style_up, std=0.1)
    network.save_weights(str(file), None, {})
    base = painter.draw(prompts)
    for mode in ("lora", "guidance"):
        assert np.array_equal(painter.draw(prompts, "in poster style", file, mode, 0.0), base)
        assert not np.allclose(painter.draw(prompts, "in poster style", file, mode, 1.0), base, atol=1e-3)
    assert np.array_equal(painter.draw(prompts), base)


def test_pictures_are_those_of_the_pipeline_under_style_guidance(short: None, tmp_path: Path) -> None:
    painter, file = Sampler(), tmp_path / "style.safetensors"
    painter.dtype, painter.unet = torch.float32, painter.pipe.unet
    prompts = make_prompts("house", 2)
    network = create_network(1.0, 4, 4, None, None, painter.pipe.unet)
    for layer in network.coupled_layers():
        torch.nn.init.normal_(layer.style_up, std=0.1)
    network.save_weights(str(file), None, {})
    drawn = painter.draw(prompts, "in poster style", file, "guidance", 2.0)
    painter.pipe.scheduler = painter.scheduler
    style = Style(file, "in poster style", scale=2.0, start=sampler.STYLE_START)
    with style_guidance(painter.pipe, style):
        images = painter.pipe(
            [prompt.text for prompt in prompts],
            latents=painter._noise(prompts) / painter.scheduler.init_noise_sigma,
            num_inference_steps=sampler.STEPS,
            guidance_scale=sampler.GUIDANCE_SCALE,
            output_type="np",
        ).images
    assert np.abs(images - drawn).max() < 1e-3


def test_prompts_are_for_the_training_subject_and_others() -> None:
    prompts = make_prompts("cat", 40)
    assert sum(prompt.subject == "cat" for prompt in prompts) == 8
    assert all(prompt.subject in prompt.text for prompt in prompts)
    assert len({prompt.seed for prompt in prompts}) == 40


def test_the_full_form_has_every_rival_and_ablation_on_enough_styles() -> None:
    jobs = full_jobs(large=False)
    assert len({job.key for job in jobs}) == len(jobs)
    for name in RIVALS | ABLATIONS:
        own = [job for job in jobs if job.method == name]
        assert len({job.operator for job in own}) >= (6 if name in ("ours", "plain", "official") else 4)
    assert {job.operator for job in jobs} == set(HELD_OUT_STYLES)
    assert {job.learning_rate for job in search_jobs()} == set(LEARNING_RATES)


def test_quick_form_resumes_and_writes_the_figures(
    short: None, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [Job("plain", "poster", "house", 0, 5, THREE), Job("ours", "poster", "house", 0, 5, THREE)]
    monkeypatch.setattr(bench, "quick_jobs", lambda: jobs)
    # In this process, so that the shortened settings hold.
    monkeypatch.setattr(bench, "get_context", lambda kind: multiprocessing.dummy)
    places = ["--work", str(work), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["quality", "--quick", "--processes", "1", *places])
    bench.main()
    figures = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))
    assert set(figures) == {"ours", "plain"}
    assert set(figures["ours"]) == {"leak", "accuracy", "strength", "guidance"}
    assert "2 trainings (0 more are done)" in capsys.readouterr().out
    bench.main()
    assert "0 trainings (2 more are done)" in capsys.readouterr().out


def test_full_report_names_every_method_and_draws_its_pictures(tmp_path: Path) -> None:
    point = {"strength": 0.6, "accuracy": 0.9, "leak": 0.1, "structure": 0.8, "subject_error": 0.5,
             "background_error": 0.4, "diversity": 1.0}  # fmt: skip
    base = {**dict.fromkeys(point, 0.0), "accuracy": 1.0, "structure": 1.0}
    results = {"model": "x", "judge": {}, "validation": {}}
    results["jobs"] = {}
    for job in quick_jobs():
        curves = {mode: [{"at": 1.0, **point}] for mode in ("lora", "guidance")}
        results["jobs"][job.key] = {**vars(job), "base": base, "curves": curves, "device": "a card"}
    report.write("full", results, tmp_path)
    text = (tmp_path / "quality.md").read_text(encoding="utf-8")
    assert "on a card (3)" in text
    for method in ("Pair Network", "plain LoRA", "official recipe"):
        assert f"| {method} | guidance | 1 |" in text
    assert (tmp_path / "curves.png").stat().st_size > 10_000
