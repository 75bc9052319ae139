"""Putting other functions and values in a host's place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


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
