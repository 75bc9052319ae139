"""SIGINT, SIGTERM and SIGHUP, once or several times, at random moments of a training."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import train_pair_network
from pair_network.signals import run_main

from .trials import Score, make_pairs, start, temporary_files, timed, training, wait, whole_files

STEPS = 40


def program(argv: list[str]) -> int:
    return run_main(lambda: train_pair_network.main(argv))


def run(folder: Path, trials: int, seed: int, until: float) -> Score:
    """Every training gets its signal within the time of an undisturbed one, the last previews included."""
    score, generator = Score("signals"), random.Random(seed)
    make_pairs(folder, seed)
    with timed(score):
        begun = time.monotonic()
        log = folder / "log.txt"
        status = wait(start(program, _argv(folder, "whole"), log), 300)
        score.check(status == 0, f"without a signal it ended with {status}: {log.read_text()[-300:]}")
        length = time.monotonic() - begun
        while score.trials < trials and time.monotonic() < until:
            sent = generator.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            _trial(folder, score, sent, generator.uniform(0.1, length), generator.choice([1, 2, 3]))
            score.trials += 1
    return score


def _argv(folder: Path, name: str) -> list[str]:
    return training(folder, folder / name, "--max_train_steps", STEPS)


def _trial(folder: Path, score: Score, sent: signal.Signals, delay: float, times: int) -> None:
    name = f"out{score.trials}"
    log = folder / f"{name}.txt"
    child = start(program, _argv(folder, name), log)
    time.sleep(delay)
    for _ in range(times):
        try:
            os.killpg(child, sent)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    status = wait(child, 60)
    said = log.read_text()
    where = f"{sent.name} × {times} at {delay:.2f} s"
    score.count(sent.name)
    score.check(status is not None, f"{where}: hung")
    score.check(status in (0, 128 + sent), f"{where}: status {status}: {said[-200:]}")
    score.check("Traceback" not in said, f"{where}: a traceback: {said[-200:]}")
    whole_files(folder / name, score)
    steps = re.findall(rf"(\d+)/{STEPS} ", said)
    if status == 128 + sent and steps and int(steps[-1]) > 0:
        score.count("stopped in training")
        state = re.search(r'--resume "(.+)"', said)
        score.check(state or "all files are written" in said, f"{where}: not said how to go on: {said[-200:]}")
        score.check(not state or Path(state[1]).is_dir(), f"{where}: the state that it names is not there")
    score.check(not temporary_files(folder / name), f"{where}: temporary files are left")
