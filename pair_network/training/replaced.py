"""Putting other functions, values and modes in a host's place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def replaced(holder: object, values: Mapping[str, object]) -> Iterator[None]:
    """Inside the block the attributes have these values; afterwards their own again."""
    before = {name: getattr(holder, name) for name in values}
    try:
        for name, value in values.items():
            setattr(holder, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)


@contextmanager
def evaluated(*models: nn.Module) -> Iterator[None]:
    """Inside the block the models are in evaluation mode, without gradients: no dropout in previews."""
    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
