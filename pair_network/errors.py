"""The one exception that users see, and the failure that is nobody's mistake."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class PairError(ValueError):
    """A mistake in a user's input: one line that names the file or option, the cause and the remedy."""


def printable(value: object, limit: int = 300) -> str:
    """What a user or a file gave, as one line that a terminal shows as it is: no control characters, no long text."""
    text = str(value)
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= limit else shown[:limit] + "…"


def is_out_of_memory(failure: RuntimeError) -> bool:
    """Whether a device had too little memory; only CUDA's allocator has an exception of its own for it."""
    return any(words in str(failure) for words in ("out of memory", "can't allocate memory"))


def nearest(name: str, accepted: Collection[str]) -> str:
    """' (did you mean …?)' for the closest accepted name, or an empty string."""
    close = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
