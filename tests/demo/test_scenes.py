"""Scenes: the same seed gives the same pixels, masks cover the subject, captions have the promised shares."""

from __future__ import annotations

import numpy as np
import pytest

from demo.scenes import BACKGROUNDS, COLOURS, NONCE_SUBJECT, SIZE, caption, render_scene, training_caption
from demo.subjects import SUBJECTS


def test_same_seed_same_pixels() -> None:
    first, second, other = render_scene(7), render_scene(7), render_scene(8)
    np.testing.assert_array_equal(first.image, second.image)
    assert np.abs(first.image - other.image).max() > 0.1


def test_naming_what_the_seed_chose_changes_nothing() -> None:
    chosen = render_scene(7)
    named = render_scene(7, chosen.subject, chosen.colour, chosen.background)
    np.testing.assert_array_equal(chosen.image, named.image)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_mask_is_where_the_subject_is(subject: str) -> None:
    """Recolouring the subject changes pixels under the mask and none outside; the grain is the seed's own."""
    red = render_scene(3, subject, "red", "blue")
    green = render_scene(3, subject, "green", "blue")
    changed = np.abs(red.image - green.image).max(-1)
    assert red.mask.shape == (SIZE, SIZE)
    assert changed[red.mask == 0].max() == 0
    assert 0.05 < red.mask.mean() < 0.5
    assert (changed > 0.2).sum() > 0.15 * (red.mask > 0.5).sum()


def test_subject_stays_inside_the_picture() -> None:
    for seed in range(60):
        mask = render_scene(seed).mask
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.mean() < 0.05, f"seed {seed}"


def test_caption_form() -> None:
    assert caption("house", "red", "blue") == "a photo of a red house on a blue background"
    assert caption("cat", "orange", "gray", "poster") == (
        "a photo of an orange cat on a gray background in poster style"
    )


def test_training_captions_have_the_stated_shares() -> None:
    rng = np.random.default_rng(0)
    captions = [training_caption(rng, "house", "red", "blue") for _ in range(4000)]
    shares = {
        "short": np.mean([not text.startswith("a photo") for text in captions]),
        "no background": np.mean([text.startswith("a photo") and "background" not in text for text in captions]),
        "sbu": np.mean([NONCE_SUBJECT in text for text in captions]),
        "style": np.mean(["style" in text for text in captions]),
    }
    assert shares == pytest.approx({"short": 0.08, "no background": 0.06, "sbu": 0.06, "style": 0.15}, abs=0.02)


def test_a_styled_picture_keeps_its_style_in_the_caption() -> None:
    rng = np.random.default_rng(0)
    assert all("in neon style" in training_caption(rng, "car", "red", "pink", "neon") for _ in range(200))


def test_every_colour_and_background_is_told_apart() -> None:
    for table in (COLOURS, BACKGROUNDS):
        values = np.array(list(table.values()))
        distances = np.abs(values[:, None] - values[None]).max(-1) + np.eye(len(values))
        assert distances.min() > 0.15
