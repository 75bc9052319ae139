"""``python -m benchmarks.fire --kills 200 --signals 60 --disk 30 --fuzz 10000``: 1 when something did not hold."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from . import disk, fuzz, kills, signals
from .trials import Score

PARTS = {"kills": kills.run, "signals": signals.run, "disk": disk.run}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fire", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kill -9 at random moments (default: 200)")
    parser.add_argument("--signals", type=int, default=60, help="trainings that get a signal (default: 60)")
    parser.add_argument("--disk", type=int, default=30, help="sizes of a full disk (default: 30)")
    parser.add_argument("--fuzz", type=int, default=10_000, help="broken inputs of each of four kinds (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--minutes", type=float, default=60, help="time for all parts together (default: 60)")
    parser.add_argument("--output", type=Path, help="Markdown file for the figures")
    args = parser.parse_args(argv)
    if not hasattr(os, "fork"):
        print("benchmarks.fire needs a system that can fork: Linux or macOS", file=sys.stderr)
        return 2
    os.environ.update(HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    end = time.monotonic() + args.minutes * 60
    with tempfile.TemporaryDirectory() as name:
        scores = []
        wanted = [part for part in PARTS if getattr(args, part)]
        for number, part in enumerate(wanted):
            left = len(wanted) - number + bool(args.fuzz)
            until = time.monotonic() + (end - time.monotonic()) / left
            scores.append(PARTS[part](_made(Path(name) / part), getattr(args, part), args.seed, until))
        # after the forks: torch and accelerate are used in this process now
        scores += fuzz.run(_made(Path(name) / "fuzz"), args.fuzz, args.seed, end) if args.fuzz else []
    text = report(scores, args.seed)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    return int(any(score.failures for score in scores))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def report(scores: Sequence[Score], seed: int) -> str:
    """The figures as Markdown."""
    lines = ["# Under fire", "", f"`python -m benchmarks.fire --seed {seed}` on {platform.system()}"]
    lines += [f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"]
    lines += [f"torch {torch.__version__}.", ""]
    lines += ["| part | trials | what happened | did not hold | seconds |", "|---|---|---|---|---|"]
    for score in scores:
        happened = ", ".join(f"{number} {kind}" for kind, number in sorted(score.counts.items()))
        lines.append(f"| {score.name} | {score.trials} | {happened} | {len(score.failures)} | {score.seconds:.0f} |")
    failures = [f"- {score.name}: {words}" for score in scores for words in score.failures[:20]]
    return "\n".join([*lines, *(["", "What did not hold:", "", *failures] if failures else []), ""])


if __name__ == "__main__":
    sys.exit(main())
