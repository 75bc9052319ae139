"""The style prompts of a run, encoded beside the pipeline's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from pair_network.errors import PairError
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import BASE_ROW, Row

from ..protocols import Pipeline
from .style import Style

PROMPTS = ("prompt", "prompt_2", "prompt_3")


@dataclass
class Conditioning:
    """One prompt's embeddings, one row per image.

    Attributes:
        embeds: ``(rows, tokens, dim)``.
        pooled: ``(rows, dim)`` for SDXL, SD3 and FLUX, else None.
        text_ids: FLUX's token positions, ``(tokens, 3)``, else None.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    text_ids: Tensor | None = None


class PromptRecorder:
    """What the pipeline encodes in one run, and each style's version of it.

    Attributes:
        base: The prompt, c; None before the run has encoded it.
        negative: FLUX's negative prompt embeddings, which pass through the model in a call of their own.
        styles: c_style for each style; None where λ is 0.
    """

    def __init__(self, pipe: Pipeline, styles: Sequence[Style], networks: Sequence[PairNetwork]):
        self.pipe, self._styles, self._networks = pipe, styles, networks
        self._encode = pipe.encode_prompt
        self._signature = inspect.signature(self._encode)
        names = self._signature.parameters
        self.has_pooled = "pooled_prompt_embeds" in names
        self.encodes_negative = "negative_prompt" in names
        if (
            "prompt_embeds" not in names
            or "prompt_attention_mask" in names
            or not (self.has_pooled or self.encodes_negative)
        ):
            raise PairError(
                f"{type(pipe).__name__}: style guidance knows the pipelines of Stable Diffusion 1, 2, XL, 3 and FLUX"
            )
        self.start_run()

    def start_run(self) -> None:
        self.base: Conditioning | None = None
        self.negative: Tensor | None = None
        self.styles: list[Conditioning | None] = []

    def style(self, index: int) -> Conditioning:
        """c_style of a style that guides (λ is not 0)."""
        conditioning = self.styles[index]
        assert conditioning is not None
        return conditioning

    def is_negative(self, embeds: Tensor) -> bool:
        """Whether a model call carries the negative prompt alone."""
        return embeds is self.negative and self.base is not None and embeds is not self.base.embeds

    def encode(self, *args: object, **kwargs: object) -> Sequence[Tensor]:
        """``encode_prompt``, which also encodes the styles' prompts."""
        for network in self._networks:
            network.set_route([BASE_ROW])
        result = self._encode(*args, **kwargs)
        if self.base is not None and not self.encodes_negative:
            self.negative = result[0]
            return result
        self.base = self._conditioning(result)
        call = self._signature.bind(*args, **kwargs)
        self.styles = [
            self._style_conditioning(style, network, call) if style.scale else None
            for style, network in zip(self._styles, self._networks, strict=True)
        ]
        return result

    def _conditioning(self, result: Sequence[Tensor]) -> Conditioning:
        expected = 2 * (1 + self.has_pooled) if self.encodes_negative else 3
        if len(result) != expected:
            raise PairError(
                f"{type(self.pipe).__name__}: its encode_prompt returns {len(result)} values, not {expected}; "
                "style guidance does not know this pipeline"
            )
        if not self.encodes_negative:
            return Conditioning(result[0], result[1], result[2])
        return Conditioning(result[0], result[2] if self.has_pooled else None)

    def _style_conditioning(self, style: Style, network: PairNetwork, call: inspect.BoundArguments) -> Conditioning:
        assert self.base is not None
        given = dict(call.arguments)
        if style.prompt_embeds is not None:
            return self._given_conditioning(style)
        if given.get("prompt_embeds") is not None:
            raise PairError(
                f"style {style.name}: the pipeline was called with prompt_embeds, so encode the style's prompt "
                "too: Style(…, prompt_embeds=…, pooled_prompt_embeds=…)"
            )
        for name in PROMPTS:
            if given.get(name) is not None:
                given = {**given, name: _with_words(given[name], style.prompt_words or "")}
        if self.encodes_negative:
            given = {**given, "do_classifier_free_guidance": False}
        # Text-encoder layers of the style, where it has any, belong to its own prompt only.
        with network.route([Row(style=style.multiplier)]):
            return self._conditioning(self._encode(**given))

    def _given_conditioning(self, style: Style) -> Conditioning:
        base = self.base
        assert base is not None and style.prompt_embeds is not None
        if base.pooled is not None and style.pooled_prompt_embeds is None:
            raise PairError(f"style {style.name}: {type(self.pipe).__name__} also needs pooled_prompt_embeds")
        rows = base.embeds.shape[0]
        pooled = style.pooled_prompt_embeds
        embeds = _one_row_per_image(style.prompt_embeds, rows, style).to(base.embeds)
        text_ids = base.text_ids
        if text_ids is not None and embeds.shape[1] != text_ids.shape[0]:
            text_ids = text_ids.new_zeros(embeds.shape[1], text_ids.shape[1])
        if base.pooled is None or pooled is None:
            return Conditioning(embeds, None, text_ids)
        return Conditioning(embeds, _one_row_per_image(pooled, rows, style).to(base.pooled), text_ids)


def _with_words(prompt: str | list[str], words: str) -> str | list[str]:
    if isinstance(prompt, str):
        return f"{prompt} {words}".strip()
    return [f"{one} {words}".strip() for one in prompt]


def _one_row_per_image(value: Tensor, rows: int, style: Style) -> Tensor:
    if rows % value.shape[0]:
        raise PairError(
            f"style {style.name}: its embeddings have {value.shape[0]} rows, but the run makes {rows} images"
        )
    return value.repeat_interleave(rows // value.shape[0], dim=0)


@contextmanager
def recorded_prompts(
    pipe: Pipeline, styles: Sequence[Style], networks: Sequence[PairNetwork]
) -> Iterator[PromptRecorder]:
    """Listens to the pipeline's ``encode_prompt``, and to ``check_inputs``, with which every run begins."""
    recorder = PromptRecorder(pipe, styles, networks)
    check_inputs: Callable[..., object] | None = getattr(pipe, "check_inputs", None)

    def check(*args: object, **kwargs: object) -> object:
        recorder.start_run()
        return check_inputs(*args, **kwargs) if check_inputs is not None else None

    names = ("encode_prompt", "check_inputs")
    saved: dict[str, object] = {name: pipe.__dict__[name] for name in names if name in pipe.__dict__}
    pipe.encode_prompt = recorder.encode
    if check_inputs is not None:
        pipe.check_inputs = check
    try:
        yield recorder
    finally:
        for name in names:
            pipe.__dict__.pop(name, None)
        pipe.__dict__.update(saved)
