"""What a verb has to say beside its result: logged by the code, shown by the command line, recorded by a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
