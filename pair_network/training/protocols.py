"""What pair training uses of a host: its accelerator, its batches, and the arguments of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

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
    vae: nn.Module
    noise_scheduler: object
    vae_dtype: torch.dtype
    weight_dtype: torch.dtype
    accelerator: Accelerator
    args: Args
    text_encoding_strategy: object
    tokenize_strategy: object
    is_train: bool = True
    train_text_encoder: bool = True
    train_unet: bool = True

    def positional(self) -> tuple[object, ...]:
        """The arguments for the host's own method."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


STEP_ARGUMENTS = tuple(field.name for field in dataclasses.fields(StepInputs))
