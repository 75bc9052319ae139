"""The pipeline's model call with the style rows in it: [null, cond, style₁, style₂ …] as one batch."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from pair_network.errors import PairError, is_out_of_memory
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import BASE_ROW, Row

from ..guidance import is_in_interval, shift_for_rescale, style_shift
from ..protocols import ModelInputs, Pipeline, Predicted
from .prompts import Conditioning, Prompts
from .rows import latents_of, with_style_rows
from .schedule import schedule_progress
from .style import Style

logger = logging.getLogger(__name__)

# Where a model's forward may sit, outermost first: torch's in-place compilation, then accelerate's offloading hook.
# Pipelines take that hook off and put it on again after every run, so what was wrapped around it would be lost.
PLACES = ("_compiled_call_impl", "_old_forward", "forward")
GUIDED = "is_style_guidance"  # marks the function that stands in for a forward


class GuidedDenoiser:
    """Stands in for the model's ``forward`` and shifts what it returns by δ = Σ λ_i (style_i − cond).

    Every row of an image is shifted alike, so that whatever the pipeline combines from them with weights that sum to
    one (CFG, skip-layer guidance) moves by exactly δ. From ``cfg_end`` on the null rows are not computed: they get the
    prompt's guided prediction, so that CFG of any scale gives just that.

    Args:
        pipe: The pipeline; its scheduler and guidance settings are read at every call.
        model: The U-Net or transformer.
        forward: What the pipeline would have called.
        styles, networks: Each style and its network, hooked into the model.
        prompts: What the current run has encoded.
        is_joined: One batch for all rows, instead of one more call for each style.
        cfg_end: Part of the schedule after which the content's CFG is 1.
    """

    def __init__(
        self,
        pipe: Pipeline,
        model: nn.Module,
        forward: Callable[..., Predicted],
        styles: Sequence[Style],
        networks: Sequence[PairNetwork],
        prompts: Prompts,
        is_joined: bool,
        cfg_end: float,
    ):
        self.pipe, self.forward, self.prompts = pipe, forward, prompts
        self.styles, self.networks, self.is_joined, self.cfg_end = styles, networks, is_joined, cfg_end
        # torch.compile's wrapper hides the model's own signature.
        own: nn.Module = getattr(model, "_orig_mod", model)
        signature = inspect.signature(type(own).forward)
        self._signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        # A step's progress, its δ and what its first call gave, for the step's further calls.
        self._step: tuple[float, Tensor, Predicted] | None = None

    def __call__(self, *args: object, **kwargs: object) -> Predicted:
        return self.guided(cast(ModelInputs, dict(self._signature.bind(*args, **kwargs).arguments)))

    def guided(self, inputs: ModelInputs) -> Predicted:
        """What the model returns for these arguments, moved by δ."""
        progress = schedule_progress(self.pipe.scheduler, inputs["timestep"])
        active = [i for i, style in enumerate(self.styles) if style.is_guiding(progress)]
        has_cfg = is_in_interval(progress, 0.0, self.cfg_end)
        if not active and has_cfg:
            return self._routed_forward(inputs, [], base_rows=1, images=0)
        cond = self._cond_rows(inputs)
        if cond is None:
            return self._further_call(inputs, progress, has_cfg)
        rows = latents_of(inputs).shape[0]
        kept = slice(0, rows) if has_cfg else cond
        output, predictions = self._predict(inputs, cond, active, kept)
        base = output[0][cond.start - kept.start : cond.stop - kept.start]
        shift = style_shift(base, predictions, [self.styles[i].scale for i in active])
        # Without CFG the null rows, where the pipeline has them in its batch, get the prompt's prediction.
        guided = self._shifted(output[0], shift) if has_cfg else torch.cat([base + shift] * (rows // base.shape[0]))
        self._step = (progress, shift, _replaced(output, guided))
        return self._step[2]

    # --- which rows are what -------------------------------------------------------------------------------------

    def _cond_rows(self, inputs: ModelInputs) -> slice | None:
        """The rows with the prompt; None for a further call of the same step (negative prompt, skipped layers).

        Raises:
            PairError: The batch is laid out in a way that is not known.
        """
        rows, base, pipeline = latents_of(inputs).shape[0], self.prompts.base, type(self.pipe).__name__
        if base is None:
            raise PairError(f"{pipeline}: it ran its model without encode_prompt; give it the prompt in words")
        images = base.embeds.shape[0]
        is_negative = self.prompts.is_negative(inputs["encoder_hidden_states"])
        if rows == images * (2 if self.prompts.has_null_rows(rows) else 1) and not is_negative:
            return slice(0, images) if self.prompts.has_cond_first else slice(rows - images, rows)
        if rows == images:
            return None
        raise PairError(
            f"{pipeline}: its model sees {rows} rows for {images} images; style guidance knows batches of [null, cond] "
            "and of cond alone"
        )

    def _further_call(self, inputs: ModelInputs, progress: float, has_cfg: bool) -> Predicted:
        if self._step is None or self._step[0] != progress:
            raise PairError(
                f"{type(self.pipe).__name__}: it predicts the negative prompt before the prompt; style guidance does "
                "not know this order"
            )
        _, shift, first = self._step
        if not has_cfg and self.prompts.is_negative(inputs["encoder_hidden_states"]):
            return first
        output = self._routed_forward(inputs, [], base_rows=1, images=0)
        return _replaced(output, output[0] + shift)

    # --- predictions ---------------------------------------------------------------------------------------------

    def _predict(
        self, inputs: ModelInputs, cond: slice, active: Sequence[int], kept: slice
    ) -> tuple[Predicted, list[Tensor]]:
        """The output of the base rows that are kept, and each active style's prediction ``(images, …)``."""
        prompts = [self.prompts.style(i) for i in active]
        tokens = inputs["encoder_hidden_states"].shape[1]
        # Only prompts of one length fit one batch; embeddings that the user made may differ.
        if self.is_joined and all(prompt.embeds.shape[1] == tokens for prompt in prompts):
            try:
                return self._predict_joined(inputs, cond, active, prompts, kept)
            except RuntimeError as failure:
                if not is_out_of_memory(failure):
                    raise
                self.is_joined = False
                logger.warning("no memory for the style rows in the batch; each style now gets a call of its own")
            # Not in the except block, whose traceback keeps the failed call's tensors alive.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            elif torch.backends.mps.is_available():
                torch.mps.empty_cache()
        output = self._routed_forward(with_style_rows(inputs, cond, [], kept), [], base_rows=1, images=0)
        images = cond.stop - cond.start
        alone = [with_style_rows(inputs, cond, [prompt], kept=slice(0, 0)) for prompt in prompts]
        return output, [self._routed_forward(a, [i], 0, images)[0] for i, a in zip(active, alone, strict=True)]

    def _predict_joined(
        self, inputs: ModelInputs, cond: slice, active: Sequence[int], prompts: Sequence[Conditioning], kept: slice
    ) -> tuple[Predicted, list[Tensor]]:
        rows, images = kept.stop - kept.start, cond.stop - cond.start
        output = self._routed_forward(with_style_rows(inputs, cond, prompts, kept), active, rows, images)
        predictions = list(output[0][rows:].split(images)) if active else []
        return _replaced(output, output[0][:rows]), predictions

    def _routed_forward(self, inputs: ModelInputs, active: Sequence[int], base_rows: int, images: int) -> Predicted:
        """The model's output, each network on in the rows of its own styles, ``images`` each behind the base rows."""
        for network in dict.fromkeys(self.networks):
            strengths = [self.styles[i].multiplier if self.networks[i] is network else 0.0 for i in active]
            styles = [Row(style=strength) for strength in strengths for _ in range(images)]
            route = (BASE_ROW,) * base_rows + tuple(styles)
            # A route keeps its index tensors, and compiled code its guards, for as long as it is not set again.
            if network.routing.rows != route:
                network.set_route(route)
        return self.forward(**inputs)

    # --- the shift -----------------------------------------------------------------------------------------------

    def _shifted(self, prediction: Tensor, shift: Tensor) -> Tensor:
        """Null and cond rows, or cond alone, moved so that what the pipeline makes of them moves by δ."""
        if prediction.shape[0] == shift.shape[0]:
            return prediction + shift
        null, cond = prediction.chunk(2)
        if getattr(self.pipe, "guidance_rescale", 0) > 0:
            # The pipeline rescales to the spread of the cond rows, so they must stay as they are.
            return torch.cat([shift_for_rescale(null, shift, self.pipe.guidance_scale), cond])
        return torch.cat([null + shift, cond + shift])


