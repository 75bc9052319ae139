"""A run's record, NAME-record.json in its folder: what it was told, its losses by branch, its previews and figures.

The report is drawn from it, and so is whatever shows a run while it trains. A resumed run goes on in the same record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pair_network.files import write_text

if TYPE_CHECKING:  # the entry point's --help needs no torch
    from torch import Tensor

SUFFIX = "-record.json"
MOST_POINTS = 2000  # of a curve; of longer ones every second point is dropped
WRITE_EVERY = 3.0  # seconds


@dataclass
class Record:
    """What is known of a run so far.

    Attributes:
        name, folder: Of its files.
        words: The style's, as in prompts.
        command: The command line that repeats the run.
        settings: Options that differ from their defaults.
        total_steps: Optimizer steps of the whole run.
        step: Steps made.
        state: "running", "done" or "stopped".
        losses: (step, loss) by branch.
        previews: For each time, {"step", "sheets": [file names in sample/], "prompts": [of each sheet]}.
        figures: For each time, {"step", and figures by column of the previews}.
        advice: Recommended strength and λ with the figures behind them; empty before the end.
        pair: File names of the training images, below the folder or absolute.
    """

    name: str
    folder: str
    words: str = ""
    command: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    total_steps: int = 0
    step: int = 0
    state: str = "running"
    started: float = 0.0
    seconds: float = 0.0
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    previews: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    advice: dict[str, Any] = field(default_factory=dict)
    pair: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.name}{SUFFIX}"

    def note_losses(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """The step's losses by branch."""
        self.step = step
        for branch, loss in losses.items():
            curve = self.losses.setdefault(branch, [])
            curve.append((step, round(float(loss), 6)))
            if len(curve) > MOST_POINTS:
                del curve[1::2]

    def note_previews(self, step: int, sheets: Sequence[Path], prompts: Sequence[str]) -> None:
        """The sheets that were drawn after a step; those of an earlier run at that step are replaced."""
        drawn = {"step": step, "sheets": [path.name for path in sheets], "prompts": list(prompts)}
        kept = [entry for entry in self.previews if entry["step"] != step]
        self.previews = sorted([*kept, drawn], key=lambda entry: entry["step"])

    def note_figures(self, step: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Figures by column of the previews, measured after a step."""
        kept = [entry for entry in self.figures if entry["step"] != step]
        self.figures = sorted([*kept, {"step": step, **figures}], key=lambda entry: entry["step"])

    def go_back_to(self, step: int) -> None:
        """Forgets what an interrupted run did after the state that is resumed."""
        self.losses = {name: [point for point in curve if point[0] <= step] for name, curve in self.losses.items()}
        self.previews = [entry for entry in self.previews if entry["step"] <= step]
        self.figures = [entry for entry in self.figures if entry["step"] <= step]

    def write(self) -> None:
        self.seconds = round(time.time() - self.started, 1)
        write_text(self.path, json.dumps(asdict(self)))


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is none, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Record(**found) if isinstance(found, dict) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
