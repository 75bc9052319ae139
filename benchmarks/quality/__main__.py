"""`python -m benchmarks.quality`: how well each method keeps style apart from content, against the true answer."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.quality import report
from benchmarks.quality.jobs import ROOT, Job, base_pictures, model_hash, run_job
from benchmarks.quality.judge import judge_figures, load_judge
from benchmarks.quality.measures import validate
from benchmarks.quality.plan import Cost, estimate, full_jobs, quick_jobs, search_jobs
from demo.make_pairs import CONTENTS
from demo.styles import HELD_OUT_STYLES

RESULTS = ROOT / "benchmarks" / "results" / "quality"


def main() -> None:
    """Command line."""
    args = parse_arguments()
    form = next((name for name in ("quick", "search") if getattr(args, name)), "full")
    makers = {"quick": quick_jobs, "search": search_jobs}
    jobs = makers.get(form, partial(full_jobs, torch.cuda.is_available() and not args.small))()
    jobs = [job for job in jobs if not args.methods or job.method in args.methods]
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{form}_jobs.json"
    results = load_results(file)
    todo = [job for job in jobs if job.key not in results["jobs"]]
    print_cost(estimate(todo), len(jobs) - len(todo), args.processes)
    if args.dry_run:
        return
    prepare(results, todo, args.work)
    run_all(todo, results, file, args)
    report.write(form, results, args.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="three methods on one pair, minutes; writes quick.json")
    form.add_argument("--search", action="store_true", help="every rival at every learning rate, on two pairs")
    parser.add_argument("--small", action="store_true", help="the full form for machines without a GPU, also on one")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="jobs side by side, one core each")
    parser.add_argument("--dry_run", action="store_true", help="print what the run would cost, and stop")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks" / ".work", help="judge and base pictures")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results, which a later run continues")
    return parser.parse_args()


def print_cost(cost: Cost, done: int, processes: int) -> None:
    hours = cost.seconds / 3600
    print(
        f"{cost.trainings} trainings ({done} more are done), {cost.pictures} pictures, about {hours:.1f} core-hours: "
        f"{hours / processes:.1f} h on {processes} cores",
        flush=True,
    )


def load_results(file: Path) -> dict[str, Any]:
    """Results so far, of this model only: figures of another model's weights cannot be mixed in."""
    model = model_hash()
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["model"] == model:
            return results
        print(f"{file.name}: made with another embedded model; starting anew")
    return {"model": model, "jobs": {}}


def save_results(results: dict[str, Any], file: Path) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=0) + "\n", encoding="utf-8")
    part.replace(file)


def prepare(results: dict[str, Any], jobs: list[Job], work: Path) -> None:
    """Judge and base pictures, which all processes read, and what the measures say of known answers."""
    judge = load_judge(work)
    results.setdefault("judge", judge_figures(judge, HELD_OUT_STYLES))
    results.setdefault("validation", validate(judge, HELD_OUT_STYLES))
    for subject, count in {(CONTENTS[job.pair][1], job.prompts) for job in jobs}:
        base_pictures(work, subject, count)


def run_all(jobs: list[Job], results: dict[str, Any], file: Path, args: argparse.Namespace) -> None:
    """Every job, its result saved as soon as it is there."""
    strips = args.out / "strips" if file.stem == "full_jobs" else args.work / "strips"
    os.environ["OMP_NUM_THREADS"] = "1"
    with get_context("spawn").Pool(min(args.processes, max(1, len(jobs)))) as pool:
        work = partial(run_job, work=args.work, strips=strips)
        for key, result in tqdm(pool.imap_unordered(work, jobs), "jobs", len(jobs)):
            results["jobs"][key] = result
            save_results(results, file)
    save_results(results, file)


if __name__ == "__main__":
    main()
