"""Disks that are too small, of many sizes: a limit on the size of files, and a file system of its own where allowed."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from .trials import Plan, Score, make_pairs, program, start, temporary_files, training, wait, whole_files

STEPS = 2


def run(folder: Path, score: Score, plan: Plan) -> None:
    """Sizes spread from nothing to a little more than a run needs."""
    make_pairs(folder, plan.seed)
    log = folder / "log.txt"
    status = wait(start(program, _argv(folder, folder / "whole"), log))
    score.check(status == 0, f"with space it ended with {status}: {log.read_text()[-300:]}")
    sizes = [path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()]
    with mounted(folder / "probe", 1 << 20) as can_mount:
        pass
    for number, _ in score.numbers(plan):
        share = (number + 1) / plan.trials
        if can_mount and number % 2:
            _on_small_disk(folder, score, number, int(sum(sizes) * share) + (64 << 10))
        else:
            _under_limit(folder, score, number, int(max(sizes, default=1) * share))


def _argv(folder: Path, out: Path) -> list[str]:
    return training(folder, out, "--max_train_steps", STEPS, "--save_every_n_steps", 1)


def _under_limit(folder: Path, score: Score, number: int, size: int) -> None:
    """Files may not become larger than ``size``."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    score.count("limited files")
    _judged(folder, folder / f"limit{number}", score, f"files of {size:,} bytes", limit)
    shutil.rmtree(folder / f"limit{number}", ignore_errors=True)


def _on_small_disk(folder: Path, score: Score, number: int, size: int) -> None:
    """A file system of ``size`` bytes."""
    score.count("small file systems")
    with mounted(folder / f"disk{number}", size):
        _judged(folder, folder / f"disk{number}" / "out", score, f"a disk of {size:,} bytes")


def _judged(folder: Path, out: Path, score: Score, where: str, before: Callable[[], None] | None = None) -> None:
    log = folder / f"{score.trials}.txt"
    status = wait(start(program, _argv(folder, out), log, before))
    said = log.read_text()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    score.check(status in (0, 2), f"{where}: status {status}: {said[-300:]}")
    score.check("Traceback" not in said, f"{where}: a traceback: {said[-300:]}")
    if status == 2:
        score.count("refused")
        score.check(len(errors) == 1 and "bytes are needed" in errors[0], f"{where}: {errors or said[-300:]}")
    whole_files(out, score)
    score.check(not temporary_files(out), f"{where}: temporary files are left")


@contextlib.contextmanager
def mounted(place: Path, size: int) -> Iterator[bool]:
    """A file system of ``size`` bytes at the place; False where this user may not mount one."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", str(place)], capture_output=True, check=False)
