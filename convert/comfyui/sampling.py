"""Style guidance inside ComfyUI's sampling: a wrapper around the sampler, and the two ways of switching a LoRA on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch

from . import conditions
from .guidance import is_in_interval, style_shift
from .layers import StyleLayers, weight_shape
from .lora import Match, StyleFile, match_layers

KEY = "pair_network"


@dataclass(frozen=True)
class Style:
    """One entry of a PAIR_STYLE list.

    Attributes:
        file: The style LoRA.
        conditioning: ComfyUI's CONDITIONING of the style's own prompt.
        scale: λ.
        start, end: Part of the noise schedule with the style, 0 at pure noise and 1 at the picture.
        multiplier: Strength of the LoRA itself.
    """

    file: StyleFile
    conditioning: list
    scale: float
    start: float
    end: float
    multiplier: float


@dataclass(frozen=True)
class Part:
    """A style as one sampling run uses it: prepared conditions, noise levels, and what switches its LoRA on."""

    style: Style
    conditions: list[dict]
    first_sigma: float
    last_sigma: float
    has_region: bool
    switched_on: Callable[[], AbstractContextManager]


def matches_of(model: Any, style: Style) -> list[Match]:
    """Where the style's layers lie in a ComfyUI model; raises StyleFileError where they do not fit."""
    weights = model.model
    key_map = comfy.lora.model_lora_keys_unet(weights, {})

    def shape_of(key: str) -> tuple[int, ...]:
        return weight_shape(weights.get_submodule(key.removesuffix(".weight")))

    return match_layers(style.file, key_map, shape_of)


