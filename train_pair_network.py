"""Train a pair LoRA: on kohya's sd-scripts or musubi-tuner where a checkout is named, else on the embedded host."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # accelerate launch starts scripts from anywhere

from pair_network.__main__ import LESS_MEMORY
from pair_network.errors import reported
from pair_network.signals import run_main


def main(argv: list[str] | None = None) -> int:
    from pair_network.training.launch import train

    return reported(lambda: train(sys.argv[1:] if argv is None else argv), LESS_MEMORY)


if __name__ == "__main__":
    sys.exit(run_main(main))
