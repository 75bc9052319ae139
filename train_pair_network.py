"""Train a pair LoRA: on kohya's sd-scripts or musubi-tuner where a checkout is named, else on the embedded host."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # accelerate launch starts scripts from anywhere

from pair_network.errors import PairError
from pair_network.signals import run_main


def main(argv: list[str] | None = None) -> int:
    from pair_network.training.launch import train

    try:
        return train(sys.argv[1:] if argv is None else argv)
    except PairError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except OSError as cause:
        print(
            f"error: {cause.filename or 'a file'}: {cause.strerror or cause}; check space and permissions",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(run_main(main))
