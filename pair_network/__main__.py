"""``python -m pair_network generate`` and ``python -m pair_network restyle``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .errors import PairError, is_out_of_memory

USAGE = """usage: python -m pair_network VERB ...

  generate   pictures with a style: from text, from a picture, inpainting, ControlNet, grids and comparisons
  restyle    a photo in a style, by DDIM inversion

python -m pair_network VERB --help lists a verb's options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; a user's mistake is one line on stderr and exit status 2."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        if verb == "generate":
            from .sampling.cli import generate

            generate.run(rest)
        elif verb == "restyle":
            from .sampling.cli import restyle

            restyle.run(rest)
        else:
            raise PairError(f"unknown verb {verb!r}; known are generate and restyle")
    except PairError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except RuntimeError as failure:
        if not is_out_of_memory(failure):
            raise
        reason = " ".join(str(failure).split())[:120]
        print(f"error: too little memory ({reason}); --low_memory, or smaller --width and --height", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
