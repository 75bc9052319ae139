"""Axes for the UIs' X/Y/Z plot: every field of every style, and the content's CFG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_pair_network.settings import CFG_END, CFG_END_KEY, FIELDS, KEY_WORDS, SLOTS, TITLE
from modules import scripts

from .files import style_names
from .processing import AXES

NUMBERS = ("scale", "start", "end", CFG_END)


def add_axes() -> None:
    """Adds the axes to the plot script that is loaded, once."""
    for data in scripts.scripts_data:
        if Path(data.path).name != "xyz_grid.py":
            continue
        plot = data.module
        known = {option.label for option in plot.axis_options}
        new = [_axis(plot, slot, field, f"{KEY_WORDS[field]} {slot + 1}") for slot in range(SLOTS) for field in FIELDS]
        new.append(_axis(plot, None, CFG_END, CFG_END_KEY.removeprefix(f"{TITLE} ")))
        plot.axis_options.extend(option for option in new if option.label not in known)


def _axis(plot: Any, slot: int | None, field: str, label: str) -> Any:
    def apply(p: Any, value: Any, values: Any) -> None:
        # A new dict: the plot's cells are shallow copies of one processing object.
        setattr(p, AXES, {**getattr(p, AXES, {}), (slot, field): value})

    kind = float if field in NUMBERS else str
    choices = {"choices": style_names} if field == "lora" else {}
    return plot.AxisOption(f"[{TITLE}] {label}", kind, apply, **choices)
