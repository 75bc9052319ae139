"""Any conversion over folders and globs, in parallel: ``batch VERB DIR… -o OUT [options of the verb]``.

The tree below each folder is kept. A file that fails is named at the end with its cause and stops nothing. A JSON log
in the output folder holds what was done, by content hash: ``--resume`` skips what is done and still intact.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pair_network.errors import PairError

from .. import batch_log, jobs
from ..jobs import Job

HELP = "a conversion over folders and globs, in parallel"
VERBS = ("a1111", "diffusers", "peft", "kohya", "pair", "official", "resize", "bake", "info")
DONE, SKIPPED, FAILED = "done", "skipped", "failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("batch_verb", choices=VERBS, metavar="VERB", help=f"one of {', '.join(VERBS)}")
    parser.add_argument("inputs", nargs="+", metavar="DIR", help="folder, file or glob")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the outputs and the log")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files at once (the number of cores)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument("--resume", action="store_true", help="skip what the log says is done, if it is still intact")
    parser.add_argument("--follow-links", action="store_true", help="also read links that lead out of a folder")
    parser.add_argument("--log", type=Path, metavar="FILE", help=f"the log ({batch_log.NAME} in the output folder)")


def run(options: argparse.Namespace, verb_arguments: list[str]) -> int:
    """Converts all files; returns 0 if each is done or skipped, else 1.

    Args:
        options: The batch's own options.
        verb_arguments: Options of the verb, as given.

    Raises:
        PairError: No file is found, or two would be written to one output; nothing has been written then.
    """
    if options.jobs < 1:
        raise PairError(f"--jobs {options.jobs}: must be at least 1")
    listed, refused = jobs.plan(options, verb_arguments)
    log_file = options.log or options.output / batch_log.NAME
    log = batch_log.read(log_file) if options.resume else {}
    if options.dry_run:
        return _dry_run(listed, refused, log)
    records = [{"source": str(path), "status": FAILED, "error": reason} for path, reason in refused]
    for finished in _run_all(listed, log, options.jobs):
        # Written after every file: a run that is killed can be resumed.
        batch_log.write(log_file, records + finished)
    records += finished
    _summary(records, log_file)
    return int(any(record["status"] == FAILED for record in records))


def _dry_run(listed: list[Job], refused: list[tuple[Path, str]], log: dict[str, dict[str, Any]]) -> int:
    for job in listed:
        is_done = batch_log.is_intact(log.get(str(job.source)), job)
        print(f"{'skip' if is_done else 'convert'}  {job.source} -> {job.target}")
    for path, reason in refused:
        print(f"refuse  {path}: {reason}")
    return int(bool(refused))


def _run_all(listed: list[Job], log: dict[str, dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    """The records so far, in the order of the jobs: once before the first job, and after each."""
    records: dict[Path, dict[str, Any]] = {}
    waiting = []
    for job in listed:
        known = log.get(str(job.source))
        if batch_log.is_intact(known, job):
            records[job.source] = {**known, "status": SKIPPED}  # type: ignore[dict-item]
        else:
            waiting.append(job)
    with tqdm(total=len(listed), initial=len(records), desc="batch", unit="file", disable=None) as progress:
        yield list(records.values())
        for job, record in _results(waiting, count):
            records[job.source] = record
            progress.update()
            yield [records[job.source] for job in listed if job.source in records]


def _results(waiting: list[Job], count: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Pairs of job and record, as they finish. One process runs here, several in a pool."""
    if count == 1 or len(waiting) <= 1:
        yield from ((job, jobs.run(job)) for job in waiting)
        return
    with ProcessPoolExecutor(min(count, len(waiting)), mp_context=get_context("spawn")) as pool:
        futures: dict[Future[dict[str, Any]], Job] = {pool.submit(jobs.run, job, threads=1): job for job in waiting}
        for future in as_completed(futures):
            job = futures[future]
            try:
                yield job, future.result()
            except BrokenProcessPool:
                reason = "the process was killed, most likely for memory; run again with --resume and fewer --jobs"
                yield job, {"source": str(job.source), "status": FAILED, "error": reason}


def _summary(records: list[dict[str, Any]], log_file: Path) -> None:
    width = max(len(Path(record["source"]).name) for record in records)
    for record in records:
        size = f"{record['bytes'] / 1e6:8.1f} MB" if "bytes" in record else " " * 11
        print(f"{record['status']:8} {Path(record['source']).name:{width}} {size} {record.get('seconds', 0):6.1f} s")
    counts = Counter(record["status"] for record in records)
    print(", ".join(f"{counts[status]} {status}" for status in (DONE, SKIPPED, FAILED)) + f"; log: {log_file}")
    for record in records:
        if record["status"] == FAILED:
            print(f"failed: {record['source']}: {record['error']}")
