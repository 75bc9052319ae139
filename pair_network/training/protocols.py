"""What pair training uses of a host: its accelerator, its batches, and the arguments of a step."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from pair_network.sampling.protocols import Vae

from .options import HostOptions

Args = TypeVar("Args", bound=HostOptions)  # the host's own options


class Accelerator(Protocol):
    """What is used of accelerate's class of this name."""

    @property
    def device(self) -> torch.device: ...
    @property
    def is_main_process(self) -> bool: ...
    @property
    def num_processes(self) -> int: ...
    @property
    def sync_gradients(self) -> bool: ...
    def autocast(self) -> AbstractContextManager[None]: ...
    def unwrap_model(self, model: nn.Module) -> nn.Module: ...
    def register_save_state_pre_hook(self, hook: Callable[..., None]) -> object: ...
    def register_load_state_pre_hook(self, hook: Callable[..., None]) -> object: ...


class NoiseScheduleConfig(Protocol):
    """What is used of a noise schedule's config."""

    @property
    def num_train_timesteps(self) -> int: ...


class NoiseScheduler(Protocol):
    """The forward process: what is used of diffusers' DDPMScheduler, and sd-scripts' ``all_snr``.

    Attributes:
        alphas_cumprod, all_snr: By timestep, ``(timesteps,)``.
    """

    config: NoiseScheduleConfig
    alphas_cumprod: Tensor
    all_snr: Tensor

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...
    def get_velocity(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


class Batch(TypedDict, total=False):
    """A batch of style rows as sd-scripts lays it out; a host may add keys of its own.

    Attributes:
        latents: ``(rows, channels, h, w)``, or None where they are encoded at every step.
        images: ``(rows, 3, height, width)`` in [-1, 1], or None where latents are cached.
        captions: One for each row.
        input_ids_list: Token ids ``(rows, …)``, one tensor for each text encoder.
        text_encoder_outputs_list: Embeddings, one tensor for each output of the text encoders, or None.
        loss_weights: ``(rows,)``.
        pair_indices: The pair of each row; -1: one without a content branch.
        content: The same for the content rows, row by row.
    """

    latents: Tensor | None
    images: Tensor | None
    captions: list[str]
    input_ids_list: list[Tensor]
    text_encoder_outputs_list: list[Tensor] | None
    loss_weights: Tensor
    network_multipliers: Tensor
    alpha_masks: Tensor | None
    custom_attributes: list[dict[str, object]]
    flippeds: list[bool]
    original_sizes_hw: Tensor
    crop_top_lefts: Tensor
    target_sizes_hw: Tensor
    pair_indices: Sequence[int]
    content: Batch | None


@dataclass(frozen=True)
class StepInputs(Generic[Args]):
    """The arguments of a host's ``process_batch``, in the order in which hosts pass them."""

    batch: Batch
    text_encoders: Sequence[nn.Module]
    unet: nn.Module
    network: nn.Module
    vae: Vae
    noise_scheduler: NoiseScheduler
    vae_dtype: torch.dtype
    weight_dtype: torch.dtype
    accelerator: Accelerator
    args: Args
    text_encoding_strategy: object
    tokenize_strategy: object
    is_train: bool = True
    train_text_encoder: bool = True
    train_unet: bool = True

    @classmethod
    def of(cls, given: Sequence[object], named: Mapping[str, object]) -> StepInputs[Args]:
        """Of a host's call, whatever it passes by place and by name."""
        build: Callable[..., StepInputs[Args]] = cls
        return build(*given, **named)

    def positional(self) -> tuple[object, ...]:
        """The arguments for the host's own method."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


STEP_ARGUMENTS = tuple(field.name for field in dataclasses.fields(StepInputs))


if TYPE_CHECKING:

    class Network(nn.Module):
        """A network of kohya's network modules, ours or another's."""

        apply_to: Callable[..., None]
        load_weights: Callable[[str], object]
        save_weights: Callable[[str, torch.dtype | None, Mapping[str, object]], None]
        merge_to: Callable[..., None]
        prepare_network: Callable[[object], None]
        prepare_optimizer_params: Callable[..., tuple[list[object], list[str]] | list[object]]
        prepare_optimizer_params_with_multiple_te_lrs: Callable[..., tuple[list[object], list[str]] | list[object]]
        prepare_grad_etc: Callable[..., None]
        on_epoch_start: Callable[..., None]
        on_step_start: Callable[..., None]
        get_trainable_params: Callable[[], Sequence[nn.Parameter]]
        enable_gradient_checkpointing: Callable[[], None]
        apply_max_norm_regularization: Callable[[float, torch.device], tuple[int, float, float]]

    # The host's trainer, which stands behind a mixin in the order of resolution: what ``super()`` finds there.

    class Trains(Generic[Args]):
        """Any host's trainer."""

        def __init__(self, *args: object, **kwargs: object) -> None: ...
        def train(self, args: Args | argparse.Namespace) -> None: ...

    class HostTrainer(Trains[Args]):
        """sd-scripts' and the embedded host's; the adapter adds ``attach_content``."""

        attach_content: Callable[..., list[tuple[str, str]]]

        def assert_extra_args(self, args: Args, train_dataset_group: object, val_dataset_group: object) -> None: ...
        def post_process_network(
            self, args: Args, accelerator: Accelerator, network: nn.Module, *models: object
        ) -> None: ...

        on_step_start: Callable[..., None]

        def process_batch(self, *given: object, **named: object) -> Tensor:
            raise NotImplementedError

        def post_process_loss(self, loss: Tensor, args: Args, *rest: object) -> Tensor:
            raise NotImplementedError

        def generate_step_logs(self, *args: object, **kwargs: object) -> dict[str, float]:
            raise NotImplementedError

        def get_sai_model_spec(self, args: Args) -> dict[str, str]:
            raise NotImplementedError

        def update_metadata(self, metadata: dict[str, object], args: Args) -> None: ...

else:
    Network = nn.Module
    Trains = HostTrainer = Generic
