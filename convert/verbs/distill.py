"""Style guidance as the teacher of a plain LoRA: what the U-Net predicts with guidance, and how near a LoRA comes.

Guidance (paper, eq. 10) evaluates the LoRA beside the base model: ε̂ = u₀ + w (c₀ − u₀) + λ (s − c₀). A UI without a
script has one model, the LoRA acts on both of its predictions, and CFG multiplies what it does: ε̂' = u + w (s − u). The
two cannot be equal; the strength, or the up-factors, that bring them nearest are found by least squares on the states
that guided sampling passes through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from convert.formats.layers import Branch, Layer
from pair_network.errors import PairError
from pair_network.sampling.guidance import content_cfg, is_in_interval, style_guided
from pair_network.sampling.protocols import Pipeline

SEARCH_STEPS = 8
SEARCH_STATES = 40


@dataclass(frozen=True)
class Setting:
    """How pictures are made.

    Attributes:
        style_scale: λ of the guidance to imitate.
        guidance_scale: CFG scale w.
        steps: Sampling steps.
        start: Share of the steps, from the noise on, that stay without style, in [0, 1].
        cfg_end: Share of the steps after which guidance runs at CFG 1, in [0, 1]; a UI's own CFG goes on.
    """

    style_scale: float
    guidance_scale: float
    steps: int
    start: float
    cfg_end: float = 1.0


@dataclass(frozen=True)
class State:
    """One step of one picture: what the U-Net is asked, and what guidance answers.

    Attributes:
        latents: Input, ``(1, channels, height, width)``.
        timestep: Scalar.
        null, plain, styled: Text embeddings ``(1, tokens, width)`` of no prompt, the prompt, and the styled prompt.
        wanted: The guided prediction, shaped like ``latents``.
        unstyled: Plain CFG of the base model with the plain prompt: the error of doing nothing.
    """

    latents: Tensor
    timestep: Tensor
    null: Tensor
    plain: Tensor
    styled: Tensor
    wanted: Tensor
    unstyled: Tensor


class Attached(nn.Module):
    """LoRA layers hooked to a U-Net, with ups that can be trained and one strength for all."""

    def __init__(self, unet: nn.Module, branch: Branch):
        super().__init__()
        modules = dict(unet.named_modules())
        self.strength: float | Tensor = 1.0
        self.places: dict[int, int] = {}
        self.ups, self.downs = nn.ParameterList(), []
        self.keys = [key for key in branch if key[0].startswith("unet.")]
        for number, key in enumerate(self.keys):
            module = modules.get(key[0].removeprefix("unet."))
            if module is None:
                raise PairError(f"the model has no layer {key[0]}; is the LoRA for another one?")
            layer = branch[key]
            self.ups.append(nn.Parameter(layer.up.load().float() * layer.scale))
            self.downs.append(layer.down.load().float())
            self.places[id(module)] = number
            module.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(self.strength, float) and self.strength == 0:
            return output
        number = self.places[id(module)]
        down, up = self.downs[number], self.ups[number]
        if isinstance(module, nn.Conv2d):
            hidden = functional.conv2d(args[0], down, None, module.stride, module.padding)
            return output + self.strength * functional.conv2d(hidden, up)
        return output + self.strength * functional.linear(functional.linear(args[0], down), up)

    @contextmanager
    def at(self, strength: float) -> Iterator[None]:
        """This strength inside the block; 0 is the base model."""
        before, self.strength = self.strength, strength
        try:
            yield
        finally:
            self.strength = before

    def layers(self, branch: Branch, strength: float) -> dict[tuple[str, ...], Layer]:
        """The branch with the ups as they are now, times ``strength``, alpha = rank."""
        from convert.files.lazy import from_tensor

        changed = dict(branch)
        for key, up in zip(self.keys, self.ups, strict=True):
            layer = branch[key]
            values = (strength * up.detach()).to(layer.up.dtype)
            changed[key] = Layer(key, layer.down, from_tensor(values), float(layer.rank))
        return changed


def _predict(unet: nn.Module, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    count = text.shape[0] // latents.shape[0]
    return unet(latents.repeat(count, 1, 1, 1), timestep.repeat(count), encoder_hidden_states=text).sample


def student(unet: nn.Module, states: Sequence[State], guidance_scale: float) -> Tensor:
    """What a UI without a script computes: CFG with the LoRA in both predictions, and the style prompt."""
    latents, times = torch.cat([s.latents for s in states]), torch.stack([s.timestep for s in states])
    text = torch.cat([*(s.null for s in states), *(s.styled for s in states)])
    null, styled = _predict(unet, latents, times, text).chunk(2)
    return null + guidance_scale * (styled - null)


@torch.no_grad()
def guided_states(
    pipeline: Pipeline, lora: Attached, prompts: Sequence[tuple[str, str]], seeds: Sequence[int], setting: Setting
) -> tuple[list[State], list[Tensor]]:
    """The states of guided sampling, and the final latents of every picture.

    Args:
        pipeline: diffusers' StableDiffusionPipeline (SD 1 or 2).
        lora: Attached to its U-Net.
        prompts: (prompt, prompt with the style's words) pairs.
        seeds: One picture for each seed and prompt.
        setting: How to sample.
    """
    states, finals = [], []
    null = pipeline.encode_prompt("", "cpu", 1, False)[0]
    for prompt, with_style in prompts:
        plain, styled = (pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in (prompt, with_style))
        for seed in tqdm(seeds, "guided sampling", leave=False, disable=None):
            latents = start_latents(pipeline, seed)
            for number, timestep in enumerate(_timesteps(pipeline, setting.steps)):
                state = _state(pipeline.unet, lora, latents, timestep, (null, plain, styled), number, setting)
                states.append(state)
                latents = pipeline.scheduler.step(state.wanted, timestep, latents).prev_sample
            finals.append(latents)
    return states, finals


def _state(unet, lora: Attached, latents: Tensor, timestep: Tensor, texts, number: int, setting: Setting) -> State:
    null, plain, styled = texts
    with lora.at(0.0):
        uncond, cond = _predict(unet, latents, timestep[None], torch.cat([null, plain])).chunk(2)
    unstyled = style_guided(uncond, cond, [], setting.guidance_scale, [])
    progress, styles = number / setting.steps, []
    if is_in_interval(progress, setting.start, 1.0):
        with lora.at(1.0):
            styles = [_predict(unet, latents, timestep[None], styled)]
    scale = content_cfg(setting.guidance_scale, progress, setting.cfg_end)
    wanted = style_guided(uncond, cond, styles, scale, [setting.style_scale] * len(styles))
    return State(latents, timestep, null, plain, styled, wanted, unstyled)


def start_latents(pipeline: Pipeline, seed: int) -> Tensor:
    """Noise of the first step; of a private generator, so that any way of sampling starts from the same."""
    size = pipeline.unet.config.sample_size
    shape = (1, pipeline.unet.config.in_channels, size, size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise * float(pipeline.scheduler.init_noise_sigma)


def _timesteps(pipeline: Pipeline, steps: int) -> Tensor:
    pipeline.scheduler.set_timesteps(steps)
    return pipeline.scheduler.timesteps


@torch.no_grad()
def sample_plain(pipeline: Pipeline, lora: Attached, styled: str, seed: int, setting: Setting) -> Tensor:
    """Final latents of one picture as a UI without a script makes it, at the strength that is set."""
    null, text = (pipeline.encode_prompt(words, "cpu", 1, False)[0] for words in ("", styled))
    latents = start_latents(pipeline, seed)
    for timestep in _timesteps(pipeline, setting.steps):
        uncond, cond = _predict(pipeline.unet, latents, timestep[None], torch.cat([null, text])).chunk(2)
        guided = uncond + setting.guidance_scale * (cond - uncond)
        latents = pipeline.scheduler.step(guided, timestep, latents).prev_sample
    return latents


@torch.no_grad()
def relative_error(unet: nn.Module, states: Sequence[State], guidance_scale: float, batch: int = 10) -> float:
    """‖student − wanted‖² / ‖unstyled − wanted‖² over all states: 0 is guidance itself, 1 is as far as no style."""
    wrong = total = 0.0
    for start in range(0, len(states), batch):
        some = states[start : start + batch]
        wanted = torch.cat([state.wanted for state in some])
        wrong += float((student(unet, some, guidance_scale) - wanted).square().sum())
        total += float((torch.cat([state.unstyled for state in some]) - wanted).square().sum())
    return wrong / total if total else float("nan")


def best_strength(lora: Attached, unet: nn.Module, states: Sequence[State], setting: Setting) -> tuple[float, float]:
    """Strength of the LoRA with the smallest ``relative_error``, by golden-section search, and that error."""
    golden = (5**0.5 - 1) / 2
    states = states[:: -(-len(states) // SEARCH_STATES)]
    low, high = 0.0, max(1.5 * abs(setting.style_scale), 2.0)
    known: dict[float, float] = {}

    def error(strength: float) -> float:
        if strength not in known:
            with lora.at(strength):
                known[strength] = relative_error(unet, states, setting.guidance_scale)
        return known[strength]

    for _ in tqdm(range(SEARCH_STEPS), "strength", leave=False, disable=None):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if error(left) < error(right) else (left, high)
    return min(known.items(), key=lambda item: item[1])


def fit_ups(
    lora: Attached, unet: nn.Module, states: Sequence[State], setting: Setting, steps: int, rate: float, batch: int = 8
) -> None:
    """Trains the ups, from their present values, towards the guided predictions; the downs stay as they are."""
    unet.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(lora.ups.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), "fitting", leave=False, disable=None):
        some = [states[i] for i in torch.randint(len(states), (batch,), generator=generator).tolist()]
        wanted = torch.cat([state.wanted for state in some])
        loss = (student(unet, some, setting.guidance_scale) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def prompts_with_style(prompts: Sequence[str], words: str) -> list[tuple[str, str]]:
    """(prompt, prompt + words), joined by one space as in the paper's code."""
    return [(prompt, f"{prompt} {words}".strip()) for prompt in prompts]


def final_error(
    pipeline: Pipeline,
    lora: Attached,
    prompts: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    finals: list[Tensor],
    setting: Setting,
) -> float:
    """Relative squared error of the finished latents, where 1 is the distance of the pictures without style."""
    wrong = total = 0.0
    pictures = [(plain, styled, seed) for plain, styled in prompts for seed in seeds]
    for (plain, styled, seed), wanted in zip(pictures, finals, strict=True):
        with lora.at(0.0):
            unstyled = sample_plain(pipeline, lora, plain, seed, setting)
        wrong += float((sample_plain(pipeline, lora, styled, seed, setting) - wanted).square().sum())
        total += float((unstyled - wanted).square().sum())
    return wrong / total if total else float("nan")
