"""A small training host on diffusers and accelerate: sd-scripts' hooks, options, dataset files and file names."""

from __future__ import annotations

import os
from collections.abc import Sequence


def train(argv: Sequence[str]) -> int:
    """Trains on pairs as the command line (without the program's name) says; returns the exit code.

    Raises:
        PairError: A mistake in the options or the files they name.
        SystemExit: The run was interrupted, after its state was saved.
    """
    if {"-h", "--help"} & set(argv):
        from .options import training_parser

        training_parser().parse_args(argv)  # shows the options and leaves
    # transformers tells at import time, for every image processor, that torchvision is missing; nothing here needs it
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # diffusers and transformers take seconds to import; --help on the other host must not wait for them
    from .entry import train_pairs

    return train_pairs(argv)
