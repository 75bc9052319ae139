"""The block that encodes the style's prompt, before the pipeline's text encoder, which may alter the prompts' list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks, PipelineState
from torch import Tensor

from ..pipelines.prompts import PROMPTS, with_words

# What a text encoder's block puts into the pipeline's state.
EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds", "prompt_embeds_mask")

StylePrompt = dict[str, Any]  # the EMBEDDINGS that the family has, one row (or list entry) for each prompt


@runtime_checkable
class StyleGuider(Protocol):
    """A guider that wants style prompts."""

    def start_run(self, pipe: Any, encode: Callable[[str], StylePrompt]) -> None:
        """Takes the pipeline of the run that begins, and a function that encodes its prompts with words added."""


class StylePromptStep(ModularPipelineBlocks):
    """Encodes prompt + style words for the guider, with the pipeline's own block; nothing where no style guides.

    Args:
        text_encoder: The pipeline's block of that name.
    """

    def __init__(self, text_encoder: ModularPipelineBlocks):
        super().__init__()
        self.text_encoder = text_encoder

    @property
    def description(self) -> str:
        """What diffusers prints for the block."""
        return "Encodes the style's prompt for StyleGuidance with the block text_encoder."

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        if isinstance(components.guider, StyleGuider):
            components.guider.start_run(components, lambda words: self._encode(components, state, words))
        return components, state

    def _encode(self, components: Any, state: PipelineState, words: str) -> StylePrompt:
        # The block writes into the state that it is given: a copy, so that the run's own prompt stays.
        own = PipelineState(dict(state.values), {kind: list(names) for kind, names in state.kwargs_mapping.items()})
        own.set("prompt", with_words(state.get("prompt") or "", words))
        for name in PROMPTS[1:]:
            if state.get(name) is not None:
                own.set(name, with_words(state.get(name), words))
        self.text_encoder(components, own)
        return {name: own.get(name) for name in EMBEDDINGS if own.get(name) is not None}


def prompt_of_rows(base: Tensor, plain: Tensor | None, prompts: int) -> list[int]:
    """The number of each row's prompt.

    Usually prompt by prompt; but SDXL's blocks repeat pooled embeddings as a whole (a, b, a, b), and a style's row must
    differ from its cond row by the style alone.

    Args:
        base: The cond rows' embeddings ``(rows, …)``.
        plain: The prompts' ``(prompts, …)``, if there are several.
        prompts: How many.
    """
    in_order = [row * prompts // base.shape[0] for row in range(base.shape[0])]
    if plain is None or plain.shape[1:] != base.shape[1:]:
        return in_order
    matches = [[number for number, one in enumerate(plain.to(base)) if one.equal(row)] for row in base]
    return [same[0] if same and place not in same else place for same, place in zip(matches, in_order, strict=True)]
