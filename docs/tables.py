"""Writes the tables of options and models into README.md and docs: ``python docs/tables.py``.

A table stands between two comments, ``<!-- options: NAME -->`` and ``<!-- end -->``, and is made from the fields that
also make the parsers, from the families, and from the committed lists of the other trainers' options.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from convert.options import OfBranch
from convert.verbs import SUMMARIES, verb_named
from pair_network.families import FAMILIES, Family
from pair_network.network.config import PairConfig
from pair_network.options import options_of, table
from pair_network.pseudo_pairs.options import PairsOptions
from pair_network.sampling.cli.options import GenerateOptions, RestyleOptions
from pair_network.training.hosts.embedded.config import MODEL_TYPES, EmbeddedOptions
from pair_network.training.options import PairOptions

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "tests/training/hosts"  # what the other trainers' parsers have, as it was read from their checkouts


def rows(*lines: Iterable[str]) -> str:
    """A Markdown table, its heads first."""
    heads, *rest = [list(line) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rest])


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def models_by_host() -> str:
    """Which host trains a family, by which --model_type, and its presets."""

    def row(family: Family) -> list[str]:
        kohya = family.sd_scripts.model_type if family.sd_scripts else ""
        version = " with `--v2`" if family.is_v2 else ""
        known = (ENCODERS[each.kind] for each in family.text_encoders if each.kind in ENCODERS)
        encoders = ", ".join(dict.fromkeys(known))
        return [
            family.title,
            f"`{kohya}`{version}" if kohya else "–",
            f"`{family.musubi.model_type}`" if family.musubi else "–",
            "●" if kohya in MODEL_TYPES else "–",
            encoders if family.trains_text_encoders else "–",
            code(family.presets),
        ]

    heads = ["model", "sd-scripts", "musubi-tuner", "embedded", "text encoders on request", "presets"]
    return rows(heads, *(row(family) for family in FAMILIES.values()))


def options_by_host() -> str:
    """The embedded host's options by heading, and which of kohya's trainers have one of the same name.

    Those of pair training are everywhere and left out.
    """

    def listed(file: str, *families: str) -> set[str]:
        lists = json.loads((LISTS / file).read_text(encoding="utf-8"))
        return {name for family in ("all", *families) for name in lists[family]}

    theirs = listed("sd_scripts_options.json", *MODEL_TYPES), listed("musubi_options.json")
    groups: dict[str, list[list[str]]] = {}
    pair_training = {name for name, *_ in options_of(PairOptions)}
    for name, key, _, one in options_of(EmbeddedOptions):
        if name in pair_training:
            continue
        places = groups.setdefault(one.group.partition(" (")[0] or "files", [[], [], []])
        places[0 if key in theirs[0] & theirs[1] else 1 if key in theirs[0] else 2].append(key)
    heads = ["heading", "on all three", "on sd-scripts and embedded", "embedded alone"]
    return rows(heads, *([group, *map(code, places)] for group, places in groups.items()))


ENCODERS = {"clip": "CLIP", "open_clip": "CLIP", "t5": "T5", "llm": "its language model"}


def options_of_convert() -> str:
    """The options of every verb of convert under a heading of its own; those that most of them have stand first."""
    parts = ["### Of most verbs", table(OfBranch, "--")]
    for name in SUMMARIES:
        verb = verb_named(name)
        if any(True for _ in _own(verb.options)):
            parts += [f"### {name}", table(verb.options, "--", without=OfBranch)]
    return "\n\n".join(parts)


def _own(settings: type) -> Iterable[str]:
    """The options that a verb has beside those of most."""
    shared = {name for name, *_ in options_of(OfBranch)}
    return (name for name, *_ in options_of(settings) if name not in shared)


TABLES: dict[str, Callable[[], str]] = {
    "network_args": lambda: table(PairConfig, with_change=True),
    "pair training": lambda: table(PairOptions, "--"),
    "embedded host": lambda: table(EmbeddedOptions, "--", without=PairOptions),
    "generate": lambda: table(GenerateOptions, "--"),
    "restyle": lambda: table(RestyleOptions, "--"),
    "pairs": lambda: table(PairsOptions, "--"),
    "convert": options_of_convert,
    "models by host": models_by_host,
    "options by host": options_by_host,
}
PAGES = (ROOT / "README.md", ROOT / "docs/options.md", ROOT / "docs/hosts.md")
PLACE = re.compile(r"(<!-- options: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with every table made anew."""
    return PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", page)


def main() -> None:
    for path in PAGES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
