"""From scores at a few strengths to figures at the same style strength, and to single figures for a whole curve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

LEVELS = (np.arange(50) + 0.5) / 50
RESAMPLES = 2000
# What may be lost for a style to count as clean: of the base model's accuracy, and to its leak.
LESS_ACCURACY, MORE_LEAK = 0.03, 0.02


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


def area(points: Sequence[dict[str, float]], measure: str) -> float:
    """Mean of a measure over all style strengths from 0 to 1; a strength that is never reached counts as 0.

    1 would be a method that reaches every strength and loses nothing.
    """
    return float(np.nan_to_num([at_level(points, measure, level) for level in LEVELS]).mean())


def clean_strength(points: Sequence[dict[str, float]]) -> float:
    """The strongest style of the points that keep the base model's accuracy and leak, up to the constants above."""
    base = points[0]
    return max(
        point["strength"]
        for point in points
        if point["accuracy"] >= base["accuracy"] - LESS_ACCURACY and point["leak"] <= base["leak"] + MORE_LEAK
    )


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
    means = kept[_resampled(len(kept), seed)].mean(1)
    return float(kept.mean()), *_bounds(means)


def gain(values: Sequence[float], others: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """By how much the mean of `values` is above that of `others`, as a part of it, with its 95 % bootstrap interval.

    Both are of the same jobs in the same order, which are resampled in pairs. Infinite where the others have nothing.
    """
    a, b = np.array(values), np.array(others)
    chosen = _resampled(len(a), seed)
    with np.errstate(divide="ignore"):
        return float(a.mean() / b.mean() - 1), *_bounds(a[chosen].mean(1) / b[chosen].mean(1) - 1)


def _resampled(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def _bounds(resampled: np.ndarray) -> tuple[float, float]:
    # No mean of two of them: one may be infinite.
    low, high = np.percentile(resampled, (2.5, 97.5), method="nearest")
    return float(low), float(high)
