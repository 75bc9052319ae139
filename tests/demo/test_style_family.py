"""The family of styles: deterministic, named by its words, near the held-out styles and never one of them."""

from __future__ import annotations

import numpy as np
import pytest

from demo.far_styles import FAR_STYLES
from demo.scenes import render_scene
from demo.style_family import (
    COLOURINGS,
    FAMILY_WORDS,
    FINISHES,
    LINES,
    TEXTURES,
    FamilyStyle,
    caption_words,
    random_style,
)  # fmt: skip
from demo.styles import HELD_OUT_STYLES

MAKERS = [maker for table in (COLOURINGS, TEXTURES, LINES, FINISHES) for maker in table]


def style_number(seed: int):
    return random_style(np.random.default_rng([seed, 3]))


@pytest.fixture(scope="module")
def styles():
    return [style_number(seed) for seed in range(300)]


def test_a_seed_is_a_style_and_leaves_the_picture_alone() -> None:
    image = render_scene(1).image
    before = image.copy()
    first, again, other = style_number(4)(image), style_number(4)(image), style_number(5)(image)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert np.abs(first - other).mean() > 0.02


def test_every_style_gives_a_picture_that_is_not_the_photo(styles) -> None:
    # A light and a dark one: strokes by darkness leave the lights bare.
    image = np.concatenate(
        [render_scene(2, colour="white").image[:, :32], render_scene(4, "car").image[:, 32:]], axis=1
    )
    for style in styles:
        painted = style(image)
        assert painted.shape == image.shape and painted.dtype == np.float32
        assert np.isfinite(painted).all() and painted.min() >= 0 and painted.max() <= 1
        assert np.abs(painted - image).mean() > 0.01, style.words


def test_words_are_in_the_vocabulary_and_all_of_it_is_used(styles) -> None:
    used = {word for style in styles for word in style.words}
    assert used <= {*FAMILY_WORDS, "white"}
    assert set(FAMILY_WORDS) <= used
    assert all(style.words for style in styles)
    assert len({style.words for style in styles}) > 280, "hardly two are alike"


def test_no_style_is_a_held_out_one() -> None:
    """No member of the family gives what a held-out style gives; a held-out style itself would have distance 0."""
    image = render_scene(3).image
    answers = {name: style(image) for name, style in (HELD_OUT_STYLES | FAR_STYLES).items()}
    for seed in range(1000, 1600):
        painted = style_number(seed)(image)
        for name, answer in answers.items():
            assert np.abs(painted - answer).mean() > 0.03, (seed, name)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_elements_look_alike_at_every_size(maker) -> None:
    """At 128 px an element draws what it draws at 64 px: reduced, the two differ by the sharper borders alone."""
    style = FamilyStyle((maker(np.random.default_rng(3)),))
    small = render_scene(5, size=64).image
    large = np.kron(small, np.ones((2, 2, 1), np.float32))
    reduced = style(large).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(reduced - style(small)).mean() < 0.03


@pytest.mark.parametrize("name", [*HELD_OUT_STYLES, *FAR_STYLES])
def test_held_out_styles_look_alike_at_every_size(name: str) -> None:
    style, small = (HELD_OUT_STYLES | FAR_STYLES)[name], render_scene(5, size=64).image
    large = np.kron(small, np.ones((2, 2, 1), np.float32))
    reduced = style(large).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(reduced - style(small)).mean() < 0.03


@pytest.mark.parametrize("name", FAR_STYLES)
def test_far_styles_are_functions_unlike_the_photo(name: str) -> None:
    image = render_scene(1).image
    before = image.copy()
    first, second = FAR_STYLES[name](image), FAR_STYLES[name](image)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() <= 1
    assert np.abs(first - image).mean() > 0.05


def test_a_caption_drops_words_keeps_their_order_and_says_none_twice() -> None:
    rng = np.random.default_rng(0)
    words = ("navy", "cream", "navy", "hatched")
    drawn = [caption_words(rng, words) for _ in range(500)]
    assert {len(said) for said in drawn} == {1, 2, 3}
    for said in drawn:
        assert list(said) == [word for word in ("navy", "cream", "hatched") if word in said]
