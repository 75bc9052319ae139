"""Draws prompts with the embedded model from fixed noise: plain, with a style LoRA, or with style guidance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from demo.model_config import MODEL_DIR, load_pipeline
from demo.parallel import device, fast_dtype
from pair_network import create_network_from_weights
from pair_network.sampling.guidance import content_cfg, is_in_interval, style_guided
from pair_network.sampling.pipelines import Style

GUIDANCE_SCALE = 3.0
STEPS = 8
STYLE_START = Style.start
BATCH = {"cpu": 20, "cuda": 200}
MODES = ("lora", "guidance")


@dataclass(frozen=True)
class Prompt:
    """What to draw: the caption, the subject it names, and the seed of its noise."""

    text: str
    subject: str
    seed: int


class Sampler:
    """The embedded model, ready to draw with or without a style LoRA.

    The LoRA is merged into a copy of the U-Net: half the time of running its branches beside every layer.

    Args:
        model: folder of the base model.
    """

    def __init__(self, model: Path = MODEL_DIR) -> None:
        self.device, self.dtype = device(), fast_dtype()
        self.pipe: Any = load_pipeline(model).to(self.device)
        self.unet = copy.deepcopy(self.pipe.unet).to(self.dtype)
        self.scheduler = DPMSolverMultistepScheduler.from_config(self.pipe.scheduler.config)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[Prompt],
        words: str = "",
        style: Path | None = None,
        mode: str = "lora",
        strength: float = 0.0,
        cfg_end: float = 1.0,
    ) -> np.ndarray:
        """Pictures (count, height, width, 3) float32 in [0, 1].

        Args:
            prompts: what to draw.
            words: style words, appended to the prompts of the rows that carry the style.
            style: file of the style LoRA, or None where the base model knows what the words mean.
            mode: "lora", in all rows at `strength`, as UIs apply a LoRA; "positive", in the prompt's rows alone; or
                "guidance", eq. 10 with lambda `strength`.
            strength: of the LoRA or of the guidance; 0 draws the base picture, without the words.
            cfg_end: share of the steps after which the content's CFG is 1.
        """
        null, plain, styled, guidance, own_words = self.unet, self.unet, None, 0.0, ""
        if strength != 0 and mode == "guidance":
            styled, guidance = self._merged(style, 1.0), strength
        elif strength != 0:
            plain, own_words = self._merged(style, strength), words
            null = plain if mode == "lora" else self.unet
        parts = []
        size = BATCH[self.device.type]
        for first in range(0, len(prompts), size):
            batch = prompts[first : first + size]
            states = [self._encode(batch, text) for text in (None, own_words, words)]
            latents = self._denoise(self._noise(batch), states, (null, plain, styled), guidance, cfg_end)
            images = self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample
            parts.append((images / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu().numpy())
        return np.concatenate(parts)

    def _merged(self, style: Path | None, strength: float) -> torch.nn.Module:
        """A copy of the U-Net with the LoRA in its weights, added in float32; the U-Net itself without one."""
        if style is None:
            return self.unet
        unet = copy.deepcopy(self.pipe.unet)
        network, _ = create_network_from_weights(strength, str(style), None, None, unet, for_inference=True)
        network.merge_to(None, unet)
        return unet.to(self.dtype)

    def _denoise(
        self,
        latents: Tensor,
        states: Sequence[Tensor],
        unets: tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module | None],
        scale: float,
        cfg_end: float,
    ) -> Tensor:
        """Latents (count, channels, height, width) of the pictures that begin as the noise `latents`.

        Args:
            latents: noise.
            states: of the empty prompt, of the prompt, and of the prompt that the style's rows get.
            unets: of the three predictions of eq. 10; None in the last place for none.
            scale: lambda of eq. 10.
            cfg_end: share of the steps after which the content's CFG is 1.
        """
        self.scheduler.set_timesteps(STEPS)
        null, cond, style = states
        null_unet, plain, styled = unets
        for number, timestep in enumerate(self.scheduler.timesteps):
            model_input = self.scheduler.scale_model_input(latents, timestep)
            cfg = content_cfg(GUIDANCE_SCALE, number / STEPS, cfg_end)
            if cfg == 1 or null_unet is not plain:
                uncond = None if cfg == 1 else self._predict(null_unet, model_input, timestep, null)
                cond_out = self._predict(plain, model_input, timestep, cond)
            else:
                both = torch.cat([null, cond])
                uncond, cond_out = self._predict(plain, model_input.repeat(2, 1, 1, 1), timestep, both).chunk(2)
            styles = []
            if styled is not None and is_in_interval(number / STEPS, STYLE_START, 1.0):
                styles = [self._predict(styled, model_input, timestep, style)]
            velocity = style_guided(uncond, cond_out, styles, cfg, [scale] * len(styles))
            latents = self.scheduler.step(velocity, timestep, latents).prev_sample
        return latents

    def _predict(self, unet: torch.nn.Module, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return unet(latents.to(self.dtype), timestep, states.to(self.dtype)).sample.float()

    def _encode(self, prompts: Sequence[Prompt], words: str | None) -> Tensor:
        """States (count, tokens, width) of the prompts with `words` behind them, of empty prompts if None."""
        texts = ["" if words is None else f"{prompt.text} {words}".strip() for prompt in prompts]
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(self.device)
        return self.pipe.text_encoder(ids).last_hidden_state

    def _noise(self, prompts: Sequence[Prompt]) -> Tensor:
        config = self.pipe.unet.config
        shape = (1, config.in_channels, config.sample_size, config.sample_size)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(prompt.seed)) for prompt in prompts]
        return torch.cat(drawn).to(self.device) * self.scheduler.init_noise_sigma
