"""Figures at equal style strength and areas, worked by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.quality.curves import area, at_level, clean_strength, curve, gain, interval


def points(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"strength": strength, "accuracy": accuracy} for strength, accuracy in pairs]


def test_between_two_points_the_measure_follows_the_straight_line() -> None:
    line = points((0, 1.0), (0.4, 0.8), (0.8, 0.4))
    assert at_level(line, "accuracy", 0.2) == pytest.approx(0.9)
    assert at_level(line, "accuracy", 0.4) == pytest.approx(0.8)
    assert at_level(line, "accuracy", 0.7) == pytest.approx(0.5)
    assert at_level(line, "accuracy", 0) == 1.0


def test_a_strength_that_is_never_reached_has_no_value() -> None:
    assert math.isnan(at_level(points((0, 1.0), (0.4, 0.8)), "accuracy", 0.5))


def test_the_first_crossing_counts_when_a_curve_turns_back() -> None:
    turning = points((0, 1.0), (0.6, 0.9), (0.3, 0.2), (0.7, 0.1))
    assert at_level(turning, "accuracy", 0.5) == pytest.approx(1 - 0.1 * 5 / 6)


def test_area_of_a_perfect_method_is_one_and_of_an_idle_one_nothing() -> None:
    assert area(points((0, 1.0), (1, 1.0)), "accuracy") == pytest.approx(1)
    assert area(points((0, 1.0), (0, 1.0)), "accuracy") == 0
    assert area(points((0, 1.0), (1, 0.0)), "accuracy") == pytest.approx(0.5)
    # Half the strengths reached without loss, the other half never.
    assert area(points((0, 1.0), (0.5, 1.0)), "accuracy") == pytest.approx(0.5)


def test_clean_strength_is_the_strongest_that_keeps_subjects_apart() -> None:
    line = [
        {"strength": strength, "accuracy": accuracy, "leak": leak}
        for strength, accuracy, leak in ((0, 1.0, 0.0), (0.3, 0.98, 0.01), (0.5, 0.9, 0.0), (0.6, 1.0, 0.1))
    ]
    assert clean_strength(line) == 0.3
    assert clean_strength(line[:1] + line[2:]) == 0


def test_gain_compares_the_same_jobs() -> None:
    mean, low, high = gain([0.2, 0.4, 0.6], [0.1, 0.2, 0.3])
    assert (mean, low, high) == pytest.approx((1, 1, 1))  # twice as much in every job
    mean, low, high = gain([0.2, 0.4], [0.2, 0.2])
    assert mean == pytest.approx(0.5) and low == pytest.approx(0) and high == pytest.approx(1)
    mean, low, high = gain([0.2, 0.2], [0.1, 0.0])  # a quarter of the resamples are of the second job alone
    assert mean == pytest.approx(3) and low == pytest.approx(1) and high == math.inf


def test_a_curve_begins_at_the_base_model() -> None:
    job = {"base": {"strength": 0.0, "leak": 0.1}, "curves": {"lora": [{"at": 1.0, "strength": 0.6, "leak": 0.3}]}}
    assert [point["at"] for point in curve(job, "lora")] == [0.0, 1.0]


def test_interval_holds_the_mean_and_leaves_out_what_is_missing() -> None:
    mean, low, high = interval([0.0, 1.0, float("nan"), 0.0, 1.0])
    assert mean == 0.5
    assert 0 <= low < 0.5 < high <= 1
    assert interval([0.3, 0.3]) == pytest.approx((0.3, 0.3, 0.3))
    assert all(math.isnan(value) for value in interval([float("nan")]))