class GuidedSampling:
    """Wraps ComfyUI's sampler: prepares the styles' conditions and adds the shift to every guided prediction.

    The shift is added behind the CFG function (and behind what replaces or rescales it), in x0. One more evaluation
    per style and step; its rows are never in one batch with the positive prompt's, whose model has no LoRA.
    """

    def __init__(self, styles: list[Style], layers: list[StyleLayers] | None = None, cfg_end: float = 1.0) -> None:
        """Takes the styles.

        Args:
            styles: The styles.
            layers: Of each style, where the model itself switches them; None where the conditions' hooks do.
            cfg_end: Part of the noise schedule from which on the content's CFG is 1; 1 leaves CFG as it is.
        """
        self.styles = styles
        self.layers = layers
        self.cfg_end = cfg_end

    def __call__(self, executor: Callable, guider: Any, sigmas: torch.Tensor, extra_args: dict, *rest: Any) -> Any:
        """ComfyUI's signature: guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, …"""
        raw = guider.held if self.layers is None else self._conditions()
        controls = {c["control"] for conds in raw for c in conds if "control" in c}
        calls: list[float] = []
        with self._attached(guider.inner_model), self._cfg_ended(guider) as before:
            parts = self._parts(guider, raw, extra_args.get("seed"), *rest[1:4])
            options = dict(extra_args["model_options"])
            post = [*before, *options.get("sampler_post_cfg_function", []), lambda args: _guided(args, parts, calls)]
            options["sampler_post_cfg_function"] = post
            try:
                result = executor(guider, sigmas, {**extra_args, "model_options": options}, *rest)
            finally:
                comfy.sampler_helpers.cleanup_additional_models(controls)
        if len(sigmas) > 1 and not calls:
            raise RuntimeError(
                "style guidance was never asked for a step: this sampler or guider combines the predictions by itself; "
                "use KSampler, or SamplerCustomAdvanced with Style Guidance Guider"
            )
        return result

    @contextmanager
    def _cfg_ended(self, guider: Any) -> Iterator[list[Callable]]:
        """Post-CFG functions that put the positive prompt's prediction in the place of CFG's result.

        They come before all others, so that what others add stays. A guider with one CFG scale has it set to 1 for
        those steps: then ComfyUI does not evaluate the negative prompt.
        """
        if self.cfg_end >= 1:
            yield []
            return
        last_sigma = float(guider.inner_model.model_sampling.percent_to_sigma(self.cfg_end))

        def plain(args: dict) -> torch.Tensor:
            has_ended = float(args["sigma"].flatten()[0]) <= last_sigma
            return args["cond_denoised"] if has_ended else args["denoised"]

        predict = guider.predict_noise

        def cheaper(x: torch.Tensor, timestep: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
            scale = getattr(guider, "cfg", None)
            if scale is None or float(timestep.flatten()[0]) > last_sigma:
                return predict(x, timestep, *rest, **options)
            guider.cfg = 1.0
            try:
                return predict(x, timestep, *rest, **options)
            finally:
                guider.cfg = scale

        own = vars(guider).get("predict_noise")
        guider.predict_noise = cheaper
        try:
            yield [plain]
        finally:
            del guider.predict_noise
            if own is not None:
                guider.predict_noise = own

    def _conditions(self) -> list[list[dict]]:
        return [comfy.sampler_helpers.convert_cond(style.conditioning) for style in self.styles]

    @contextmanager
    def _attached(self, model: torch.nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for layers in self.layers or []:
                stack.enter_context(layers.attached(model))
            yield

    def _parts(self, guider: Any, raw: list[list[dict]], seed: Any, noise: Any, latent: Any, mask: Any) -> list[Part]:
        model = guider.inner_model
        positive = guider.conds.get("positive")
        if not positive:
            raise ValueError("style guidance needs a guider with a positive prompt, which this one does not have")
        if "middle" in guider.conds:  # its CFG function sees the second prompt, or only an inner part of the formula
            raise ValueError(
                "style guidance does not know what DualCFGGuider's prompts mean; use Style Guidance Guider"
            )
        parts = []
        for number, (style, conds) in enumerate(zip(self.styles, raw, strict=True)):
            merged = conditions.take_over(conds, positive, _join_hooks)
            # By themselves: together with the prompts', an area of the style would be evaluated for those as well.
            prepared = comfy.samplers.process_conds(
                model, noise, {"positive": merged}, noise.device, latent, mask, seed
            )
            schedule = model.model_sampling
            parts.append(
                Part(
                    style,
                    prepared["positive"],
                    float(schedule.percent_to_sigma(style.start)),
                    float(schedule.percent_to_sigma(style.end)),
                    conditions.has_region(conds),
                    self.layers[number].switched_on if self.layers else nullcontext,
                )
            )
        return parts


def _join_hooks(first: Any, second: Any) -> Any:
    return comfy.hooks.HookGroup.combine_all_hooks([first, second])


def _guided(args: dict, parts: list[Part], calls: list[float]) -> torch.Tensor:
    """ComfyUI's post-CFG function: the guided x0 with the styles' shift, (batch, channels, …)."""
    sigma = float(args["sigma"].flatten()[0])
    calls.append(sigma)
    active = [
        part
        for part in parts
        # A condition whose own time is over predicts zeros, which would subtract the positive prompt's picture.
        if part.style.scale
        and is_in_interval(sigma, part.first_sigma, part.last_sigma)
        and conditions.is_active(part.conditions, sigma)
    ]
    if not active:
        return args["denoised"]
    predictions, coverages = [], []
    for part in active:
        with part.switched_on():
            predictions += comfy.samplers.calc_cond_batch(
                args["model"], [part.conditions], args["input"], args["sigma"], args["model_options"]
            )
        coverages.append(_coverage(part.conditions, args["input"], args["sigma"]) if part.has_region else 1.0)
    shift = style_shift(args["cond_denoised"], predictions, [part.style.scale for part in active], coverages)
    return args["denoised"] + shift


def _coverage(conds: list[dict], x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """How much of each place the style's own areas and masks cover, 0 to 1, shaped like ``x``.

    ComfyUI predicts zeros where no area reaches, and normalises masks away where a single one does.
    """
    total = torch.zeros_like(x)
    for condition in conds:
        placed = comfy.samplers.get_area_and_mult(condition, x, sigma)
        if placed is None:
            continue
        region = total
        axes = len(placed.area) // 2 if placed.area is not None else 0
        for axis in range(axes):
            region = region.narrow(axis + 2, placed.area[axes + axis], placed.area[axis])
        region += placed.mult
    return total.clamp(max=1.0)


def patched(model: Any, styles: list[Style], cfg_end: float = 1.0) -> Any:
    """A clone of a ComfyUI model that samples with the styles; works with any sampler node that takes a MODEL."""
    clone = model.clone()
    layers = [StyleLayers(matches_of(model, style), model.model, style.multiplier, style.file.name) for style in styles]
    conds = {str(number): comfy.sampler_helpers.convert_cond(style.conditioning) for number, style in enumerate(styles)}
    others, _ = comfy.sampler_helpers.get_additional_models(conds, clone.model_dtype())
    # As models of their own, the factors are moved to the device, counted and freed by ComfyUI together with the model.
    moved = [comfy.model_patcher.ModelPatcher(part, clone.load_device, clone.offload_device) for part in layers]
    key = f"{KEY}_{uuid.uuid4().hex}"  # a second patch on top of this one has its own entries
    clone.set_additional_models(key, [*moved, *others])
    _wrap(clone, key, GuidedSampling(styles, layers, cfg_end))
    return clone


def _wrap(model: Any, key: str, sampling: GuidedSampling) -> None:
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, key, sampling)


class StyleGuider(comfy.samplers.CFGGuider):
    """CFG with styles: each style's conditions carry its LoRA as a hook, and ComfyUI patches the weights for them."""

    def __init__(self, model: Any, styles: list[Style], cfg_end: float = 1.0) -> None:
        for style in styles:
            matches_of(model, style)
        clone = model.clone()
        _wrap(clone, f"{KEY}_{uuid.uuid4().hex}", GuidedSampling(styles, cfg_end=cfg_end))
        super().__init__(clone)
        self.names = [f"{KEY}_style_{number}" for number in range(len(styles))]
        self.held: list[list[dict]] = []
        for name, style in zip(self.names, styles, strict=True):
            hooks = comfy.hooks.create_hook_lora(style.file.tensors, style.multiplier, 0.0)
            self.inner_set_conds({name: comfy.hooks.set_hooks_for_conditioning(style.conditioning, hooks)})

    def inner_sample(self, *args: Any, **kwargs: Any) -> Any:
        """The styles' conditions are registered and loaded with the prompts', and prepared apart from them."""
        conds = {name: self.conds.pop(name) for name in self.names}
        self.held = list(conds.values())
        for conditioning in self.held:
            if not all("hooks" in condition for condition in conditioning):
                raise RuntimeError(
                    "ComfyUI did not accept a style's LoRA hook for this model; use Style Guidance Model"
                )
        try:
            return super().inner_sample(*args, **kwargs)
        finally:
            self.held = []
            self.conds.update(conds)
