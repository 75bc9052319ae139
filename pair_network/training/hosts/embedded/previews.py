"""Previews of the embedded host: for every prompt the base model, the style LoRA and style guidance side by side."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch import nn

from pair_network.errors import PairError
from pair_network.network.pair_network import PairNetwork
from pair_network.network.route import Row
from pair_network.reading import read_prompt_lines
from pair_network.sampling.pipelines import Style, style_guidance
from pair_network.sampling.previews import grid, save_picture
from pair_network.sampling.protocols import Pipeline, TextEncoder, Tokenizer, UNet, Vae

from ...replaced import evaluated
from .config import EmbeddedOptions
from .model import skipped_layers
from .model_files import find_model
from .prompt_files import ELSEWHERE, lines_of

logger = logging.getLogger(__name__)

_FLAGS = ("n", "w", "h", "d", "s", "l")


@dataclass(frozen=True)
class Prompt:
    """One line of a sample-prompts file, in sd-scripts' notation.

    Attributes:
        text: The prompt, without the style words.
        negative: --n, the negative prompt.
        width, height: --w and --h in pixels; None: the model's own size.
        seed: --d.
        steps: --s, sampling steps.
        guidance_scale: --l, CFG.
        content: The training prompt: a column shows the content branch too.
    """

    text: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    seed: int = 0
    steps: int = 30
    guidance_scale: float = 5.0
    content: bool = False


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts of a text file, one in a line; empty lines and lines that start with # are skipped. Or of sd-scripts'
    TOML or JSON form.

    Raises:
        PairError: The file is missing, holds no prompt, or a flag is unknown or unusable.
    """
    path = Path(path)
    if path.suffix.lower() in (".toml", ".json"):
        return [parse_prompt(line, f"{path}") for line in lines_of(path)]
    return [parse_prompt(line, f"{path}") for line in read_prompt_lines(path, "--sample_prompts")]


def parse_prompt(line: str, source: str) -> Prompt:
    """``a photo of a cat --d 1 --s 20`` as a Prompt; ``source`` is named in errors."""
    text, *flags = re.split(r"\s+--(?=[a-zA-Z])", line)
    negative, whole, scale = "", {}, Prompt.guidance_scale
    for flag in flags:
        name, _, value = flag.partition(" ")
        name = name.lower()  # as sd-scripts reads it
        if name in ELSEWHERE.values():
            logger.info("%s: --%s in %r is not used by the previews of this trainer", source, name, line)
            continue
        if name not in _FLAGS:
            known = ", ".join(f"--{flag}" for flag in _FLAGS)
            raise PairError(f"{source}: unknown flag --{name} in {line!r}; known are {known}")
        try:
            if name == "n":
                negative = value.strip()
            elif name == "l":
                scale = float(value)
            else:
                whole[name] = int(value)
        except ValueError as cause:
            raise PairError(f"{source}: --{name} {value} in {line!r} is not a number") from cause
    if not -(2**63) <= whole.get("d", 0) < 2**63:
        raise PairError(f"{source}: --d {whole['d']} in {line!r}: a seed has at most 19 digits")
    if max(whole.get("w", 0), whole.get("h", 0)) > 8192 or whole.get("s", 0) > 1000:
        raise PairError(f"{source}: {line!r}: at most 8192 pixels a side and 1000 steps")
    if not math.isfinite(scale):
        raise PairError(f"{source}: --l {scale} in {line!r} is no finite number")
    for flag, unit in (("w", 8), ("h", 8), ("s", 1)):
        if whole.get(flag, unit) < unit or whole.get(flag, unit) % unit:
            raise PairError(f"{source}: --{flag} {whole[flag]} in {line!r} must be a positive multiple of {unit}")
    size = (whole.get("w"), whole.get("h"))
    return Prompt(text.strip(), negative, *size, whole.get("d", Prompt.seed), whole.get("s", Prompt.steps), scale)


