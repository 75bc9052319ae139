"""The table of families and UIs in docs/convert.md, made from the code: ``python -m convert.formats.table``.

A cell says how much of a LoRA a UI applies: of the file that ``kohya`` writes, over every layer of the family's
denoiser in its blocks, and of the other naming that is best there where it takes more of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pair_network.families import Family

from .families import FAMILIES
from .match import UIS, match_all
from .names import kohya_entries, original_entries

PAGE = Path(__file__).parents[2] / "docs" / "convert.md"
START, END = "<!-- families: made by python -m convert.formats.table -->", "<!-- end of families -->"
# Chroma's network that feeds the modulation has layers of its own, which are no blocks and which no trainer takes.
BLOCKS = re.compile(r"^(?!.*distilled_guidance_layer).*(?:blocks|layers|refiner)\.")
KOHYA, DOTTED = (".lora_down.weight", ".lora_up.weight", ".alpha"), (".lora_A.weight", ".lora_B.weight")


def table() -> str:
    """The table as Markdown."""
    lines = [f"| family | `--family` | {' | '.join(UIS)} |", f"|---|---|{'---|' * len(UIS)}"]
    for family in FAMILIES.values():
        cells = " | ".join(cell(family, ui) for ui in UIS)
        lines.append(f"| {family.title} | `{family.name}` | {cells} |")
    return "\n".join(lines)


def cell(family: Family, ui: str) -> str:
    """What a UI takes of the family's kohya file, and under which names it takes more."""
    if ui not in family.reads:
        return "–"
    shares = {name: share(keys, family, ui) for name, keys in namings(family).items()}
    best = max(shares, key=lambda name: shares[name])
    own = _in_words(shares["kohya"])
    return own if shares["kohya"] >= shares[best] else f"{own}; {best}: {_in_words(shares[best])}"


def namings(family: Family) -> dict[str, list[str]]:
    """Tensor names of a LoRA over all layers in the family's blocks, in each naming that a verb writes."""
    blocks = [modules for modules, _ in kohya_entries(family).values() if BLOCKS.search(modules[0])]
    wanted = {module for modules in blocks for module in modules if module.startswith(f"{family.component}.")}
    return {
        "kohya": _keys(kohya_entries(family), wanted, KOHYA),
        "diffusers": [f"{module}{end}" for module in sorted(wanted) for end in DOTTED],
        "a1111 --ui comfyui": _keys(original_entries(family), wanted, KOHYA),
    }


def _keys(entries: dict[str, tuple[tuple[str, ...], bool]], wanted: set[str], ends: Iterable[str]) -> list[str]:
    return [f"{key}{end}" for key, (modules, _) in entries.items() if modules[0] in wanted for end in ends]


def share(keys: list[str], family: Family, ui: str) -> float:
    """Share of the tensors that the UI applies."""
    match = next(match for match in match_all(keys, family, {}) if match.ui == ui)
    return match.matched / match.total


def _in_words(part: float) -> str:
    return "all" if part == 1 else "nothing" if part == 0 else f"{part:.0%}"


def page(text: str) -> str:
    """The page with the table as it is now.

    Raises:
        ValueError: It lacks the marks.
    """
    before, _, rest = text.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE}: has no {START} … {END}")
    return f"{before}{START}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
