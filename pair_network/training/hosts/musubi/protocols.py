"""What is used of musubi-tuner's datasets, batches and trainers, whose classes have no types."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

from torch import Tensor, nn

from pair_network.images import Size

from ...protocols import Accelerator


class CachedImage(Protocol):
    """An image with its cache files."""

    item_key: str
    bucket_size: Size
    text_encoder_output_cache_path: str


class Batches(Protocol):
    """A dataset's batches, made of its buckets; the last two are those of paired batches."""

    buckets: dict[Size, list[CachedImage]]
    content: dict[str, CachedImage]
    pair_numbers: dict[str, int]


class Dataset(Protocol):
    """One dataset."""

    batch_manager: Batches
    cache_directory: str


class Datasets(Protocol):
    """All datasets of a run."""

    datasets: list[Dataset]


class Collator(Protocol):
    """What makes batches; without loader workers it also sets the datasets' epoch."""

    dataset: Datasets | None


class ContentBatch(TypedDict):
    """The content images of a batch, beside whatever else their caches hold."""

    latents: Tensor


class Batch(TypedDict):
    """A batch of style images, beside whatever else their caches hold."""

    content: ContentBatch
    pair_indices: Sequence[int]


@dataclass
class Prediction:
    """A model's output beside what it should be, each ``(rows, …)``: musubi-tuner's class of another name."""

    pred: Tensor
    target: Tensor


if TYPE_CHECKING:

    class MusubiTrainer:
        """The host's trainer, which stands behind the mixin in the order of resolution: what ``super()`` finds."""

        architecture: str
        get_optimizer: Callable[..., tuple[object, ...]]
        get_lr_scheduler: Callable[..., object]

        def _build_dataset(self, args: argparse.Namespace) -> tuple[Datasets, Collator, object]:
            raise NotImplementedError

        def _register_hooks_and_resume(
            self, args: argparse.Namespace, accelerator: Accelerator, network: nn.Module
        ) -> object: ...
        def scale_shift_latents(self, latents: Tensor) -> Tensor:
            raise NotImplementedError

        process_batch: Callable[..., tuple[Tensor, dict[str, float]]]

        def compute_loss(
            self, args: argparse.Namespace, output: Prediction, timesteps: Tensor, *rest: object
        ) -> tuple[Tensor, dict[str, float]]:
            raise NotImplementedError

        def sample_images(self, *args: object, **named: object) -> None: ...
        def extra_metadata(self, args: argparse.Namespace) -> dict[str, object]:
            raise NotImplementedError

else:
    MusubiTrainer = object
