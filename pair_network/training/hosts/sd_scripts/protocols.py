"""What is used of sd-scripts' datasets, prompts and trainers, whose classes have no types."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypedDict

from torch import Tensor

from pair_network.images import Size


class Attributes(TypedDict, total=False):
    """A subset's ``custom_attributes``, as far as pairs are concerned."""

    content_dir: str
    content_class_tokens: str
    content_branch: str
    diff_output_preservation: bool


class Subset(Protocol):
    """A [[datasets.subsets]] of a dataset file."""

    image_dir: str
    is_reg: bool
    custom_attributes: Attributes
    caption_extension: str
    enable_wildcard: bool


class ImageInfo(Protocol):
    """The record of one image."""

    absolute_path: str
    caption: str
    image_size: Size
    bucket_reso: Size


class Dataset(Protocol):
    """A [[datasets]]; records and subsets by the image's key. The last three are those of a paired dataset."""

    image_data: dict[str, ImageInfo]
    image_to_subset: dict[str, Subset]
    subsets: list[Subset]
    content_data: dict[str, ImageInfo]
    pair_numbers: dict[str, int]
    image_in_two_sizes: str | None


class DatasetGroup(Protocol):
    """All datasets of a run."""

    datasets: list[Dataset]


class LatentsStrategy(Protocol):
    """How latents are kept."""

    cache_to_disk: bool

    def load_latents_from_disk(self, *place: object) -> object: ...


class Prompt(TypedDict, total=False):
    """A sample prompt as sd-scripts reads it; other keys pass as they are."""

    prompt: str
    seed: int
    sample_steps: int


class ModelOutput(Protocol):
    """What some models' forward returns instead of a tensor."""

    sample: Tensor


if TYPE_CHECKING:

    class SamplingTrainer:
        """sd-scripts' trainer behind the mixin: what ``super()`` finds there; the words come from ``PairTraining``."""

        def trigger_words(self, args: argparse.Namespace) -> str:
            raise NotImplementedError

        def cache_text_encoder_outputs_if_needed(self, args: argparse.Namespace, *rest: object) -> None: ...

        sample_images: Callable[..., None]

else:
    SamplingTrainer = object
