"""Aligned pairs from musubi-tuner's caches: every style image with the content image of the same name.

musubi-tuner trains from two cache files for each image, one with latents and one with text. The content images are a
dataset of their own, cached by its scripts like any other, and taken out of the training set here: their cache files
join the batches of their style images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from musubi_tuner.dataset.bucket import BucketBatchManager  # of the checkout
from musubi_tuner.dataset.image_video_dataset import DatasetGroup
from safetensors import safe_open
from torch import Tensor

from pair_network.errors import PairError
from pair_network.images import Size

from ...batch import CONTENT, PAIR_INDICES
from ...replaced import replaced
from .protocols import CachedImage, Dataset, Datasets


class PairedBatches(BucketBatchManager):
    """musubi-tuner's batches with those of their content images. Made by changing an instance's class."""

    buckets: dict[Size, list[CachedImage]]
    content: dict[str, CachedImage]
    pair_numbers: dict[str, int]

    def __getitem__(self, idx: int) -> dict[str, object]:
        batch = super().__getitem__(idx)
        size, number = self.bucket_batch_indices[idx]
        styled = self.buckets[size]
        items = styled[number * self.batch_size : (number + 1) * self.batch_size]
        with replaced(self, {"buckets": {size: [self.content[item.item_key] for item in styled]}}):
            batch[CONTENT] = super().__getitem__(idx)
        batch[PAIR_INDICES] = [self.pair_numbers[item.item_key] for item in items]
        return batch


def attach_content(group: Datasets, content_of: list[int]) -> tuple[Datasets, list[tuple[str, str]]]:
    """The style datasets alone, with content images in their batches, and (content, style) captions of every pair.

    Args:
        group: musubi-tuner's datasets: the style datasets first, then the content datasets.
        content_of: For every style dataset the place of its content dataset.

    Raises:
        PairError: An image has no content image in the caches, or one of another shape.
    """
    captions: dict[tuple[int, str], tuple[str, str]] = {}
    numbers: dict[tuple[int, str], int] = {}
    styles = group.datasets[: len(content_of)]
    for place, (style, content) in enumerate(zip(styles, content_of, strict=True)):
        captions.update(_attach(style, group.datasets[content], place))
    for number, key in enumerate(sorted(captions)):
        numbers[key] = number
    for place, style in enumerate(styles):
        style.batch_manager.pair_numbers = {key: n for (where, key), n in numbers.items() if where == place}
    return DatasetGroup(styles), [captions[key] for key in sorted(captions)]


def _attach(style: Dataset, content: Dataset, place: int) -> dict[tuple[int, str], tuple[str, str]]:
    """Gives one style dataset its content images; returns the captions of both sides by (place, name)."""
    found = {item.item_key: item for items in content.batch_manager.buckets.values() for item in items}
    captions, used = {}, set()
    manager = style.batch_manager
    for items in manager.buckets.values():
        for item in items:
            image = found.get(item.item_key)
            if image is None:
                raise PairError(
                    f"{item.item_key}: no content image of this name among the caches in {content.cache_directory}; "
                    "pairs match by name: add it, and cache both datasets"
                )
            if image.bucket_size != item.bucket_size:
                raise PairError(
                    f"{item.item_key}: the two images of the pair fall into buckets of different sizes "
                    f"({image.bucket_size} and {item.bucket_size}); make them equally large"
                )
            used.add(item.item_key)
            captions[place, item.item_key] = (_caption(image), _caption(item))
    orphans = sorted(set(found) - used)
    if orphans:
        raise PairError(
            f"{orphans[0]}: cached as a content image, but no style image has this name; add it stylised, or "
            "remove it and its caches"
        )
    manager.content = found
    manager.__class__ = PairedBatches
    return captions


def _caption(item: CachedImage) -> str:
    """The caption that musubi-tuner wrote into the cache of the text."""
    with safe_open(Path(item.text_encoder_output_cache_path), "pt") as file:
        return (file.metadata() or {}).get("caption1", "")


def joined(content: Mapping[str, object], style: Mapping[str, object]) -> dict[str, object]:
    """One batch of 2B rows, content rows first.

    Text embeddings of different lengths are lists with an entry for each row; musubi-tuner pads and masks them itself.
    """
    return {key: _joined_value(content.get(key), value) for key, value in style.items()}


def _joined_value(content: object, style: object) -> object:
    if isinstance(style, Tensor):
        assert isinstance(content, Tensor)
        return torch.cat([content, style])
    if isinstance(style, list):
        assert isinstance(content, list)
        return [*content, *style]
    return style
