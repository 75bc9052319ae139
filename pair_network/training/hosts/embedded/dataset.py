"""Batches of aligned pairs: which samples, in which order, mirrored or not, and with which words.

Everything random about an epoch is decided by one generator seeded by (seed, epoch), so that a resumed run finds its
place by counting batches, and all processes of a distributed run agree.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...protocols import Batch
from .config import EmbeddedOptions
from .dataset_config import DatasetConfig, SubsetConfig, read_dataset_config
from .images import load_pixels
from .model import TokenizeStrategy
from .pairs import ImageRecord, Sample, find_samples


class Embeddings(Protocol):
    """Text embeddings that lie on disk."""

    def load(self) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Draw:
    """One use of a sample in an epoch: mirrored or not, with its captions as they are read this time."""

    sample: Sample
    flipped: bool
    style_caption: str
    content_caption: str


class Dataset:
    """One [[datasets]] entry: its samples, grouped by bucket into batches."""

    def __init__(self, config: DatasetConfig, indices: dict[tuple[str, str], int]):
        self.config = config
        self.batch_size = config.batch_size
        self.subsets = [(subset, find_samples(config, subset, indices)) for subset in config.subsets]
        self.samples = [sample for _, samples in self.subsets for sample in samples]

    @property
    def num_train_images(self) -> int:
        return sum(sample.subset.num_repeats for sample in self.samples)

    def buckets(self) -> dict[tuple[int, int], list[Sample]]:
        """Samples, repeats included, by training size."""
        buckets: dict[tuple[int, int], list[Sample]] = {}
        for sample in self.samples:
            buckets.setdefault(sample.frame.bucket, []).extend([sample] * sample.subset.num_repeats)
        return dict(sorted(buckets.items()))

    def batches(self, generator: random.Random) -> list[list[Draw]]:
        """The epoch's batches, each of one bucket; a bucket's last batch may be smaller."""
        batches = []
        for bucket in self.buckets().values():
            generator.shuffle(bucket)
            draws = [draw(sample, generator) for sample in bucket]
            batches += [draws[i : i + self.batch_size] for i in range(0, len(draws), self.batch_size)]
        return batches


def draw(sample: Sample, generator: random.Random) -> Draw:
    """A sample with its flip and its captions drawn."""
    flipped = sample.subset.flip_aug and generator.random() < 0.5
    content = shuffled_caption(sample.content.caption, sample.subset, generator) if sample.content else ""
    return Draw(sample, flipped, shuffled_caption(sample.style.caption, sample.subset, generator), content)


def full_caption(caption: str, subset: SubsetConfig) -> str:
    """The caption with the subset's prefix and suffix."""
    return " ".join(part for part in (subset.caption_prefix, caption, subset.caption_suffix) if part)


def shuffled_caption(caption: str, subset: SubsetConfig, generator: random.Random) -> str:
    """The full caption and, when the subset says so, its tags in a new order."""
    caption = full_caption(caption, subset)
    if not subset.shuffle_caption:
        return caption
    tags = [tag.strip() for tag in caption.split(subset.caption_separator)]
    kept, rest = tags[: subset.keep_tokens], tags[subset.keep_tokens :]
    generator.shuffle(rest)
    return ", ".join(kept + rest)


