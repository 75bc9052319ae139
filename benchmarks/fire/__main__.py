"""``python -m benchmarks.fire --kills 200 --signals 60 --disk 30 --fuzz 10000``: 1 when something did not hold.

With ``--figures`` a later call goes on where an earlier one stopped, and ``--minutes`` ends each of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import disk, fuzz, inputs, kills, places, signals
from .figures import Figures
from .trials import Plan, Score, commit, import_programs

# Children first: torch and accelerate are used in this process itself only after the last of them.
PARTS: dict[str, Callable[[Path, Score, Plan], None]] = {
    "kills": kills.run, "signals": signals.run, "full disks": disk.run, "places": places.run,
    **dict.fromkeys(inputs.KINDS, fuzz.run),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if not hasattr(os, "fork"):
        print("benchmarks.fire needs a system that can fork: Linux or macOS", file=sys.stderr)
        return 2
    os.environ.update(HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    import_programs()
    commit()  # asked of git before the fuzzers watch for programs that are started
    figures = Figures.read(args.figures, args.seed)
    goals = {"kills": args.kills, "signals": args.signals, "full disks": args.disk, "places": args.places}
    goals |= dict.fromkeys(inputs.KINDS, args.fuzz)
    end = time.monotonic() + args.minutes * 60
    wanted = [part for part, goal in goals.items() if figures.score(part).trials < goal]
    with tempfile.TemporaryDirectory() as name:
        for number, part in enumerate(wanted):
            folder = Path(name) / f"part{number}"
            folder.mkdir()
            now = time.monotonic()
            until = now + (end - now) / (len(wanted) - number)
            PARTS[part](folder, figures.score(part), Plan(goals[part], args.seed, until, figures.keep))
            figures.write()
    print(figures.report())
    if args.output:
        args.output.write_text(figures.report(), encoding="utf-8")
    return int(figures.has_failures())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fire", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kill -9 at random moments (default: 200)")
    parser.add_argument("--signals", type=int, default=60, help="trainings that get a signal (default: 60)")
    parser.add_argument("--disk", type=int, default=30, help="sizes of a full disk (default: 30)")
    parser.add_argument("--places", type=int, default=24, help="read-only, vanishing, shared, linked (default: 24)")
    parser.add_argument("--fuzz", type=int, default=10_000, help="broken inputs of each kind (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--minutes", type=float, default=60, help="time for all parts together (default: 60)")
    parser.add_argument("--figures", type=Path, help="JSON file that is gone on from, and kept up to date")
    parser.add_argument("--output", type=Path, help="Markdown file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
