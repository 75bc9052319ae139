"""The style prompts of a run, encoded beside the pipeline's own."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pair_network.errors import PairError
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import BASE_ROW, Row

from ..protocols import Pipeline
from .style import Style

PROMPTS = ("prompt", "prompt_2", "prompt_3")
# Pipelines that look like others whose calls are laid out otherwise, so they are known by name, and Z-Image's, whose
# prompts are lists.
BY_NAME = ("Flux2Pipeline", "Flux2KleinPipeline", "QwenImagePipeline")
WITH_LISTS = ("ZImagePipeline",)
KNOWN = "Stable Diffusion 1, 2, XL, 3 and FLUX, and text to image of FLUX.2, Qwen-Image and Z-Image"


@dataclass
class Conditioning:
    """One prompt's embeddings, one row per image.

    Attributes:
        embeds: ``(rows, tokens, dim)``; of Z-Image a list of ``(tokens, dim)``, one for each prompt.
        pooled: ``(rows, dim)`` for SDXL, SD3 and FLUX, else None.
        text_ids: Token positions, ``(tokens, 3)`` of FLUX and ``(rows, tokens, 4)`` of FLUX.2, else None.
        mask: Qwen-Image's ``(rows, tokens)``, 0 at padding; None: no padding.
    """

    embeds: Any
    pooled: Tensor | None = None
    text_ids: Tensor | None = None
    mask: Tensor | None = None


def is_named(pipe: Any, names: Collection[str]) -> bool:
    """Whether a pipeline is one of diffusers' classes of these names, or made from one."""
    return any(kind.__name__ in names for kind in type(pipe).__mro__)


def _returned(pipe: Any, parameters: Collection[str]) -> tuple[str, ...]:
    """What the pipeline's encode_prompt returns, as attributes of Conditioning; "" for the negative prompt's.

    Raises:
        PairError: The pipeline is not known.
    """
    has_pooled = "pooled_prompt_embeds" in parameters
    if "prompt_embeds" in parameters and "prompt_attention_mask" not in parameters:
        if "negative_prompt" in parameters:
            if not type(pipe).__name__.startswith("ZImage") or is_named(pipe, WITH_LISTS):
                return ("embeds", "", "pooled", "") if has_pooled else ("embeds", "")
        elif has_pooled:
            return ("embeds", "pooled", "text_ids")
        elif is_named(pipe, BY_NAME):
            return ("embeds", "mask") if "prompt_embeds_mask" in parameters else ("embeds", "text_ids")
    raise PairError(f"{type(pipe).__name__}: style guidance knows the pipelines of {KNOWN}")


class Prompts(ABC):
    """The prompts that a model call may hold.

    Attributes:
        has_cond_first: The prompt's rows come before the negative prompt's.
        base: The prompt, c; None before the run has encoded it.
        styles: c_style for each style; None where λ is 0.
    """

    has_cond_first = False

    def __init__(self) -> None:
        self.base: Conditioning | None = None
        self.styles: list[Conditioning | None] = []

    def style(self, index: int) -> Conditioning:
        """c_style of a style that guides (λ is not 0)."""
        conditioning = self.styles[index]
        assert conditioning is not None
        return conditioning

    @abstractmethod
    def is_negative(self, embeds: Tensor) -> bool:
        """Whether a model call carries the negative prompt alone."""

    @abstractmethod
    def has_null_rows(self, rows: int) -> bool:
        """Whether a model call of so many rows holds the negative prompt's and the prompt's."""


class PromptRecorder(Prompts):
    """What the pipeline encodes in one run, and each style's version of it.

    Attributes:
        negative: Negative prompt embeddings that pass through the model in a call of their own, as FLUX's do.
    """

    def __init__(self, pipe: Pipeline, styles: Sequence[Style], networks: Sequence[PairNetwork]):
        super().__init__()
        self.pipe, self._styles, self._networks = pipe, styles, networks
        self._encode = pipe.encode_prompt
        self._signature = inspect.signature(self._encode)
        self._returned = _returned(pipe, self._signature.parameters)
        self.encodes_negative = "negative_prompt" in self._signature.parameters
        self.start_run()

    def start_run(self) -> None:
        self.base = None
        self.negative: Tensor | None = None
        self.styles = []

    def is_negative(self, embeds: Tensor) -> bool:
        return embeds is self.negative and self.base is not None and embeds is not self.base.embeds

    def encode(self, *args: object, **kwargs: object) -> Sequence[Tensor]:
        """``encode_prompt``, which also encodes the styles' prompts."""
        for network in self._networks:
            network.set_route([BASE_ROW])
        call = self._signature.bind(*args, **kwargs)
        # Z-Image's encoder writes into the list of prompts.
        call.arguments.update({name: list(value) for name, value in call.arguments.items() if isinstance(value, list)})
        result = self._encode(*args, **kwargs)
        if self.base is not None and not self.encodes_negative:
            self.negative = result[0]
            return result
        self.base = self._conditioning(result)
        self.styles = [
            self._style_conditioning(style, network, call) if style.scale else None
            for style, network in zip(self._styles, self._networks, strict=True)
        ]
        return result

    def _conditioning(self, result: Sequence[Any]) -> Conditioning:
        if len(result) != len(self._returned):
            raise PairError(
                f"{type(self.pipe).__name__}: its encode_prompt returns {len(result)} values, not "
                f"{len(self._returned)}; style guidance does not know this pipeline"
            )
        return Conditioning(**{name: value for name, value in zip(self._returned, result, strict=True) if name})

    def has_null_rows(self, rows: int) -> bool:
        return self.encodes_negative and bool(getattr(self.pipe, "do_classifier_free_guidance", False))

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
                given = {**given, name: with_words(given[name], style.prompt_words or "")}
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
        if isinstance(base.embeds, list):
            own = one_row_per_image(style.prompt_embeds, len(base.embeds), style)
            return Conditioning([row.to(base.embeds[0]) for row in own])
        rows = base.embeds.shape[0]
        pooled = style.pooled_prompt_embeds
        embeds = one_row_per_image(style.prompt_embeds, rows, style).to(base.embeds)
        text_ids = None if base.text_ids is None else _text_ids(base.text_ids, embeds.shape[1])
        if base.pooled is None or pooled is None:
            return Conditioning(embeds, None, text_ids)
        return Conditioning(embeds, one_row_per_image(pooled, rows, style).to(base.pooled), text_ids)


def _text_ids(like: Tensor, tokens: int) -> Tensor:
    """Positions of so many tokens: zeros in FLUX, counted in the last coordinate in FLUX.2."""
    if like.shape[-2] == tokens:
        return like
    ids = like.new_zeros(*like.shape[:-2], tokens, like.shape[-1])
    if like.dim() == 3:
        ids[..., -1] = torch.arange(tokens)
    return ids


def with_words(prompt: str | list[str], words: str) -> str | list[str]:
    """c_style in words: the prompt, or each prompt, followed by the style's."""
    if isinstance(prompt, str):
        return f"{prompt} {words}".strip()
    return [f"{one} {words}".strip() for one in prompt]


def one_row_per_image(value: Tensor, rows: int, style: Style) -> Tensor:
    """Embeddings with one row, one for each prompt or one for each image, as ``(rows, …)``.

    Raises:
        PairError: Their rows do not divide the run's.
    """
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
