"""The one exception that users see, and the failure that is nobody's mistake."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Collection

from .signals import received

# Exit status of a verb whose input has no mistake, but is not fit for it: a style that no map of pixels reproduces.
UNFIT = 3
LONGEST = 1000  # characters of an error
LONGEST_WORD = 250
PEER_IS_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
)  # gloo's, NCCL's words


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


def is_out_of_memory(failure: RuntimeError | MemoryError) -> bool:
    """Whether a device had too little memory; only CUDA's allocator has an exception of its own for it."""
    return isinstance(failure, MemoryError) or any(
        words in str(failure) for words in ("out of memory", "can't allocate memory")
    )


def reported(run: Callable[[], int], memory_remedy: str) -> int:
    """A program's exit status; what a user can mend is one line on stderr, and status 2.

    Args:
        run: The program.
        memory_remedy: What makes it need less memory.
    """
    try:
        return run()
    except Exception as failure:
        words = None if received() else _mendable(failure, memory_remedy)
        if words is None:
            raise
    print(f"error{_of_process()}: {words}", file=sys.stderr)
    return 2


def _mendable(failure: Exception, memory_remedy: str) -> str | None:
    """The sentence for a failure that is a user's matter; None for any other."""
    if isinstance(failure, PairError):
        return str(failure)
    if isinstance(failure, OSError):
        name = printable(failure.filename or "a file")
        return f"{name}: {failure.strerror or failure}; check space and permissions"
    if not isinstance(failure, (RuntimeError, MemoryError)):
        return None
    if any(mark in str(failure) for mark in PEER_IS_GONE):
        return "another process of this run has ended; it says why"
    reason = printable(" ".join(str(failure).split()), 120)
    return f"too little memory ({reason}); {memory_remedy}" if is_out_of_memory(failure) else None


def _of_process() -> str:
    """Which one of several, whose launcher shows the output of all: the first one needs no name."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return "" if rank == "0" else f" (process {printable(rank, 10)})"


def nearest(name: str, accepted: Collection[str]) -> str:
    """' (did you mean …?)' for the closest accepted name, or an empty string."""
    close = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
