"""SIGINT, SIGTERM and SIGHUP, once or several times, at random moments of a training."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

from .trials import Plan, Score, make_pairs, program, start, temporary_files, training, wait, whole_files

STEPS = 8


def run(folder: Path, score: Score, plan: Plan) -> None:
    """Every training gets its signal within the time of an undisturbed one, the last previews included."""
    make_pairs(folder, plan.seed)
    begun = time.monotonic()
    log = folder / "log.txt"
    status = wait(start(program, _argv(folder, "whole"), log))
    score.check(status == 0, f"without a signal it ended with {status}: {log.read_text()[-300:]}")
    length = time.monotonic() - begun
    # One that is ignored, as SIGHUP under nohup, is ignored by the training as well: it would never stop.
    kinds = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    kinds = [kind for kind in kinds if signal.getsignal(kind) is not signal.SIG_IGN]
    for _, generator in score.numbers(plan):
        sent = generator.choice(kinds)
        times = generator.choice([1, 2, 3])
        while not _is_stopped(folder, score, sent, generator.uniform(0.05, length), times):
            score.count("had ended")  # before the signal: another moment


def _argv(folder: Path, name: str) -> list[str]:
    return training(folder, folder / name, "--max_train_steps", STEPS)


def _is_stopped(folder: Path, score: Score, sent: signal.Signals, delay: float, times: int) -> bool:
    name = f"out{score.trials}"
    shutil.rmtree(folder / name, ignore_errors=True)
    log = folder / f"{name}.txt"
    log.unlink(missing_ok=True)
    child = start(program, _argv(folder, name), log)
    time.sleep(delay)
    for _ in range(times):
        try:
            os.killpg(child, sent)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    status = wait(child)
    said = log.read_text()
    where = f"{sent.name} × {times} at {delay:.2f} s"
    score.count(sent.name, status != 0)
    score.check(status is not None, f"{where}: hung")
    score.check(status in (0, 128 + sent), f"{where}: status {status}: {said[-200:]}")
    score.check("Traceback" not in said, f"{where}: a traceback: {said[-200:]}")
    whole_files(folder / name, score)
    steps = re.findall(rf"(\d+)/{STEPS} ", said)
    if status == 128 + sent and steps and int(steps[-1]) > 0:
        score.count("stopped in training")
        state = re.search(r'--resume "(.+)"', said)
        is_done = "all files are written" in said or re.search(r"^made ", said, re.MULTILINE)  # on its very last lines
        score.check(state or is_done, f"{where}: not said how to go on: {said[-200:]}")
        score.check(not state or Path(state[1]).is_dir(), f"{where}: the state that it names is not there")
    score.check(not temporary_files(folder / name), f"{where}: temporary files are left")
    return status != 0
