"""Style guidance in A1111's sampling.

After the UI's own predictions of a step (``on_cfg_denoised``) each style is predicted in a call of its own, with its
LoRA on for that call alone, and δ is added in place to every row, so that whatever CFG combination follows moves by δ.
The rows of the UI's own call are not extended: it slices them, cuts them and splits them by prompt length.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from lib_pair_network.errors import GuidanceError
from lib_pair_network.guidance import add_to_rows, combine_rows, style_shift
from lib_pair_network.session import Run, Session
from modules import prompt_parser, script_callbacks, shared
from torch import Tensor

from .processing import encode, entered, session_of

REFINER = "the refiner's steps are not guided"
_denoiser: weakref.ref | None = None  # the denoiser between its two callbacks; only the first one names it


def before_sampling(p: Any, session: Session) -> None:
    """Binds the styles to the model that is about to sample."""
    model = shared.sd_model
    session.prepare(model.model.diffusion_model, lambda style: encode(p, style), model.sd_checkpoint_info, entered(p))


def register() -> None:
    """Listens to the sampling; without a session on the generation the listeners do nothing."""
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
    script_callbacks.on_cfg_denoised(on_cfg_denoised)
    script_callbacks.on_cfg_after_cfg(on_cfg_after_cfg)


def on_cfg_denoiser(params: Any) -> None:
    """Keeps the inputs of the step's predictions until they are there."""
    global _denoiser
    _denoiser = None
    session = session_of(getattr(params.denoiser, "p", None))
    if session is not None and session.runs:
        session.scratch = params
        _denoiser = weakref.ref(params.denoiser)


def on_cfg_denoised(params: Any) -> None:
    """Adds δ to the step's predictions, (conditional rows, null rows)."""
    denoiser = _denoiser() if _denoiser else None
    session = session_of(denoiser.p) if denoiser is not None else None
    if session is None:
        return
    inputs, session.scratch = session.scratch, None
    with session.guarded("the style's model call"):
        if shared.sd_model.sd_checkpoint_info is not session.model:
            session.runs = []
            session.note(REFINER)
            return
        _guide(session, denoiser, inputs, params)


def _guide(session: Session, denoiser: Any, inputs: Any, outputs: Any) -> None:
    active = session.active(denoiser.step, denoiser.total_steps)
    is_plain = session.has_plain_content(denoiser.step, denoiser.total_steps)
    if not active and not is_plain:
        return
    conds = denoiser.sampler.sampler_extra_args["cond"]
    composition, _ = prompt_parser.reconstruct_multicond_batch(conds, denoiser.step)
    count = sum(map(len, composition))
    plain = outputs.x[:count]
    shift = torch.zeros_like(plain[: len(composition)])
    for run in active:
        style = _predict(run, denoiser, inputs, outputs.inner_model, count, len(composition))
        shift += style_shift(style, plain, run.style.scale, composition)
        session.calls += 1
    # CFG++ samplers scale CFG by this (its name is misspelt in the UI), and λ with it.
    factor = getattr(denoiser, "cond_scale_miltiplier", 1.0)
    session.scratch = outputs.x[-len(composition) :].clone() if denoiser.need_last_noise_uncond else None
    if is_plain:
        combine_rows(outputs.x, factor, composition)
    add_to_rows(outputs.x, factor * shift, composition)


def _predict(run: Run, denoiser: Any, inputs: Any, inner_model: Any, count: int, images: int) -> Tensor:
    """The style's prediction of each conditional row."""
    rows, cond = prompt_parser.reconstruct_multicond_batch(run.cond, denoiser.step)
    if sum(map(len, rows)) != count:
        raise GuidanceError("the style's prompts have another number of AND parts than the picture's")
    # As many rows at once as the UI itself gives the model, for its memory.
    at_once = images * (2 if shared.opts.batch_cond_uncond else 1)
    parts = []
    with run.hooks.active():
        for first in range(0, count, at_once):
            chunk = slice(first, min(first + at_once, count))
            condition = _condition(_sliced(cond, chunk), inputs.image_cond[chunk])
            parts.append(inner_model(inputs.x[chunk], inputs.sigma[chunk], cond=condition))
    return torch.cat(parts)


def _sliced(cond: Any, rows: slice) -> Any:
    return {name: value[rows] for name, value in cond.items()} if isinstance(cond, dict) else cond[rows]


def _condition(cond: Any, image_cond: Tensor) -> dict[str, Any]:
    """The model's keyword for text and image conditioning, which differs by kind of model."""
    if shared.sd_model.model.conditioning_key == "crossattn-adm":
        return {"c_crossattn": [cond], "c_adm": image_cond}
    if isinstance(cond, dict):
        return {**cond, "c_concat": [image_cond]}
    return {"c_crossattn": [cond], "c_concat": [image_cond]}


def on_cfg_after_cfg(params: Any) -> None:
    """Gives a sampler that makes its noise from the null prediction (DDIM CFG++) the one that the model made."""
    denoiser: Any = _denoiser() if _denoiser else None
    session = session_of(denoiser.p) if denoiser is not None else None
    if session is None or not isinstance(session.scratch, Tensor):
        return
    with session.guarded("the null prediction of CFG++"):
        denoiser.last_noise_uncond, session.scratch = session.scratch, None
