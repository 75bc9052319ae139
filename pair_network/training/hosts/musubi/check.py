"""``python -m pair_network.training.hosts.musubi.check DIR``: a checkout beside what pair training relies on."""

from __future__ import annotations

import sys

from pair_network.errors import PairError

from ..contract import MUSUBI_FUNCTIONS, MUSUBI_HOOKS, Comparison, compare, report
from .entry import import_musubi
from .families import TRAINERS


def compare_checkout(checkout: str) -> list[Comparison]:
    """Everything that pair training relies on in a checkout of musubi-tuner, family by family.

    Raises:
        PairError: The folder is no checkout, or its packages are missing.
    """
    comparisons: list[Comparison] = []
    for family in TRAINERS.values():
        module = import_musubi(checkout, family.module)
        comparisons += compare(family.module, module, MUSUBI_FUNCTIONS)
        comparisons += compare(family.trainer, getattr(module, family.trainer), MUSUBI_HOOKS)
    return comparisons


def main(argv: list[str]) -> int:
    """Prints the comparison; 1 when something is missing or changed."""
    if len(argv) != 1:
        print("usage: python -m pair_network.training.hosts.musubi.check MUSUBI_DIR", file=sys.stderr)
        return 2
    try:
        return report(compare_checkout(argv[0]))
    except PairError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