class DatasetGroup:
    """All datasets of a run, their caches, and the batches made from them.

    Attributes:
        num_pairs: Number of different pairs.
        text_cache: Text embeddings (length, width) by caption, SDXL's two with the pooled text (width,); empty when
            captions are encoded at every step.
    """

    def __init__(self, configs: Sequence[DatasetConfig], seed: int):
        self.seed = seed
        indices: dict[tuple[str, str], int] = {}
        self.datasets = [Dataset(config, indices) for config in configs]
        self.num_pairs = len(indices)
        self.text_cache: dict[str, tuple[Tensor, ...] | Embeddings] = {}
        self.tokenize_strategy: TokenizeStrategy | None = None
        self.batches_per_epoch = len(self.epoch_batches(0))

    @property
    def samples(self) -> list[Sample]:
        return [sample for dataset in self.datasets for sample in dataset.samples]

    @property
    def subsets(self) -> list[SubsetConfig]:
        return [subset for dataset in self.datasets for subset, _ in dataset.subsets]

    @property
    def subsets_without_content(self) -> list[SubsetConfig]:
        """Subsets that name no content_dir."""
        return [subset for subset in self.subsets if subset.content_dir is None]

    @property
    def num_train_images(self) -> int:
        return sum(dataset.num_train_images for dataset in self.datasets)

    def pair_captions(self) -> list[tuple[str, str]]:
        """(content caption, style caption) of every pair, by its index."""
        found = {
            sample.pair_index: (
                full_caption(sample.content.caption, sample.subset),
                full_caption(sample.style.caption, sample.subset),
            )
            for sample in self.samples
            if sample.content is not None
        }
        return [found[index] for index in sorted(found)]

    def epoch_batches(self, epoch: int) -> list[list[Draw]]:
        """All batches of an epoch (counted from 0), for all processes together, in training order."""
        generator = random.Random(f"{self.seed} {epoch}")
        batches = [batch for dataset in self.datasets for batch in dataset.batches(generator)]
        generator.shuffle(batches)
        return batches

    def rank_batches(self, epoch: int, rank: int, num_processes: int) -> list[list[Draw]]:
        """One process's share of an epoch: every ``num_processes``-th batch, as many for each process."""
        batches = self.epoch_batches(epoch)
        count = -(-len(batches) // num_processes)
        return [batches[(i * num_processes + rank) % len(batches)] for i in range(count)]

    def captions(self) -> list[str]:
        """Every caption that an epoch uses, once; meaningful when no subset shuffles."""
        found: dict[str, None] = {}
        for batch in self.epoch_batches(0):
            for one in batch:
                found.update(
                    dict.fromkeys([one.style_caption] + [one.content_caption] * (one.sample.content is not None))
                )
        return list(found)

    def collate(self, draws: Sequence[Draw]) -> Batch:
        """A batch with sd-scripts' keys for the style rows.

        ``content`` is the same for the content rows (None unless every row has one), row i to row i, and
        ``pair_indices`` says which pair each row belongs to.
        """
        batch = self._side(draws, [(one.sample.style, one.style_caption) for one in draws])
        content = [(one.sample.content, one.content_caption) for one in draws if one.sample.content is not None]
        batch["content"] = self._side(draws, content) if len(content) == len(draws) else None
        return batch

    def _side(self, draws: Sequence[Draw], rows: Sequence[tuple[ImageRecord, str]]) -> Batch:
        captions = [caption for _, caption in rows]
        assert self.tokenize_strategy is not None
        cached = all(one.flipped in image.latents for one, (image, _) in zip(draws, rows, strict=True))
        tensors = [
            image.read_latents(one.flipped) if cached else load_pixels(image.path, one.sample.frame, one.flipped)
            for one, (image, _) in zip(draws, rows, strict=True)
        ]
        encoded = all(caption in self.text_cache for caption in captions)
        return {
            "latents": torch.stack(tensors) if cached else None,
            "images": None if cached else torch.stack(tensors),
            "captions": captions,
            "input_ids_list": self.tokenize_strategy.tokenize(captions),
            "text_encoder_outputs_list": self._cached_text(captions) if encoded else None,
            "loss_weights": torch.ones(len(draws)),
            "network_multipliers": torch.ones(len(draws)),
            "alpha_masks": None,
            "custom_attributes": [dict(one.sample.subset.custom_attributes) for one in draws],
            "flippeds": [one.flipped for one in draws],
            "pair_indices": [one.sample.pair_index for one in draws],
            "original_sizes_hw": torch.tensor([image.size[::-1] for image, _ in rows]),
            "crop_top_lefts": torch.tensor([_crop_top_left(one) for one in draws]),
            "target_sizes_hw": torch.tensor([one.sample.frame.bucket[::-1] for one in draws]),
        }

    def _cached_text(self, captions: Sequence[str]) -> list[Tensor]:
        """The cached tensors of the captions, each stacked to (captions, …)."""
        entries = [self.text_cache[caption] for caption in captions]
        rows = [entry if isinstance(entry, tuple) else entry.load() for entry in entries]
        return [torch.stack(tensors) for tensors in zip(*rows, strict=True)]

    def tag_frequency(self) -> dict[str, dict[str, int]]:
        """How often each comma-separated tag stands in the style captions, by folder name."""
        frequency: dict[str, Counter[str]] = {}
        for dataset in self.datasets:
            for subset, samples in dataset.subsets:
                if subset.image_dir.name in frequency:
                    continue
                tags = (tag.strip() for sample in samples for tag in sample.style.caption.split(","))
                frequency[subset.image_dir.name] = Counter(tag for tag in tags if tag)
        return {name: dict(counts) for name, counts in frequency.items()}


def _crop_top_left(one: Draw) -> tuple[int, int]:
    frame = one.sample.frame
    left, top = frame.left_top
    return top, frame.resized[0] - frame.bucket[0] - left if one.flipped else left


def make_dataset_group(source: str | Path | Mapping[str, object], args: EmbeddedOptions, seed: int) -> DatasetGroup:
    """The dataset of a TOML file, or of the same structure as a mapping, with every image found, read and matched.

    Raises:
        PairError: A mistake in the settings or the images, naming the file.
    """
    return DatasetGroup(read_dataset_config(source, args), seed)


def place_batches(
    group: DatasetGroup, epoch: int, skip: int, rank: int, num_processes: int
) -> Iterator[tuple[int, Batch]]:
    """(number in the epoch, batch) for one process, leaving out the first ``skip`` without making them."""
    for number, draws in enumerate(group.rank_batches(epoch, rank, num_processes)):
        if number >= skip:
            yield number, group.collate(draws)
