"""Scores of generated pictures against the true answer T(base), which every held-out operator T gives exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.quality.judge import Judge, Seen
from demo.data import HELD_OUT_SEED
from demo.scenes import render_scene
from demo.styles import STYLES, Style, blur, luminance
from demo.subjects import SUBJECTS

# Wavelengths from 16 pixels down, in half octaves, and directions of 45 degrees.
SLOWEST, WAVELENGTHS, DIRECTIONS = 1 / 16, 6, 4
REFERENCE_SEED = HELD_OUT_SEED + 700_000


def style_features(image: np.ndarray) -> np.ndarray:
    """Colour and texture statistics of a picture (height, width, 3) in [0, 1], (features,); blind to what it shows.

    Mean, deviation and covariance of the colours, a histogram of brightness, how strong colours change from pixel to
    pixel, and the amplitude of brightness by wavelength and direction, where screens and strokes show.
    """
    colours = image.reshape(-1, 3)
    covariance = np.cov(colours, rowvar=False)[np.triu_indices(3, 1)]
    light = luminance(image)
    histogram = np.histogram(light, bins=8, range=(0, 1.0001))[0] / light.size
    chroma = image - light[..., None]
    changes = [np.abs(np.diff(chroma, axis=axis)).mean() for axis in (0, 1)]
    power = np.square(np.abs(np.fft.rfft2(light - blur(light, 4)))) / light.size**2
    bins = _frequency_bins(*light.shape)
    amplitudes = np.sqrt(np.bincount(bins.ravel(), power.ravel(), DIRECTIONS * WAVELENGTHS + 1)[1:])
    return np.concatenate([colours.mean(0), colours.std(0), covariance, histogram, changes, amplitudes])


@lru_cache
def _frequency_bins(height: int, width: int) -> np.ndarray:
    """Number of the bin of every coefficient of an rfft2, (height, width // 2 + 1); 0 for the slowest changes."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    octave = np.floor(np.log2(np.maximum(np.hypot(y, x), 1e-9) / SLOWEST) * 2)
    direction = np.round(np.arctan2(y, x) / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    bins = 1 + direction + DIRECTIONS * np.minimum(octave, WAVELENGTHS - 1).astype(int)
    return np.where(octave < 0, 0, bins)


@lru_cache
def feature_scale() -> np.ndarray:
    """Deviation of every style feature over photos in all styles, (features,): makes them comparable."""
    scenes = [render_scene(REFERENCE_SEED + i).image for i in range(60)]
    found = [style_features(style(image)) for style in ((lambda image: image), *STYLES.values()) for image in scenes]
    return np.std(found, axis=0)


def all_features(images: np.ndarray) -> np.ndarray:
    """Style features of pictures (count, height, width, 3), (count, features), in units of their usual deviation."""
    return np.array([style_features(image) for image in images]) / feature_scale()


def style_gap(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance in style of picture i to picture i of others, by `all_features` of both, (count,): their RMS."""
    return np.sqrt(np.square(features - others).mean(1))


def pixel_gap(images: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """RMS difference in the region `weight` (count, height, width), (count,)."""
    squares = np.square(images - others).mean(-1) * weight
    return np.sqrt(squares.sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1))


@dataclass
class Reference:
    """Base pictures of some prompts and what they should become.

    Attributes:
        base: (count, height, width, 3) in [0, 1], by the base model without style.
        truth: the same pictures in the style: T(base).
        truth_features: `all_features` of `truth`.
        base_gap: mean style gap from `base` to `truth`.
        subjects: (count,), indices of the subjects asked for, in `SUBJECTS`.
        training_subject: index of the subject of the training pair.
        seen: the judge's view of `base`.
    """

    base: np.ndarray
    truth: np.ndarray
    truth_features: np.ndarray
    base_gap: float
    subjects: np.ndarray
    training_subject: int
    seen: Seen

    @classmethod
    def of(
        cls, judge: Judge, base: np.ndarray, style: Style, subjects: Sequence[str], training_subject: str
    ) -> Reference:
        """What base pictures become in a style; subjects, the training pair's too, by their names."""
        truth = _apply(style, base)
        features = all_features(truth)
        gap = float(style_gap(all_features(base), features).mean())
        numbers = {name: number for number, name in enumerate(SUBJECTS)}
        asked = np.array([numbers[name] for name in subjects])
        return cls(base, truth, features, gap, asked, numbers[training_subject], judge.look(base))

    def strength(self, images: np.ndarray) -> float:
        """1 minus the style distance of pictures to T(base) as a part of base's own: T(base) has 1, base 0."""
        return 1 - float(style_gap(all_features(images), self.truth_features).mean()) / self.base_gap

    def set_strength(self, images: np.ndarray) -> float:
        """The same of the set's mean features: blind to what each picture shows, where `strength` is not quite."""
        wanted = self.truth_features.mean(0)
        gaps = [np.sqrt(np.square(all_features(one).mean(0) - wanted).mean()) for one in (images, self.base)]
        return 1 - float(gaps[0] / gaps[1])

    def pixel_error(self, images: np.ndarray, region: np.ndarray) -> float:
        """Mean pixel gap to T(base) in a region (count, height, width) as a part of base's own."""
        own = pixel_gap(self.base, self.truth, region).mean()
        return float(pixel_gap(images, self.truth, region).mean() / own)


def score(images: np.ndarray, reference: Reference, judge: Judge) -> dict[str, float]:
    """All measures of one set of pictures, made from the prompts and the noise of `reference.base`.

    strength, set_strength: see `Reference`.
    accuracy: share whose subject is the one asked for. leak: share of the prompts for other subjects that show the
    training subject. structure: overlap of the silhouette with base's. subject_error, background_error: pixel distance
    to T(base) in each region as a part of base's own. diversity: mean distance between the pictures as a part of that
    between those of T(base). pixel_error: as subject_error, of the whole picture.
    """
    seen = judge.look(images)
    other = reference.subjects != reference.training_subject
    cover = reference.seen.cover
    figures = {
        "strength": reference.strength(images),
        "accuracy": (seen.subjects == reference.subjects).mean(),
        "leak": (seen.subjects == reference.training_subject)[other].mean(),
        "structure": seen.overlap(reference.seen).mean(),
        "structure_same": seen.overlap(reference.seen)[~other].mean() if (~other).any() else np.nan,
        "subject_error": reference.pixel_error(images, cover),
        "background_error": reference.pixel_error(images, 1 - cover),
        "diversity": spread(images) / spread(reference.truth),
        "set_strength": reference.set_strength(images),
        "pixel_error": reference.pixel_error(images, np.ones(images.shape[:3])),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def spread(images: np.ndarray) -> float:
    """Mean RMS distance between the pictures of a set, at an eighth of their size."""
    small = images.reshape(len(images), 8, images.shape[1] // 8, 8, -1, 3).mean((2, 4)).reshape(len(images), -1)
    gaps = [np.sqrt(np.square(small[i + 1 :] - small[i]).mean(1)) for i in range(len(small) - 1)]
    return float(np.concatenate(gaps).mean())


def validate(judge: Judge, styles: dict[str, Style], count: int = 100) -> dict[str, dict[str, float]]:
    """What the measures say of pictures whose right score is known, by operator; scenes stand for base pictures.

    half: halfway between base and T(base). other_scene: T of another picture of the same prompt, right in style and
    wrong in everything else. other_prompt: T of pictures of other prompts; a measure that does not see content gives
    them as much, as `other_prompt_set` nearly does. other_style: the other operators' answers.
    """
    scenes = [render_scene(REFERENCE_SEED + 1000 + i) for i in range(count)]
    alike = [render_scene(REFERENCE_SEED + 5000 + i, s.subject, s.colour, s.background) for i, s in enumerate(scenes)]
    base, others = (np.stack([scene.image for scene in group]) for group in (scenes, alike))
    figures = {}
    for name, style in styles.items():
        reference = Reference.of(judge, base, style, [scene.subject for scene in scenes], scenes[0].subject)
        wrong = [_apply(t, base) for n, t in styles.items() if n != name]
        figures[name] = {
            "truth": reference.strength(reference.truth),
            "half": reference.strength((base + reference.truth) / 2),
            "other_scene": reference.strength(_apply(style, others)),
            "other_prompt": reference.strength(np.roll(reference.truth, 1, axis=0)),
            "other_prompt_set": reference.set_strength(_apply(style, others)),
            "other_style": float(np.mean([reference.strength(images) for images in wrong])),
            "other_scene_structure": float(judge.look(_apply(style, others)).overlap(reference.seen).mean()),
        }
    return {name: {key: round(value, 3) for key, value in row.items()} for name, row in figures.items()}


def _apply(style: Style, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    return np.stack([np.clip(style(image), 0, 1) for image in images]).astype(np.float32)
