"""What every part shares: children that run the real programs, and what must be true when they have ended."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import toml
import torch
from PIL import Image
from tqdm import tqdm

import train_pair_network
from convert.files.header import read_header
from convert.files.lazy import read_stored
from pair_network import leftovers, signals
from pair_network.training.hosts.embedded.state import read_train_state

MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"
SLOWEST = 10.0  # seconds of the processor that one broken input may take: a busy machine is no hang
PATIENCE = 600.0  # seconds after which a child hangs: on a busy machine what takes one may take a minute
# What a training imports while it runs; children that are forked after it start in no time.
PROGRAMS = (
    "pair_network.training.hosts.embedded.entry", "transformers.models.clip.modeling_clip", "torch._dynamo",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "diffusers.schedulers.scheduling_ddim",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How much of a part is wanted.

    Attributes:
        trials: How many, those of earlier calls included.
        until: ``time.monotonic()`` at which the part stops, done or not.
        keep: Called after each trial: writes down what was found.
    """

    trials: int
    seed: int
    until: float
    keep: Callable[[], None] = lambda: None


@dataclass
class Score:
    """What a part has found.

    Attributes:
        trials: Trials made.
        counts: What they were, by kind.
        failures: A sentence for everything that did not hold.
        commits: What was tried, by its commits.
    """

    name: str
    trials: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    commits: list[str] = field(default_factory=list)

    def numbers(self, plan: Plan) -> Iterator[tuple[int, random.Random]]:
        """The trials that are still to be made: each one's number, and randomness that depends on nothing else."""
        while self.trials < plan.trials and time.monotonic() < plan.until:
            begun = time.monotonic()
            if commit() not in self.commits:
                self.commits.append(commit())
            yield self.trials, random.Random(f"{plan.seed} {self.name} {self.trials}")
            self.trials += 1
            self.seconds += time.monotonic() - begun
            plan.keep()

    def count(self, kind: str, number: int = 1) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + number

    def check(self, holds: object, words: str) -> None:
        if not holds:
            self.failures.append(" ".join(words.split())[:400])


@functools.cache
def commit() -> str:
    """The commit of this code, with a + where it has been changed since; "unknown" without git."""
    words = ["git", "-C", str(MODEL), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def import_programs() -> None:
    """Imports what the children will need, before they are forked."""
    for name in PROGRAMS:
        importlib.import_module(name)
    Image.init()


def make_pairs(folder: Path, seed: int) -> None:
    """Two pairs of 64 × 64 pixels, and the demo's model with a small U-Net: hundreds of trainings take minutes."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    shutil.copytree(MODEL, folder / "model", ignore=shutil.ignore_patterns("unet"))
    config = {**UNet2DConditionModel.load_config(MODEL / "unet"), "block_out_channels": [16, 32], "norm_num_groups": 8}
    config |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    config |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    torch.manual_seed(seed)
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "model" / "unet")
    CLIPTextModel.from_pretrained(folder / "model" / "text_encoder")  # compiles hundreds of expressions once
    generator = random.Random(seed)
    for side in ("content", "style"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        for name in ("cat", "dog"):
            Image.frombytes("RGB", (64, 64), generator.randbytes(64 * 64 * 3)).save(folder / side / f"{name}.png")


def training(pairs: Path, out: Path, *further: object) -> list[str]:
    """A command line that trains the small model, without previews of any length."""
    options = ["--host", "embedded", "--pretrained_model_name_or_path", pairs / "model"]
    options += ["--output_dir", out, "--output_name", "x"]
    options += ["--dataset_config", pairs / "pairs.toml", "--network_dim", 2, "--network_alpha", 2]
    options += ["--learning_rate", "1e-3", "--seed", 7, "--cache_latents", "--save_state", "--style_start_step", 1]
    options += ["--sample_prompts", pairs / "prompts.txt"]
    (pairs / "prompts.txt").write_text("a cat --s 1 --w 64 --h 64\n")
    attributes = {"content_dir": str(pairs / "content"), "content_class_tokens": "a photo of a cat"}
    subset = {"image_dir": str(pairs / "style"), "class_tokens": "a photo of a cat in ink style"}
    dataset = {"resolution": 64, "subsets": [{**subset, "custom_attributes": attributes}]}
    (pairs / "pairs.toml").write_text(toml.dumps({"datasets": [dataset]}))
    return [str(option) for option in (*options, *further)]


def start(
    program: Callable[[list[str]], int], argv: list[str], log: Path, before: Callable[[], None] | None = None
) -> int:
    """Starts a program in a forked child with a process group of its own; returns the child's number.

    Signals that come before the program has its own answer to them end the child without a word, as they end a Python
    that is only starting; those that come after its end change nothing.
    """
    before_it = signal.pthread_sigmask(signal.SIG_BLOCK, signals.signals())
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before_it)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        return child
    status = 70
    try:
        for signum in signals.signals():
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before_it)
        os.setpgid(0, 0)
        # tqdm's own lock is shared with forked children: one that is killed while it holds it stops all later ones.
        tqdm.set_lock(threading.RLock())
        target = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        if before is not None:
            before()
        status = program(argv)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    except BaseException:  # what a shell would show as a traceback
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def program(argv: list[str]) -> int:
    """Trains as the script does; where that one leaves, the child is deaf from within its program on."""
    signals.GRACE = PATIENCE  # on a busy machine the signals of one moment are heard further apart

    def until_its_end() -> int:
        try:
            return train_pair_network.main(argv)
        finally:
            for signum in signals.signals():
                signal.signal(signum, signal.SIG_IGN)

    return signals.run_main(until_its_end)


def wait(child: int) -> int | None:
    """The child's status, 128 + n when signal n ended it; None: it still runs, and is killed."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def whole_files(folder: Path, score: Score) -> set[str]:
    """Names of the finished files and states below a folder; each is read to its end, and what is not whole is said."""
    names = set()
    for path in sorted(folder.rglob("*.safetensors")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        names.add(str(path.relative_to(folder)))
        try:
            for stored in read_header(path).tensors.values():
                read_stored(stored)
        except Exception as cause:  # whatever it is, the file is not whole
            score.check(False, f"{path.name} is not whole: {cause}")
    for state in sorted(folder.glob("*-state")):
        names.add(state.name)
        try:
            read_train_state(state)
            missing = [name for name in ("model.safetensors", "optimizer.bin", "random_states_0.pkl") if not
                       (state / name).is_file()]  # fmt: skip
            score.check(not missing, f"{state.name} lacks {missing}")
        except Exception as cause:
            score.check(False, f"{state.name} is not whole: {cause}")
    return names


def temporary_files(folder: Path) -> list[Path]:
    """What killed runs have left below a folder."""
    return [path for path in folder.rglob("*") if leftovers.PATTERN.fullmatch(path.name)]
