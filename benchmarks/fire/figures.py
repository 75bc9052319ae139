"""What all calls together have found: kept as JSON after every few trials, told as Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pair_network.files import write_text

from .trials import Score

KEPT_EVERY = 5.0  # seconds
SHOWN = 20  # failures of a part
VERSIONS = ("torch", "accelerate", "diffusers", "safetensors", "pillow", "toml")


class Figures:
    """The scores of all parts.

    Args:
        file: Where they are kept, or None.
        seed: Of all trials.
    """

    def __init__(self, file: Path | None, seed: int) -> None:
        self.file, self.seed = file, seed
        self.scores: dict[str, Score] = {}
        self._kept = time.monotonic()

    @classmethod
    def read(cls, file: Path | None, seed: int) -> Figures:
        """Those of earlier calls, if there were any.

        Raises:
            SystemExit: They are of another seed.
        """
        figures = cls(file, seed)
        if file is None or not file.is_file():
            return figures
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["seed"] != seed:
            raise SystemExit(f"{file}: figures of seed {found['seed']}; give --seed {found['seed']} or another file")
        figures.scores = {score["name"]: Score(**score) for score in found["parts"]}
        return figures

    def score(self, part: str) -> Score:
        return self.scores.setdefault(part, Score(part))

    def has_failures(self) -> bool:
        return any(score.failures for score in self.scores.values())

    def keep(self) -> None:
        """Writes them down, but not more often than every few seconds."""
        if time.monotonic() - self._kept > KEPT_EVERY:
            self.write()

    def write(self) -> None:
        self._kept = time.monotonic()
        if self.file is not None:
            content = {"seed": self.seed, **about(), "parts": [asdict(score) for score in self.scores.values()]}
            write_text(self.file, json.dumps(content, indent=1) + "\n")

    def report(self) -> str:
        """The figures as Markdown."""
        machine = about()
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        lines = ["# Under fire", "", f"`python -m benchmarks.fire --seed {self.seed}`, {machine['date']}."]
        lines += [f"Machine: {machine['machine']}; {versions}.", ""]
        lines += ["| part | trials | what happened | did not hold | seconds | commit |", "|---|---|---|---|---|---|"]
        for score in self.scores.values():
            happened = ", ".join(f"{number} {kind}" for kind, number in sorted(score.counts.items()))
            lines.append(
                f"| {score.name} | {score.trials:,} | {happened} | {len(score.failures)} | {score.seconds:.0f} | "
                f"{', '.join(score.commits)} |"
            )
        failures = [f"- {score.name}: {words}" for score in self.scores.values() for words in score.failures[:SHOWN]]
        return "\n".join([*lines, *(["", "What did not hold:", "", *failures] if failures else []), ""])


def about() -> dict[str, Any]:
    """The machine, its versions and the day."""
    versions = {"Python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in VERSIONS}
    machine = f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores"
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        "machine": machine,
        "versions": versions,
    }
