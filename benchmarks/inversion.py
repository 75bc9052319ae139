"""The two inversions of ``restyle``: ``python benchmarks/inversion.py``. Writes benchmarks/results/inversion.*

On scenes that the embedded model has never seen: how well the way to noise and back gives the photo again, and how
close the restyled photo comes to T(photo), the held-out style's own function, with a LoRA taught by one other pair.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo.data import HELD_OUT_SEED  # noqa: E402
from demo.model_config import load_pipeline  # noqa: E402
from demo.one_pair import ONE_PAIR_DIR, style_file, style_words  # noqa: E402
from demo.scenes import Scene, render_scene, to_picture  # noqa: E402
from demo.styles import HELD_OUT_STYLES  # noqa: E402
from pair_network.sampling.cli import restyle  # noqa: E402
from pair_network.sampling.pipelines import Style  # noqa: E402

METHODS = ("direct", "ddim")
FIRST_SEED = HELD_OUT_SEED + 40_000  # apart from the scenes of the pairs and of the other benchmarks


def pixels(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) float32 in [0, 1]."""
    return np.asarray(picture, np.float32) / 255


def psnr(picture: np.ndarray, wanted: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    return -10 * math.log10(max(float(np.square(picture - wanted).mean()), 1e-10))


@torch.no_grad()
def through_the_vae(pipe: Any, photo: Image.Image) -> Image.Image:
    """What encoding and decoding alone make of a photo: no inversion can do better."""
    latents = restyle.encode_photo(pipe, photo) / pipe.vae.config.scaling_factor
    return pipe.image_processor.postprocess(pipe.vae.decode(latents).sample)[0]


def measure(
    pipe: Any, scene: Scene, loras: dict[str, Path], options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """PSNRs of one scene: by method, and within it by what was compared."""
    photo, prompt = to_picture(scene.image), scene.caption()
    size = {"num_inference_steps": options.steps, "width": photo.width, "height": photo.height}
    settings = {**size, "guidance_scale": options.cfg}
    levels = restyle.invert(pipe, photo, prompt, size)
    drift = restyle.measured_drift(pipe, levels, prompt, settings)
    found: dict[str, dict[str, list[float]]] = {
        "VAE": {"photo again": [psnr(pixels(through_the_vae(pipe, photo)), pixels(photo))]}
    }
    for method in METHODS:
        taken_out = drift if method == "direct" else None
        again = restyle.denoise(pipe, levels[-1], prompt, [], settings, taken_out)
        figures = {"photo again": [psnr(pixels(again), pixels(photo))]}
        for name, file in loras.items():
            truth = HELD_OUT_STYLES[name](pixels(photo))
            for scale in options.scales:
                style = Style(str(file), style_words(name), scale, start=options.start)
                restyled = restyle.denoise(pipe, levels[-1], prompt, [style], settings, taken_out)
                figures.setdefault(f"{name}, λ {scale:g}", []).append(psnr(pixels(restyled), truth))
        found[method] = figures
    found["photo as it is"] = {
        f"{name}, λ {scale:g}": [psnr(pixels(photo), HELD_OUT_STYLES[name](pixels(photo)))]
        for name in loras
        for scale in options.scales
    }
    return found


def gathered(scenes: Sequence[dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, list[float]]]:
    """The figures of all scenes, in lists by method and comparison."""
    total: dict[str, dict[str, list[float]]] = {}
    for scene in scenes:
        for method, figures in scene.items():
            for name, values in figures.items():
                total.setdefault(method, {}).setdefault(name, []).extend(round(value, 3) for value in values)
    return total


def winner(figures: dict[str, dict[str, list[float]]]) -> str:
    """The method whose restyled pictures are closer to T(photo) on average, over styles and their best λ."""

    def score(method: str) -> float:
        best: dict[str, float] = {}
        for name, values in figures[method].items():
            style = name.partition(",")[0]
            if name != "photo again":
                best[style] = max(best.get(style, -math.inf), statistics.mean(values))
        return statistics.mean(best.values())

    return max(METHODS, key=score)


def report(results: dict[str, Any]) -> str:
    figures, options = results["psnr"], results["options"]
    columns = list(figures["direct"])
    lines = [
        "# Inversion", "",
        f"`python benchmarks/inversion.py`. {options['scenes']} unseen scenes, {options['steps']} steps each way, CFG "
        f"{options['cfg']:g}, style from {options['start']:g} of the schedule on.",
        "Mean PSNR in dB (standard deviation over the scenes): of the photo that comes back without a style, and of",
        "the restyled photo against the true answer, T(photo). Rows in italics are bounds: the VAE alone, and the",
        "photo left as it is. The last row is the difference within a scene: mean ± its standard error.", "",
        "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|",
    ]  # fmt: skip
    for method, label in (("VAE", "*VAE*"), ("photo as it is", "*photo as it is*"), *((m, m) for m in METHODS)):
        lines.append(f"| {label} | " + " | ".join(cell(figures[method].get(name)) for name in columns) + " |")
    gaps = [gap(figures["direct"][name], figures["ddim"][name]) for name in columns]
    lines += [
        "| direct − ddim | " + " | ".join(gaps) + " |",
        "",
        f"Closer to the true answer, at each style's best λ: **{winner(figures)}**.",
        f"Machine: {results['machine']}; {results['seconds']:.0f} s, load {results['load']:.1f} at the end.",
    ]
    return "\n".join(lines) + "\n"


def cell(values: list[float] | None) -> str:
    return "–" if values is None else f"{statistics.mean(values):.2f} ({statistics.pstdev(values):.2f})"


def gap(first: list[float], second: list[float]) -> str:
    """Mean difference of paired figures, and its standard error where there are two or more."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{statistics.mean(differences):+.2f} ± {error:.2f}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--styles", nargs="+", choices=list(HELD_OUT_STYLES), default=["poster", "duotone"])
    parser.add_argument("--loras", type=Path, default=ONE_PAIR_DIR, help="STYLE.safetensors; missing ones are trained")
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0, 3.0], help="λ")
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--machine", default=machine, help="the machine, in words")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "inversion")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    loras = {name: style_file(name, options.loras) for name in options.styles}
    started = time.monotonic()
    pipe = load_pipeline()
    scenes = []
    for number in range(options.scenes):
        scenes.append(measure(pipe, render_scene(FIRST_SEED + number), loras, options))
        print(f"scene {number + 1} of {options.scenes}", flush=True)
    kept = {name: getattr(options, name) for name in ("scenes", "styles", "scales", "start", "steps", "cfg")}
    results = {
        "options": kept, "machine": options.machine, "seconds": time.monotonic() - started,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan"), "psnr": gathered(scenes),
    }  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    options.output.with_suffix(".md").write_text(report(results), encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    main()
