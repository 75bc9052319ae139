"""Figures of the previews, measured with the autoencoder of the model in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pair_network.images import open_image

from ...report.advice import SHARES, STRENGTHS
from ...report.figures import SIDE, Eye, Seen, figures
from .previews import PreviewWriter, Prompt

Pictures = Mapping[str, Image.Image]


class Measuring:
    """Looks at the previews of prompts that are not the training prompt.

    Args:
        pipe: The pipeline that draws them.
        pair: Files of the pair's photo and painting.
        drawn: The pictures of each prompt by column, base first.
    """

    def __init__(self, pipe: Any, pair: Sequence[Path], drawn: Mapping[Prompt, Pictures]):
        self.eye = Eye(pipe.vae)
        self.drawn = {prompt: pictures for prompt, pictures in drawn.items() if not prompt.content}
        first = next(iter(self.drawn.values()))
        self.side = min(SIDE, max(first["base"].size))
        self.content, self.style = (self.look([open_image(path)]) for path in pair)
        self.base = self.look([pictures["base"] for pictures in self.drawn.values()])

    def look(self, images: Sequence[Image.Image]) -> Seen:
        return self.eye.look(images, self.side)

    def of(self, images: Sequence[Image.Image]) -> dict[str, float]:
        """Figures of the prompts' pictures in one way."""
        return figures(self.base, self.look(images), self.content, self.style)

    def columns(self) -> dict[str, dict[str, float]]:
        """Figures by column of the previews."""
        columns = list(next(iter(self.drawn.values())))[1:]
        return {column: self.of([pictures[column] for pictures in self.drawn.values()]) for column in columns}

    def by_strength(self, pipe: Any, writer: PreviewWriter) -> tuple[dict[float, dict[str, float]], ...]:
        """Figures by strength of the LoRA, and by λ of the guidance."""
        scale = writer.args.sample_style_scale
        lora = {at: self.of([writer.with_lora(pipe, prompt, at) for prompt in self.drawn]) for at in STRENGTHS}
        scales = [round(scale * share, 2) for share in SHARES]
        return lora, {at: self.of([writer.with_guidance(pipe, prompt, at) for prompt in self.drawn]) for at in scales}
