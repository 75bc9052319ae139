"""A style LoRA from one bundled pair: what the demo, the pictures and the benchmarks start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import toml

from demo.make_pairs import CONTENTS, PAIRS_DIR
from demo.model_config import MODEL_DIR
from demo.scenes import BACKGROUNDS, COLOURS, SIZE, caption
from demo.subjects import SUBJECTS
from pair_network import PairError
from pair_network.files import write_text
from pair_network.pseudo_pairs import command as pseudo_pairs
from pair_network.pseudo_pairs.folder import DATASET
from pair_network.pseudo_pairs.options import PairsOptions
from pair_network.training.hosts import embedded

ROOT = Path(__file__).resolve().parents[1]
PRESET = ROOT / "presets/embedded.toml"
# Files by the pair alone lie apart from those by more pairs made out of it.
OUTPUT_DIR, ONE_PAIR_DIR = ROOT / "output/demo", ROOT / "output/one_pair"
# Two pairs per step in place of four: each step sees others, so the picture is as near to the style in half the time.
MADE, MADE_BATCH = 24, 2
# The base model's pictures that pairs are made of need not be fine.
MADE_STEPS, MADE_CFG, MADE_SEED = 8, 3.0, 700


def pair_files(style: str, pair: str) -> tuple[Path, Path]:
    """The content image and the style image."""
    return PAIRS_DIR / "content" / f"{pair}.png", PAIRS_DIR / style / f"{pair}.png"


def style_words(style: str) -> str:
    return f"in {style} style"


def train_style(style: str, pair: str, folder: Path, further: Sequence[str] = ()) -> int:
    """Trains STYLE.safetensors on the pair alone, as train_pair_network.py does; returns the exit status."""
    content, styled = pair_files(style, pair)
    return _train(style, PRESET, folder, ["--content", str(content), "--style", str(styled), *further])


def make_pairs(style: str, pair: str, folder: Path) -> Path | None:
    """Makes more pairs out of the bundled one, as `python run.py pairs` does; the dataset file, None if it refuses.

    Args:
        folder: where ``prompts.txt`` and ``pairs/`` are written; pairs that lie there are kept.
    """
    target = folder / "pairs" / f"{style}_{pair}"
    if (target / DATASET).is_file():
        return target / DATASET
    content, styled = pair_files(style, pair)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.txt"
    write_text(prompts, "\n".join(other_captions(pair, MADE)) + "\n")
    target.parent.mkdir(exist_ok=True)
    try:
        pseudo_pairs.run(
            PairsOptions(
                content=content, content_prompt=content.with_suffix(".txt").read_text("utf-8").strip(), style=styled,
                style_prompt=style_words(style), resolution=SIZE, model=str(MODEL_DIR), prompts=prompts, count=MADE,
                seed=MADE_SEED, steps=MADE_STEPS, cfg=MADE_CFG, out=target,
            )
        )  # fmt: skip
    except PairError as refusal:
        print(f"no pairs made: {refusal}", flush=True)
        return None
    return target / DATASET


def other_captions(pair: str, count: int) -> list[str]:
    """Captions that go through subjects, colours and backgrounds, without the pair's own subject."""
    subjects = [name for name in SUBJECTS if name != CONTENTS[pair][1]]
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    return [
        caption(subjects[i % len(subjects)], colours[(3 * i + 1) % len(colours)], backgrounds[i % len(backgrounds)])
        for i in range(count)
    ]


def train_style_on_more(style: str, pair: str, folder: Path, further: Sequence[str] = ()) -> int:
    """Trains STYLE.safetensors on the pair and on pairs made out of it, where they can be; returns the exit status."""
    return train_style_on(make_pairs(style, pair, folder), style, pair, folder, further)


def train_style_on(dataset: Path | None, style: str, pair: str, folder: Path, further: Sequence[str] = ()) -> int:
    """Trains STYLE.safetensors on the pairs of a dataset file, on the pair alone if it is None; the exit status."""
    if dataset is None:
        return train_style(style, pair, folder, further)
    pictures = ["--dataset_config", str(dataset), "--train_batch_size", str(MADE_BATCH)]
    return _train(style, preset_without_pair(folder), folder, [*pictures, *further])


def preset_without_pair(folder: Path) -> Path:
    """The preset as ``preset.toml`` in the folder, without its own pair: a dataset names the pictures."""
    settings = toml.loads(PRESET.read_text(encoding="utf-8"))
    for name in ("content", "style"):
        del settings["pair"][name]
    preset = folder / "preset.toml"
    write_text(preset, toml.dumps(settings))
    return preset


def _train(style: str, preset: Path, folder: Path, pictures: Sequence[str]) -> int:
    return embedded.train(
        [
            "--config_file", str(preset), "--pretrained_model_name_or_path", str(MODEL_DIR),
            "--style_prompt", style_words(style), "--output_dir", str(folder), "--output_name", style, *pictures,
        ]
    )  # fmt: skip


def style_file(style: str, folder: Path = ONE_PAIR_DIR, pair: str = "house") -> Path:
    """STYLE.safetensors in the folder, trained now on the pair alone unless it is there.

    Raises:
        PairError: The training did not end well.
    """
    file = folder / f"{style}.safetensors"
    if not file.is_file() and train_style(style, pair, folder):
        raise PairError(f"{file}: its training failed")
    return file
