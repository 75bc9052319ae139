"""The bench's results to look at: curves over style strength, and a contact sheet with a row for each method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot
from PIL import Image, ImageDraw

from benchmarks.quality.curves import at_level, curve, interval
from benchmarks.quality.methods import METHODS
from benchmarks.quality.sampler import MODES
from demo.scenes import to_picture
from pair_network.images import open_image

Jobs = list[dict[str, Any]]
MEASURES = ("accuracy", "leak", "structure", "background_error")
# The jobs on the contact sheet: operator, pair, seed. Their strips are kept beside the results.
SHOWN = (("poster", "house", 0), ("ink", "house", 0))
# Which pictures of a job: its last ones, but none beyond the prompts that the jobs of every method have.
STRIP, COMMON_PROMPTS = 6, 40
# Twelve that can be told apart: the dark ones of matplotlib's twenty, then two of the light ones.
COLOURS = [pyplot.get_cmap("tab20")(i) for i in (*range(0, 20, 2), 1, 13)]


def save_curves(families: dict[str, Jobs], file: Path) -> None:
    """Two rows of plots, one for each mode, for every named family of jobs; a line for each method.

    The methods of a family are compared on the same trainings.
    """
    rows = [(name, mode, jobs) for name, jobs in families.items() if jobs for mode in MODES]
    size = (4.3 * len(MEASURES), 3.6 * len(rows))
    figure, grid = pyplot.subplots(len(rows), len(MEASURES), figsize=size, squeeze=False, layout="constrained")
    for axes, (name, mode, jobs) in zip(grid, rows, strict=True):
        present = {job["method"] for job in jobs}
        for axis, measure in zip(axes, MEASURES, strict=True):
            axis.set_prop_cycle(color=COLOURS)
            for method in (method for method in METHODS if method in present):
                _draw_line(axis, method, [curve(job, mode) for job in jobs if job["method"] == method], measure)
            axis.set_title(f"{measure}, {mode}")
            axis.set_xlabel("style strength (1: the true answer)")
        axes[0].set_ylabel(name)
        axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def _draw_line(axis: Any, method: str, points: list[list[dict[str, float]]], measure: str) -> None:
    """Mean over the jobs that reach a level, with its interval; ends where fewer than half of them do."""
    levels = np.linspace(0, 1, 41)
    found = [[at_level(one, measure, level) for one in points] for level in levels]
    kept = [i for i, values in enumerate(found) if values and np.mean(np.isnan(values)) <= 0.5]
    means = np.array([interval(found[i]) for i in kept])
    if len(means):
        (line,) = axis.plot(
            levels[kept], means[:, 0], label=METHODS[method].title, linewidth=3 if method == "ours" else 1
        )
        axis.fill_between(levels[kept], means[:, 1], means[:, 2], alpha=0.1, color=line.get_color())


def save_strip(rows: Sequence[np.ndarray], file: Path) -> None:
    """A few pictures of each set (count, height, width, 3), of the same prompts in every job; a row for each set."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shown = [row[:COMMON_PROMPTS][-STRIP:] for row in rows]
    strip: Image.Image = to_picture(np.concatenate([np.concatenate(list(row), axis=1) for row in shown]))
    strip.save(file, quality=92)


def save_sheet(strips: Path, file: Path) -> None:
    """Base picture, true answer, then every method: with its LoRA and with guidance, for each of the jobs `SHOWN`.

    Args:
        strips: folder of METHOD-OPERATOR.webp, by `save_strip`: base, truth, LoRA, guidance.
        file: the sheet.
    """
    found = {(name, job[0]): strips / f"{name}-{job[0]}.webp" for name in METHODS for job in SHOWN}
    opened = {key: open_image(path) for key, path in found.items() if path.exists()}
    operators = [job[0] for job in SHOWN if ("ours", job[0]) in opened]
    if not operators:
        return
    lines = [("base model", [opened["ours", op].crop(_row(0)) for op in operators for _ in MODES])]
    lines += [("true answer", [opened["ours", op].crop(_row(1)) for op in operators for _ in MODES])]
    for name in METHODS:
        if any((name, op) in opened for op in operators):
            blank = Image.new("RGB", (STRIP * 64, 4 * 64), "white")
            cells = [opened.get((name, op), blank).crop(_row(2 + i)) for op in operators for i in range(len(MODES))]
            lines.append((METHODS[name].title, cells))
    _table([f"{op}, {mode}" for op in operators for mode in MODES], lines).save(file, quality=88)


def _row(number: int) -> tuple[int, int, int, int]:
    return (0, 64 * number, 64 * STRIP, 64 * (number + 1))


def _table(heads: Sequence[str], lines: Iterable[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Named rows of equally wide pictures under the heads of their columns."""
    rows = list(lines)
    left, top, gap, (width, height) = 190, 24, 8, rows[0][1][0].size
    sheet = Image.new("RGB", (left + len(heads) * (width + gap), top + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((left + column * (width + gap), 4), head, fill="black", font_size=14)
    for line, (title, pictures) in enumerate(rows):
        draw.text((4, top + line * height + height // 2 - 8), title, fill="black", font_size=14)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (left + column * (width + gap), top + line * height))
    return sheet
