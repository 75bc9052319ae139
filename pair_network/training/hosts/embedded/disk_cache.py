"""Encoded pictures and captions on disk, in files that are named after everything they were made from.

A picture that was changed, another model or another precision means another name, so nothing stale is ever read; a
file that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pair_network.errors import PairError, printable
from pair_network.files import atomic_file

from .config import EmbeddedOptions
from .model_files import find_model
from .resume import fingerprint, sampled_hash

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Tensors in a file, read whenever they are asked for."""

    path: Path

    def load(self) -> tuple[Tensor, ...]:
        """The tensors in their order.

        Raises:
            PairError: The file was removed or damaged while the run went on.
        """
        try:
            tensors = load_file(self.path)
            return tuple(tensors[str(number)] for number in range(len(tensors)))
        except (OSError, SafetensorError, KeyError) as cause:
            raise PairError(
                f"{printable(self.path)}: cannot be read any more; start again, with --resume if a state was saved"
            ) from cause


@dataclass(frozen=True)
class DiskCache:
    """A folder of stored tensors.

    Attributes:
        facts: What all of its entries depend on: the model and its precision.
    """

    folder: Path
    facts: tuple[object, ...]

    def entry(self, *facts: object) -> Stored:
        """The place of an entry, whether it is there or not.

        Args:
            facts: What this one depends on besides, as JSON has it.
        """
        text = json.dumps([self.facts, facts], default=str)
        return Stored(self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors")

    def has(self, stored: Stored) -> bool:
        """Whether an entry is there and whole."""
        if not stored.path.is_file():
            return False
        try:
            stored.load()
        except PairError:
            logger.warning("%s is damaged and made anew", printable(stored.path))
            return False
        return True

    def write(self, stored: Stored, tensors: Sequence[Tensor]) -> None:
        """Writes an entry whole or not at all.

        Raises:
            PairError: The disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        named = {str(number): tensor.detach().cpu().contiguous() for number, tensor in enumerate(tensors)}
        with atomic_file(stored.path, sum(tensor.nbytes for tensor in named.values())) as temporary:
            save_file(named, temporary)


def latents_on_disk(args: EmbeddedOptions, vae_dtype: torch.dtype) -> DiskCache | None:
    """The cache of --cache_latents_to_disk, or None."""
    if not args.cache_latents_to_disk:
        return None
    return DiskCache(folder_of(args), ("latents", fingerprint(find_model(args)), str(vae_dtype)))


def captions_on_disk(args: EmbeddedOptions, dtype: torch.dtype) -> DiskCache | None:
    """The cache of --cache_text_encoder_outputs_to_disk, or None."""
    if not args.cache_text_encoder_outputs_to_disk:
        return None
    merged = [sampled_hash(Path(name)) for name in args.base_weights or ()], list(args.base_weights_multiplier or ())
    return DiskCache(
        folder_of(args), ("captions", fingerprint(find_model(args)), str(dtype), args.clip_skip, merged)
    )  # fmt: skip


def folder_of(args: EmbeddedOptions) -> Path:
    """Where a run's caches are: runs of one name share them."""
    return Path(args.output_dir) / f"{args.output_name or 'last'}-cache"
