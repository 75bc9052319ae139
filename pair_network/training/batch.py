"""The content and style rows of a pair's batch, together or alone; content rows first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CONTENT = "content"
PAIR_INDICES = "pair_indices"


def content_and_style(batch: dict[str, Any]) -> dict[str, Any]:
    """One batch of 2B rows, content rows then style rows, from a style batch that carries its content rows' batch.

    The originals are left alone: hosts write into the lists of the batch that they are given.
    """
    content = batch[CONTENT]
    return {key: _joined(content.get(key), value) for key, value in batch.items() if key not in (CONTENT, PAIR_INDICES)}


def content_only(batch: dict[str, Any]) -> dict[str, Any]:
    """The B content rows alone."""
    return {key: _copied(batch[CONTENT].get(key)) for key in batch if key not in (CONTENT, PAIR_INDICES)}


def style_only(batch: dict[str, Any]) -> dict[str, Any]:
    """The B style rows alone."""
    return {key: _copied(value) for key, value in batch.items() if key not in (CONTENT, PAIR_INDICES)}


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