def _replaced(output: Predicted, prediction: Tensor) -> Predicted:
    """``output``, a tuple or diffusers' output class, with another prediction."""
    return (prediction, *output[1:]) if isinstance(output, tuple) else type(output)(sample=prediction)


def is_guided(model: nn.Module) -> bool:
    """Whether the model is inside a block of style guidance already."""
    return any(hasattr(model.__dict__.get(name), GUIDED) for name in PLACES)


@contextmanager
def replaced_forward(
    model: nn.Module, replace: Callable[[Callable[..., Predicted]], Callable[..., Predicted]]
) -> Iterator[None]:
    """Puts ``replace(forward)`` in the place of the model's forward."""
    place = next((name for name in PLACES if model.__dict__.get(name) is not None), "forward")
    original, was_own = getattr(model, place), place in model.__dict__
    guided = replace(original)

    @functools.wraps(original)
    def stand_in(*args: object, **kwargs: object) -> Predicted:
        return guided(*args, **kwargs)

    setattr(stand_in, GUIDED, True)
    setattr(model, place, stand_in)
    try:
        yield
    finally:
        for name in PLACES:
            if model.__dict__.get(name) is stand_in:
                if name == "forward" and not was_own:
                    delattr(model, name)
                else:
                    setattr(model, name, original)
