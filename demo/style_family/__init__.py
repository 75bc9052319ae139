"""An endless family of styles: elements in random combinations, each style named by the words for what is in it.

A maker of an element takes a random generator and gives an `Element`: its words and a function of the picture so far.
Lengths are in units of 1/64 of the picture, so that a style looks alike at every size. Every period is longer than
4 units: that is the autoencoder's own cell (see styles.py).

A base model that has met many styles has a notion of style; one that has met five has five. The held-out styles of
`styles.py` are *near* the family: their elements occur in it, in other colours, measures and combinations. Those of
`far_styles.py` are made of elements that the family lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo.style_family.colourings import COLOURINGS, kept, paper
from demo.style_family.lines import FINISHES, LINES, soft
from demo.style_family.sheet import DARK, DIRECTIONS, LIGHT, MIDDLE, Element, Maker, Sheet
from demo.style_family.textures import TEXTURES

TEXTURE_SHARE, SECOND_TEXTURE_SHARE, LINE_SHARE, FINISH_SHARE = 0.65, 0.12, 0.5, 0.3
# Share of a style's words that a training caption leaves out; one of them always stays.
WORD_DROPOUT = 0.25

FAMILY_WORDS: tuple[str, ...] = (
    *DARK, *MIDDLE, *LIGHT, *DIRECTIONS, "fine", "coarse", "heavy", "crosshatched",
    *(maker.__name__ for table in (COLOURINGS, TEXTURES, LINES, FINISHES) for maker in table if maker is not kept),
)  # fmt: skip


@dataclass(frozen=True)
class FamilyStyle:
    """One style of the family: elements laid over each other.

    Attributes:
        elements: in the order in which they are painted.
    """

    elements: tuple[Element, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What a full caption says of it, e.g. ("navy", "cream", "stepped", "fine", "hatched")."""
        return tuple(word for element in self.elements for word in element.words)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The picture (height, width, 3) float32 in [0, 1] in this style."""
        sheet = Sheet(image)
        painted = image
        for element in self.elements:
            painted = np.clip(element.paint(painted, sheet), 0, 1)
        return painted.astype(np.float32)


def random_style(rng: np.random.Generator) -> FamilyStyle:
    """A style drawn at random; it has at least a colouring, a texture or a line that changes the photo."""
    colouring = _choose(rng, COLOURINGS)
    textures = [_choose(rng, TEXTURES)] if rng.random() < TEXTURE_SHARE else []
    if textures and rng.random() < SECOND_TEXTURE_SHARE:
        textures.append(_choose(rng, {maker: share for maker, share in TEXTURES.items() if maker is not textures[0]}))
    lines = [_choose(rng, LINES)] if rng.random() < LINE_SHARE else []
    # Bare paper without a drawing shows nothing, and the photo alone is no style.
    if not lines and (colouring is paper or (colouring is kept and not textures)):
        lines = [next(iter(LINES))]
    finishes = [_choose(rng, FINISHES)] if rng.random() < FINISH_SHARE else []
    softened = [maker for maker in finishes if maker is soft]
    others = [maker for maker in finishes if maker is not soft]
    makers = [colouring, *softened, *textures, *lines, *others]
    return FamilyStyle(tuple(maker(rng) for maker in makers))


def _choose(rng: np.random.Generator, table: dict[Maker, float]) -> Maker:
    shares = np.array(list(table.values()))
    return list(table)[rng.choice(len(shares), p=shares / shares.sum())]


def caption_words(rng: np.random.Generator, words: tuple[str, ...]) -> tuple[str, ...]:
    """What a training caption says of a style: some of its words, at least one, in their order; each of them once."""
    distinct = tuple(dict.fromkeys(words))
    said = tuple(word for word in distinct if rng.random() >= WORD_DROPOUT)
    return said or (distinct[rng.integers(len(distinct))],)
