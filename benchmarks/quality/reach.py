"""How far a style learnt from one pair reaches: `python -m benchmarks.quality.reach`. Writes results/quality/reach.*

Pictures with style guidance for the training caption itself, and for captions that differ from it in one thing at a
time. A measure of the method and of how much one picture can say: its true answer for other colours is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.quality.__main__ import RESULTS
from benchmarks.quality.jobs import ROOT, Job, train
from benchmarks.quality.judge import Judge, load_judge
from benchmarks.quality.measures import Reference
from benchmarks.quality.report import plain_table
from benchmarks.quality.sampler import Prompt, Sampler
from demo.make_pairs import CONTENTS
from demo.scenes import BACKGROUNDS, COLOURS, caption
from demo.styles import HELD_OUT_STYLES
from demo.subjects import SUBJECTS

PAIR = "house"
SCALES = (0.6, 1.0, 1.5)
# Set of prompts -> which of subject, colour and background differ from the training caption's.
CHANGES: dict[str, tuple[bool, bool, bool]] = {
    "the training caption": (False, False, False),
    "another subject": (True, False, False),
    "another colour of the subject": (False, True, False),
    "another background": (False, False, True),
    "all three": (True, True, True),
}


def make_prompts(change: tuple[bool, bool, bool], count: int) -> list[Prompt]:
    """Captions that differ from the training caption as `change` says, each with noise of its own."""
    _, *own = CONTENTS[PAIR]
    rng = np.random.default_rng(5)
    prompts = []
    for i in range(count):
        words = []
        for is_other, names, word in zip(change, (SUBJECTS, COLOURS, BACKGROUNDS), own, strict=True):
            others = [name for name in names if name != word]
            words.append(others[int(rng.integers(len(others)))] if is_other else word)
        prompts.append(Prompt(caption(*words), words[0], 70_000 + i))
    return prompts


def measure(sampler: Sampler, judge: Judge, operator: str, file: Path, count: int) -> dict[str, float]:
    """By set of prompts the style strength at the best of `SCALES`."""
    found = {}
    for name, change in CHANGES.items():
        prompts = make_prompts(change, count)
        base = sampler.draw(prompts)
        subjects = [prompt.subject for prompt in prompts]
        reference = Reference.of(judge, base, HELD_OUT_STYLES[operator], subjects, CONTENTS[PAIR][1])
        words = f"in {operator} style"
        drawn = (sampler.draw(prompts, words, file, "guidance", scale) for scale in SCALES)
        found[name] = round(max(reference.strength(images) for images in drawn), 3)
    return found


def page(results: dict[str, Any]) -> str:
    rows = dict(results["strength"])
    rows["mean"] = {name: float(np.mean([row[name] for row in rows.values()])) for name in CHANGES}
    scales = ", ".join(f"{scale:g}" for scale in SCALES)
    return (
        "# How far a style learnt from one pair reaches\n\n"
        f"`python -m benchmarks.quality.reach`: style strength (docs/quality.md) with style guidance at the best λ of "
        f"{scales}; one training on the {PAIR} by `presets/embedded.toml` for each style, {results['prompts']} "
        "prompts of each kind.\n\n" + plain_table("style", rows, 2)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.reach", description=__doc__)
    parser.add_argument("--prompts", type=int, default=24, help="of each kind")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", help="judge")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    sampler, judge = Sampler(), load_judge(args.work)
    results: dict[str, Any] = {"prompts": args.prompts, "strength": {}}
    for operator in tqdm(HELD_OUT_STYLES, "styles"):
        with tempfile.TemporaryDirectory() as folder:
            file = train(Job("ours", operator, PAIR, 0, args.prompts, {}), Path(folder))
            results["strength"][operator] = measure(sampler, judge, operator, file, args.prompts)
    (args.out / "reach.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (args.out / "reach.md").write_text(page(results), encoding="utf-8")
    print(page(results))


if __name__ == "__main__":
    main()
