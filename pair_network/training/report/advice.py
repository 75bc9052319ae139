"""Which strength, λ and saved file to take: the strongest style among those that keep the picture in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import NAMES

# "structure kept" where the judge of the bench has a structure of .7 to .8 (docs/report.md).
KEPT = 0.5
STRENGTHS = (0.6, 0.8, 1.0, 1.3)  # of the LoRA
SHARES = (0.5, 1.0, 1.5)  # of the previews' λ
GAIN = 0.05  # less is no reason to take an earlier file
LITTLE = 0.1  # of the style: nothing that strength could bring out

Figures = Mapping[str, float]


def best(measured: Mapping[float, Figures]) -> float | None:
    """The strength with the most style among those that keep the structure; else the one that keeps most of it."""
    whole = {at: found for at, found in measured.items() if len(found) == len(NAMES)}
    if not whole:
        return None
    keeping = {at: found for at, found in whole.items() if found[NAMES[1]] >= KEPT}
    if keeping:
        return max(keeping, key=lambda at: keeping[at][NAMES[0]])
    return max(whole, key=lambda at: whole[at][NAMES[1]])


def advice(lora: Mapping[float, Figures], guidance: Mapping[float, Figures], earlier: str = "") -> dict[str, Any]:
    """The recommendation for the report: a sentence, and a table of all that was measured.

    Args:
        lora: Figures by strength.
        guidance: Figures by λ.
        earlier: A sentence about a better saved file.
    """
    ways = [("as a LoRA: strength", "LoRA, strength", lora), ("with style guidance: λ", "guidance, λ", guidance)]
    parts = []
    for words, _, measured in ways:
        at = best(measured)
        if at is not None:
            said = ", ".join(f"{name} {measured[at][name]:.2f}" for name in NAMES)
            parts.append(f"{words} {at:g} ({said})")
    if not parts:
        return {}
    rows = [
        {"label": f"{label} {at:g}", "values": [found[name] for name in NAMES]}
        for _, label, measured in ways
        for at, found in sorted(measured.items())
        if len(found) == len(NAMES)
    ]
    reached = [found[NAMES[0]] for _, _, measured in ways for found in measured.values() if len(found) == len(NAMES)]
    text = f"To begin with, {'; or '.join(parts)}.{' ' + earlier if earlier else ''}"
    if max(reached) < LITTLE:
        text = "Hardly any style was reached at any strength: train longer, or with a larger learning rate."
    return {"text": text, "names": list(NAMES), "rows": rows}


def better_save(figures: Sequence[Mapping[str, Any]], folder: Path, name: str) -> str:
    """A sentence about a saved file that reached more style than the last one; "" where there is none."""
    column = next((key for key in (figures[-1] if figures else {}) if key.startswith("style guidance")), "")
    times = {entry["step"]: entry[column] for entry in figures if len(entry.get(column, {})) == len(NAMES)}
    step = best(times)
    if step is None or step == figures[-1]["step"]:
        return ""
    gain = times[step][NAMES[0]] - times[figures[-1]["step"]][NAMES[0]] if figures[-1]["step"] in times else 0.0
    file = folder / f"{name}-step{int(step):08d}.safetensors"
    return f"After step {step} it was better: {file.name}." if gain > GAIN and file.is_file() else ""
