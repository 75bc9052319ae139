"""kill -9 at random moments of trainings and conversions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import train_pair_network
from convert.cli import main as convert

from .trials import Plan, Score, make_pairs, start, temporary_files, training, wait, whole_files

STEPS = 5
RESUMED_EVERY = 5  # trials


def run(folder: Path, score: Score, plan: Plan) -> None:
    """Kills trainings (two of three) and conversions into folders that keep their files from trial to trial."""
    make_pairs(folder, plan.seed)
    length = {"train": _undisturbed(folder, "train", score), "convert": _undisturbed(folder, "convert", score)}
    for number, generator in score.numbers(plan):
        kind = "convert" if number % 3 == 2 else "train"
        while not _is_killed(folder, kind, generator.uniform(0, length[kind]), score):
            pass  # it had ended before: another moment, so that as many are killed as trials are counted
        if kind == "train" and number % RESUMED_EVERY == 0:
            _resume(folder, score)
    for kind in ("train", "convert"):
        _undisturbed(folder, kind, score)
    left = temporary_files(folder)
    score.check(not left, f"left behind after the next run: {[path.name for path in left][:3]}")


def _command(folder: Path, kind: str) -> tuple:
    if kind == "train":
        options = ["--max_train_steps", STEPS, "--save_every_n_steps", 1, "--save_last_n_steps", 2]
        return train_pair_network.main, training(folder, folder / "train", *options)
    source = folder / "train" / "x.safetensors"
    out = folder / "convert"
    out.mkdir(exist_ok=True)
    return convert, ["diffusers", str(source), "-o", str(out / "y.safetensors"), "--overwrite"]


def _undisturbed(folder: Path, kind: str, score: Score) -> float:
    """Seconds of a run that nothing stops."""
    begun = time.monotonic()
    log = folder / "log.txt"
    status = wait(start(*_command(folder, kind), log))
    score.check(status == 0, f"{kind} without a kill ended with {status}: {log.read_text()[-300:]}")
    return time.monotonic() - begun


def _is_killed(folder: Path, kind: str, delay: float, score: Score) -> bool:
    place = folder / kind
    before = whole_files(place, score)
    child = start(*_command(folder, kind), folder / "log.txt")
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    ended = wait(child)
    score.count(f"{kind} {'killed' if ended == 137 else 'had ended'}")
    score.count("left temporary files", bool(temporary_files(place)))
    after = whole_files(place, score)
    had, has = ({name for name in names if name.endswith("-state")} for names in (before, after))
    score.check(bool(has) or not had, f"{kind}: no state is left after a kill at {delay:.2f} s")
    score.check("x.safetensors" in after or "x.safetensors" not in before, f"{kind}: the last LoRA is gone")
    return ended == 137


def _resume(folder: Path, score: Score) -> None:
    """The newest state can be gone on from, and the run that does leaves nothing behind."""
    states = sorted((folder / "train").glob("x-step*-state"))
    if not states:
        return
    log = folder / "resumed.txt"
    log.write_text("")
    argv = training(folder, folder / "train", "--max_train_steps", STEPS + 1, "--resume", states[-1])
    status = wait(start(train_pair_network.main, argv, log))
    score.count("resumed")
    score.check(status == 0, f"{states[-1].name} could not be resumed ({status}): {log.read_text()[-300:]}")
    score.check("identically" not in log.read_text(), f"resumed otherwise: {log.read_text()[-300:]}")
    left = temporary_files(folder / "train")
    score.check(not left, f"the next run left {[path.name for path in left][:3]}")
