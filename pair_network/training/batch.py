"""The content and style rows of a pair's batch, together or alone; content rows first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor

from .protocols import Batch

CONTENT: Final = "content"
PAIR_INDICES: Final = "pair_indices"


def content_and_style(batch: Batch) -> Batch:
    """One batch of 2B rows, content rows then style rows, from a style batch that carries its content rows' batch.

    The originals are left alone: hosts write into the lists of the batch that they are given.
    """
    content, style = _sides(batch)
    return _batch({key: _joined(content.get(key), value) for key, value in style.items()})


def content_only(batch: Batch) -> Batch:
    """The B content rows alone."""
    content, style = _sides(batch)
    return _batch({key: _copied(content.get(key)) for key in style})


def style_only(batch: Batch) -> Batch:
    """The B style rows alone."""
    return _batch({key: _copied(value) for key, value in _sides(batch)[1].items()})


def _sides(batch: Batch) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Content and style rows by key, whatever keys the host has."""
    style = {key: value for key, value in batch.items() if key not in (CONTENT, PAIR_INDICES)}
    return cast(Mapping[str, object], batch[CONTENT] or {}), style


def _batch(rows: dict[str, object]) -> Batch:
    return cast(Batch, rows)


def _copied(value: object) -> object:
    return list(value) if isinstance(value, list) else value


def _joined(content: object, style: object) -> object:
    if isinstance(style, Tensor):
        assert isinstance(content, Tensor)
        return _cat(content, style)
    if isinstance(style, (list, tuple)):
        assert isinstance(content, (list, tuple))
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
