"""Which map to trust, and whether any: error on parts of the pair that a map was not fitted to.

Two kinds of parts are held out: blocks of the frame, and colours, since other pictures have other colours than the
pair's. The error is a part of the change itself: 0 is the painting, 1 is as far from it as the photo is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .details import details_of
from .features import Wave, find_waves, luminance, scales_of
from .style_map import KINDS, Inputs, StyleMap, fit, inputs_of
from .tiles import Tiles, find_tiles

BLOCKS = 6  # blocks along each side of the frame, held out like the fields of a chessboard
STEPS, TRIAL_STEPS = 500, 200  # updates of a network on the whole pair, and on a part of it
# A map with more inputs has to be better than a simpler one by this factor.
SIMPLER_WINS = 0.9
# With so small an error no further map is tried.
ENOUGH = 0.1


@dataclass(frozen=True)
class Trial:
    """A map and its errors on held-out parts of the pair.

    Attributes:
        style_map: Fitted to the whole pair.
        blocks: Error on held-out blocks, as a part of the change.
        colours: Error on held-out colours.
    """

    style_map: StyleMap
    blocks: float
    colours: float

    @property
    def error(self) -> float:
        return (self.blocks + self.colours) / 2


def try_maps(content: Tensor, style: Tensor) -> list[Trial]:
    """Every kind of map, without and (where the style has them) with tiles and a lattice; simpler ones first.

    Args:
        content, style: The pair, (3, height, width) in [0, 1], of one size.
    """
    trials = []
    tiles = find_tiles(style)
    for kind in KINDS:
        plain = _trial(kind, content, style)
        trials.append(plain)
        waves = find_waves(style - plain.style_map(content))
        if waves:
            trials.append(_trial(kind, content, style, waves=tuple(waves)))
        if tiles:
            trials.append(_trial(kind, content, style, tiles=tiles))
            # What looked like tiles was something else.
            tiles = tiles if trials[-1].error < plain.error else None
        if any(trial.error < ENOUGH for trial in trials):
            break
    return trials


def with_details(trial: Trial, content: Tensor, style: Tensor) -> Trial:
    """The trial with the pair's details added to its map, where held-out blocks are no further from the style so."""
    made, missed, change = trial.style_map, 0.0, 0.0
    seen, wanted = made.seen(content), style.flatten(1).T
    inputs = inputs_of(content, made.scales, made.waves, made.tiles)
    for held in block_parts(content):
        net = fit(made.net.kind, inputs.at(~held), wanted[~held], TRIAL_STEPS)
        mapped = replace(made, net=net)(content)
        found = details_of(seen, mapped, style, made.waves, ~held)(seen, mapped)
        missed += float((found - style).flatten(1)[:, held].square().sum())
        change += float((content - style).flatten(1)[:, held].square().sum())
    blocks = (missed / max(change, 1e-9)) ** 0.5
    if not blocks <= trial.blocks:
        return trial
    details = details_of(seen, made(content), style, made.waves)
    return replace(trial, style_map=replace(made, details=details), blocks=blocks)


def best(trials: list[Trial]) -> Trial:
    """The trial with the least error, unless a simpler one is nearly as good."""
    chosen = trials[0]
    for trial in trials[1:]:
        if trial.error < SIMPLER_WINS * chosen.error:
            chosen = trial
    return chosen


def _trial(
    kind: str, content: Tensor, style: Tensor, waves: tuple[Wave, ...] = (), tiles: Tiles | None = None
) -> Trial:
    scales = scales_of(content)
    inputs, wanted, before = inputs_of(content, scales, waves, tiles), style.flatten(1).T, content.flatten(1).T
    errors = [
        sum(_missed(kind, inputs, wanted, before, held) for held in parts)
        for parts in (block_parts(content), colour_parts(content))
    ]
    changes = [
        sum(float((before[held] - wanted[held]).square().sum()) for held in parts)
        for parts in (block_parts(content), colour_parts(content))
    ]
    blocks, colours = ((e / max(c, 1e-9)) ** 0.5 for e, c in zip(errors, changes, strict=True))
    return Trial(StyleMap(fit(kind, inputs, wanted, STEPS), scales, waves, tiles), blocks, colours)


@torch.no_grad()
def _missed(kind: str, inputs: Inputs, wanted: Tensor, before: Tensor, held: Tensor) -> float:
    """Squared error on the held-out pixels of a map that is fitted to the others."""
    kept = ~held
    net = fit(kind, inputs.at(kept), wanted[kept], TRIAL_STEPS)
    return float((net(inputs.at(held)).clamp(0, 1) - wanted[held]).square().sum())


def block_parts(image: Tensor) -> Iterator[Tensor]:
    """The two halves of a chessboard over the frame, as masks (pixels,)."""
    height, width = image.shape[1:]
    rows, columns = (torch.arange(side) * BLOCKS // side for side in (height, width))
    white = ((rows[:, None] + columns) % 2 == 0).flatten()
    yield white
    yield ~white


def colour_parts(image: Tensor) -> Iterator[Tensor]:
    """The two halves of the frame's pixels by hue: more red than usual or less, as masks (pixels,)."""
    chroma = (image - luminance(image)).flatten(1)
    # The direction in which the colours differ most.
    centred = chroma - chroma.mean(1, keepdim=True)
    direction = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1]
    place = direction @ centred
    # A threshold between equal halves; pixels of one flat colour stay together.
    warm = place > place.median()
    if not warm.any() or warm.all():
        return
    yield warm
    yield ~warm
