"""Latents and text embeddings computed once and kept, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pair_network.errors import PairError
from pair_network.sampling.protocols import Vae

from .config import EmbeddedOptions
from .dataset import DatasetGroup
from .disk_cache import DiskCache, Stored
from .images import load_pixels
from .numbers import check_latents
from .pairs import ImageRecord, Sample
from .resume import file_hash


@dataclass(frozen=True)
class StoredLatents:
    """One draw from an encoded image that lies on disk."""

    stored: Stored
    seed: int

    def load(self) -> Tensor:
        """Latents (channels, h, w), float32: the same at every reading."""
        mean, std = self.stored.load()
        return drawn(mean, std, self.seed)


def drawn(mean: Tensor, std: Tensor, seed: int) -> Tensor:
    """A draw from the distribution in which the VAE puts an image."""
    return mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))


def cache_latents(group: DatasetGroup, vae: Vae, batch_size: int, disk: DiskCache | None = None) -> None:
    """Stores one draw of every image's latents, mirrored too where the subset flips, as float32 on the CPU.

    The draw's noise comes from a generator of its own per pair and flip: the order of caching does not matter, and the
    two images of a pair share it.

    Raises:
        PairError: The VAE overflows in its precision.
    """
    todo = [
        (sample, image, flipped)
        for sample in group.samples
        for image in sample.images
        for flipped in ((False, True) if sample.subset.flip_aug else (False,))
    ]
    if disk is not None:
        todo = [entry for entry in todo if not _found(disk, *entry, group.seed)]
    todo.sort(key=lambda entry: entry[0].frame.bucket)
    start = 0
    while start < len(todo):
        bucket = todo[start][0].frame.bucket
        chunk = [entry for entry in todo[start : start + batch_size] if entry[0].frame.bucket == bucket]
        _cache_chunk(chunk, vae, group.seed, disk)
        start += len(chunk)


def _place(disk: DiskCache, sample: Sample, image: ImageRecord, flipped: bool) -> Stored:
    return disk.entry(file_hash(image.path), asdict(sample.frame), flipped)


def _found(disk: DiskCache, sample: Sample, image: ImageRecord, flipped: bool, seed: int) -> bool:
    """Takes an image's latents from the disk, if they are there."""
    stored = _place(disk, sample, image, flipped)
    if not disk.has(stored):
        return False
    image.latents[flipped] = StoredLatents(stored, _seed_of(seed, sample, flipped))
    return True


def _seed_of(seed: int, sample: Sample, flipped: bool) -> int:
    return (seed * 1_000_003 + sample.pair_index * 2 + flipped) % 2**63


def _cache_chunk(
    chunk: Sequence[tuple[Sample, ImageRecord, bool]], vae: Vae, seed: int, disk: DiskCache | None
) -> None:
    images = torch.stack([load_pixels(image.path, sample.frame, flipped) for sample, image, flipped in chunk])
    with torch.no_grad():
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    for row, (sample, image, flipped) in enumerate(chunk):
        mean, std = (part[row].float().cpu() for part in (posterior.mean, posterior.std))
        own_seed = _seed_of(seed, sample, flipped)
        latents = check_latents(drawn(mean, std, own_seed), [image.path])
        if disk is None:
            image.latents[flipped] = latents
            continue
        stored = _place(disk, sample, image, flipped)
        disk.write(stored, (mean, std))
        image.latents[flipped] = StoredLatents(stored, own_seed)


def captions_change(args: EmbeddedOptions, group: DatasetGroup, trains_text_encoder: bool) -> bool:
    """Whether embeddings differ from step to step, so that none can be kept.

    Raises:
        PairError: They are to be kept on disk all the same.
    """
    reason = "text encoders train" if trains_text_encoder else ""
    if any(subset.shuffle_caption for subset in group.subsets):
        reason = "captions are shuffled"
    if reason and args.cache_text_encoder_outputs_to_disk:
        raise PairError(f"--cache_text_encoder_outputs_to_disk: {reason}, so there is nothing to keep; leave it out")
    return bool(reason)


def cache_captions(
    group: DatasetGroup,
    encode: Callable[[list[Tensor]], list[Tensor]],
    batch_size: int = 16,
    disk: DiskCache | None = None,
) -> None:
    """Stores the text embeddings of every caption; ``encode`` maps token ids to tensors with a row for each caption."""
    assert group.tokenize_strategy is not None
    captions = group.captions()
    if disk is not None:
        group.text_cache.update({caption: disk.entry(caption) for caption in captions})
        captions = [caption for caption in captions if not disk.has(disk.entry(caption))]
    for start in range(0, len(captions), batch_size):
        chunk = captions[start : start + batch_size]
        with torch.no_grad():
            embeddings = [tensor.cpu() for tensor in encode(group.tokenize_strategy.tokenize(chunk))]
        for row, caption in enumerate(chunk):
            tensors = tuple(tensor[row] for tensor in embeddings)
            if disk is None:
                group.text_cache[caption] = tensors
            else:
                disk.write(disk.entry(caption), tensors)