class PreviewWriter:
    """Renders prompts with the network being trained, leaving its weights, modes and random streams as they were."""

    def __init__(self, network: PairNetwork, args: EmbeddedOptions, style_words: str):
        self.network = network
        self.args = args
        self.style_words = style_words
        self._base_pictures: dict[Prompt, Image.Image] = {}  # training does not change them
        self.drawn: dict[Prompt, dict[str, Image.Image]] = {}  # of the last time

    def write(
        self, pipe: Pipeline, prompts: Sequence[Prompt], folder: Path, name: str, autocast: AbstractContextManager[None]
    ) -> list[Path]:
        """One grid PNG for each prompt: base | style LoRA | style guidance (| content branch)."""
        paths = []
        self.drawn = {}
        with self.drawing(pipe, autocast):
            for number, prompt in enumerate(prompts):
                images = self.drawn[prompt] = self.render(pipe, prompt)
                path = folder / f"{name}_{number:02d}_{prompt.seed}.png"
                save_picture(path, grid([list(images.values())], list(images), title=prompt.text))
                paths.append(path)
        return paths

    @contextlib.contextmanager
    def drawing(self, pipe: Pipeline, autocast: AbstractContextManager[None]) -> Iterator[None]:
        """Inside the block pictures can be drawn."""
        models = (self.network, pipe.unet, *text_encoders_of(pipe))
        skipped = skipped_layers(pipe.text_encoder, self.args.clip_skip)
        with on_one_device(pipe), evaluated(*models), skipped, autocast:
            yield

    def render(self, pipe: Pipeline, prompt: Prompt) -> dict[str, Image.Image]:
        """The prompt's pictures by column label."""
        scale = self.args.sample_style_scale
        images = {"base": self._base(pipe, prompt), "style LoRA": self.with_lora(pipe, prompt)}
        images[f"style guidance {scale:g}"] = self.with_guidance(pipe, prompt, scale)
        if prompt.content:
            with self.network.route([Row(pair=0)]):
                images["content branch"] = sample(pipe, prompt)
        return images

    def with_lora(self, pipe: Pipeline, prompt: Prompt, strength: float = 1.0) -> Image.Image:
        with self.network.route([Row(style=strength)]):
            return sample(pipe, replace(prompt, text=f"{prompt.text} {self.style_words}".strip()))

    def with_guidance(self, pipe: Pipeline, prompt: Prompt, scale: float) -> Image.Image:
        style = Style(self.network, self.style_words, scale=scale, start=self.args.sample_style_start)
        with style_guidance(pipe, [style], cfg_end=self.args.sample_cfg_end):
            return sample(pipe, prompt)

    def _base(self, pipe: Pipeline, prompt: Prompt) -> Image.Image:
        if prompt not in self._base_pictures:
            with self.network.route(None, multiplier=0.0):
                self._base_pictures[prompt] = sample(pipe, prompt)
        return self._base_pictures[prompt]


def sample(pipe: Pipeline, prompt: Prompt) -> Image.Image:
    """One picture, from a private generator seeded by the prompt's seed."""
    generator = torch.Generator("cpu").manual_seed(prompt.seed)
    own_size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return pipe(
        prompt.text,
        negative_prompt=prompt.negative,
        width=prompt.width or own_size,
        height=prompt.height or own_size,
        num_inference_steps=prompt.steps,
        guidance_scale=prompt.guidance_scale,
        generator=generator,
    ).images[0]


@contextlib.contextmanager
def on_one_device(pipe: Pipeline) -> Iterator[None]:
    """Inside the block the pipeline's models are all on the U-Net's device."""
    devices = [(module, module.device) for module in (pipe.vae, *text_encoders_of(pipe))]
    try:
        for module, _ in devices:
            module.to(pipe.unet.device)
        yield
    finally:
        for module, device in devices:
            module.to(device)


def text_encoders_of(pipe: Pipeline) -> list[TextEncoder]:
    """The pipeline's text encoder, or both of SDXL's."""
    return [pipe.text_encoder, *([pipe.text_encoder_2] if hasattr(pipe, "text_encoder_2") else [])]


def make_pipeline(
    args: EmbeddedOptions,
    vae: Vae,
    text_encoders: Sequence[nn.Module],
    tokenizers: Sequence[Tokenizer],
    unet: UNet,
) -> Pipeline:
    """A diffusers pipeline over the models in training, with DDIM on the model's own noise schedule."""
    overrides = {
        "prediction_type": "v_prediction" if args.v_parameterization else "epsilon",
        "clip_sample": False,  # latents are not pixels in [-1, 1]
        "steps_offset": 1,
        "rescale_betas_zero_snr": args.zero_terminal_snr,
    }
    folder = find_model(args).folder
    scheduler = DDIMScheduler.from_config(
        DDIMScheduler.load_config(str(folder), subfolder="scheduler", local_files_only=True), **overrides
    )
    parts: dict[str, object] = {"vae": vae, "unet": unet, "scheduler": scheduler}
    for number, (encoder, tokenizer) in enumerate(zip(text_encoders, tokenizers, strict=True), start=1):
        suffix = "" if number == 1 else f"_{number}"
        parts |= {f"text_encoder{suffix}": encoder, f"tokenizer{suffix}": tokenizer}
    build: Callable[..., Pipeline] = StableDiffusionPipeline
    own = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if args.model_type == "sdxl":
        build, own = StableDiffusionXLPipeline, {"add_watermarker": False}
    pipe = build(**parts, **own)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def are_due(args: EmbeddedOptions, epoch: int | None, step: int) -> bool:
    """Whether previews are wanted now: by steps, by epochs, before the first step, and always after the last.

    Args:
        args: With sd-scripts' ``sample_*`` options.
        epoch: Number of the epoch that just ended, 0 before training, None after a step.
        step: Optimizer steps made.
    """
    if epoch is None:
        every = 0 if args.sample_every_n_epochs else args.sample_every_n_steps
        return step == args.max_train_steps or bool(every and step % every == 0)
    if epoch == 0:
        return bool(args.sample_at_first)
    return bool(args.sample_every_n_epochs and epoch % args.sample_every_n_epochs == 0 and step < args.max_train_steps)
