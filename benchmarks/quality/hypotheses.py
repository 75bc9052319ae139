"""Changes to this project's own training that are on trial (`python -m benchmarks.quality --trial`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.quality.rivals import Rival, Step
from pair_network.hosts.embedded.entry import PairTrainer
from pair_network.objective import Phase
from pair_network.route import BASE_ROW, content_rows, style_rows


def _style_weight(loss: Tensor, weight: Tensor, phase: Phase) -> Tensor:
    """Row losses with those of the style rows multiplied by their own entries of `weight`, all (rows,)."""
    is_style = torch.zeros_like(loss)
    if phase is Phase.JOINT:
        is_style[len(loss) // 2 :] = 1
    return loss * (1 - is_style + is_style * weight)


class LateWindow(PairTrainer):
    """The style is learnt below this timestep alone: above it the layout is decided, which belongs to the prompt."""

    LAST = 700

    def post_process_loss(self, loss: Tensor, args: Any, timesteps: Tensor, *rest: Any) -> Tensor:
        inside = (timesteps < self.LAST).to(loss) * (1000 / self.LAST)
        return super().post_process_loss(_style_weight(loss, inside, self._phase), args, timesteps, *rest)


class CleanWeighted(PairTrainer):
    """The style rows' loss is the error of the predicted clean latents, which weighs high noise most (ConsisLoRA)."""

    def post_process_loss(self, loss: Tensor, args: Any, timesteps: Tensor, scheduler: Any) -> Tensor:
        noise_share = 1 - scheduler.alphas_cumprod[timesteps].to(loss)
        weight = noise_share / (1 - scheduler.alphas_cumprod).mean().to(loss)
        return super().post_process_loss(_style_weight(loss, weight, self._phase), args, timesteps, scheduler)


class SharedDraws(PairTrainer):
    """Both images of a pair get the same noise and timestep, as in the released recipe."""

    def get_noise_pred_and_target(
        self, args: Any, accelerator: Any, noise_scheduler: Any, latents: Tensor, batch: Any, conds: Any, unet: Any,
        network: Any, weight_dtype: Any, train_unet: bool, is_train: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
        count = len(latents) // (2 if self._phase is Phase.JOINT else 1)
        times = len(latents) // count
        noise = torch.randn_like(latents[:count]).repeat(times, 1, 1, 1)
        timesteps = torch.randint(0, 1000, (count,), device=latents.device).repeat(times)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = self.call_unet(args, accelerator, unet, noisy, timesteps, conds, batch, weight_dtype)
        return prediction, noise_scheduler.get_velocity(latents, noise, timesteps), timesteps, None


class ResidualTarget(Rival):
    """The style rows need not mend what the base model gets wrong on the content image.

    Their target is moved by the base model's own error on the content image at the same noise and timestep.
    """

    def loss(self, step: Step) -> Tensor:
        pairs = [0] * len(step.style)
        noise, timesteps = step.draw()
        content = step.denoising_loss(content_rows(pairs), step.content, step.content_states, noise, timesteps)
        if step.number < step.total // 3:
            return content
        clean = (step.content, step.style)
        noisy_content, noisy_style = (step.scheduler.add_noise(one, noise, timesteps) for one in clean)
        content_target, style_target = (step.scheduler.get_velocity(one, noise, timesteps) for one in clean)
        with torch.no_grad():
            base = step.predict([BASE_ROW] * len(pairs), noisy_content, timesteps, step.content_states)
        prediction = step.predict(style_rows([None] * len(pairs)), noisy_style, timesteps, step.style_states)
        return content + functional.mse_loss(prediction, style_target + base - content_target)


class TowardsStyle(Rival):
    """The style rows see anything between the two images and must predict the style image as the clean one.

    When guiding, the style LoRA meets pictures that are not in its style yet; here it does so while training.
    """

    def loss(self, step: Step) -> Tensor:
        pairs = [0] * len(step.style)
        noise, timesteps = step.draw()
        content = step.denoising_loss(content_rows(pairs), step.content, step.content_states, noise, timesteps)
        if step.number < step.total // 3:
            return content
        share = torch.rand(len(pairs), 1, 1, 1, device=noise.device)
        noisy = step.scheduler.add_noise(share * step.content + (1 - share) * step.style, noise, timesteps)
        velocity = step.predict(style_rows(pairs), noisy, timesteps, step.style_states)
        alpha_bar = step.scheduler.alphas_cumprod[timesteps][:, None, None, None]
        # The error of the clean latents, with at most six times the weight where little noise is left.
        error = alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * velocity - step.style
        weight = (1 / (1 - alpha_bar)).clamp(max=6)
        return content + (weight * error.square()).mean()


class DataRows(Rival):
    """Rows from the images in place of random ones: the style's span what the layers' inputs change by.

    Style rows: main directions of (input on the style image - input on the content image) at the same noise. Content
    rows: main directions of the content image's inputs, made orthogonal to them.
    """

    DRAWS = 4

    def loss(self, step: Step) -> Tensor:
        if step.number == 0:
            self._choose_rows(step)
        pairs = [0] * len(step.style)
        noise, timesteps = step.draw()
        content = step.denoising_loss(content_rows(pairs), step.content, step.content_states, noise, timesteps)
        if step.number < step.total // 3:
            return content
        return content + step.denoising_loss(style_rows(pairs), step.style, step.style_states, *step.draw())

    @torch.no_grad()
    def _choose_rows(self, step: Step) -> None:
        layers = step.network.coupled_layers()
        seen: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
        handles = [
            layer.base.register_forward_pre_hook(
                lambda module, args, name=layer.name: seen[name].append(_as_rows(args[0]))
            )
            for layer in layers
        ]
        for _ in range(self.DRAWS):
            noise, timesteps = step.draw()
            for clean, states in ((step.content, step.content_states), (step.style, step.style_states)):
                step.predict(
                    [BASE_ROW] * len(clean), step.scheduler.add_noise(clean, noise, timesteps), timesteps, states
                )
        for handle in handles:
            handle.remove()
        for layer in layers:
            inputs = seen[layer.name]
            content, style = torch.cat(inputs[0::2]), torch.cat(inputs[1::2])
            content_down, style_down = layer.downs()
            style_rows_found = _main_directions(style - content, len(style_down))
            rest = content - content @ style_rows_found.T @ style_rows_found
            style_down.copy_(style_rows_found.view_as(style_down))
            content_down.copy_(_main_directions(rest, len(content_down)).view_as(content_down))


def _as_rows(inputs: Tensor) -> Tensor:
    """A layer's input as rows (n, width): that of a linear layer, or of a 1 x 1 convolution, (batch, width, h, w)."""
    return (inputs.movedim(1, -1) if inputs.dim() == 4 else inputs).flatten(0, -2)


def _main_directions(inputs: Tensor, count: int) -> Tensor:
    """The `count` orthonormal directions (count, width) in which rows of `inputs` (n, width) are largest."""
    _, vectors = torch.linalg.eigh(inputs.T.double() @ inputs.double())
    return vectors[:, -count:].T.to(inputs)
