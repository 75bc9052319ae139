"""The bench's results as tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.curves import area, at_level, clean_strength, curve, gain, interval
from benchmarks.quality.methods import ABLATIONS, METHODS, RIVALS
from benchmarks.quality.pictures import Jobs, save_curves, save_sheet
from benchmarks.quality.plan import CHOICE_OPERATORS, MAIN, RESERVED_OPERATORS, RESERVED_PAIR, THREE
from benchmarks.quality.sampler import MODES

# The style strength at which methods are compared: most trainings of most methods come this far.
LEVEL = 0.2
AREAS = ("accuracy", "structure")
# Style, pair and seed.
Training = tuple[str, str, int]
MEASURES = ("accuracy", "leak", "structure", "subject_error", "background_error", "diversity")


def write(form: str, results: dict[str, Any], out: Path) -> None:
    """Writes what belongs to a form of the bench into `out`."""
    jobs = list(results["jobs"].values())
    if form == "quick":
        text, file = json.dumps(quick_figures(jobs), indent=1) + "\n", out / "quick.json"
    elif form == "search":
        text, file = search_page(jobs), out / "search.md"
    else:
        text, file = full_page(results), out / "quality.md"
        save_curves(families(jobs), out / "curves.png")
        save_sheet(out / "strips", out / "sheet.webp")
    file.write_text(text, encoding="utf-8")
    print(text)


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


def search_page(jobs: Jobs) -> str:
    """By method and learning rate the mean of the two areas, in the better mode of each job."""
    cells: dict[str, dict[float, list[float]]] = {}
    for job in jobs:
        best = max(np.mean([area(curve(job, mode), name) for name in AREAS]) for mode in MODES)
        cells.setdefault(job["method"], {}).setdefault(job["learning_rate"], []).append(float(best))
    rates = sorted({rate for row in cells.values() for rate in row})
    rows = {
        METHODS[name].title: {f"{rate:g}": float(np.mean(row.get(rate, np.nan))) for rate in rates}
        for name, row in cells.items()
    }
    head = "# The learning rates\n\n`python -m benchmarks.quality --search`: mean area of accuracy and structure "
    return head + "(docs/quality.md), by learning rate.\n\n" + plain_table("method", rows, 3)


def full_page(results: dict[str, Any]) -> str:
    """The Markdown page: tables of all jobs and of the reserved ones, the judge, and the measures' validation."""
    jobs: Jobs = list(results["jobs"].values())
    main, common = _main(jobs), _common(jobs)
    reserved = [job for job in main if is_reserved(job)]
    devices = Counter(job["device"] for job in jobs)
    parts = [
        "# Quality bench\n",
        f"`python -m benchmarks.quality`; how to read it: docs/quality.md. {len(jobs)} trainings with the embedded "
        f"model {results['model']}, on {', '.join(f'{name} ({n})' for name, n in devices.most_common())}. "
        "In brackets: 95 % bootstrap intervals over trainings.\n",
        "![Curves over style strength](curves.png)\n\n![Contact sheet](sheet.webp)\n",
        "## The main methods on all styles and pairs\n", whole_curves(main), at_matched_strength(main),
        "### By strength of the LoRA and λ\n", by_strength(main),
        "## All methods on the same trainings\n", whole_curves(common), at_matched_strength(common),
        "## Styles and pair that no choice was made on\n",
        f"Styles: {', '.join(RESERVED_OPERATORS)}; pair: {RESERVED_PAIR}; either of them.\n", whole_curves(reserved),
        "## By style: area of structure, style guidance\n", by_operator(main, "guidance"),
        "## By style: area of structure, LoRA\n", by_operator(main, "lora"),
        "## The judge on unseen scenes\n", plain_table("style", results["judge"]),
        "## What the measures say of known answers\n", plain_table("style", results["validation"]),
    ]  # fmt: skip
    return "\n".join(parts)


def families(jobs: Jobs) -> dict[str, Jobs]:
    """The jobs that are drawn together, by name."""
    common = _common(jobs)
    return {
        "main methods": _main(jobs),
        "all rivals, the same trainings": [job for job in common if job["method"] in RIVALS],
        "ours and its ablations": [job for job in common if job["method"] == "ours" or job["method"] in ABLATIONS],
    }


def _main(jobs: Jobs) -> Jobs:
    return [job for job in jobs if job["method"] in MAIN]


def _common(jobs: Jobs) -> Jobs:
    """The jobs of the trainings that every method has."""
    others = {training(job) for job in jobs if job["method"] not in MAIN}
    return [job for job in jobs if training(job) in others]


def training(job: dict[str, Any]) -> Training:
    """What methods are compared on."""
    return job["operator"], job["pair"], job["seed"]


