"""Time to quality: `python -m benchmarks.quality.sooner`. Writes results/quality/sooner.json and sooner.md.

The official recipe is trained as released; its strongest picture with structure kept sets the goal: that strength, with
accuracy and leak no worse. Then ours, on the pair alone and with pairs made out of it, is trained from nothing for
fewer steps than its preset has, more from one try to the next, until it is there. Seconds are the processor's of one
thread, everything included that a user waits for: fitting the map, drawing the other pictures, loading, training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.__main__ import RESULTS, load_results, save_results
from benchmarks.quality.fair import Case, strongest, train_row
from benchmarks.quality.jobs import ROOT, _tools, base_pictures
from benchmarks.quality.measures import Reference, score
from benchmarks.quality.methods import METHODS, length_options
from benchmarks.quality.oracle import LEAST_STRUCTURE, STYLES
from benchmarks.quality.plan import WAYS
from benchmarks.quality.report import plain_table
from demo.make_pairs import CONTENTS

RIVAL, OURS = "released", ("ours", "ours, pseudo-pairs")
STEPS = (15, 22, 30, 60, METHODS["ours"].steps)
WAY = "guidance"


@dataclass(frozen=True)
class Run:
    """A training and its curve.

    Attributes:
        steps: Updates.
        seconds: Of the processor, all included.
        points: Scores by rising strength, the base model's first.
    """

    steps: int
    seconds: float
    points: list[dict[str, float]]


def run(case: Case, steps: int, work: Path) -> Run:
    """Trains for so many steps, a third of them with the content alone, and draws with guidance."""
    sampler, judge = _tools(work)
    subject = CONTENTS[case.pair][1]
    prompts, base = base_pictures(work, subject, case.prompts)
    reference = Reference.of(judge, base, STYLES[case.style], [prompt.subject for prompt in prompts], subject)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        started = time.process_time()
        # Its own folder in place of `work`: the other pictures are drawn anew, as a user's are.
        file, _ = train_row(case, Path(folder), sampler, Path(folder), length_options(steps))
        seconds = time.process_time() - started
        mode, cfg_end, strengths = WAYS[WAY]
        drawn = [sampler.draw(prompts, f"in {case.style} style", file, mode, at, cfg_end) for at in strengths]
    scores = [score(images, reference, judge) for images in drawn]
    points = [{"at": at, **one} for at, one in zip(strengths, scores, strict=True)]
    return Run(steps, round(seconds, 1), [{"at": 0.0, **score(base, reference, judge)}, *points])


def is_there(points: list[dict[str, float]], goal: dict[str, float]) -> bool:
    """Whether a point has the goal's strength, its structure kept, with accuracy and leak no worse."""
    return any(
        point["strength"] >= goal["strength"] and point["structure"] >= LEAST_STRUCTURE
        and point["accuracy"] >= goal["accuracy"] and point["leak"] <= goal["leak"]
        for point in points
    )  # fmt: skip


def race(style: str, pair: str, prompts: int, work: Path, known: dict[str, Any]) -> dict[str, Any]:
    """The rival's training, its goal, and each of ours until it is there; what is ``known`` is not run again."""
    if not known:
        rival = run(Case(RIVAL, style, pair, 0, prompts), METHODS[RIVAL].steps, work)
        known = {"style": style, "pair": pair, "rival": asdict(rival), "goal": strongest(rival.points), "ours": {}}
    for row in OURS:
        if row not in known["ours"]:
            known["ours"][row] = [asdict(one) for one in tries(Case(row, style, pair, 0, prompts), known["goal"], work)]
    return known


def tries(case: Case, goal: dict[str, float], work: Path) -> Iterator[Run]:
    """Trainings of more and more steps, the last one at the goal unless none is."""
    for steps in STEPS:
        done = run(case, steps, work)
        yield done
        if is_there(done.points, goal):
            return


def page(results: dict[str, Any]) -> str:
    """The Markdown page."""
    table = {}
    for job in results["jobs"].values():
        cells = {
            "goal: strength": f"{job['goal']['strength']:.2f}",
            "accuracy": f"{job['goal']['accuracy']:.2f}",
            "leak": f"{job['goal']['leak']:.2f}",
            "released: steps": str(job["rival"]["steps"]),
            "CPU s": f"{job['rival']['seconds']:.0f}",
        }
        for row, runs in job["ours"].items():
            last = runs[-1]
            is_reached = is_there(last["points"], job["goal"])
            ratio = f"{last['seconds'] / job['rival']['seconds']:.2f}"
            cells[f"{row}: steps"] = str(last["steps"]) if is_reached else f"not by {last['steps']}"
            cells[f"{row}: CPU s, ÷ released"] = f"{last['seconds']:.0f}, {ratio if is_reached else '–'}"
        table[f"{job['style']}, {job['pair']}"] = cells
    return (
        f"# Time to quality\n\n`python -m benchmarks.quality.sooner`, the embedded model {results['model']}, with "
        f"guidance, one seed. {(__doc__ or '').partition('md.')[2].strip()}\n\n" + plain_table("style, pair", table)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.sooner", description=__doc__)
    parser.add_argument("--styles", nargs="+", choices=list(STYLES), default=["duotone", "poster", "pixel"])
    parser.add_argument("--pairs", nargs="+", choices=list(CONTENTS), default=["house"])
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.out / "sooner.json"
    results = load_results(file)
    for style in args.styles:
        for pair in args.pairs:
            key = f"{style}-{pair}-{args.prompts}"
            results["jobs"][key] = race(style, pair, args.prompts, args.work, results["jobs"].get(key, {}))
            save_results(results, file)
            print(key, flush=True)
    (args.out / "sooner.md").write_text(page(results), encoding="utf-8")
    print(page(results))


if __name__ == "__main__":
    main()
