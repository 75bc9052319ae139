"""Z-Image, whose model takes lists: the latents of each image, and prompts as long as their words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pair_network.errors import PairError
from pair_network.network.pair_network import PairNetwork

from .denoiser import GuidedDenoiser
from .prompts import Conditioning, PromptRecorder, Prompts
from .style import Style


class _Numbers(Prompts):
    """The prompts of one model call, each as its number in a list: rows ``(images, 1)`` that fit one tensor."""

    has_cond_first = True

    def is_negative(self, embeds: Tensor) -> bool:
        return False

    def has_null_rows(self, rows: int) -> bool:
        return self.base is not None and rows > self.base.embeds.shape[0]


class ListDenoiser:
    """Stands in for the ``forward`` of Z-Image's transformer, as GuidedDenoiser does for the others'.

    The rows are the prompts' and then, with CFG, the negative prompts'; which prompt a row has is told by the
    embeddings' identity, because the pipeline repeats them for each image only after encode_prompt.

    Args:
        As GuidedDenoiser's.
    """

    def __init__(
        self,
        pipe: Any,
        model: nn.Module,
        forward: Callable[..., Any],
        styles: Sequence[Style],
        networks: Sequence[PairNetwork],
        prompts: PromptRecorder,
        is_joined: bool,
        cfg_end: float,
    ):
        self._pipe, self._forward, self._recorded = pipe, forward, prompts
        self._numbers = _Numbers()
        self._embeddings: list[Tensor] = []
        self._guided = GuidedDenoiser(pipe, model, self._unlisted, styles, networks, self._numbers, is_joined, cfg_end)

    def __call__(self, x: list[Tensor], t: Tensor, cap_feats: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        if args:
            raise PairError(f"{type(self._pipe).__name__}: style guidance does not know how it calls its model")
        self._number(cap_feats)
        inputs: Any = {
            "hidden_states": torch.stack(list(x)),
            "timestep": t,
            "encoder_hidden_states": torch.arange(len(cap_feats), device=t.device)[:, None],
            **kwargs,
        }
        prediction = self._guided.guided(inputs)[0]
        return (list(prediction),)

    def _number(self, cap_feats: list[Tensor]) -> None:
        """Lists the embeddings of the call's rows and of the styles' rows that may join them."""
        base = self._recorded.base
        if base is None:
            raise PairError(
                f"{type(self._pipe).__name__}: it ran its model without encode_prompt; give it the prompt in words"
            )
        places = {id(embeds): place for place, embeds in enumerate(base.embeds)}
        prompts = [places[id(embeds)] for embeds in cap_feats if id(embeds) in places]
        images = len(prompts)
        if not images or any(id(embeds) not in places for embeds in cap_feats[:images]):
            raise PairError(
                f"{type(self._pipe).__name__}: its model does not see the prompts that it encoded; style guidance "
                "does not know this pipeline"
            )
        self._embeddings = list(cap_feats)
        self._numbers.base = Conditioning(torch.arange(images)[:, None])
        self._numbers.styles = []
        for own in self._recorded.styles:
            start = len(self._embeddings)
            self._numbers.styles.append(Conditioning(start + torch.arange(images)[:, None]) if own else None)
            self._embeddings += [own.embeds[place] for place in prompts] if own else []

    def _unlisted(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **kwargs: Any) -> Any:
        """The model's output for numbered prompts, as one tensor."""
        cap_feats = [self._embeddings[number] for number in encoder_hidden_states.flatten().tolist()]
        output = self._forward(list(hidden_states), timestep, cap_feats, **{**kwargs, "return_dict": False})
        return (torch.stack(output[0]),)
