"""How far a style reaches: the sets of prompts differ in what they say, and pages are what their results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.quality import judge, reach, sampler
from benchmarks.quality.report import full_page, search_page
from demo.make_pairs import CONTENTS
from demo.scenes import caption
from pair_network import create_network

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "quality"


@pytest.mark.parametrize("name", reach.CHANGES)
def test_captions_differ_in_what_the_set_says(name: str) -> None:
    own = caption(*CONTENTS[reach.PAIR][1:])
    subject, colour, background = CONTENTS[reach.PAIR][1:]
    for prompt in reach.make_prompts(reach.CHANGES[name], 12):
        text = prompt.text
        kept = (f" {subject} " in text, f" {colour} {prompt.subject} " in text, f"on a {background} " in text)
        assert kept == tuple(not is_other for is_other in reach.CHANGES[name]), text
        assert (text == own) == (name == "the training caption")


def test_every_set_is_drawn_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "STEPS", 2)
    torch.manual_seed(0)
    painter = sampler.Sampler()
    network = create_network(1.0, 4, 4, None, None, painter.pipe.unet)
    for layer in network.coupled_layers():
        torch.nn.init.normal_(layer.style_up, std=0.2)
    network.save_weights(str(tmp_path / "style.safetensors"), None, {})
    found = reach.measure(painter, judge.Judge().eval(), "ink", tmp_path / "style.safetensors", 2)
    assert list(found) == list(reach.CHANGES)
    assert len(set(found.values())) == len(found)
    assert "| ink |" in reach.page({"prompts": 2, "strength": {"ink": found}})


def test_pages_are_what_the_results_say() -> None:
    pages = {"search": "search_jobs", "reach": "reach", "quality": "full_jobs"}
    results = {name: json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8")) for name, file in pages.items()}
    made = {
        "search": search_page(list(results["search"]["jobs"].values())),
        "reach": reach.page(results["reach"]),
        "quality": full_page(results["quality"]),
    }
    for name, text in made.items():
        assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == text