def is_reserved(job: dict[str, Any]) -> bool:
    """Whether no setting was chosen by the job's style or pair."""
    return job["operator"] in RESERVED_OPERATORS or job["pair"] == RESERVED_PAIR


def whole_curves(jobs: Jobs) -> str:
    """One row for each method and mode: clean strength, areas, and by how much ours has more structure area."""
    rows = {}
    ours = {mode: _structure_areas(jobs, "ours", mode) for mode in MODES}
    for method, mode in _present(jobs):
        points = [curve(job, mode) for job in jobs if job["method"] == method]
        cells = {"n": str(len(points)), "clean strength": _cell([clean_strength(one) for one in points])}
        cells["area: accuracy"] = _cell([area(one, "accuracy") for one in points])
        own = _structure_areas(jobs, method, mode)
        cells["area: structure"] = _cell(list(own.values()))
        both = sorted(own.keys() & ours[mode].keys()) if method != "ours" else []
        more = gain_cell([ours[mode][key] for key in both], [own[key] for key in both]) if both else ""
        cells["ours has more area: structure"] = more
        rows[f"{METHODS[method].title} | {mode}"] = cells
    return plain_table("method | mode", rows)


def at_matched_strength(jobs: Jobs) -> str:
    """One row for each method and mode: every measure where the curve reaches `LEVEL`."""
    rows = {}
    for method, mode in _present(jobs):
        points = [curve(job, mode) for job in jobs if job["method"] == method]
        found = {name: [at_level(one, name, LEVEL) for one in points] for name in MEASURES}
        cells = {"reached": f"{np.mean(~np.isnan(found['leak'])):.2f}"}
        cells |= {name: _cell(values) for name, values in found.items()}
        rows[f"{METHODS[method].title} | {mode}"] = cells
    base = [np.mean([job["base"][name] for job in jobs]) if jobs else np.nan for name in ("accuracy", "leak")]
    text = f"At style strength {LEVEL} (`reached`: share of trainings that get there). The base model without style: "
    return f"{text}accuracy {base[0]:.3f}, leak {base[1]:.3f}.\n\n" + plain_table("method | mode", rows)


def by_strength(jobs: Jobs) -> str:
    """One row for each method, mode, and strength of the LoRA or λ: every measure there."""
    rows = {}
    for method, mode in _present(jobs):
        drawn: dict[float, list[dict[str, float]]] = {}
        for job in jobs:
            if job["method"] == method:
                for point in job["curves"][mode]:
                    drawn.setdefault(point["at"], []).append(point)
        for at, points in drawn.items():
            cells = {name: f"{np.mean([point[name] for point in points]):.3f}" for name in ("strength", *MEASURES)}
            rows[f"{METHODS[method].title} | {mode} | {at:g}"] = cells
    return plain_table("method | mode | at", rows)


def _present(jobs: Jobs) -> list[tuple[str, str]]:
    present = {job["method"] for job in jobs}
    return [(method, mode) for method in METHODS if method in present for mode in MODES]


def _structure_areas(jobs: Jobs, method: str, mode: str) -> dict[Training, float]:
    return {training(job): area(curve(job, mode), "structure") for job in jobs if job["method"] == method}


def _cell(values: Sequence[float]) -> str:
    mean, low, high = interval(values)
    return "–" if np.isnan(mean) else f"{mean:.3f} ({low:.2f}–{high:.2f})"


def gain_cell(values: Sequence[float], others: Sequence[float]) -> str:
    """`gain` in words."""
    by, low, high = gain(values, others)
    return f"{by:+.0%} ({low:+.0%} to {high:+.0%})"


def by_operator(jobs: Jobs, mode: str) -> str:
    """Mean area of structure by method and style."""
    rows = {}
    operators = [name for name in (*CHOICE_OPERATORS, *RESERVED_OPERATORS) if any(j["operator"] == name for j in jobs)]
    for method in dict(_present(jobs)):
        areas = _structure_areas(jobs, method, mode)
        rows[METHODS[method].title] = {
            name: float(np.mean([value for key, value in areas.items() if key[0] == name] or [np.nan]))
            for name in operators
        }
    return plain_table("method", rows, 3)


def plain_table(first: str, rows: dict[str, dict[str, Any]], digits: int | None = None) -> str:
    """A Markdown table of rows of cells under the same names."""
    names = list(next(iter(rows.values()), {}))
    columns = first.count("|") + 1 + len(names)
    lines = [f"| {first} | " + " | ".join(names) + " |", "|---" * columns + "|"]
    for key, row in rows.items():
        cells = [str(row[name]) if digits is None else f"{row[name]:.{digits}f}" for name in names]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
