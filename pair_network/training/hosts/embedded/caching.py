"""Latents and text embeddings computed once and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .dataset import DatasetGroup
from .images import load_pixels
from .numbers import check_latents
from .pairs import ImageRecord, Sample


def cache_latents(group: DatasetGroup, vae: Any, batch_size: int) -> None:
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
    todo.sort(key=lambda entry: entry[0].frame.bucket)
    start = 0
    while start < len(todo):
        bucket = todo[start][0].frame.bucket
        chunk = [entry for entry in todo[start : start + batch_size] if entry[0].frame.bucket == bucket]
        _cache_chunk(chunk, vae, group.seed)
        start += len(chunk)


def _cache_chunk(chunk: Sequence[tuple[Sample, ImageRecord, bool]], vae: Any, seed: int) -> None:
    images = torch.stack([load_pixels(image.path, sample.frame, flipped) for sample, image, flipped in chunk])
    with torch.no_grad():
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    for row, (sample, image, flipped) in enumerate(chunk):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + sample.pair_index * 2 + flipped) % 2**63)
        noise = torch.randn(posterior.mean[row].shape, generator=generator)
        latents = posterior.mean[row].float().cpu() + posterior.std[row].float().cpu() * noise
        image.latents[flipped] = check_latents(latents, [image.path])


def cache_captions(group: DatasetGroup, encode: Callable[[list[Tensor]], list[Tensor]], batch_size: int = 16) -> None:
    """Stores the text embeddings of every caption; ``encode`` maps token ids to tensors with a row for each caption."""
    assert group.tokenize_strategy is not None
    captions = group.captions()
    for start in range(0, len(captions), batch_size):
        chunk = captions[start : start + batch_size]
        with torch.no_grad():
            embeddings = [tensor.cpu() for tensor in encode(group.tokenize_strategy.tokenize(chunk))]
        for row, caption in enumerate(chunk):
            group.text_cache[caption] = tuple(tensor[row] for tensor in embeddings)
