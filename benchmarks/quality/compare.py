"""What a change gained: `python -m benchmarks.quality.compare BEFORE.json AFTER.json`, results of two runs.

Compares a method on the trainings that both runs have, all together and style by style.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.curves import area, clean_strength, curve
from benchmarks.quality.plan import CHOICE_OPERATORS, RESERVED_OPERATORS
from benchmarks.quality.report import Training, gain_cell, is_reserved, plain_table, training
from benchmarks.quality.sampler import MODES


def trainings(results: dict[str, Any], method: str) -> dict[Training, dict[str, Any]]:
    """By style, pair and seed the method's jobs."""
    return {training(job): job for job in results["jobs"].values() if job["method"] == method}


def table(before: dict[Training, dict[str, Any]], after: dict[Training, dict[str, Any]]) -> str:
    """Area of structure and clean strength before and after, and the area's gain with its interval, by mode."""
    common = sorted(before.keys() & after.keys())
    groups = {"all": common, "reserved": [key for key in common if is_reserved(before[key])]}
    groups |= {name: [key for key in common if key[0] == name] for name in (*CHOICE_OPERATORS, *RESERVED_OPERATORS)}
    rows = {
        f"{name} | {mode}": _row([before[key] for key in keys], [after[key] for key in keys], mode)
        for name, keys in groups.items()
        for mode in MODES
        if keys
    }
    return plain_table("style | mode", rows)


def _row(before: list[dict[str, Any]], after: list[dict[str, Any]], mode: str) -> dict[str, str]:
    curves = [[curve(job, mode) for job in jobs] for jobs in (before, after)]
    areas = [[area(points, "structure") for points in one] for one in curves]
    clean = [float(np.mean([clean_strength(points) for points in one])) for one in curves]
    return {
        "n": str(len(before)),
        "area: structure": f"{np.mean(areas[0]):.3f} → {np.mean(areas[1]):.3f}",
        "gain": gain_cell(areas[1], areas[0]),
        "clean strength": f"{clean[0]:.3f} → {clean[1]:.3f}",
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.compare", description=__doc__)
    parser.add_argument("before", type=Path, help="FORM_jobs.json of one run")
    parser.add_argument("after", type=Path, help="of another, of the same embedded model")
    parser.add_argument("--method", default="ours", help="which (default: ours)")
    args = parser.parse_args()
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (args.before, args.after))
    if before["model"] != after["model"]:
        parser.error(f"{args.before} and {args.after} are of different embedded models; their scores do not compare")
    found = [trainings(results, args.method) for results in (before, after)]
    if not found[0].keys() & found[1].keys():
        parser.error(f"--method {args.method}: {args.before} and {args.after} have no training of it in common")
    print(table(*found))


if __name__ == "__main__":
    main()
