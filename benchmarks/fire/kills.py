"""kill -9 at random moments of trainings, of their saves alone, and of conversions."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

import train_pair_network
from convert.cli import main as convert
from pair_network import leftovers
from pair_network.files import remove_folder
from pair_network.network.checkpoint import write_together
from pair_network.training.hosts.embedded.saving import SUFFIXES, remove_weights
from pair_network.training.hosts.embedded.state import TrainState, save_state

from .trials import Plan, Score, make_pairs, start, temporary_files, training, wait, whole_files

STEPS = 5
RESUMED_EVERY = 12  # trials
ORDER = ("train", "saves", "convert", "saves", "convert", "saves")
SAVING = 1.5  # seconds


def run(folder: Path, score: Score, plan: Plan) -> None:
    """Kills what writes into folders that keep their files from trial to trial.

    Most of a training's time is no save, so half of the kills meet a program that does nothing but a training's saves.
    """
    make_pairs(folder, plan.seed)
    length = {"train": _length(folder, "train", score), "convert": _length(folder, "convert", score), "saves": SAVING}
    for number, generator in score.numbers(plan):
        kind = ORDER[number % len(ORDER)]
        _trial(folder, kind, generator.uniform(0, length[kind] * 1.05), score)
        if kind == "train" and number % RESUMED_EVERY == 0:
            _resume(folder, score)
    for place in (folder / "train", folder / "convert", folder / "saves"):
        leftovers.clean(place)
    left = temporary_files(folder)
    score.check(not left, f"left behind after the next run: {[path.name for path in left][:3]}")


def _command(folder: Path, kind: str) -> tuple:
    if kind == "saves":
        return _save_on_and_on, [str(folder / "saves")]
    if kind == "train":
        options = ["--max_train_steps", STEPS, "--save_every_n_steps", 1, "--save_last_n_steps", 2]
        return train_pair_network.main, training(folder, folder / "train", *options)
    source = folder / "train" / "x.safetensors"
    out = folder / "convert"
    out.mkdir(exist_ok=True)
    return convert, ["diffusers", str(source), "-o", str(out / "y.safetensors"), "--overwrite"]


def _save_on_and_on(argv: list[str]) -> int:
    """The saves of a training that keeps two of them: LoRA and coupled file, state, and the removal of old ones."""
    folder = Path(argv[0])
    accelerator = Accelerator(cpu=True)
    network = nn.Linear(256, 256)
    optimizer = torch.optim.AdamW(network.parameters())
    network, optimizer = accelerator.prepare(network, optimizer)
    network(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    step = len([*folder.glob("x-step*-state")])
    while True:
        name, old = (folder / f"x-step{number:08d}" for number in (step, max(0, step - 2)))
        for stem in (name, folder / "x"):
            write_together({Path(f"{stem}{end}"): (network.state_dict(), {"step": step}) for end in SUFFIXES})
        save_state(accelerator, Path(f"{name}-state"), TrainState(1, step, False, 7, 2, 1, 1))
        remove_weights(folder, old.name)
        remove_folder(Path(f"{old}-state"))
        step += 1


def _length(folder: Path, kind: str, score: Score) -> float:
    """Seconds of an undisturbed run."""
    begun = time.monotonic()
    log = folder / "log.txt"
    status = wait(start(*_command(folder, kind), log), 300)
    score.check(status == 0, f"{kind} without a kill ended with {status}: {log.read_text()[-300:]}")
    return time.monotonic() - begun


def _trial(folder: Path, kind: str, delay: float, score: Score) -> None:
    place = folder / kind
    before = whole_files(place, score)
    child = start(*_command(folder, kind), folder / "log.txt")
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    ended = wait(child, 30)
    score.count(f"{kind} {'killed' if ended == 137 else 'had ended'}")
    score.count("left temporary files", bool(temporary_files(place)))
    after = whole_files(place, score)
    had, has = ({name for name in names if name.endswith("-state")} for names in (before, after))
    score.check(bool(has) or not had, f"{kind}: no state is left after a kill at {delay:.2f} s")
    score.check("x.safetensors" in after or "x.safetensors" not in before, f"{kind}: the last LoRA is gone")


def _resume(folder: Path, score: Score) -> None:
    """The newest state can be gone on from, and the run that does leaves nothing behind."""
    states = sorted((folder / "train").glob("x-step*-state"))
    if not states:
        return
    log = folder / "resumed.txt"
    log.write_text("")
    argv = training(folder, folder / "train", "--max_train_steps", STEPS + 1, "--resume", states[-1])
    status = wait(start(train_pair_network.main, argv, log), 120)
    score.count("resumed")
    score.check(status == 0, f"{states[-1].name} could not be resumed ({status}): {log.read_text()[-300:]}")
    score.check("identically" not in log.read_text(), f"resumed otherwise: {log.read_text()[-300:]}")
    left = temporary_files(folder / "train")
    score.check(not left, f"the next run left {[path.name for path in left][:3]}")
