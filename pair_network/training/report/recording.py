"""Keeps a run's record and report up to date while it trains; on the main process alone."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pair_network.images import list_images

from ..options import HostOptions
from .advice import Figures, advice, better_save
from .record import SUFFIX, WRITE_EVERY, Record, read_record
from .report import write_report

logger = logging.getLogger(__name__)

MOST_PAIRS = 3  # of the report's pictures
MOST_TEXT = 300


class Recording:
    """The open record of a run.

    Args:
        args: The host's options.
        words: The style's.
        step: Steps that were made before, where a state is resumed.
    """

    def __init__(self, args: HostOptions, words: str, step: int):
        name, folder = args.output_name or "last", str(args.output_dir)
        before = read_record(Path(folder) / f"{name}{SUFFIX}") if step else None
        self.record = before or Record(name, folder)
        self.record.go_back_to(step)
        self.record.words, self.record.total_steps, self.record.state = words, args.max_train_steps, "running"
        self.record.settings, self.record.command = settings_of(args), command_of(args)
        self.record.pair = [str(path) for path in pair_files(args)]
        self.record.started = time.time() - self.record.seconds
        self._written = 0.0

    def note_step(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.record.note_losses(step, losses)
        if time.monotonic() - self._written > WRITE_EVERY:
            self.write()

    def note_previews(
        self, step: int, sheets: Sequence[Path], prompts: Sequence[str], figures: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Pictures and figures after a step, and the report with them."""
        self.record.note_previews(step, sheets, prompts)
        if figures:
            self.record.note_figures(step, figures)
        self.write(with_report=True)

    def note_advice(self, lora: Mapping[float, Figures], guidance: Mapping[float, Figures]) -> None:
        """What was measured by strength and by λ, made into a recommendation."""
        folder = Path(self.record.folder)
        self.record.advice = advice(lora, guidance, better_save(self.record.figures, folder, self.record.name))

    def end(self, state: str) -> None:
        self.record.state = state
        self.write(with_report=True)

    def write(self, with_report: bool = False) -> None:
        """A full disk or a folder that has gone is no reason to end a training."""
        self._written = time.monotonic()
        try:
            self.record.write()
            if with_report:
                write_report(self.record)
        except (OSError, ValueError) as cause:
            logger.warning("the report of this run could not be written: %s", cause)


def settings_of(args: HostOptions) -> dict[str, Any]:
    """The options that say something: none at its default, where the host's own are known, and none left out."""
    found = {}
    for name, value in vars(args).items():
        is_said = value not in (None, False, "", [], ()) and value != getattr(type(args), name, None)
        if is_said and isinstance(value, (str, int, float, list, tuple)):
            found[name] = value if isinstance(value, (int, float)) else shown(value)
    return found


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else " ".join(map(str, value))
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"


def command_of(args: HostOptions) -> str:
    """The command line of this process, with the seed that was drawn where none was given."""
    parts = list(sys.orig_argv)
    seed = getattr(args, "seed", None)
    if seed is not None and not any(part.partition("=")[0] == "--seed" for part in parts):
        parts += ["--seed", str(seed)]
    return shlex.join(parts)


def pair_files(args: HostOptions) -> list[Path]:
    """Content and style image of the first pairs, in turn: as they are trained on, where they had to be copied."""
    copies = Path(args.output_dir) / f"{args.output_name or 'last'}-dataset"
    sides = [copies / "content", copies / "style"]
    if not all(side.is_dir() for side in sides):
        if not (args.content and args.style):
            return []
        sides = [Path(args.content), Path(args.style)]
    listed = [list_images(side)[:MOST_PAIRS] if side.is_dir() else [side] for side in sides]
    return [path for pair in zip(*listed, strict=False) for path in pair]
