"""The block that encodes the style's prompt, before the pipeline's text encoder, which may alter the prompts' list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks, PipelineState

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
