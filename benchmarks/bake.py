"""How near a plain LoRA comes to style guidance: ``python -m benchmarks.bake``. Writes benchmarks/results/bake.*

On the embedded model and prompts that no fitting has seen: pictures with style guidance, and the pictures of the LoRAs
that ``convert bake`` makes to stand in for it. Each is scored as in the quality bench, against the true answer, and by
its distance to the guided picture.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.jobs import ROOT, base_pictures
from benchmarks.quality.judge import Judge, load_judge
from benchmarks.quality.measures import Reference, pixel_gap, score
from benchmarks.quality.sampler import GUIDANCE_SCALE, STEPS, STYLE_START, Prompt, Sampler
from convert.cli import main as convert
from demo.make_pairs import CONTENTS
from demo.model_config import MODEL_DIR
from demo.one_pair import ONE_PAIR_DIR, style_file, style_words
from demo.scenes import BACKGROUNDS, COLOURS, caption
from demo.styles import HELD_OUT_STYLES
from demo.subjects import SUBJECTS

PAIR = "house"
MEASURES = ("strength", "accuracy", "leak", "structure")
# How the stand-in is made -> what `convert bake` is told; without it, `convert a1111` rescales. At strength 1, the LoRA
# is used as it is.
WAYS: dict[str, list[str] | None] = {
    "LoRA at strength 1": None,
    "rescaled to λ / CFG": [],
    "best single strength": ["--fit", "strength"],
    "ups fitted": ["--fit", "ups"],
}


def fitting_prompts(count: int) -> list[str]:
    """Captions for `convert bake`, apart from the bench's."""
    rng = np.random.default_rng(3)
    return [
        caption(*(list(names)[rng.integers(len(names))] for names in (SUBJECTS, COLOURS, BACKGROUNDS)))
        for _ in range(count)
    ]


def bake(source: Path, target: Path, how: list[str], options: argparse.Namespace) -> None:
    """The file that `convert bake`, or a mere rescaling, makes of a style LoRA."""
    if how:
        argv = ["bake", str(source), "-o", str(target), "--lambda", str(options.scale), "--cfg", str(GUIDANCE_SCALE)]
        argv += ["--start", str(STYLE_START), "--steps", str(STEPS), "--fit-steps", str(options.fit_steps), *how]
        argv += ["--model", str(MODEL_DIR), "--prompts", *fitting_prompts(options.fit_prompts)]
    else:
        argv = ["a1111", str(source), "-o", str(target), "--strength", str(options.scale / GUIDANCE_SCALE), "--no-card"]
    with contextlib.redirect_stdout(io.StringIO()):
        status = convert(argv)
    if status:
        raise SystemExit(f"bake failed on {source}")


def measure(
    sampler: Sampler, judge: Judge, style: str, prompts: list[Prompt], base: np.ndarray, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Scores of one style by way of making its pictures; "distance" is that to the guided picture, base's being 1."""
    words, file = style_words(style), style_file(style, options.loras, PAIR)
    subjects = [prompt.subject for prompt in prompts]
    reference = Reference.of(judge, base, HELD_OUT_STYLES[style], subjects, CONTENTS[PAIR][1])
    everywhere = np.ones(base.shape[:3], np.float32)

    def draw(path: Path, mode: str, strength: float) -> np.ndarray:
        return sampler.draw(prompts, words, path, mode, strength)

    guided = draw(file, "guidance", options.scale)
    pictures = {"base model": base, "style guidance": guided}
    with tempfile.TemporaryDirectory() as folder:
        for number, (way, how) in enumerate(WAYS.items()):
            baked = file
            if how is not None:
                baked = Path(folder) / f"{number}.safetensors"
                bake(file, baked, how, options)
            pictures[way] = draw(baked, "lora", 1.0)
    unit = pixel_gap(base, guided, everywhere).mean()
    return {
        way: {
            "distance": round(float(pixel_gap(images, guided, everywhere).mean() / unit), 3),
            **{name: value for name, value in score(images, reference, judge).items() if name in MEASURES},
        }
        for way, images in pictures.items()
    }


def report(results: dict[str, Any]) -> str:
    options = results["options"]
    lines = [
        "# Bake: style guidance in a plain LoRA", "",
        f"`python -m benchmarks.bake`. λ {options['scale']:g}, CFG {GUIDANCE_SCALE:g}, {options['steps']} steps, "
        f"style from {options['start']:g} of them on; {options['prompts']} prompts of the quality bench, one training "
        f"(pair: {PAIR}) for each style; fitted on {options['fit_prompts']} other prompts, {options['fit_steps']} "
        "steps.",
        "*distance*: RMS pixel distance to the guided picture, where the base picture's is 1. The other columns are",
        "the quality bench's scores against the true answer (docs/quality.md).", "",
        "| style | pictures by | distance | " + " | ".join(MEASURES) + " |", "|---" * (3 + len(MEASURES)) + "|",
    ]  # fmt: skip
    for style, rows in results["styles"].items():
        for way, figures in rows.items():
            cells = [f"{figures[name]:.2f}" for name in ("distance", *MEASURES)]
            lines.append(f"| {style} | {way} | " + " | ".join(cells) + " |")
    lines += ["", f"Machine: {results['machine']}; {results['seconds']:.0f} s, trainings included."]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bake", description=__doc__)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    parser.add_argument("--styles", nargs="+", choices=list(HELD_OUT_STYLES), default=["poster", "ink", "duotone"])
    parser.add_argument("--loras", type=Path, default=ONE_PAIR_DIR, help="STYLE.safetensors; missing ones are trained")
    parser.add_argument("--scale", type=float, default=1.5, help="λ")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--fit_prompts", type=int, default=9)
    parser.add_argument("--fit_steps", type=int, default=120)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", help="judge and base pictures")
    parser.add_argument("--machine", default=machine, help="the machine, in words")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "bake")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    judge, sampler = load_judge(options.work), Sampler()
    prompts, base = base_pictures(options.work, CONTENTS[PAIR][1], options.prompts)
    styles = {}
    for style in options.styles:
        styles[style] = measure(sampler, judge, style, prompts, base, options)
        print(f"{style}: done", flush=True)
    kept = {name: getattr(options, name) for name in ("scale", "prompts", "fit_prompts", "fit_steps")}
    kept |= {"steps": STEPS, "start": STYLE_START}
    results = {"options": kept, "machine": options.machine, "seconds": time.monotonic() - started, "styles": styles}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    options.output.with_suffix(".md").write_text(report(results), encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    main()
