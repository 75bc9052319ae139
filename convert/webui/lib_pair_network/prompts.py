"""The style's own prompts: the picture's prompt with the style words behind each of its parts."""

from __future__ import annotations

import re

from .errors import GuidanceError

AND = re.compile(r"\bAND\b")
WEIGHT = re.compile(r"\s*:\s*[-+]?(?:\d+\.?|\d*\.\d+)\s*$")  # of a part of an AND prompt
NETWORK = re.compile(r"<\w+:[^>]*>")


def with_words(prompt: str, words: str) -> str:
    """``a cat :1.2 AND a dog`` with ``in poster style`` -> ``a cat in poster style :1.2 AND a dog in poster style``.

    The parts of AND stay parts, so that each has its style row.
    """
    return " AND ".join(_one(part, words) for part in AND.split(prompt)) if words else prompt


def _one(part: str, words: str) -> str:
    weight = WEIGHT.search(part)
    text, tail = (part[: weight.start()], f" {weight.group().strip()}") if weight else (part, "")
    return f"{text.strip()} {words}".strip() + tail


def checked_words(words: str, control: str) -> str:
    """Style words without the spaces around them.

    Raises:
        GuidanceError: They would change how many parts the prompt has, or load a network into every prediction.
    """
    words = words.strip()
    if AND.search(words):
        raise GuidanceError(f"{control}: style words cannot hold AND")
    if NETWORK.search(words):
        raise GuidanceError(
            f"{control}: style words cannot hold {NETWORK.findall(words)[0]}; choose the style's LoRA in its list"
        )
    return words
