"""A style LoRA from one bundled pair, by the preset: what the demo, the pictures and the benchmarks start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demo.make_pairs import PAIRS_DIR
from demo.model_config import MODEL_DIR
from pair_network import PairError
from pair_network.training.hosts import embedded

ROOT = Path(__file__).resolve().parents[1]
OUTPUT_DIR = ROOT / "output/demo"


def pair_files(style: str, pair: str) -> tuple[Path, Path]:
    """The content image and the style image."""
    return PAIRS_DIR / "content" / f"{pair}.png", PAIRS_DIR / style / f"{pair}.png"


def style_words(style: str) -> str:
    return f"in {style} style"


def train_style(style: str, pair: str, folder: Path, further: Sequence[str] = ()) -> int:
    """Trains STYLE.safetensors in the folder, as train_pair_network.py does; returns the exit status."""
    content, styled = pair_files(style, pair)
    return embedded.train(
        [
            "--config_file", str(ROOT / "presets/embedded.toml"),
            "--pretrained_model_name_or_path", str(MODEL_DIR),
            "--content", str(content), "--style", str(styled), "--style_prompt", style_words(style),
            "--output_dir", str(folder), "--output_name", style, *further,
        ]
    )  # fmt: skip


def style_file(style: str, folder: Path = OUTPUT_DIR, pair: str = "house") -> Path:
    """STYLE.safetensors in the folder, trained now unless it is there.

    Raises:
        PairError: The training did not end well.
    """
    file = folder / f"{style}.safetensors"
    if not file.is_file() and train_style(style, pair, folder):
        raise PairError(f"{file}: its training failed")
    return file
