"""The context managers that users and training previews call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from pair_network.errors import PairError
from pair_network.network.route import Row

from ..protocols import Pipeline
from .denoiser import GuidedDenoiser, is_guided, replaced_forward
from .lists import ListDenoiser
from .networks import attached_networks
from .prompts import WITH_LISTS, is_named, recorded_prompts
from .style import Style


@contextmanager
def style_guidance(
    pipe: Pipeline, styles: Style | Sequence[Style], *, joined: bool = True, cfg_end: float = 1.0
) -> Iterator[Pipeline]:
    """Inside the block ``pipe(…)`` runs unchanged and follows eq. 10, or eq. 11 for several styles.

    Afterwards, also after an exception, pipeline and networks are as they were.

    Args:
        pipe: A diffusers pipeline of Stable Diffusion 1, 2, XL, 3 or FLUX: text to image, img2img, inpaint, ControlNet;
            or FLUX.2's, Qwen-Image's or Z-Image's for text to image.
        styles: One style or several, each with its own scale and interval.
        joined: All rows of a step in one batch; False: one more call for each style, for the memory of the base batch.
            A joined batch that does not fit is split by itself.
        cfg_end: Part of the noise schedule, in [0, 1], after which the content's CFG is 1 (a guidance interval,
            arXiv:2404.07724): the prediction is then cond + Σ λ (style − cond), and null rows are not computed. 1
            leaves eq. 10 as it is. Counted like a style's interval; without styles it is plain CFG that ends.

    Raises:
        PairError: A style does not fit the pipeline, ``cfg_end`` is out of range, the pipeline lays out its batches in
            a way that is not known, or it is inside such a block already.
    """
    chosen = [styles] if isinstance(styles, Style) else list(styles)
    model = _denoiser(pipe)
    denoiser: type[ListDenoiser] | type[GuidedDenoiser]
    denoiser = ListDenoiser if is_named(pipe, WITH_LISTS) else GuidedDenoiser
    if not 0 <= cfg_end <= 1:
        raise PairError(f"cfg_end={cfg_end}: a part of the noise schedule is needed, from 0 (no CFG) to 1 (to the end)")
    if is_guided(model):
        raise PairError(
            f"{type(pipe).__name__}: its model is inside style_guidance already; give one block all styles, as a list"
        )
    with (
        attached_networks(pipe, model, chosen) as networks,
        recorded_prompts(pipe, chosen, networks) as prompts,
        replaced_forward(
            model, lambda forward: denoiser(pipe, model, forward, chosen, networks, prompts, joined, cfg_end)
        ),
    ):
        yield pipe


@contextmanager
def plain_lora(pipe: Pipeline, styles: Style | Sequence[Style]) -> Iterator[Pipeline]:
    """Inside the block the styles' LoRAs act on every row at their multipliers, as in a UI that has no style guidance.

    For comparisons: the words go into the prompt by hand, λ and the interval mean nothing here.

    Raises:
        PairError: A style does not fit the pipeline.
    """
    chosen = [styles] if isinstance(styles, Style) else list(styles)
    with attached_networks(pipe, _denoiser(pipe), chosen) as networks, ExitStack() as routes:
        for network in dict.fromkeys(networks):
            own = [style.multiplier for style, one in zip(chosen, networks, strict=True) if one is network]
            routes.enter_context(network.route([Row(style=sum(own))]))
        yield pipe


def _denoiser(pipe: Pipeline) -> nn.Module:
    found = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    model = next((model for model in found if model is not None), None)
    if model is None or not hasattr(pipe, "encode_prompt"):
        raise PairError(
            f"{type(pipe).__name__}: style guidance needs a pipeline with encode_prompt and a unet or transformer"
        )
    return model
