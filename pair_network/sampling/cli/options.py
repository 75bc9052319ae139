"""The options of generate and restyle, and of everything that loads a model for pictures; read without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pair_network.errors import PairError
from pair_network.options import Number, option, read

MAX_SEED = 2**63 - 1
# Option -> diffusers' scheduler and its settings.
SAMPLERS: Mapping[str, tuple[str, dict[str, bool]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


# A field with an option of each heading in --help.
of_model, of_picture, of_start, of_sheet, of_guidance, of_output = (
    partial(option, group=name)
    for name in (
        "model", "what to make", "starting from pictures", "sheets: one labelled picture for each prompt and seed",
        "style guidance", "output",
    )
)  # fmt: skip
of_style = partial(option, group="styles (each list: one value for all styles, or one for each)", nargs="+")


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str = of_model("", "diffusers folder, hub name, or one .safetensors checkpoint", is_required=True)
    dtype: str = of_model("auto", "auto: fp16 on a GPU", choices=("auto", "fp32", "bf16", "fp16"))
    device: str = of_model("auto", "auto: cuda or mps where there is one, else cpu")
    low_memory: bool = of_model(False, "offload models to the CPU; each style in a model call of its own")


@dataclass(frozen=True)
class StyleOptions(ModelOptions):
    """Which styles, and where the pictures go."""

    style: Sequence[str] = of_style((), "style LoRA files (.safetensors)", metavar="FILE")
    words: Sequence[str] | None = of_style(None, "style words", default="the file's trigger words")
    scale: Sequence[float] | None = of_style(None, "λ, style_guidance_scale", float, default="3")
    start: Sequence[float] | None = of_style(None, "where the style begins", float, default="0.2")
    end: Sequence[float] | None = of_style(None, "where it ends; 0: noise, 1: the picture", float, default="1")
    multiplier: Sequence[float] | None = of_style(None, "strength of the LoRA itself", float, default="1")
    cfg_end: float = of_guidance(
        1.0,
        "part of the noise schedule after which λ_cfg is 1: stronger styles, less of the prompt's own colours, cheaper "
        "steps",
        Number(0, 1),
        default="1: eq. 10 throughout",
    )
    out: Path = of_output(Path("outputs"), "folder", Path)
    name: str | None = of_output(None, "start of the file names", default="the verb")


@dataclass(frozen=True)
class PictureOptions(StyleOptions):
    """How a picture is made; ``cfg`` None: as the model is used to."""

    negative: str = of_picture("", "negative prompt")
    steps: int = of_picture(30, "sampling steps", Number(1, unit=1))
    cfg: float | None = of_picture(None, "λ_cfg; 1: none", Number(0), default="5; FLUX, where it is true CFG: 1")
    distilled_guidance: float = of_picture(3.5, "FLUX-dev's built-in guidance", Number(0))
    guidance_rescale: float = of_picture(0.0, "rescaling of CFG's spread, 0 to 1 (arXiv:2305.08891)", Number(0, 1))
    width: int | None = of_picture(None, "pixels", Number(8, unit=8), default="the model's own size, or the picture's")
    height: int | None = of_picture(None, "with a picture one side alone keeps its shape", Number(8, unit=8))
    image: Path | None = of_start(None, "img2img from this picture", Path)
    strength: float = of_start(0.6, "img2img: 0 keeps the picture, 1 replaces it", Number(0, 1))
    mask: Path | None = of_start(None, "inpainting: white is painted anew (with --image)", Path)
    controlnet: str | None = of_start(None, "ControlNet: folder or hub name")
    control_image: Path | None = of_start(None, "the ControlNet's picture, already processed", Path)
    control_scale: float = of_start(1.0, "strength of the ControlNet", Number(0))


@dataclass(frozen=True)
class GenerateOptions(PictureOptions):
    """The options of generate."""

    prompt: Sequence[str] = of_picture((), "prompts, without the style words", nargs="+", is_required=True)
    seed: Sequence[int] = of_picture((0,), "one picture for each", Number(0, MAX_SEED, unit=1), nargs="+")
    sampler: str | None = of_picture(None, "scheduler", choices=sorted(SAMPLERS), default="the model's own")
    compare: bool = of_sheet(False, "base | style LoRA | style guidance")
    grid_scale: Sequence[float] | None = of_sheet(None, "columns: λ", float, nargs="+")
    grid_multiplier: Sequence[float] | None = of_sheet(None, "rows: strength of the LoRA", float, nargs="+")


@dataclass(frozen=True)
class RestyleOptions(StyleOptions):
    """The options of restyle."""

    start: Sequence[float] | None = of_style((0.0,), "where the style begins", float)
    photo: Path = option(Path(), "the picture to restyle", Path, is_positional=True)
    prompt: str = of_picture("", "what the photo shows, without the style words")
    steps: int = of_picture(50, "steps of the inversion and of the way back", Number(1, unit=1))
    cfg: float = of_picture(1.0, "λ_cfg on the way back; above 1 drifts from the photo", Number(0))
    negative: str = of_picture("", "negative prompt, for --cfg above 1")
    inversion: str = of_picture(
        "direct",
        "direct: DDIM, its drift measured and taken out (scale 0 gives the photo back); ddim: DDIM alone",
        choices=("direct", "ddim"),
    )
    width: int | None = of_picture(None, "pixels; one side alone keeps the photo's shape", Number(8, unit=8))
    height: int | None = of_picture(
        None, "pixels", Number(8, unit=8), default="the photo's own size, in multiples of 8"
    )
    compare: bool = of_picture(False, "also photo | reconstruction | restyled in one picture")


def read_generate(argv: Sequence[str]) -> GenerateOptions:
    description = "Pictures with style guidance (paper, eq. 10 and 11)."
    return read("python -m pair_network generate", description, GenerateOptions, argv)


def read_restyle(argv: Sequence[str]) -> RestyleOptions:
    description = "A photo in a style: DDIM inversion, then style guidance (paper, eq. 10)."
    return read("python -m pair_network restyle", description, RestyleOptions, argv)


def check_output(args: StyleOptions) -> None:
    """Finds out before the model is loaded.

    Raises:
        PairError: A place that pictures cannot be written to, or a name that is no file name.
    """
    if args.name is not None and (not args.name or Path(args.name).name != args.name):
        raise PairError(f"--name {args.name!r}: is the start of a file name; the folder goes into --out")
    nearest = next(folder for folder in (args.out.absolute(), *args.out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "may not be written to" if nearest.is_dir() else "is a file"
        raise PairError(f"--out {args.out}: {nearest} {reason}; name another folder")
