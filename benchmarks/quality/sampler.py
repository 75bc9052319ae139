"""Draws prompts with the embedded model from fixed noise: plain, with a style LoRA, or with style guidance."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from demo.model_config import MODEL_DIR, load_pipeline
from demo.parallel import autocast
from pair_network import PairNetwork, create_network_from_weights
from pair_network.guidance import is_in_interval, style_guided
from pair_network.route import BASE_ROW, Row

GUIDANCE_SCALE = 3.0
STEPS = 12
STYLE_START = 0.1
BATCH = 20
MODES = ("lora", "guidance")


@dataclass(frozen=True)
class Prompt:
    """What to draw: the caption, the subject it names, and the seed of its noise."""

    text: str
    subject: str
    seed: int


class Sampler:
    """The embedded model, ready to draw with or without a style LoRA attached."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pipe: Any = load_pipeline(MODEL_DIR).to(self.device)
        self.scheduler = DPMSolverMultistepScheduler.from_config(self.pipe.scheduler.config)

    def attach(self, file: Path) -> PairNetwork:
        """The style LoRA of a file, hooked into the U-Net until its `restore` is called."""
        network, _ = create_network_from_weights(1.0, str(file), None, None, self.pipe.unet, for_inference=True)
        network.apply_to(None, self.pipe.unet, apply_text_encoder=False)
        return network.to(self.device).requires_grad_(False)

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[Prompt],
        words: str = "",
        network: PairNetwork | None = None,
        mode: str = "lora",
        strength: float = 0.0,
    ) -> np.ndarray:
        """Pictures (count, height, width, 3) float32 in [0, 1].

        Args:
            prompts: what to draw.
            words: style words, appended to the prompts of the rows that carry the style.
            network: the attached style LoRA, or None when there is none.
            mode: "lora", in all rows at `strength`, as UIs apply a LoRA; or "guidance", eq. 10 with lambda `strength`.
            strength: of the LoRA or of the guidance; 0 draws the base picture.
        """
        parts = []
        for first in range(0, len(prompts), BATCH):
            batch = prompts[first : first + BATCH]
            parts.append(self._draw_batch(batch, words, network, mode, strength))
        return np.concatenate(parts)

    def _draw_batch(
        self, prompts: Sequence[Prompt], words: str, network: PairNetwork | None, mode: str, strength: float
    ) -> np.ndarray:
        pipe, count = self.pipe, len(prompts)
        plain = [prompt.text for prompt in prompts]
        styled = [f"{text} {words}".strip() for text in plain]
        is_lora = network is not None and mode == "lora" and strength != 0
        null, cond, style = (self._encode(texts) for texts in ([""] * count, styled if is_lora else plain, styled))
        self.scheduler.set_timesteps(STEPS)
        latents = self._noise(prompts)
        for number, timestep in enumerate(self.scheduler.timesteps):
            model_input = self.scheduler.scale_model_input(latents, timestep)
            guided = (
                network is not None
                and not is_lora
                and strength != 0
                and is_in_interval(number / STEPS, STYLE_START, 1.0)
            )
            states = [null, cond, style] if guided else [null, cond]
            rows = [Row(style=strength)] * (2 * count) if is_lora else [BASE_ROW] * (2 * count)
            rows += [Row(style=1.0)] * count if guided else []
            repeated = model_input.repeat(len(states), 1, 1, 1)
            uncond, cond_out, *style_out = self._predict(network, rows, repeated, timestep, torch.cat(states)).split(
                count
            )
            noise = style_guided(uncond, cond_out, style_out, GUIDANCE_SCALE, [strength] * len(style_out))
            latents = self.scheduler.step(noise, timestep, latents).prev_sample
        images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu().numpy()

    def _predict(
        self, network: PairNetwork | None, rows: list[Row], latents: Tensor, timestep: Tensor, states: Tensor
    ) -> Tensor:
        """The model's prediction with each row routed as `rows` says, of the latents' shape."""
        route = network.route(rows) if network is not None else contextlib.nullcontext()
        with route, autocast():
            return self.pipe.unet(latents, timestep, states).sample.float()

    def _encode(self, texts: list[str]) -> Tensor:
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(self.device)
        return self.pipe.text_encoder(ids).last_hidden_state

    def _noise(self, prompts: Sequence[Prompt]) -> Tensor:
        config = self.pipe.unet.config
        shape = (1, config.in_channels, config.sample_size, config.sample_size)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(prompt.seed)) for prompt in prompts]
        return torch.cat(drawn).to(self.device) * self.scheduler.init_noise_sigma
