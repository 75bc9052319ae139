"""The options of a batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pair_network.options import option

from .log import NAME

VERBS = ("a1111", "diffusers", "peft", "kohya", "pair", "official", "resize", "bake", "merge", "extract", "info")


@dataclass(frozen=True)
class Options:
    """The batch's own options."""

    batch_verb: str = option(
        "", f"one of {', '.join(VERBS)}", is_positional=True, choices=(*VERBS, "blend"), metavar="VERB"
    )
    inputs: Sequence[str] = option((), "folder, file or glob", is_positional=True, nargs="+", metavar="DIR")
    output: Path | None = option(
        None, "folder for the outputs and the log", Path, short="-o", default="beside each input"
    )
    jobs: int = option(os.cpu_count() or 1, "files at once", int, default="the number of cores")
    dry_run: bool = option(False, "say what would be done, and write nothing", key="dry-run")
    resume: bool = option(False, "skip what the log says is done, if it is still intact")
    follow_links: bool = option(False, "also read links that lead out of a folder", key="follow-links")
    log: Path | None = option(None, "the log", Path, metavar="FILE", default=f"{NAME} beside the outputs")
    rest: Sequence[str] = ()  # the options of the verb that is run, as given
