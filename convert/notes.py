"""What a verb has to say beside its result: notes, logged by the code, shown by the command line and recorded by a
batch; and errors."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pair_network.signals import Interrupted, received

LOGGER = logging.getLogger("convert")


class _Handler(logging.Handler):
    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self.take = take

    def emit(self, record: logging.LogRecord) -> None:
        self.take(" ".join(record.getMessage().split()))


@contextmanager
def notes(take: Callable[[str], object]) -> Iterator[None]:
    """Within the block, every warning of the converters goes to ``take`` as one line, and nowhere else."""
    before, propagates = LOGGER.handlers[:], LOGGER.propagate
    handler = _Handler(take)
    LOGGER.handlers[:], LOGGER.propagate = [handler], False
    try:
        yield
    finally:
        LOGGER.handlers[:], LOGGER.propagate = before, propagates


def os_reason(error: OSError, source: str | Path) -> str:
    """What the system refused, by the name that the user knows: not that of the temporary file beside it.

    Args:
        error: The refusal.
        source: What was being done, or to which file, for a refusal that names none.
    """
    place = Path(error.filename or source)
    name = re.sub(r"^\.(.+)\.\w{8}\.tmp$", r"\1", place.name)
    is_blocked = isinstance(error, (FileExistsError, NotADirectoryError))
    remedy = "a file is where a folder is needed" if is_blocked else "check space and permissions"
    if error.errno == errno.ENAMETOOLONG:
        remedy = "give a shorter name with -o"
    return f"{place.with_name(name) if place.name else place}: {error.strerror or error}; {remedy}"


def report(error: object) -> int:
    """Says it in one line, unless it is what a library made of a signal."""
    if received():
        raise Interrupted(received())
    print(f"error: {error}", file=sys.stderr)
    return 1
