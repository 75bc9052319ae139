"""What a pipeline is asked for: text to image, image to image, inpainting, each with or without a ControlNet; and the
styles that the options name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import nn

from pair_network.errors import PairError
from pair_network.images import DEEP_MODES, opened, upright

from ..pipelines import Style
from ..protocols import Pipeline
from .models import diffusers
from .options import PictureOptions, StyleOptions

Value = TypeVar("Value")

# Options that are lists, one value for each style -> the field of Style.
STYLE_LISTS = {"words": "prompt_words", "scale": "scale", "start": "start", "end": "end", "multiplier": "multiplier"}
# Latents of Stable Diffusion; with a mask and the masked picture's latents, what inpainting models read.
INPAINTING_CHANNELS = (4, 9)
FAMILY = re.compile(r"^(StableDiffusionXL|StableDiffusion3|StableDiffusion|Flux)")
CONTROLNETS = {"StableDiffusion3": "SD3ControlNetModel", "Flux": "FluxControlNetModel"}
MULTIPLE = 8  # latents have an eighth of the picture's side


@dataclass
class Task:
    """A pipeline and everything it is called with except prompt and seed."""

    pipe: Pipeline
    settings: dict[str, object]

    def draw(self, prompt: str, generator: torch.Generator) -> Image.Image:
        """One picture."""
        return self.pipe(prompt=prompt, generator=generator, **self.settings).images[0]


def check_pictures(args: PictureOptions) -> None:
    """Finds out before the model is loaded.

    Raises:
        PairError: Options that do not go together, or a picture that cannot be read.
    """
    if args.mask and not args.image:
        raise PairError("--mask needs the picture that it masks: --image FILE")
    if bool(args.controlnet) != bool(args.control_image):
        raise PairError("--controlnet and --control_image go together: the network and its (already processed) picture")
    if bool(args.width) != bool(args.height) and not (args.image or args.control_image):
        raise PairError("--width and --height go together where there is no picture whose shape could be kept")
    if args.image and int(args.steps * args.strength) < 1:
        raise PairError(f"--strength {args.strength:g} of --steps {args.steps} leaves no step; raise one of them")
    for option, path in {"image": args.image, "mask": args.mask, "control_image": args.control_image}.items():
        if path:
            open_picture(f"--{option}", path)


def task_of(args: PictureOptions, pipe: Pipeline) -> Task:
    """The pipeline class for the given pictures, and its settings.

    Raises:
        PairError: Something that this model family cannot do.
    """
    match = FAMILY.match(type(pipe).__name__)
    if match is None:
        raise PairError(f"--model {args.model}: {type(pipe).__name__} is not Stable Diffusion 1, 2, XL, 3 or FLUX")
    kind = "Inpaint" if args.mask else "Img2Img" if args.image else ""
    channels = pipe.unet.config.in_channels if hasattr(pipe, "unet") else 4
    if kind == "Inpaint" and channels not in INPAINTING_CHANNELS:
        raise PairError(
            f"--mask: diffusers inpaints with U-Nets of 4 or 9 input channels, --model {args.model} has {channels}; "
            "use --image alone"
        )
    ready = _pipeline(pipe, match[1], kind, args)
    return Task(ready, _settings(args, ready, kind))


def _pipeline(pipe: Pipeline, family: str, kind: str, args: PictureOptions) -> Pipeline:
    if not kind and not args.controlnet:
        return pipe
    library = diffusers()
    name = f"{family}{'ControlNet' if args.controlnet else ''}{kind}Pipeline"
    # diffusers' one exception to its own naming
    name = name.replace("StableDiffusion3ControlNetInpaint", "StableDiffusion3ControlNetInpainting")
    if not hasattr(library, name):
        raise PairError(f"diffusers has no {name}: this model family cannot do that")
    components = dict(pipe.components)
    if args.controlnet:
        model = getattr(library, CONTROLNETS.get(family, "ControlNetModel"))
        try:
            dtype = next(parameters for parameters in pipe.vae.parameters()).dtype
            net = model.from_pretrained(args.controlnet, torch_dtype=dtype)
        except (OSError, ValueError) as cause:
            raise PairError(f"--controlnet {args.controlnet}: not a ControlNet for {family} ({cause})") from cause
        _check_controlnet(args.controlnet, net, pipe)
        components["controlnet"] = net
    wanted = inspect.signature(getattr(library, name).__init__).parameters
    built = {key: part for key, part in components.items() if key in wanted}
    if "requires_safety_checker" in wanted:
        built["requires_safety_checker"] = False
    return getattr(library, name)(**built)


def _check_controlnet(name: str, net: nn.Module, pipe: Pipeline) -> None:
    """Raises PairError where a ControlNet reads another kind of text than the model."""
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    own, other = (
        getattr(model.config, "cross_attention_dim", getattr(model.config, "joint_attention_dim", None))
        for model in (denoiser, net)
    )
    if own != other:
        raise PairError(
            f"--controlnet {name}: made for another kind of model (its text is {other} wide, this model's {own}); "
            "take one for this --model"
        )


def _settings(args: PictureOptions, pipe: Pipeline, kind: str) -> dict[str, object]:
    known = inspect.signature(type(pipe).__call__).parameters
    assert args.cfg is not None
    settings: dict[str, object] = {"num_inference_steps": args.steps, "guidance_scale": args.cfg}
    if "true_cfg_scale" in known:  # FLUX
        settings |= {"guidance_scale": args.distilled_guidance, "true_cfg_scale": args.cfg}
    if args.cfg > 1:
        settings["negative_prompt"] = args.negative
    if args.guidance_rescale:
        if "guidance_rescale" not in known:
            raise PairError(f"--guidance_rescale: {type(pipe).__name__} has no such setting; leave it out")
        settings["guidance_rescale"] = args.guidance_rescale
    size: tuple[int | None, int | None] = (args.width, args.height)
    if args.image:
        start = open_picture("--image", args.image, args.width, args.height)
        settings |= {"image": start, "strength": args.strength}
        size = start.size
    if args.mask:
        settings["mask_image"] = open_picture("--mask", args.mask, *size).convert("L")
    if args.control_image:
        control = open_picture("--control_image", args.control_image, *size)
        settings["control_image" if "control_image" in known else "image"] = control
        settings["controlnet_conditioning_scale"] = args.control_scale
        size = size if all(size) else control.size
    if all(size) and "width" in known:
        settings |= {"width": size[0], "height": size[1]}
    unknown = sorted(set(settings) - set(known) - {"negative_prompt"})
    if unknown:
        raise PairError(f"{type(pipe).__name__} does not take {', '.join(unknown)}")
    return {name: value for name, value in settings.items() if name in known}


def open_picture(option: str, path: Path, width: int | None = None, height: int | None = None) -> Image.Image:
    """An RGB picture of the wanted size, or of its own, with sides that the latents can halve.

    Args:
        option: The option that named it, for errors.
        path: The file.
        width, height: Pixels; one alone keeps the picture's shape, neither its size, rounded down to multiples of 8.

    Raises:
        PairError: No such file, or not a picture with 8 bits for a colour.
    """
    try:
        with opened(path) as stored:
            if stored.mode in DEEP_MODES:
                raise PairError(f"{path}: more than 8 bits per pixel (mode {stored.mode}); save it as an 8-bit image")
            picture = upright(stored).convert("RGB")
    except PairError as mistake:
        raise PairError(f"{option} {mistake}") from mistake
    shape = picture.width / picture.height
    sides = (
        width or (round(height * shape) if height else picture.width),
        height or (round(width / shape) if width else picture.height),
    )
    size = tuple(max(MULTIPLE, side // MULTIPLE * MULTIPLE) for side in sides)
    return picture if size == picture.size else picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def styles_of(args: StyleOptions, **changes: float) -> list[Style]:
    """The styles that the options name, ``changes`` (scale, multiplier) applied to all of them.

    Raises:
        PairError: A list is neither one value nor one for each style, a value is out of range, or there is no style.
    """
    stray = [name for name in STYLE_LISTS if getattr(args, name) is not None]
    stray += ["cfg_end"] if args.cfg_end != 1 else []
    if stray and not args.style:
        raise PairError(f"--{stray[0]} is of a style: name it with --style FILE")
    count = len(args.style)
    columns = {
        field: _per_style(name, getattr(args, name), count)
        for name, field in STYLE_LISTS.items()
        if getattr(args, name) is not None
    }
    return [
        Style(file, **{**{field: column[i] for field, column in columns.items()}, **changes})
        for i, file in enumerate(args.style)
    ]


def _per_style(name: str, values: Sequence[Value], count: int) -> list[Value]:
    if len(values) not in (1, count):
        raise PairError(f"--{name} has {len(values)} values for {count} styles; give one, or one for each style")
    return list(values) * (count if len(values) == 1 else 1)
