"""What a LoRA's own card says of its use: the words that call the style, and the λ that its maker recommends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import GuidanceError
from .prompts import NETWORK, checked_words
from .settings import MAX_SCALE

WORDS, SCALE = "activation text", "style guidance scale"  # keys of NAME.json, the card that the UIs themselves edit
TRIGGER = "modelspec.trigger_phrase"
MAX_BYTES, MAX_LETTERS = 1 << 20, 300  # a card comes with a file from anywhere


@dataclass(frozen=True)
class Card:
    """Either is None where the card does not say it, or says what cannot be used."""

    words: str | None = None
    scale: float | None = None


def read_card(lora: Path) -> Card:
    """The card beside a LoRA file, and the trigger words inside the file where the card has none; never an error."""
    texts = _sidecar(lora.with_suffix(".json"))
    words = _words(texts.get(WORDS))
    return Card(_words(_trigger(lora)) if words is None else words, _scale(texts.get(SCALE)))


def _sidecar(file: Path) -> Mapping[str, Any]:
    try:
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            return {}
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}  # whatever it is, it is no card
    return values if isinstance(values, dict) else {}


def _trigger(lora: Path) -> Any:
    try:
        with safe_open(str(lora), "pt") as handle:
            return (handle.metadata() or {}).get(TRIGGER)
    except (SafetensorError, OSError):
        return None


def _words(value: Any) -> str | None:
    """One line of style words; the tag that loads the LoRA into the prompt, which many cards have, is left out."""
    if not isinstance(value, str):
        return None
    text = " ".join(NETWORK.sub(" ", value).split()).strip(", ")[:MAX_LETTERS]
    try:
        return checked_words(text, "card") or None
    except GuidanceError:
        return None


def _scale(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= MAX_SCALE else None  # neither NaN nor an endless row of digits is
