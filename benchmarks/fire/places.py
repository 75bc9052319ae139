"""Output folders that cannot be written to, or vanish, or that two write to at once; links as inputs and outputs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .disk import mounted
from .trials import (
    PATIENCE,
    Plan,
    Score,
    make_pairs,
    program,
    start,
    temporary_files,
    training,
    wait,
    whole_files,
)  # fmt: skip

STEPS = 4
ENDLESS = 1_000_000  # steps of a run that lasts until it is stopped
SPACE = 64 << 20  # bytes of a file system that becomes read-only


def run(folder: Path, score: Score, plan: Plan) -> None:
    """One kind of place after the other; read-only ones where file systems may be mounted."""
    make_pairs(folder, plan.seed)
    begun = time.monotonic()
    log = folder / "log.txt"
    status = wait(start(program, _argv(folder, folder / "whole"), log))
    score.check(status == 0, f"in a usual place it ended with {status}: {log.read_text()[-300:]}")
    length = time.monotonic() - begun
    for number, generator in score.numbers(plan):
        kind, is_second = KINDS[number % len(KINDS)], number // len(KINDS) % 2 == 1
        kind(folder / f"place{number}", folder, score, generator.uniform(0.2, length), is_second)


def _argv(pairs: Path, out: Path) -> list[str]:
    return training(pairs, out, "--max_train_steps", STEPS, "--save_every_n_steps", 1, "--save_last_n_steps", 1)


def _judged(child: int, log: Path, score: Score, where: str, statuses: tuple[int, ...]) -> str:
    return _examined(wait(child), log, score, where, statuses)


def _examined(status: int | None, log: Path, score: Score, where: str, statuses: tuple[int, ...]) -> str:
    """What a run that ended with a status has said: one line where it was refused, and no traceback."""
    said = log.read_text()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    score.count(where)
    score.check(status in statuses, f"{where}: status {status}: {said[-300:]}")
    score.check(len(errors) == (1 if status == 2 else 0), f"{where}: {errors or said[-300:]}")
    score.check("Traceback" not in said, f"{where}: a traceback: {said[-300:]}")
    return said


def _read_only(place: Path, pairs: Path, score: Score, delay: float, is_late: bool) -> None:
    """From the start, or from some moment on."""
    with mounted(place, SPACE) as is_mounted:
        if not is_mounted:
            score.count("could not be mounted")
            return
        log = pairs / f"{place.name}.txt"
        if not is_late:
            _remount(place)
        child = start(program, _argv(pairs, place / "out"), log)
        if is_late:
            time.sleep(delay)
            _remount(place)
        _judged(child, log, score, "becomes read-only" if is_late else "read-only", (0, 2) if is_late else (2,))
        whole_files(place / "out", score)


def _remount(place: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:  # a file that is being written keeps it from happening
        done = subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.01)


def _vanishes(place: Path, pairs: Path, score: Score, delay: float, _: bool) -> None:
    log = pairs / f"{place.name}.txt"
    child = start(program, _argv(pairs, place), log)
    time.sleep(delay)
    gone = place.with_suffix(".gone")
    with contextlib.suppress(FileNotFoundError):  # it is not there yet, or not any more
        place.rename(gone)  # at one instant: a removal that is still under way would take files out of what is finished
    shutil.rmtree(gone, ignore_errors=True)
    _judged(child, log, score, "vanishes", (0, 2))
    whole_files(place, score)
    score.check(not temporary_files(place), f"vanishes: left {[path.name for path in temporary_files(place)][:3]}")


def _two_at_once(place: Path, pairs: Path, score: Score, delay: float, _: bool) -> None:
    """The second one starts a moment later, or at once; one of the two is refused while the other writes, or both."""
    logs = [pairs / f"{place.name}-{number}.txt" for number in range(2)]
    argv = training(pairs, place, "--max_train_steps", ENDLESS, "--save_every_n_steps", 1, "--save_last_n_steps", 1)
    first = start(program, argv, logs[0])
    time.sleep(delay % 0.3)
    running = {first: logs[0], start(program, argv, logs[1]): logs[1]}
    refused, status = _first_to_end(list(running))
    score.check(refused, "two at once: neither was refused")
    if refused:
        said = _examined(status, running.pop(refused), score, "two at once, refused", (2,))
        score.check("is writing files of this name" in said, f"two at once: {said[-300:]}")
    for child, log in running.items():
        os.killpg(child, signal.SIGINT)
        _judged(child, log, score, "two at once", (2, 128 + signal.SIGINT))
    whole_files(place, score)
    score.check(not temporary_files(place), f"two at once: left {[path.name for path in temporary_files(place)][:3]}")


def _first_to_end(children: list[int]) -> tuple[int, int | None]:
    """The child that ended first, and its status; 0 and None: none has."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for child in children:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return child, os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return 0, None


def _links(place: Path, pairs: Path, score: Score, _: float, are_symbolic: bool) -> None:
    """Pictures are links; a file, a state and the folder itself are links to what belongs to someone else."""
    other, out, own = place / "other", place / "out", place / "own"
    for side in ("content", "style"):
        (own / side).mkdir(parents=True)
    os.symlink(pairs / "model", own / "model")
    for side in ("content", "style"):
        for picture in (pairs / side).iterdir():
            (os.symlink if are_symbolic else os.link)(picture, own / side / picture.name)
    (other / "x-state").mkdir(parents=True)
    for name in ("x.safetensors", "x-state/kept"):
        (other / name).write_bytes(b"someone else's")
    (other / "out").mkdir()
    os.symlink(other / "out", out)
    os.symlink(other / "x.safetensors", out / "x.safetensors")
    os.symlink(other / "x-state", out / "x-state")
    log = pairs / f"{place.name}.txt"
    _judged(start(program, _argv(own, out), log), log, score, "links", (0,))
    for name in ("x.safetensors", "x-state/kept"):
        is_kept = (other / name).is_file() and (other / name).read_bytes() == b"someone else's"
        score.check(is_kept, f"links: {name} of someone else has changed")
    names = whole_files(out, score)
    score.check({"x.safetensors", "x-state"} <= names, f"links: there is only {sorted(names)}")
    left = temporary_files(out)
    score.check(not left, f"links: left {[path.name for path in left][:3]}")


KINDS: tuple[Callable[[Path, Path, Score, float, bool], None], ...] = (_read_only, _vanishes, _two_at_once, _links)
