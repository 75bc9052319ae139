"""A style to guide with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pair_network.errors import PairError
from pair_network.network import checkpoint
from pair_network.network.pair_network import PairNetwork

from ..guidance import is_in_interval


@dataclass
class Style:
    """One term λ (ε_style(c_style) − ε0(c)) of eq. 11.

    Attributes:
        file_or_network: A style LoRA's .safetensors, or a network, attached to the pipeline's models or not.
        prompt_words: What follows the prompt in c_style, such as "in watercolor style"; None: the trigger words in the
            file's metadata.
        scale: λ_style; 0 leaves the base image bit for bit, below 0 moves away from the style.
        start, end: Part of the noise schedule that is guided, in [0, 1]: 0 is pure noise, 1 the image. A step is
            guided when start <= (its index in the schedule) / (the schedule's steps) < end.
        multiplier: Strength of the LoRA itself, as in any LoRA.
        prompt_embeds: The style prompt already encoded, ``(rows, tokens, dim)``, with one row, one for each prompt or
            one for each image; needed where the pipeline is called with prompt_embeds.
        pooled_prompt_embeds: Its pooled embedding ``(rows, dim)``, for SDXL, SD3 and FLUX.

    Raises:
        PairError: A number is out of its range, or neither words nor embeddings are known.
    """

    file_or_network: str | Path | PairNetwork
    prompt_words: str | None = None
    scale: float = 3.0
    start: float = 0.2
    end: float = 1.0
    multiplier: float = 1.0
    prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "multiplier"):
            if not math.isfinite(getattr(self, name)):
                raise PairError(f"style {self.name}: {name} is {getattr(self, name)}, it must be a finite number")
        if not 0 <= self.start <= self.end <= 1:
            raise PairError(
                f"style {self.name}: start={self.start}, end={self.end}; 0 <= start <= end <= 1 is needed "
                "(0 is pure noise, 1 the finished image)"
            )
        if self.prompt_words is None and self.prompt_embeds is None:
            self.prompt_words = self._trigger_words()

    @property
    def name(self) -> str:
        return "of a network" if isinstance(self.file_or_network, PairNetwork) else str(self.file_or_network)

    def _trigger_words(self) -> str:
        words = ""
        if not isinstance(self.file_or_network, PairNetwork):
            words = checkpoint.read(self.file_or_network)[1].get("modelspec.trigger_phrase", "")
        if not words:
            raise PairError(
                f"style {self.name}: it names no trigger words, so give prompt_words, such as 'in watercolor style'"
            )
        return words

    def is_guiding(self, progress: float) -> bool:
        """Whether a step at ``progress`` of the schedule needs this style's rows."""
        return self.scale != 0 and is_in_interval(progress, self.start, self.end)
