"""What a user asks for: read from controls, API arguments and plot axes, and written into the infotext."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .errors import GuidanceError
from .prompts import checked_words

SLOTS = 3
NO_LORA = "None"
MAX_SCALE = 20.0
TITLE = "Style guidance"
ERROR_KEY, NOTE_KEY, INNER_KEY = f"{TITLE} error", f"{TITLE} note", f"{TITLE} inner passes"
CFG_END, CFG_END_KEY = "cfg_end", f"{TITLE} content CFG until"
# Fields of a style -> the words of its infotext keys, which hold no other signs than a UI's parser takes.
KEY_WORDS = {"lora": "LoRA", "words": "words", "scale": "scale", "start": "start", "end": "end"}


@dataclass(frozen=True)
class Style:
    """One style of a picture.

    Attributes:
        lora: The file's name in the UI's LoRA folder, without its ending.
        words: What follows the prompt in the style's own prompt.
        scale: λ, from −20 to 20; the paper uses 3 for the subject of the pair and 4 for others.
        start: Part of the noise schedule, 0 to 1, where the style begins.
        end: Where it ends.
    """

    lora: str
    words: str = ""
    scale: float = 3.0
    start: float = 0.2
    end: float = 1.0


FIELDS = tuple(field.name for field in fields(Style))
DEFAULTS = Style(NO_LORA)


@dataclass(frozen=True)
class Request:
    """What one generation is to do.

    Attributes:
        styles: At most ``SLOTS``; none leaves the picture as it is.
        inner_passes: Whether passes inside the generation, such as ADetailer's, are guided too.
        cfg_end: Part of the noise schedule, 0 to 1, from which on the content's CFG is 1; 1 leaves it as it is.
    """

    styles: tuple[Style, ...] = ()
    inner_passes: bool = False
    cfg_end: float = 1.0


GENERAL = ("inner_passes", CFG_END)  # of a request, in the order of the controls behind the styles'


def read_request(arguments: Sequence[Any], axes: Mapping[tuple[int | None, str], Any] | None = None) -> Request | None:
    """Reads the controls' values in their order: enabled, five per style, inner passes, content CFG until.

    An API client may put objects with a style's fields where the first style's values would be, and one with the fields
    that are no style's: [true, {…}, {…}, {"cfg_end": 0.4}].

    Args:
        arguments: The values; missing ones have their defaults.
        axes: (slot, field) -> value that a plot sets, slot None for what is no style's; a plot turns guidance on.

    Returns:
        None if guidance is off.

    Raises:
        GuidanceError: A value that cannot be meant, or guidance that is on without a style.
    """
    enabled, *rest = arguments or (False,)
    axes = axes or {}
    if not enabled and not axes:
        return None
    objects = [value for value in rest if isinstance(value, Mapping)]
    slots = [_from_object(value) for value in objects if not _is_general(value)] if objects else _from_controls(rest)
    if len(slots) > SLOTS:
        raise GuidanceError(f"{len(slots)} styles given; at most {SLOTS} are taken")
    slots += [{} for _ in range(SLOTS - len(slots))]
    general = _general(rest, objects)
    for (place, field), value in axes.items():
        (general if place is None else slots[place])[field] = value
    styles = tuple(_style(values, slot) for slot, values in enumerate(slots) if _has_lora(values))
    stray = next((place for place, _ in axes if place is not None and not _has_lora(slots[place])), None)
    if stray is not None:
        raise GuidanceError(f"the plot varies style {stray + 1}, which has no LoRA; choose one")
    if not styles:
        raise GuidanceError("is on, but no style LoRA is chosen")
    cfg_end = _number(general.get(CFG_END, 1.0), CFG_END)
    if not 0 <= cfg_end <= 1:
        raise GuidanceError(f"content CFG until ({CFG_END}): {cfg_end:g} is not between 0 and 1")
    return Request(styles, bool(general.get("inner_passes", False)), cfg_end)


def _is_general(values: Mapping[str, Any]) -> bool:
    return bool(values) and values.keys() <= set(GENERAL)


def _general(rest: Sequence[Any], objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is no style's. The UIs fill the values that an API client leaves out with those of their controls."""
    values = rest[SLOTS * len(FIELDS) :]
    general = {name: value for name, value in zip(GENERAL, values, strict=False) if not isinstance(value, Mapping)}
    for given in objects:
        if _is_general(given):
            general.update(given)
    return {name: value for name, value in general.items() if value is not None}


