"""A folder of pairs that training takes: the real pair, those made from it, and the dataset file that weighs them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import toml
from PIL import Image

from pair_network.errors import PairError
from pair_network.files import atomic_folder
from pair_network.images import CAPTION_SUFFIXES
from pair_network.sampling.previews import grid, save_picture
from pair_network.training.pair_dataset import DATASET, MADE, made_subset
from pair_network.upright import open_upright

SHEET_ROWS = 6
BUCKET_STEP = 64  # kohya's


@dataclass(frozen=True)
class MadePair:
    """A picture, what the map makes of it, and the caption of the picture."""

    content: Image.Image
    style: Image.Image
    caption: str


def check_empty(folder: Path) -> None:
    """Raises PairError where the folder holds something: pairs of two runs must not mix."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise PairError(f"--out {folder}: is not an empty folder; name another one, or remove it")


def write_pairs(
    folder: Path, real: tuple[Path, Path], caption: str, style_words: str, made: Sequence[MadePair], resolution: int,
    share: float,
) -> None:  # fmt: skip
    """Writes ``made/`` and ``real/`` (content and style images with captions), the dataset file and a sheet.

    The folder appears whole or not at all.

    Args:
        folder: New.
        real: The pair's own files, which are copied as they are.
        caption: The real content image's.
        style_words: What the captions of style images add.
        made: The pairs that were made.
        resolution: Side of a square with the pictures' area.
        share: Of a run's samples that are the real pair.
    """
    with atomic_folder(folder) as part:
        for side in ("content", "style"):
            for group in ("real", MADE):
                (part / group / side).mkdir(parents=True)
        for path, side in zip(real, ("content", "style"), strict=True):
            target = part / "real" / side / f"pair{path.suffix.lower()}"
            shutil.copyfile(path, target)
            _write_caption(target, caption, style_words if side == "style" else "")
        for number, pair in enumerate(made, start=1):
            for picture, side in ((pair.content, "content"), (pair.style, "style")):
                target = part / MADE / side / f"{number:04d}.png"
                picture.save(target)
                _write_caption(target, pair.caption, style_words if side == "style" else "")
        (part / DATASET).write_text(toml.dumps(dataset(folder, made, resolution, share)), encoding="utf-8")
        save_picture(part / "sheet.png", sheet(real, made))


def dataset(folder: Path, made: Sequence[MadePair], resolution: int, share: float) -> dict[str, object]:
    """kohya's dataset settings: the real pair as often as its share says, the made pairs once."""
    real: dict[str, object] = {
        "image_dir": (folder / "real" / "style").absolute().as_posix(),
        "caption_extension": CAPTION_SUFFIXES[0],
        "num_repeats": max(1, round(len(made) * share / (1 - share))),
        "custom_attributes": {"content_dir": (folder / "real" / "content").absolute().as_posix()},
    }
    size: dict[str, object] = {"resolution": resolution}
    if any(pair.content.width != pair.content.height for pair in made):
        low = max(BUCKET_STEP, min(256, resolution // 2 // BUCKET_STEP * BUCKET_STEP))
        size |= {"enable_bucket": True, "min_bucket_reso": low, "max_bucket_reso": max(1024, 2 * resolution)}
    return {"datasets": [{**size, "subsets": [real, made_subset(folder)]}]}


def sheet(real: tuple[Path, Path], made: Sequence[MadePair]) -> Image.Image:
    """The real pair, then some of the others, to look at before training."""
    step = max(1, len(made) // SHEET_ROWS)
    rows: list[list[Image.Image | None]] = [[open_upright(path).image for path in real]]
    rows += [[pair.content, pair.style] for pair in made[::step][:SHEET_ROWS]]
    return grid(rows, ["picture", "in the style"], ["the pair", *["made"] * (len(rows) - 1)], tile=192)


def _write_caption(image: Path, caption: str, words: str) -> None:
    image.with_suffix(".txt").write_text(f"{caption} {words}".strip() + "\n", encoding="utf-8")
