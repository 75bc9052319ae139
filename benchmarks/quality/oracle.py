"""What a LoRA can reach on a base model: `python -m benchmarks.quality.oracle --styles ink blueprint`.

The oracle is the same training as everywhere in the bench, the same updates x rows, but on many true pairs in place of
one. What it cannot draw, no method that learns from one pair can be seen to draw: the base model lacks it. Its strength
is also given as a share of what the autoencoder allows, the strength of T(base) after encoding and decoding.

Of the styles that the base model was trained on nothing has to be learnt: it draws them by their names in the prompt.
What they reach is the most that base model, sampler and measure allow.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from benchmarks.quality.__main__ import RESULTS
from benchmarks.quality.jobs import PRESET, ROOT, make_prompts, without_previews
from benchmarks.quality.judge import Judge, load_judge
from benchmarks.quality.measures import Reference, score
from benchmarks.quality.plan import WAYS
from benchmarks.quality.report import plain_table
from benchmarks.quality.sampler import STYLE_START, Prompt, Sampler
from demo.data import HELD_OUT_SEED
from demo.far_styles import FAR_STYLES
from demo.model_config import MODEL_DIR
from demo.scenes import caption, render_scene, to_picture
from demo.styles import BASE_STYLES, HELD_OUT_STYLES, Style
from pair_network.training.hosts.embedded.entry import PairTrainer, train_pairs

STYLES: dict[str, Style] = HELD_OUT_STYLES | FAR_STYLES
ALL_STYLES: dict[str, Style] = STYLES | BASE_STYLES
NUM_PAIRS = 48
PAIR_SEED = HELD_OUT_SEED + 800_000
# The silhouette has to stay where it was: a stronger style at less than this does not count.
LEAST_STRUCTURE = 0.75
STRONGER = (4.0, 5.0)
SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """What the oracle reached in one style.

    Attributes:
        strength: the largest at a structure of at least `LEAST_STRUCTURE`, by any way and strength; 0 if none has it.
        ceiling: strength of T(base) after the autoencoder.
        share: strength / ceiling.
        structure: at that strength.
        pixel_error: distance to T(base) of the whole picture there, as a part of base's own.
        at: way to draw (`plan.WAYS`) and its strength, e.g. "lora 1".
    """

    strength: float
    ceiling: float
    share: float
    structure: float
    pixel_error: float
    at: str


def write_pairs(folder: Path, name: str, count: int = NUM_PAIRS) -> tuple[Path, Path]:
    """Writes true pairs of a style with captions; the folders of the photos and of the styled ones."""
    for number in range(count):
        scene = render_scene(PAIR_SEED + number)
        for place, image, style in (("content", scene.image, None), ("style", STYLES[name](scene.image), name)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            to_picture(image).save(folder / place / f"{number:02}.png")
            text = caption(scene.subject, scene.colour, scene.background, style)
            (folder / place / f"{number:02}.txt").write_text(text + "\n", encoding="utf-8")
    return folder / "content", folder / "style"


def train(model: Path, name: str, folder: Path, seed: int, further: Sequence[str] = ()) -> Path:
    """Trains on true pairs as `presets/embedded.toml` says, ``further`` options last; the style LoRA's file."""
    content, style = write_pairs(folder, name)
    argv = [
        "--config_file", str(PRESET), "--pretrained_model_name_or_path", str(model),
        "--content", str(content), "--style", str(style), "--style_prompt", f"in {name} style",
        "--output_dir", str(folder), "--output_name", "oracle", "--seed", str(seed), "--save_precision", "float",
        *further,
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train_pairs(argv, without_previews(PairTrainer))
    return folder / "oracle.safetensors"


@torch.no_grad()
def through_autoencoder(sampler: Sampler, images: np.ndarray) -> np.ndarray:
    """Images (count, height, width, 3) in [0, 1], encoded and decoded."""
    vae, parts = sampler.pipe.vae, []
    for first in range(0, len(images), 20):
        pixels = torch.from_numpy(images[first : first + 20]).movedim(-1, 1).to(sampler.device) * 2 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        parts.append((decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu().numpy())
    return np.concatenate(parts)


def measure(
    sampler: Sampler, judge: Judge, prompts: list[Prompt], name: str, file: Path | None
) -> tuple[Finding, list[np.ndarray]]:
    """The oracle's figures in a style, and the pictures of the sheet: base, oracle, VAE(T(base)), T(base).

    Without a ``file`` the base model draws the style by its name.
    """
    base, subjects = sampler.draw(prompts), [prompt.subject for prompt in prompts]
    reference = Reference.of(judge, base, ALL_STYLES[name], subjects, subjects[0])
    allowed = through_autoencoder(sampler, reference.truth)
    ceiling, everywhere = reference.strength(allowed), np.ones(base.shape[:3])
    best, drawn = Finding(0.0, ceiling, 0.0, 1.0, 1.0, "none"), base
    for way, (mode, cfg_end, strengths) in WAYS.items():
        if mode == "guidance":
            # It is asked for its best, which lay at the end of the range in which methods are compared.
            strengths = (*strengths, *STRONGER)
        elif file is None:
            # Where there is no LoRA, there is no strength of it.
            strengths = (1.0,)
        for strength in strengths:
            images = sampler.draw(prompts, f"in {name} style", file, mode, strength, cfg_end)
            figures = score(images, reference, judge)
            if figures["structure"] >= LEAST_STRUCTURE and figures["strength"] > best.strength:
                error, reached = reference.pixel_error(images, everywhere), figures["strength"]
                where = f"{way} {strength:g}"
                best = Finding(reached, ceiling, reached / ceiling, figures["structure"], error, where)
                drawn = images
    return best, [base, drawn, allowed, reference.truth]


def save_sheet(rows: dict[str, list[np.ndarray]], file: Path) -> None:
    """For each style four labelled rows of the last pictures: base model, drawn, VAE(T(base)), T(base)."""
    side = next(iter(rows.values()))[0].shape[1]
    height = 4 * side + 8
    sheet = Image.new("RGB", (190 + SHOWN * side, len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for block, (name, sets) in enumerate(rows.items()):
        titles = ("base model", "oracle" if name in STYLES else "by its name", "true, autoencoder", "true answer")
        for line, (title, images) in enumerate(zip(titles, sets, strict=True)):
            top = block * height + line * side
            draw.text((4, top + side // 2 - 8), f"{name}: {title}", fill="black", font_size=12)
            sheet.paste(to_picture(np.concatenate(list(images[-SHOWN:]), axis=1)), (190, top))
    sheet.save(file, quality=88)


def page(findings: dict[str, Finding], prompts: int) -> str:
    """The Markdown page."""
    parts = {
        f"One training on {NUM_PAIRS} true pairs for each style by `presets/embedded.toml`": STYLES,
        "Styles that the base model was trained on, by their names in the prompt: what there is to reach": BASE_STYLES,
    }
    text = (
        "# What a LoRA can reach on the base model\n\n"
        f"`python -m benchmarks.quality.oracle`, {prompts} prompts, style from {STYLE_START:g} of the steps on. "
        f"strength: the largest at structure ≥ {LEAST_STRUCTURE} (docs/quality.md); ceiling: T(base) after the "
        "autoencoder; share: strength / ceiling; pixel_error: distance to T(base), the base picture's own is 1.\n"
    )
    for title, styles in parts.items():
        rows = {
            name: {key: value for key, value in asdict(found).items() if key != "at"}
            for name, found in findings.items() if name in styles
        }  # fmt: skip
        if rows:
            where = ", ".join(f"{name} {findings[name].at}" for name in rows)
            text += f"\n{title}:\n\n{plain_table('style', rows, 2)}\nReached at: {where}.\n"
    return text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.oracle", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder of the base model")
    parser.add_argument("--styles", nargs="+", choices=list(ALL_STYLES), default=list(ALL_STYLES))
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", help="judge")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of oracle.json, oracle.md and oracle.webp")
    args = parser.parse_args()
    if not (args.model / "model_index.json").is_file():
        parser.error(f"--model {args.model}: no model_index.json there, a folder in diffusers layout is needed")
    torch.set_num_threads(os.cpu_count() or 1)
    sampler, judge = Sampler(args.model), load_judge(args.work)
    prompts = make_prompts("house", args.prompts)
    findings: dict[str, Finding] = {}
    rows: dict[str, list[np.ndarray]] = {}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in tqdm(args.styles, "styles"):
        with tempfile.TemporaryDirectory() as folder:
            file = train(args.model, name, Path(folder), args.seed) if name in STYLES else None
            findings[name], rows[name] = measure(sampler, judge, prompts, name, file)
        model = args.model.relative_to(ROOT) if args.model.is_relative_to(ROOT) else args.model
        kept = {"model": str(model), "prompts": args.prompts, "seed": args.seed}
        found = {style: asdict(finding) for style, finding in findings.items()}
        (args.out / "oracle.json").write_text(json.dumps({**kept, "styles": found}, indent=1) + "\n", encoding="utf-8")
        (args.out / "oracle.md").write_text(page(findings, args.prompts), encoding="utf-8")
        save_sheet(rows, args.out / "oracle.webp")
    print(page(findings, args.prompts))


if __name__ == "__main__":
    main()
