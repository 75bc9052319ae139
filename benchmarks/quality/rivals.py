"""The other ways to learn a style from a pair, on this project's own network, trainer and data.

Each is a loss over the same batch: B content rows and B style rows of latents and text embeddings. Where a method needs
two LoRAs, the content branch is the first and the style branch the second; what is kept is the style branch. Every
rival is written here from its description; docs/quality.md names the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pair_network import PairNetwork
from pair_network.network.route import Row, content_rows, style_rows
from pair_network.training.hosts.embedded.entry import PairTrainer
from pair_network.training.objective import Phase


@dataclass
class Step:
    """One update's data and the model to predict with.

    Attributes:
        content, style: clean latents (batch, channels, height, width) of the two images.
        content_states, style_states: text embeddings (batch, length, dim) of their captions.
        scheduler: noise schedule.
        number: updates made so far.
        total: updates of the whole run.
    """

    content: Tensor
    style: Tensor
    content_states: Tensor
    style_states: Tensor
    scheduler: Any
    number: int
    total: int
    network: PairNetwork
    unet: Any

    def draw(self) -> tuple[Tensor, Tensor]:
        """Noise of the latents' shape, and a uniform timestep for every row (batch,)."""
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(self.style),))
        return torch.randn_like(self.style), timesteps.to(self.style.device)

    def predict(self, rows: Sequence[Row], noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """The model's prediction with the network routed by `rows`, of the latents' shape."""
        with self.network.route(rows):
            return self.unet(noisy, timesteps, states).sample

    def denoising_loss(
        self, rows: Sequence[Row], clean: Tensor, states: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The usual v-prediction loss of `clean`, a scalar."""
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        target = self.scheduler.get_velocity(clean, noise, timesteps)
        return functional.mse_loss(self.predict(rows, noisy, timesteps, states), target)


class Rival(PairTrainer):
    """A method that replaces the project's loss by its own."""

    def loss(self, step: Step) -> Tensor:
        """The loss of one update, a scalar."""
        raise NotImplementedError

    def process_batch(
        self, batch: dict[str, Any], text_encoders: Any, unet: Any, network: Any, vae: Any, noise_scheduler: Any,
        vae_dtype: Any, weight_dtype: Any, accelerator: Any, args: Any, *strategies: Any, **flags: Any,
    ) -> Tensor:  # fmt: skip
        """The trainer's hook: what it caches in `batch` becomes a `Step`."""
        bare = accelerator.unwrap_model(network)
        self._begin_step(args, bare, accelerator)
        # Cached latents and text embeddings wait in the computer's memory.
        (content, content_states), (style, style_states) = (
            (half["latents"].to(accelerator.device) * self.vae_scale_factor,
             half["text_encoder_outputs_list"][0].to(accelerator.device))
            for half in (batch["content"], batch)
        )  # fmt: skip
        step = Step(
            content, style, content_states, style_states,
            noise_scheduler, self.pair_step or 0, args.max_train_steps, bare, unet,
        )  # fmt: skip
        return self._finish_step(self.loss(step), bare, accelerator)


class PlainLora(Rival):
    """One LoRA on the style image and its caption (DreamBooth-LoRA); the content image is not used."""

    def loss(self, step: Step) -> Tensor:
        rows = style_rows([None] * len(step.style))
        return step.denoising_loss(rows, step.style, step.style_states, *step.draw())


class Copier(Rival):
    """Copier LoRA: overfit the content image, then learn the style image on top of that under the same caption."""

    def loss(self, step: Step) -> Tensor:
        pairs = [0] * len(step.style)
        if step.number < step.total // 2:
            return step.denoising_loss(content_rows(pairs), step.content, step.content_states, *step.draw())
        return step.denoising_loss(style_rows(pairs), step.style, step.content_states, *step.draw())


class Addift(Rival):
    """ADDifT: at a quarter of the strength, the noised style image is answered as the base answers the content image.

    Every second update the images swap and the strength is negative. Its timestep rule gives five values there.
    """

    STRENGTH = 0.25
    WINDOW = (200, 400)

    def loss(self, step: Step) -> Tensor:
        low, high = self.WINDOW
        forward = step.number % 2 == 0
        near, far = (step.content, step.style) if forward else (step.style, step.content)
        noise = torch.randn_like(near)
        if forward:
            span = (high - low) // 10
            timesteps = torch.full((len(near),), low + span * (step.number % 10 + 1))
        else:
            timesteps = torch.randint(low, high, (len(near),))
        timesteps = timesteps.to(near.device)
        base, changed = (step.scheduler.add_noise(clean, noise, timesteps) for clean in (near, far))
        with torch.no_grad():
            wanted = step.predict([Row()] * len(near), base, timesteps, step.content_states)
        rows = [Row(style=self.STRENGTH if forward else -self.STRENGTH)] * len(near)
        return functional.mse_loss(step.predict(rows, changed, timesteps, step.content_states), wanted)


class Slider(Rival):
    """Concept slider on images: strength +1 denoises the style image, -1 the content image, with the same noise."""

    def loss(self, step: Step) -> Tensor:
        noise, timesteps = step.draw()
        count = len(step.style)
        plus = step.denoising_loss([Row(style=1.0)] * count, step.style, step.content_states, noise, timesteps)
        minus = step.denoising_loss([Row(style=-1.0)] * count, step.content, step.content_states, noise, timesteps)
        return (plus + minus) / 2


class DifferenceTarget(Rival):
    """After PairEdit: the second LoRA sees the noised content image and must predict the style image as the clean one.

    The loss is the error of the predicted clean latents: as a velocity it would grow without bound where little noise
    is left, since the noisy input is another image's. The first LoRA learns the content image for a third of the run.
    """

    def loss(self, step: Step) -> Tensor:
        pairs = [0] * len(step.style)
        noise, timesteps = step.draw()
        if step.number < step.total // 3:
            return step.denoising_loss(content_rows(pairs), step.content, step.content_states, noise, timesteps)
        noisy = step.scheduler.add_noise(step.content, noise, timesteps)
        velocity = step.predict(style_rows(pairs), noisy, timesteps, step.content_states)
        alpha_bar = step.scheduler.alphas_cumprod[timesteps][:, None, None, None]
        clean = alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * velocity
        return functional.mse_loss(clean, step.style)


class Official(Rival):
    """The released Pair Customization recipe: random rows shared by all layers of a width, shared noise and timestep.

    Content alone for a third of the run, then both losses (eq. 7).
    """

    def post_process_network(self, args: Any, accelerator: Any, network: Any, *models: Any) -> None:
        super().post_process_network(args, accelerator, network, *models)
        first: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            for layer in network.coupled_layers():
                downs = layer.downs()
                for down, shared in zip(downs, first.setdefault(downs[0].shape, downs), strict=True):
                    down.copy_(shared)

    def loss(self, step: Step) -> Tensor:
        pairs = [0] * len(step.style)
        noise, timesteps = step.draw()
        content = step.denoising_loss(content_rows(pairs), step.content, step.content_states, noise, timesteps)
        if step.number < step.total // 3:
            return content
        return content + step.denoising_loss(style_rows(pairs), step.style, step.style_states, noise, timesteps)


class Sequential(PairTrainer):
    """Ours with the content branch frozen after its warm-up: the style image alone is trained on from there."""

    def _begin_step(self, args: Any, network: PairNetwork, accelerator: Any) -> Phase:
        phase = super()._begin_step(args, network, accelerator)
        if phase is Phase.CONTENT:
            return phase
        # The penalty would go on turning the content downs, and weight decay shrinking both.
        for layer in network.coupled_layers():
            for parameter in (layer.content_up, layer.downs()[0]):
                parameter.requires_grad_(False)
                parameter.grad = None
        return Phase.STYLE
