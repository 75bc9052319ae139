"""From the scores at a few strengths to figures at the same style strength, and to one area for a whole curve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

GRID = np.linspace(0, 1, 51)
RESAMPLES = 2000


def at_level(points: Sequence[dict[str, float]], measure: str, level: float) -> float:
    """A measure where the curve first reaches a style strength, between points by a straight line; NaN if never.

    Args:
        points: scores by rising strength of the LoRA or the guidance, the base model's first.
        measure: which.
        level: style strength, 0 to 1.
    """
    for before, after in itertools.pairwise(points):
        if before["strength"] < level <= after["strength"]:
            share = (level - before["strength"]) / (after["strength"] - before["strength"])
            return before[measure] + share * (after[measure] - before[measure])
    return points[0][measure] if level <= points[0]["strength"] else float("nan")


def lost_area(points: Sequence[dict[str, float]], measure: str) -> float:
    """Mean of 1 - measure over all style strengths from 0 to 1; a strength that is never reached counts as 1.

    0 would be a method that reaches every strength and loses nothing.
    """
    values = np.array([at_level(points, measure, level) for level in GRID])
    return float(np.nan_to_num(1 - values, nan=1.0).mean())


def curve(job: dict[str, Any], mode: str) -> list[dict[str, float]]:
    """The points of one job in one mode, from the base model's on."""
    return [{"at": 0.0, **job["base"]}, *job["curves"][mode]]


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over jobs, those with no value left out; NaNs where there is none at all.

    Jobs are resampled whole: the pictures of one training are alike.
    """
    kept = np.array([value for value in values if not np.isnan(value)])
    if len(kept) == 0:
        return (float("nan"),) * 3
    rng = np.random.default_rng(seed)
    means = kept[rng.integers(len(kept), size=(RESAMPLES, len(kept)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(kept.mean()), float(low), float(high)
