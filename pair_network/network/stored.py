"""Values of settings as a file's metadata stores them, in JSON.

A file may come from anyone, so a value must have the right type already and is never converted; each function gives the
value for the config, and raises ValueError with what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

# Beyond any layer's width and any training's pairs: a file that claims more would only cost memory.
MAX_COUNT = 1 << 16


def count(value: object, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= MAX_COUNT:
        raise ValueError(f"must be a whole number from {least} to {MAX_COUNT}")
    return int(value)


def number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise ValueError("must be a number")
    return float(value)


def scale(value: object) -> float:
    if number(value) == 0:
        raise ValueError("must not be 0")
    return number(value)


def seed(value: object) -> int:
    if type(value) is not int or value.bit_length() > 64:
        raise ValueError("must be a whole number of at most 64 bits")
    return int(value)


def flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return bool(value)


def one_of(accepted: Collection[str]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in accepted:
            raise ValueError(f"must be one of {', '.join(accepted)}")
        return value

    return check


def list_of(accepted: Collection[str]) -> Callable[[object], tuple[str, ...]]:
    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or any(each not in accepted for each in value):
            raise ValueError(f"must be a list of {', '.join(accepted)}")
        return tuple(value)

    return check


def block_ranks(value: object) -> tuple[tuple[str, int], ...]:
    """[["part of a layer's path", rank], …]."""
    if not isinstance(value, list) or any(not isinstance(entry, list) or len(entry) != 2 for entry in value):
        raise ValueError("must be a list of pairs")
    if any(not isinstance(part, str) for part, _ in value):
        raise ValueError("must name parts of layers' paths")
    return tuple((part, count(rank, 0)) for part, rank in value)


def ranged(check: Callable[[float], float], is_optional: bool = False) -> Callable[[object], float | None]:
    """A number that ``check`` accepts, or null."""
    return lambda value: None if value is None and is_optional else check(number(value))