def _has_lora(values: Mapping[str, Any]) -> bool:
    return values.get("lora") not in (None, "", NO_LORA)


def _from_controls(values: Sequence[Any]) -> list[dict[str, Any]]:
    width = len(FIELDS)
    return [
        dict(zip(FIELDS, values[slot * width : (slot + 1) * width], strict=False))
        for slot in range(SLOTS)
        if values[slot * width : (slot + 1) * width]
    ]


def _from_object(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if name in GENERAL:
            raise GuidanceError(f"{name} is no field of a style; give it in an object of its own")
        if name not in FIELDS:
            near = difflib.get_close_matches(str(name), (*FIELDS, *GENERAL), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise GuidanceError(f"unknown field {name} of a style; fields are {', '.join(FIELDS)}{hint}")
    if not _has_lora(values):
        raise GuidanceError("a style needs its lora, the name of a file in the LoRA folder")
    return dict(values)


def _style(values: Mapping[str, Any], slot: int) -> Style:
    control = f"style {slot + 1}"
    given = {name: values[name] for name in FIELDS if values.get(name) is not None}
    numbers = {name: _number(given[name], f"{control}, {name}") for name in ("scale", "start", "end") if name in given}
    style = Style(str(given["lora"]), checked_words(str(given.get("words", "")), control), **numbers)
    if abs(style.scale) > MAX_SCALE:
        raise GuidanceError(f"{control}: scale {style.scale:g} is not between −{MAX_SCALE:g} and {MAX_SCALE:g}")
    if not 0 <= style.start < style.end <= 1:
        raise GuidanceError(
            f"{control}: start {style.start:g} and end {style.end:g} must lie between 0 and 1, start before end"
        )
    return style


def _number(value: Any, control: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise GuidanceError(f"{control}: {value!r} is not a number") from None
    if not math.isfinite(number):
        raise GuidanceError(f"{control}: {value!r} is not a number")
    return number


def key(slot: int, field: str) -> str:
    """The infotext's key of a style's field: ``Style guidance LoRA 1``."""
    return f"{TITLE} {KEY_WORDS[field]} {slot + 1}"


def all_keys() -> list[str]:
    return [key(slot, field) for slot in range(SLOTS) for field in FIELDS] + [
        ERROR_KEY,
        NOTE_KEY,
        INNER_KEY,
        CFG_END_KEY,
    ]


def infotext(request: Request) -> dict[str, str]:
    """The request as infotext entries; empty words have none."""
    entries = {}
    for slot, style in enumerate(request.styles):
        for field in FIELDS:
            value = getattr(style, field)
            text = value if isinstance(value, str) else f"{value:g}"
            if text:
                entries[key(slot, field)] = text
    if request.inner_passes:
        entries[INNER_KEY] = "True"
    if request.cfg_end < 1:
        entries[CFG_END_KEY] = f"{request.cfg_end:g}"
    return entries


def pasted(entries: Mapping[str, Any], slot: int, field: str) -> Any:
    """The value that a control gets when an infotext is pasted: the picture's own, else the default.

    An infotext of a picture that was made without guidance leaves the styles as they are.
    """
    if not is_guided(entries):
        return None
    default = getattr(DEFAULTS, field)
    value = entries.get(key(slot, field), default)
    return value if isinstance(default, str) else _pasted_number(value, default)


def _pasted_number(value: Any, default: float) -> float:
    """A picture's text may say anything; a paste that fails would leave all other controls empty too."""
    try:
        return _number(value, TITLE)
    except GuidanceError:
        return default


def pasted_cfg_end(entries: Mapping[str, Any]) -> float | None:
    """The same for the content's CFG."""
    return _pasted_number(entries.get(CFG_END_KEY, 1.0), 1.0) if is_guided(entries) else None


def is_guided(entries: Mapping[str, Any]) -> bool:
    """Whether an infotext is of a picture with style guidance."""
    return any(key(slot, "lora") in entries for slot in range(SLOTS))
