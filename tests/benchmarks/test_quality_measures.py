"""What the measures must say of pictures whose right score is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.judge import Seen
from benchmarks.quality.measures import Reference, score, spread
from demo.scenes import render_scene
from demo.styles import HELD_OUT_STYLES
from demo.subjects import SUBJECTS

SUBJECT_AT = slice(20, 44)


class MaskJudge:
    """Sees the masks it was given, whatever the pictures."""

    def __init__(self, cover: np.ndarray, subjects: np.ndarray) -> None:
        self.seen = Seen(cover, subjects)

    def look(self, images: np.ndarray) -> Seen:
        return self.seen


@pytest.fixture(params=HELD_OUT_STYLES)
def known(request: pytest.FixtureRequest) -> tuple[Reference, MaskJudge]:
    scenes = [render_scene(i) for i in range(8)]
    base = np.stack([scene.image for scene in scenes])
    judge = MaskJudge(np.stack([scene.mask for scene in scenes]), np.arange(8) % 3)
    names = list(SUBJECTS)[:3]
    asked = [names[i % 3] for i in range(8)]
    return Reference.of(judge, base, HELD_OUT_STYLES[request.param], asked, names[2]), judge  # type: ignore[arg-type]


def test_the_true_answer_has_full_strength_and_no_error(known: tuple[Reference, MaskJudge]) -> None:
    reference, judge = known
    figures = score(reference.truth, reference, judge)  # type: ignore[arg-type]
    assert figures["strength"] == 1
    assert figures["subject_error"] == figures["background_error"] == 0
    assert figures["accuracy"] == figures["structure"] == figures["diversity"] == 1
    assert figures["leak"] == 0


def test_the_base_pictures_have_no_strength_and_the_whole_error(known: tuple[Reference, MaskJudge]) -> None:
    reference, judge = known
    figures = score(reference.base, reference, judge)  # type: ignore[arg-type]
    assert figures["strength"] == 0
    assert figures["subject_error"] == figures["background_error"] == 1


def test_strength_lies_between_for_a_picture_halfway(known: tuple[Reference, MaskJudge]) -> None:
    reference, judge = known
    figures = score((reference.base + reference.truth) / 2, reference, judge)  # type: ignore[arg-type]
    assert 0.25 < figures["strength"] < 0.75
    assert figures["subject_error"] == pytest.approx(0.5, abs=1e-3)


def test_errors_are_told_apart_by_region(known: tuple[Reference, MaskJudge]) -> None:
    reference, judge = known
    subject = reference.seen.cover[..., None]
    repainted = reference.truth * subject + (1 - reference.truth) * (1 - subject)
    figures = score(repainted, reference, judge)  # type: ignore[arg-type]
    assert figures["background_error"] > 3 * figures["subject_error"]


def test_leak_counts_the_training_subject_among_prompts_for_others(known: tuple[Reference, MaskJudge]) -> None:
    reference, _ = known
    cover = reference.seen.cover
    # Prompts ask for 0 1 2 0 1 2 0 1, of which six are for other subjects than 2; three of those show it.
    stamped = MaskJudge(cover, np.array([2, 2, 2, 2, 1, 2, 0, 1]))
    figures = score(reference.truth, reference, stamped)  # type: ignore[arg-type]
    assert figures["leak"] == pytest.approx(3 / 6)
    assert figures["accuracy"] == pytest.approx(5 / 8)


def test_overlap_of_silhouettes_by_hand() -> None:
    one, two = np.zeros((1, 64, 64)), np.zeros((1, 64, 64))
    one[:, SUBJECT_AT, 10:30] = 1
    two[:, SUBJECT_AT, 20:40] = 1
    nobody = Seen(np.zeros((1, 64, 64)), np.zeros(1))
    assert Seen(one, np.zeros(1)).overlap(Seen(two, np.zeros(1))) == pytest.approx(10 / 30)
    assert nobody.overlap(nobody) == 1
    assert nobody.overlap(Seen(one, np.zeros(1))) == 0


def test_spread_of_equal_pictures_is_nothing() -> None:
    image = render_scene(0).image
    assert spread(np.stack([image] * 3)) == 0
    assert spread(np.stack([np.zeros_like(image), np.ones_like(image)])) == pytest.approx(1)
