"""What both UIs' processing objects are asked and told; they have the same fields."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

from lib_pair_network.errors import GuidanceError
from lib_pair_network.prompts import with_words
from lib_pair_network.session import Session
from lib_pair_network.settings import ERROR_KEY, NOTE_KEY, TITLE, Style, all_keys, infotext, read_request
from modules import devices, prompt_parser, shared
from modules.sd_samplers_common import setup_img2img_steps

from .files import find

SESSION, AXES = "_pair_network_session", "_pair_network_axes"
# The generation under way: a reference to its processing object, and the UI's mark of the job that it belongs to.
_outer: tuple[weakref.ref, str] | None = None


def session_of(p: Any) -> Session | None:
    return getattr(p, SESSION, None)


def begin(p: Any, arguments: Sequence[Any]) -> None:
    """Reads the controls and gives the generation its session, or shows why it has none."""
    is_inner = _is_inner(p)
    setattr(p, SESSION, None)
    for name in all_keys():  # plots copy p with the entries of the cell before
        p.extra_generation_params.pop(name, None)
    try:
        request = read_request(arguments, getattr(p, AXES, None))
        if request is None or (is_inner and not request.inner_passes):
            return
        paths = find([style.lora for style in request.styles])
    except GuidanceError as cause:
        show(p, str(cause), True)
        return
    p.extra_generation_params.update(infotext(request))
    owner = weakref.ref(p)
    setattr(p, SESSION, Session(request, paths, lambda line, is_failure: show(owner(), line, is_failure)))


def _is_inner(p: Any) -> bool:
    """Whether another generation of the same job is still under way, as when ADetailer repaints a face."""
    global _outer
    outer = _outer[0]() if _outer and _outer[1] == shared.state.job_timestamp else None
    if outer is not None and outer is not p:
        return True
    _outer = (weakref.ref(p), shared.state.job_timestamp)
    return False


def end(p: Any) -> None:
    """Lets go of everything that the generation held."""
    global _outer
    if _outer and _outer[0]() is p:
        _outer = None
    session = session_of(p)
    if session is not None:
        session.end()
        setattr(p, SESSION, None)


def check_batch(p: Any) -> None:
    """Shows it when nothing of a finished batch was guided."""
    session = session_of(p)
    if session is not None and not (shared.state.interrupted or shared.state.skipped):
        session.check_batch()


def show(p: Any, line: str, is_failure: bool) -> None:
    """Puts a line under the picture in the UI and into its infotext."""
    if p is None:
        return
    p.comment(f"{TITLE} FAILED, the picture is not fully guided: {line}" if is_failure else f"{TITLE}: {line}")
    p.extra_generation_params[ERROR_KEY if is_failure else NOTE_KEY] = line


def encode(p: Any, style: Style) -> Any:
    """The UI's schedule of conditionings of the prompts with the style words, one per image of the batch."""
    is_hr = getattr(p, "is_hr_pass", False)
    texts = [with_words(prompt, style.words) for prompt in (p.hr_prompts if is_hr else p.prompts)]
    size = (
        {"width": p.hr_upscale_to_x, "height": p.hr_upscale_to_y} if is_hr else {"width": p.width, "height": p.height}
    )
    distilled = getattr(p, "hr_distilled_cfg" if is_hr else "distilled_cfg_scale", None)
    if distilled is not None:  # Forge's FLUX reads its guidance from here
        size["distilled_cfg_scale"] = distilled
    with devices.autocast():
        return prompt_parser.get_multicond_learned_conditioning(
            shared.sd_model,
            prompt_parser.SdConditioning(texts, **size),
            p.firstpass_steps,
            _model_calls(p) if is_hr else None,
            **_scheduling(),
        )


def _scheduling() -> dict[str, Any]:
    """The option of old prompt editing, where the UI still has it."""
    parameters = inspect.signature(prompt_parser.get_multicond_learned_conditioning).parameters
    name = "use_old_scheduling"
    return {name: getattr(shared.opts, name)} if name in parameters and hasattr(shared.opts, name) else {}


def _model_calls(p: Any) -> int:
    """Model calls of the hires pass, by which the UI counts prompt editing."""
    from modules import sd_samplers

    steps = p.hr_second_pass_steps or p.steps
    sampler = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
    return sampler.total_steps(steps) if sampler else steps


def entered(p: Any) -> float:
    """Part of the noise schedule that the sampling leaves out: 0 for txt2img, 0.4 for img2img of strength 0.6."""
    is_hr = getattr(p, "is_hr_pass", False)
    if not is_hr and not hasattr(p, "init_images"):
        return 0.0
    steps, encoded = setup_img2img_steps(p, (p.hr_second_pass_steps or p.steps) if is_hr else None)
    return max(0.0, 1 - (encoded + 1) / steps) if steps else 0.0
