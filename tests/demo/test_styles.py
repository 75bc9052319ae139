"""Styles: pure functions with outputs in range, each unlike the photo and unlike the others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from demo.scenes import render_scene
from demo.styles import BASE_STYLES, HELD_OUT_STYLES, STYLES, outline


@pytest.mark.parametrize("name", STYLES)
def test_output_is_an_image_and_the_input_is_left_alone(name: str) -> None:
    image = render_scene(1).image
    before = image.copy()
    first, second = STYLES[name](image), STYLES[name](image)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)
    assert first.shape == image.shape
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1


def test_styles_differ_from_the_photo_and_from_each_other() -> None:
    image = render_scene(1).image
    pictures = {"photo": image} | {name: style(image) for name, style in STYLES.items()}
    for (one, first), (two, second) in itertools.combinations(pictures.items(), 2):
        assert np.abs(first - second).mean() > 0.03, f"{one} looks like {two}"


def test_held_out_means_held_out() -> None:
    assert not set(BASE_STYLES) & set(HELD_OUT_STYLES)
    assert len(HELD_OUT_STYLES) >= 6


def test_outline_marks_edges_only() -> None:
    image = np.zeros((16, 16, 3), np.float32)
    image[:, 8:] = 1
    lines = outline(image)
    assert lines[:, 7:9].min() > 0.95
    assert lines[:, :5].max() == lines[:, 11:].max() == 0
