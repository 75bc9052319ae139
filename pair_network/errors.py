"""The one exception that users see, and the failure that is nobody's mistake."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

LONGEST = 1000  # characters of an error
LONGEST_WORD = 250


class PairError(ValueError):
    """A mistake in a user's input: one line that names the file or option, the cause and the remedy.

    What the user or a file gave stands in it as a terminal shows it: without control characters, and cut where it is
    long, so that the remedy at the end stays in sight.
    """

    def __init__(self, words: object):
        line = printable(words, 100_000)
        line = re.sub(rf"[^\s/\\]{{{LONGEST_WORD + 1},}}", lambda word: word[0][:LONGEST_WORD] + "…", line)
        super().__init__(line if len(line) <= LONGEST else line[: LONGEST - 300] + " … " + line[-290:])


def printable(value: object, limit: int = 300) -> str:
    """What a user or a file gave, as one line that a terminal shows as it is: no control characters, no long text."""
    text = str(value)
    shown = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= limit else shown[:limit] + "…"


def is_out_of_memory(failure: RuntimeError) -> bool:
    """Whether a device had too little memory; only CUDA's allocator has an exception of its own for it."""
    return any(words in str(failure) for words in ("out of memory", "can't allocate memory"))


def nearest(name: str, accepted: Collection[str]) -> str:
    """' (did you mean …?)' for the closest accepted name, or an empty string."""
    close = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
