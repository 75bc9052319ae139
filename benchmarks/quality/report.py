"""The bench's results as a table, a picture of curves, and a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot
from PIL import Image, ImageDraw

from benchmarks.quality.curves import at_level, curve, interval, lost_area
from benchmarks.quality.methods import METHODS
from benchmarks.quality.plan import RESERVED_OPERATORS, RESERVED_PAIR, THREE
from benchmarks.quality.sampler import MODES

LEVEL = 0.5
MEASURES = ("accuracy", "leak", "structure", "subject_error", "background_error", "diversity")
SHOWN = (("poster", "house", 0), ("halftone", "house", 0))
Jobs = list[dict[str, Any]]


def write(form: str, results: dict[str, Any], out: Path) -> None:
    """Writes what belongs to a form of the bench into `out`."""
    jobs = list(results["jobs"].values())
    if form == "quick":
        (out / "quick.json").write_text(json.dumps(quick_figures(jobs), indent=1) + "\n", encoding="utf-8")
        print((out / "quick.json").read_text(encoding="utf-8"))
    elif form == "search":
        text = search_table(jobs)
        (out / "search.md").write_text(text, encoding="utf-8")
        print(text)
    elif form == "trial":
        text = comparison(jobs) + by_operator(jobs)
        (out / "trial.md").write_text(text, encoding="utf-8")
        print(text)
    else:
        (out / "quality.md").write_text(full_report(results), encoding="utf-8")
        save_curves(jobs, out / "curves.png")
        save_sheet(out / "strips", out / "sheet.png")
        print(out / "quality.md")


def quick_figures(jobs: Jobs) -> dict[str, Any]:
    """By method: leak, accuracy and strength as a LoRA of strength 1, and with style guidance."""
    figures: dict[str, Any] = {}
    for job in jobs:
        points = {mode: job["curves"][mode][1] for mode in MODES}
        wanted = {
            mode: {name: point[name] for name in ("leak", "accuracy", "strength")} for mode, point in points.items()
        }
        figures[job["method"]] = {**wanted["lora"], "guidance": {"scale": THREE["guidance"][1], **wanted["guidance"]}}
    return figures


def search_table(jobs: Jobs) -> str:
    """Mean of the two lost areas by method and learning rate, the better mode of each; the smallest is the best."""
    cells: dict[str, dict[float, list[float]]] = {}
    for job in jobs:
        best = min(np.mean([lost_area(curve(job, mode), name) for name in ("accuracy", "structure")]) for mode in MODES)
        cells.setdefault(job["method"], {}).setdefault(job["learning_rate"], []).append(float(best))
    rates = sorted({rate for row in cells.values() for rate in row})
    lines = ["| method | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    for method, row in cells.items():
        values = [f"{np.mean(row[rate]):.3f}" if rate in row else "" for rate in rates]
        lines.append(f"| {METHODS[method].title} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def full_report(results: dict[str, Any]) -> str:
    """The Markdown page: tables of all jobs and of the reserved ones, the judge, and the measures' validation."""
    jobs: Jobs = list(results["jobs"].values())
    reserved = [job for job in jobs if job["operator"] in RESERVED_OPERATORS and job["pair"] == RESERVED_PAIR]
    machine = results["machine"]
    parts = [
        "# Quality bench\n",
        f"Embedded model {results['model']}; {len(jobs)} jobs on {machine['cores']} cores ({machine['machine']}), "
        f"torch {machine['torch']}. Command: `python -m benchmarks.quality`. How to read it: docs/quality.md.\n",
        f"Figures at style strength {LEVEL} (1 is the true answer, 0 the base picture), with 95 % bootstrap intervals "
        "over jobs. `reached` is the share of jobs that get there at all. Areas: mean loss over all strengths.\n",
        "## All jobs\n", comparison(jobs),
        "## Styles and pair that no choice was made on\n",
        f"{', '.join(RESERVED_OPERATORS)}; pair: {RESERVED_PAIR}.\n", comparison(reserved),
        "## By operator: lost area of structure, style guidance\n", by_operator(jobs),
        "## The judge on unseen scenes\n", plain_table("style", results["judge"]),
        "## What the measures say of known answers\n", plain_table("operator", results["validation"]),
    ]  # fmt: skip
    return "\n".join(parts)


