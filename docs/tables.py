"""Writes the tables of options into README.md and docs/options.md: ``python docs/tables.py``.

A table stands between two comments, ``<!-- options: NAME -->`` and ``<!-- end -->``, and is made from the fields that
also make the parsers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pair_network.network.config import PairConfig
from pair_network.options import table
from pair_network.training.hosts.embedded.config import EmbeddedOptions
from pair_network.training.options import PairOptions

ROOT = Path(__file__).resolve().parents[1]
TABLES: dict[str, Callable[[], str]] = {
    "network_args": lambda: table(PairConfig, with_change=True),
    "pair training": lambda: table(PairOptions, "--"),
    "embedded host": lambda: table(EmbeddedOptions, "--", without=PairOptions),
}
PAGES = (ROOT / "README.md", ROOT / "docs/options.md")
PLACE = re.compile(r"(<!-- options: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with every table made anew."""
    return PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", page)


def main() -> None:
    for path in PAGES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
