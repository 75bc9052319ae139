"""Any conversion over folders and globs, in parallel: ``batch VERB DIR… [-o OUT] [options of the verb]``.

In OUT the tree below each folder is kept; without it each result lies beside its input. A file that fails is named at
the end with its cause and stops nothing. A JSON log beside the results holds what was done, by content hash:
``--resume`` skips what is done and still intact.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from convert.batch import jobs
from convert.batch import log as batch_log
from convert.batch.jobs import Job, Record
from convert.batch.log import Logs
from convert.batch.options import Options
from convert.batch.plan import Plan, plan
from convert.batch.summary import FAILED, SKIPPED, summary
from convert.command import Command
from pair_network.errors import PairError


def run(options: Options) -> int:
    """Converts all files; returns 0 if each is done or skipped, else 1.

    Raises:
        PairError: No file is found, or two would be written to one output; nothing has been written then.
    """
    if options.jobs < 1:
        raise PairError(f"--jobs {options.jobs}: must be at least 1")
    if options.batch_verb == "blend":
        raise PairError("batch blend: blend makes one file of several; run python -m convert blend FILE… instead")
    logs = Logs(options.log or (options.output and options.output / batch_log.NAME))
    planned = plan(options, logs)
    known = {batch_log.key_of(job): logs.record_of(job) or {} for job in planned.jobs} if options.resume else {}
    if options.dry_run:
        return _dry_run(planned, known)
    records = [batch_log.failed(job, reason) for job, reason in planned.refused]
    finished: Collection[Record] = ()
    pause = Pause()
    try:
        for finished in _run_all(planned.jobs, known, options.jobs):
            # Written before the first file and again and again: a run that is killed can be resumed.
            if pause.is_over():
                with pause.of_this():
                    logs.write([*records, *finished])
    finally:
        logs.write([*records, *finished])
    records += finished
    print(summary(records, planned.left_out, logs))
    return int(any(record["status"] == FAILED for record in records))


class Pause:
    """Time between two writings of a log that grows: twenty times what the last one took."""

    def __init__(self) -> None:
        self.end = 0.0

    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    @contextlib.contextmanager
    def of_this(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        now = time.monotonic()
        self.end = now + 20 * (now - start)


def _dry_run(planned: Plan, log: batch_log.Log) -> int:
    for job in planned.jobs:
        is_done = batch_log.is_intact(log.get(batch_log.key_of(job)), job)
        print(f"{'skip' if is_done else 'convert'}  {job.source} -> {job.target}")
    for path in planned.left_out:
        print(f"leave out  {path}: is the result of an earlier batch")
    for job, reason in planned.refused:
        print(f"refuse  {job.source}: {reason}")
    return int(bool(planned.refused))


def _run_all(listed: list[Job], log: batch_log.Log, count: int) -> Iterator[Collection[Record]]:
    """The records of all jobs in their order: once before the first job is run, and after each."""
    records: dict[Path, Record] = {}
    waiting = []
    for job in listed:
        known = log.get(batch_log.key_of(job))
        if known is not None and batch_log.is_intact(known, job):
            records[job.source] = {**known, "status": SKIPPED}
        else:
            records[job.source] = batch_log.waiting(job)
            waiting.append(job)
    done = len(listed) - len(waiting)
    with tqdm(total=len(listed), initial=done, desc="batch", unit="file", disable=None) as progress:
        yield records.values()
        for job, record in _results(waiting, count):
            records[job.source] = record
            progress.update()
            yield records.values()


def _results(waiting: list[Job], count: int) -> Iterator[tuple[Job, Record]]:
    """Pairs of job and record, as they finish. One process runs here, several in a pool."""
    if count == 1 or len(waiting) <= 1:
        yield from ((job, jobs.run(job)) for job in waiting)
        return
    left = iter(waiting)
    with (
        _safe_path(),
        ProcessPoolExecutor(min(count, len(waiting)), mp_context=get_context("spawn")) as pool,
    ):
        # No more is handed over than can run: after Ctrl-C the pool would still work off what it holds.
        running = {_submitted(pool, job): job for job in islice(left, count)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                yield job, _record(future, job)
                running.update({_submitted(pool, other): other for other in islice(left, 1)})


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Workers that are started within do not search the current folder, where models from anywhere lie, for modules."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _submitted(pool: ProcessPoolExecutor, job: Job) -> Future[Record]:
    """The job in the pool, or its failure where the pool has broken: the jobs left then fail one by one."""
    try:
        return pool.submit(jobs.run, job, threads=1)
    except BrokenProcessPool as broken:
        failed: Future[Record] = Future()
        failed.set_exception(broken)
        return failed


def _record(future: Future[Record], job: Job) -> Record:
    try:
        return future.result()
    except BrokenProcessPool:
        reason = "the process was killed, most likely for memory; run again with --resume and fewer --jobs"
        return {**batch_log.waiting(job), **batch_log.failed(job, reason)}


VERB = Command(__doc__, Options, run)
