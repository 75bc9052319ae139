"""One line of a key map."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A layer under its original name, and the diffusers layers that are the same weights.

    Attributes:
        native: Dotted path in the original checkpoint, below the model.
        modules: Dotted paths in diffusers' model, whose weights stacked by rows are the original's. Most layers have
            one; the joint projections of transformers (qkv) have several.
        swaps: The original stacks (shift, scale) where diffusers stacks (scale, shift), in the form of this layer
            that has twice as many rows as inputs.
    """

    native: str
    modules: tuple[str, ...]
    swaps: bool = False


def row_share(module: str) -> int:
    """How many parts of a joint projection's rows this module takes, in units of the hidden width."""
    return 4 if module.endswith("proj_mlp") else 1