def comparison(jobs: Jobs) -> str:
    """One row for each method and mode."""
    head = ["method", "mode", "n", "reached", *MEASURES, "area: accuracy", "area: structure"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, mode, group in _groups(jobs):
        points = [curve(job, mode) for job in group]
        reached = np.mean([not np.isnan(at_level(one, "leak", LEVEL)) for one in points])
        cells = [_cell([at_level(one, measure, LEVEL) for one in points]) for measure in MEASURES]
        cells += [_cell([lost_area(one, measure) for one in points]) for measure in ("accuracy", "structure")]
        lines.append("| " + " | ".join([METHODS[method].title, mode, str(len(group)), f"{reached:.2f}", *cells]) + " |")
    base = interval([job["base"]["accuracy"] for job in jobs])[0], interval([job["base"]["leak"] for job in jobs])[0]
    lines.append(f"\nThe base model without style: accuracy {base[0]:.3f}, leak {base[1]:.3f}.\n")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    mean, low, high = interval(values)
    return "–" if np.isnan(mean) else f"{mean:.3f} ({low:.2f}–{high:.2f})"


def _groups(jobs: Jobs) -> Iterable[tuple[str, str, Jobs]]:
    for method in METHODS:
        group = [job for job in jobs if job["method"] == method]
        if group:
            yield from ((method, mode, group) for mode in MODES)


def by_operator(jobs: Jobs) -> str:
    operators = sorted({job["operator"] for job in jobs})
    rows = {}
    for method, mode, group in _groups(jobs):
        if mode == "guidance":
            cells = {
                op: [lost_area(curve(job, mode), "structure") for job in group if job["operator"] == op]
                for op in operators
            }
            rows[METHODS[method].title] = {
                op: round(float(np.mean(v)), 3) if v else float("nan") for op, v in cells.items()
            }
    return plain_table("method", rows)


def plain_table(first: str, rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table of rows of figures under the same names."""
    names = list(next(iter(rows.values()), {}))
    lines = [f"| {first} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {key} | " + " | ".join(f"{row[name]:g}" for name in names) + " |" for key, row in rows.items()]
    return "\n".join(lines) + "\n"


def save_curves(jobs: Jobs, file: Path) -> None:
    """Accuracy, leak, structure and background error over style strength, a line for each method."""
    measures = ("accuracy", "leak", "structure", "background_error")
    figure, axes = pyplot.subplots(len(MODES), len(measures), figsize=(17, 8), sharex=True, layout="constrained")
    levels = np.linspace(0, 1, 21)
    for row, mode in zip(axes, MODES, strict=True):
        for axis, measure in zip(row, measures, strict=True):
            for method, own_mode, group in _groups(jobs):
                if own_mode == mode:
                    _draw_line(axis, METHODS[method].title, [curve(job, mode) for job in group], measure, levels)
            axis.set_title(f"{measure} ({mode})")
            axis.set_xlabel("style strength (1: the true answer)")
    axes[0][0].legend(fontsize=7)
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def _draw_line(axis: Any, title: str, points: list, measure: str, levels: np.ndarray) -> None:
    """Mean over the jobs that reach a level, with its interval; ends where fewer than half of them do."""
    found = [[at_level(one, measure, level) for one in points] for level in levels]
    kept = [i for i, values in enumerate(found) if np.mean(np.isnan(values)) <= 0.5]
    means = np.array([interval(found[i]) for i in kept])
    if len(means):
        (line,) = axis.plot(levels[kept], means[:, 0], label=title)
        axis.fill_between(levels[kept], means[:, 1], means[:, 2], alpha=0.12, color=line.get_color())


def save_sheet(strips: Path, file: Path, zoom: int = 1) -> None:
    """The strips of all methods side by side, their names above; rows: base, truth, then every mode and strength."""
    for operator, _, _ in SHOWN:
        found = [(name, strips / f"{name}-{operator}.png") for name in METHODS]
        pictures = [(METHODS[name].title, Image.open(path)) for name, path in found if path.exists()]
        if pictures:
            _join(pictures, lambda count: _row_names(count)).save(file.with_stem(f"{file.stem}_{operator}"))


def _row_names(count: int) -> list[str]:
    names = ["base", "true answer", *(f"{mode} {at:g}" for mode in MODES for at in THREE[mode])]
    return names if len(names) == count else [""] * count


def _join(pictures: list[tuple[str, Image.Image]], row_names: Callable[[int], list[str]]) -> Image.Image:
    width, height = pictures[0][1].size
    left, top, gap = 80, 16, 6
    sheet = Image.new("RGB", (left + len(pictures) * (width + gap), top + height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(row_names(height // 64)):
        draw.text((2, top + row * 64 + 26), name, fill="black")
    for column, (title, picture) in enumerate(pictures):
        draw.text((left + column * (width + gap), 2), title, fill="black")
        sheet.paste(picture, (left + column * (width + gap), top))
    return sheet
