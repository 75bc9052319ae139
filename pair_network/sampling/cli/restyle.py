"""``python -m pair_network restyle``: a photo in a style, by DDIM inversion and style guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pair_network.errors import PairError

from ..pipelines import Style, style_guidance
from ..previews import grid
from ..protocols import Pipeline
from .generate import next_number
from .infotext import infotext, model_name, save_png, style_fields
from .models import diffusers, is_flow, load_pipeline, place
from .options import RestyleOptions, check_output
from .tasks import open_picture, styles_of


def run(args: RestyleOptions) -> list[Path]:
    """Restyles the photo and writes the pictures; returns their paths.

    Raises:
        PairError: A mistake in the options, a file or the model.
    """
    if not args.style:
        raise PairError("restyle needs a style: --style FILE")
    check_output(args)
    styles = styles_of(args)
    photo = open_picture("restyle", args.photo, args.width, args.height)
    pipe = load_pipeline(args)
    if is_flow(pipe) or not hasattr(pipe, "unet"):
        raise PairError(
            f"--model {args.model}: {type(pipe).__name__} cannot be inverted by DDIM; restyle takes SD 1, 2, XL"
        )
    place(pipe, args)
    size = {"num_inference_steps": args.steps, "width": photo.width, "height": photo.height}
    levels = invert(pipe, photo, args.prompt, size)
    settings = {**size, "guidance_scale": args.cfg, "negative_prompt": args.negative if args.cfg > 1 else None}
    guided = partial(denoise, pipe, levels[-1], args.prompt, joined=not args.low_memory, cfg_end=args.cfg_end)
    drift = measured_drift(pipe, levels, args.prompt, settings, args.cfg_end) if args.inversion == "direct" else None
    restyled = guided(styles, settings, drift)
    name = args.name or "restyle"
    stem = args.out / f"{name}_{next_number(args.out, name):04d}_{args.photo.stem}"
    pictures = {stem.with_name(f"{stem.name}.png"): restyled}
    if args.compare:
        again = guided([], settings, drift)
        labels = ["photo", "reconstruction", "restyled"]
        sheet = grid([[photo, again, restyled]], labels, title=args.prompt, tile=max(256, *photo.size))
        pictures[stem.with_name(f"{stem.name}_sheet.png")] = sheet
    text = parameters(args, photo, styles)
    for path, picture in pictures.items():
        save_png(path, picture, text)
        print(path)
    return list(pictures)


def parameters(args: RestyleOptions, photo: Image.Image, styles: Sequence[Style]) -> str:
    """The pictures' infotext."""
    fields: dict[str, object] = {
        "Steps": args.steps,
        "Sampler": "DDIM",
        "CFG scale": args.cfg,
        "Size": f"{photo.width}x{photo.height}",
        "Model": model_name(args.model),
        "Inversion": args.inversion,
    }
    return infotext(args.prompt, args.negative, {**fields, **style_fields(styles, args.cfg_end)})


@torch.no_grad()
def encode_photo(pipe: Pipeline, photo: Image.Image) -> Tensor:
    """The photo's latents ``(1, channels, height / 8, width / 8)``, scaled as the U-Net takes them."""
    pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    vae, config = pipe.vae, pipe.vae.config
    device, dtype = pipe._execution_device, vae.dtype
    if getattr(config, "force_upcast", False) and dtype == torch.float16:
        vae.to(torch.float32)  # SDXL's VAE overflows in fp16
    mean = vae.encode(pixels.to(device, vae.dtype)).latent_dist.mode()
    vae.to(dtype)
    return (mean * config.scaling_factor).to(dtype)


def invert(pipe: Pipeline, photo: Image.Image, prompt: str, size: Mapping[str, object]) -> list[Tensor]:
    """Latents at every noise level on the way from the photo to noise, by the base model and the prompt alone.

    It is the pipeline itself with DDIM's steps taken backwards; CFG would have to be undone step by step, so there is
    none. The pipeline is left with DDIM as its scheduler.
    """
    library = diffusers()
    # The photo is the first point of the way back, not a sample of the model: no clipping, and no jump to x0.
    changes = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 1}
    forward = library.DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    pipe.scheduler = library.DDIMInverseScheduler.from_config(forward.config, **changes)
    levels = [encode_photo(pipe, photo)]

    def keep(_pipe: object, _step: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        levels.append(tensors["latents"])
        return tensors

    pipe(prompt, latents=levels[0], guidance_scale=1.0, output_type="latent", callback_on_step_end=keep, **size)
    pipe.scheduler = forward
    return levels


def measured_drift(
    pipe: Pipeline, levels: list[Tensor], prompt: str, settings: Mapping[str, object], cfg_end: float = 1.0
) -> list[Tensor]:
    """How far each DDIM step from the inversion's own latents misses the level before them.

    A step back is not the exact inverse of the step forward, and with CFG it is another step altogether. Added to the
    styled run, what each step misses makes it end at the photo when λ is 0 (direct inversion, arXiv:2310.01506).
    """
    drift: list[Tensor] = []

    def compare(_pipe: object, step: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        wanted = levels[-2 - step]
        drift.append(wanted - tensors["latents"])
        return {"latents": wanted}

    with style_guidance(pipe, [], cfg_end=cfg_end):
        pipe(prompt, latents=levels[-1], output_type="latent", callback_on_step_end=compare, **settings)
    return drift


def denoise(
    pipe: Pipeline,
    noise: Tensor,
    prompt: str,
    styles: Sequence[Style],
    settings: Mapping[str, object],
    drift: Sequence[Tensor] | None = None,
    joined: bool = True,
    cfg_end: float = 1.0,
) -> Image.Image:
    """The way back from the noise, with the styles."""

    def correct(_pipe: object, step: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] + drift[step]} if drift is not None else {}

    with style_guidance(pipe, styles, joined=joined, cfg_end=cfg_end):
        return pipe(prompt, latents=noise, callback_on_step_end=correct, **settings).images[0]
