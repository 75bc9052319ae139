"""Style guidance in the sampling of Forge, Forge Neo, Forge Classic and reForge.

They never fire ``on_cfg_denoised``. A clone of the U-Net's patcher, which lives for one sampling, gets a function
that runs after CFG: it predicts each style in a call of its own, with its LoRA on for that call alone, and adds δ.
They keep one set of merged weights per model, so two patchers cannot hold different LoRAs; hooks can be switched.
"""

from __future__ import annotations

import weakref
from typing import Any

from lib_pair_network.session import Run, Session
from modules import prompt_parser, script_callbacks
from torch import Tensor

from .patcher import calc_cond_uncond_batch, compile_weighted_conditions
from .processing import encode, entered, session_of

CFG_SCALE = 5  # its place among what a conditioning modifier takes and gives
REFINER = "the refiner's steps are not guided"


class Sampling:
    """One sampling: the step that its denoiser is at, which the function after CFG is not told."""

    def __init__(self) -> None:
        self.step, self.total_steps = 0, 1


def before_sampling(p: Any, session: Session) -> None:
    """Gives this sampling a patcher with guidance. Forge calls this twice before a hires pass; the last one counts."""
    objects = p.sd_model.forge_objects
    unet = objects.unet.clone()
    session.prepare(unet.model.diffusion_model, lambda style: encode(p, style), unet.model, entered(p))
    sampling = session.scratch = Sampling()
    # Forge keeps the patcher until its next generation, also after an error: it must not keep the session alive.
    owner = weakref.ref(p)

    def after_cfg(arguments: dict[str, Any]) -> Tensor:
        owned = session_of(owner())
        if owned is None or owned.scratch is not sampling:
            return arguments["denoised"]
        return _guided(owned, sampling_of(owned), arguments)

    def before_cfg(*call: Any) -> tuple:  # model, x, sigma, null, cond, CFG scale, model options, seed
        """With a CFG scale of 1 the UI does not ask for the null prediction at all."""
        owned = session_of(owner())
        if owned is None or owned.scratch is not sampling:
            return call
        is_plain = owned.has_plain_content(sampling.step, sampling.total_steps)
        return (*call[:CFG_SCALE], 1.0, *call[CFG_SCALE + 1 :]) if is_plain else call

    unet.set_model_sampler_post_cfg_function(after_cfg)
    if session.request.cfg_end < 1:
        unet.add_conditioning_modifier(before_cfg)
    unet.add_extra_preserved_memory_during_sampling(sum(run.hooks.size() for run in session.runs))
    objects.unet = unet


def sampling_of(session: Session) -> Sampling:
    return session.scratch


def register() -> None:
    """Listens to the sampling; without a session on the generation the listener does nothing."""
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)


def on_cfg_denoiser(params: Any) -> None:
    """Notes the step, and whether another model has taken over."""
    session = session_of(getattr(params.denoiser, "p", None))
    if session is None or not session.runs:
        return
    with session.guarded("the start of a step"):
        session.scratch.step, session.scratch.total_steps = params.denoiser.step, params.denoiser.total_steps
        if params.denoiser.inner_model.inner_model.forge_objects.unet.model is not session.model:
            session.runs = []
            session.note(REFINER)


def _guided(session: Session, sampling: Sampling, arguments: dict[str, Any]) -> Tensor:
    """The step's result plus δ, (images, …); every prediction here is of x0."""
    denoised = result = arguments["denoised"]
    weight = _weight(arguments)
    with session.guarded("the style's model call"):
        for run in session.active(sampling.step, sampling.total_steps):
            style = _predict(run, sampling.step, arguments)
            result = result + run.style.scale * weight * (style - arguments["cond_denoised"])
            session.calls += 1
    return denoised if session.failure else result


def _weight(arguments: dict[str, Any]) -> float:
    """Parts of AND come as weighted mean, and the UI gives CFG the sum of their weights as a factor; so does δ.

    reForge leaves that out where there is no null prediction.
    """
    if arguments["uncond_denoised"] is None:
        return 1.0
    return float(sum(part.get("strength", 1.0) for part in arguments["cond"]))


def _predict(run: Run, step: int, arguments: dict[str, Any]) -> Tensor:
    """The style's prediction, over the parts of AND as Forge combines the plain ones."""
    composition, cond = prompt_parser.reconstruct_multicond_batch(run.cond, step)
    parts = compile_weighted_conditions(cond, composition)
    plain = arguments["cond"][0]
    for part in parts:  # ControlNet, and the masked picture of inpainting models, which Forge adds after the prompts
        if "control" in plain:
            part["control"] = plain["control"]
        if "c_concat" in plain["model_conds"]:
            part["model_conds"]["c_concat"] = plain["model_conds"]["c_concat"]
    with run.hooks.active():
        style, _ = calc_cond_uncond_batch(
            arguments["model"], parts, None, arguments["input"], arguments["sigma"], arguments["model_options"]
        )
    return style
