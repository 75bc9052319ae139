"""Joining a batch and its twins into one, content rows first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TWINS = "twins"
PAIR_INDICES = "pair_indices"


def join_twins(batch: dict[str, Any]) -> dict[str, Any]:
    """One batch of 2B rows, content rows then style rows, from a style batch with its ``twins``.

    The originals are left alone: hosts write into the lists of the batch that they are given.
    """
    twins = batch[TWINS]
    return {key: _joined(twins.get(key), value) for key, value in batch.items() if key not in (TWINS, PAIR_INDICES)}


def content_only(batch: dict[str, Any]) -> dict[str, Any]:
    """The B content rows alone."""
    return {key: _copied(batch[TWINS].get(key)) for key in batch if key not in (TWINS, PAIR_INDICES)}


def style_only(batch: dict[str, Any]) -> dict[str, Any]:
    """The B style rows alone."""
    return {key: _copied(value) for key, value in batch.items() if key not in (TWINS, PAIR_INDICES)}


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _joined(content: Any, style: Any) -> Any:
    if isinstance(style, Tensor):
        return _cat(content, style)
    if isinstance(style, (list, tuple)):
        if any(isinstance(item, Tensor) for item in style):
            # One entry for each text encoder, every entry with a row for each sample.
            return [None if s is None else _cat(c, s) for c, s in zip(content, style, strict=True)]
        return [*content, *style]
    return style


def _cat(content: Tensor, style: Tensor) -> Tensor:
    """Rows of both; cached text-encoder outputs of different lengths are padded with zeros."""
    if content.shape[1:] != style.shape[1:]:
        sizes = [max(a, b) for a, b in zip(content.shape[1:], style.shape[1:], strict=True)]
        content, style = _padded(content, sizes), _padded(style, sizes)
    return torch.cat([content, style])


def _padded(value: Tensor, sizes: list[int]) -> Tensor:
    missing = [want - have for have, want in zip(value.shape[1:], sizes, strict=True)]
    return torch.nn.functional.pad(value, [side for count in reversed(missing) for side in (0, count)])
