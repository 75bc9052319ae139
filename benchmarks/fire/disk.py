"""Disks that are too small, of many sizes: a limit on the size of files, and a file system of its own where allowed."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import train_pair_network
from pair_network.signals import run_main

from .trials import Score, make_pairs, start, temporary_files, timed, training, wait, whole_files

STEPS = 2


def program(argv: list[str]) -> int:
    return run_main(lambda: train_pair_network.main(argv))


def run(folder: Path, trials: int, seed: int, until: float) -> Score:
    """Sizes spread from nothing to a little more than a run needs."""
    score = Score("full disks")
    make_pairs(folder, seed)
    with timed(score):
        log = folder / "log.txt"
        status = wait(start(program, _argv(folder, folder / "whole"), log), 300)
        score.check(status == 0, f"with space it ended with {status}: {log.read_text()[-300:]}")
        largest = max((path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()), default=1)
        needed = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())
        can_mount = _mount(folder / "probe", 1 << 20)
        if can_mount:
            _unmount(folder / "probe")
        for number in range(trials):
            if time.monotonic() > until:
                break
            share = (number + 1) / trials
            if can_mount and number % 2:
                _on_small_disk(folder, score, number, int(needed * share) + (64 << 10))
            else:
                _under_limit(folder, score, number, int(largest * share))
            score.trials += 1
    return score


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
    place = folder / f"disk{number}"
    if not _mount(place, size):
        return
    score.count("small file systems")
    try:
        _judged(folder, place / "out", score, f"a disk of {size:,} bytes")
    finally:
        _unmount(place)


def _judged(folder: Path, out: Path, score: Score, where: str, before: Callable[[], None] | None = None) -> None:
    log = folder / f"{score.trials}.txt"
    status = wait(start(program, _argv(folder, out), log, before), 120)
    said = log.read_text()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    score.check(status in (0, 2), f"{where}: status {status}: {said[-300:]}")
    score.check("Traceback" not in said, f"{where}: a traceback: {said[-300:]}")
    if status == 2:
        score.count("refused")
        score.check(len(errors) == 1 and "bytes are needed" in errors[0], f"{where}: {errors or said[-300:]}")
    whole_files(out, score)
    score.check(not temporary_files(out), f"{where}: temporary files are left")


def _mount(place: Path, size: int) -> bool:
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _unmount(place: Path) -> None:
    subprocess.run(["umount", str(place)], capture_output=True, check=False)
