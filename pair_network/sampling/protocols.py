"""What is used of diffusers' pipelines and of the models in them, which have no types of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

import torch
from PIL import Image
from torch import Tensor, nn


class SchedulerOutput(Protocol):
    prev_sample: Tensor


class Scheduler(Protocol):
    """A scheduler; ``config`` also has its entries as attributes."""

    config: Mapping[str, object]
    timesteps: Tensor

    @property
    def init_noise_sigma(self) -> float | Tensor: ...
    def set_timesteps(self, num_inference_steps: int) -> None: ...
    def step(self, prediction: Tensor, timestep: Tensor, latents: Tensor) -> SchedulerOutput: ...


class LatentDistribution(Protocol):
    """What a VAE makes of a picture."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...
    def mode(self) -> Tensor: ...


class EncoderOutput(Protocol):
    latent_dist: LatentDistribution


class VaeConfig(Protocol):
    scaling_factor: float


class UNetConfig(Protocol):
    sample_size: int
    in_channels: int


if TYPE_CHECKING:

    class Model(nn.Module):
        """A model of diffusers or transformers: a module that knows its place and precision."""

        device: torch.device
        dtype: torch.dtype

    class Vae(Model):
        """AutoencoderKL."""

        config: VaeConfig

        def encode(self, pixels: Tensor) -> EncoderOutput:
            raise NotImplementedError

    class UNet(Model):
        """UNet2DConditionModel."""

        config: UNetConfig

        def enable_gradient_checkpointing(self) -> None: ...
        def enable_xformers_memory_efficient_attention(self) -> None: ...

    class TextEncoder(Model):
        """A CLIP text encoder."""

        def gradient_checkpointing_enable(self, *, gradient_checkpointing_kwargs: Mapping[str, bool]) -> None: ...

else:
    Model = Vae = UNet = TextEncoder = nn.Module


class TokenIds(Protocol):
    """What a tokenizer gives: ids ``(captions, length)``, or a list of them."""

    input_ids: Tensor


class Tokenizer(Protocol):
    """What is used of CLIPTokenizer."""

    model_max_length: int
    pad_token_id: int

    def __call__(self, text: str | list[str], **settings: object) -> TokenIds: ...


class EncoderStates(Protocol):
    """A text encoder's output: the embedding and every layer's state, ``(captions, length, width)`` each."""

    hidden_states: Sequence[Tensor]


class PipelineOutput(Protocol):
    images: list[Image.Image]


class Pipeline(Protocol):
    """A pipeline of Stable Diffusion 1, 2, XL, 3 or FLUX; some have a ``unet``, the others a ``transformer``."""

    scheduler: Scheduler
    vae: Vae
    vae_scale_factor: int
    unet: UNet
    transformer: Model
    text_encoder: TextEncoder
    text_encoder_2: TextEncoder
    components: Mapping[str, object]
    encode_prompt: Callable[..., Sequence[Tensor]]
    check_inputs: Callable[..., object]

    @property
    def guidance_scale(self) -> float: ...
    @property
    def _execution_device(self) -> torch.device: ...
    def __call__(self, *args: object, **settings: object) -> PipelineOutput: ...
    def to(self, device: str) -> Pipeline: ...
    def set_progress_bar_config(self, *, disable: bool) -> None: ...
    def enable_model_cpu_offload(self, *, device: str) -> None: ...


class ModelOutput(Protocol):
    """diffusers' output classes: a sample by name and by place."""

    sample: Tensor

    def __init__(self, *, sample: Tensor) -> None: ...
    def __getitem__(self, place: int) -> Tensor: ...


Predicted = tuple[Tensor, ...] | ModelOutput  # what a model's forward returns, the prediction first


class ModelInputs(TypedDict, total=False):
    """The arguments of a U-Net's or transformer's forward that style rows have to know; others pass as they are.

    Attributes:
        sample, hidden_states: The noisy latents ``(rows, …)`` of a U-Net and of a transformer.
        timestep: One value for all rows, or one for each.
        encoder_hidden_states: The prompts ``(rows, tokens, dim)``.
        pooled_projections: Pooled prompts ``(rows, dim)`` of SD3 and FLUX.
        added_cond_kwargs: SDXL's, with ``text_embeds`` ``(rows, dim)``.
        txt_ids: Token positions, ``(tokens, 3)`` of FLUX and ``(rows, tokens, 4)`` of FLUX.2.
        encoder_hidden_states_mask: Qwen-Image's ``(rows, tokens)``; None: no padding.
    """

    sample: Tensor
    hidden_states: Tensor
    timestep: Tensor | float
    encoder_hidden_states: Tensor
    pooled_projections: Tensor | None
    added_cond_kwargs: dict[str, Tensor] | None
    txt_ids: Tensor
    encoder_hidden_states_mask: Tensor | None
