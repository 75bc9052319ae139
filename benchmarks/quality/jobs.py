"""One job of the bench: train a method on a pair, draw with it at several strengths, score the pictures."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.judge import Judge, load_judge
from benchmarks.quality.measures import Reference, score
from benchmarks.quality.methods import METHODS, length_options
from benchmarks.quality.pictures import SHOWN, save_strip
from benchmarks.quality.sampler import GUIDANCE_SCALE, MODES, STEPS, STYLE_START, Prompt, Sampler
from demo.make_pairs import CONTENTS, PAIRS_DIR
from demo.model_config import MODEL_DIR
from demo.scenes import BACKGROUNDS, COLOURS, caption
from demo.styles import HELD_OUT_STYLES
from demo.subjects import SUBJECTS
from pair_network.training.hosts.embedded.entry import PairTrainer, train_pairs

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "presets" / "embedded.toml"
SAME_CATEGORY = 0.2


@dataclass(frozen=True)
class Job:
    """What to train and how much to draw.

    Attributes:
        method: key of `METHODS`.
        operator: key of `HELD_OUT_STYLES`.
        pair: key of the bundled contents.
        seed: of the training.
        prompts: how many.
        strengths: by mode, at which to draw.
        learning_rate: in place of the method's own.
    """

    method: str
    operator: str
    pair: str
    seed: int
    prompts: int
    strengths: dict[str, tuple[float, ...]]
    learning_rate: float | None = None

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or METHODS[self.method].learning_rate

    @property
    def key(self) -> str:
        """Names the job in the results; a job with other settings has another key."""
        method = replace(METHODS[self.method], learning_rate=self.rate)
        drawing = (STEPS, GUIDANCE_SCALE, STYLE_START)
        settings = hashlib.sha256(repr((asdict(self), asdict(method), drawing)).encode()).hexdigest()[:8]
        return f"{self.method}-{self.operator}-{self.pair}-{self.seed}-{settings}"


def model_hash() -> str:
    """Names the weights of the embedded model; results of another model are not continued."""
    digest = hashlib.sha256()
    for file in sorted(MODEL_DIR.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def device_name() -> str:
    """What draws and trains here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} cores"


def make_prompts(training_subject: str, count: int) -> list[Prompt]:
    """Captions with their noise: a fifth of them for the training subject in other colours, the rest for others."""
    rng = np.random.default_rng(7)
    others = [name for name in SUBJECTS if name != training_subject]
    prompts = []
    for i in range(count):
        same = i % round(1 / SAME_CATEGORY) == 0
        subject = training_subject if same else others[int(rng.integers(len(others)))]
        colour, background = (list(table)[rng.integers(len(table))] for table in (COLOURS, BACKGROUNDS))
        prompts.append(Prompt(caption(subject, colour, background), subject, 90_000 + i))
    return prompts


@lru_cache(maxsize=1)
def _tools(work: Path) -> tuple[Sampler, Judge]:
    """Loaded once in every process of the bench."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    return Sampler(), load_judge(work)


def base_pictures(work: Path, training_subject: str, count: int) -> tuple[list[Prompt], np.ndarray]:
    """The prompts of a training subject and the base model's pictures of them, drawn at the first call."""
    prompts = make_prompts(training_subject, count)
    file = work / f"base_{model_hash()}_{training_subject}_{count}_{STEPS}.npy"
    if not file.exists():
        images = _tools(work)[0].draw(prompts)
        with tempfile.NamedTemporaryFile(dir=work, suffix=".npy", delete=False) as part:
            np.save(part, images)
        Path(part.name).replace(file)
    return prompts, np.load(file)


def run_job(job: Job, work: Path, strips: Path) -> tuple[str, dict[str, Any]]:
    """The job's key and result: its settings, the scores by mode and strength, and the seconds it took.

    Args:
        job: what to do.
        work: folder of judge, base pictures and temporary files.
        strips: folder for the pictures of the jobs `SHOWN`: base, truth, and by each mode at the middle strength.
    """
    sampler, judge = _tools(work)
    method, training_subject = METHODS[job.method], CONTENTS[job.pair][1]
    prompts, base = base_pictures(work, training_subject, job.prompts)
    style = HELD_OUT_STYLES[job.operator]
    reference = Reference.of(judge, base, style, [prompt.subject for prompt in prompts], training_subject)
    words = f"in {job.operator} style" if method.uses_words else ""
    curves: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    shown = [base, reference.truth]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        file = train(job, Path(folder))
        trained = time.monotonic() - started
        for mode in MODES:
            for strength in job.strengths[mode]:
                images = sampler.draw(prompts, words, file, mode, strength)
                curves[mode].append({"at": strength, **score(images, reference, judge)})
                if strength == job.strengths[mode][len(job.strengths[mode]) // 2]:
                    shown.append(images)
    if (job.operator, job.pair, job.seed) in SHOWN:
        save_strip(shown, strips / f"{job.method}-{job.operator}.webp")
    seconds = {"train": round(trained, 1), "all": round(time.monotonic() - started, 1)}
    done = {"base": score(base, reference, judge), "curves": curves, "seconds": seconds, "device": device_name()}
    return job.key, {**asdict(job), **done}


def train(job: Job, folder: Path) -> Path:
    """Trains by the preset with the method's options; the style LoRA's file."""
    method = METHODS[job.method]
    content, style = _pair_files(job, folder) if method.num_pairs > 1 else _one_pair(job)
    return train_on(job, folder, PRESET, ("--content", str(content), "--style", str(style)))


def train_on(job: Job, folder: Path, preset: Path, images: Sequence[str]) -> Path:
    """The same on the images that options name; what they say further has the last word. The style LoRA's file."""
    method = METHODS[job.method]
    argv = [
        "--config_file", str(preset), "--pretrained_model_name_or_path", str(MODEL_DIR),
        "--style_prompt", f"in {job.operator} style",
        "--output_dir", str(folder), "--output_name", "style", "--seed", str(job.seed),
        "--learning_rate", str(job.rate),
        *length_options(method.steps),
        "--save_precision", "float", *method.options, "--network_args", *method.network_args,
        *images,
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train_pairs(argv, without_previews(method.trainer))
    return folder / "style.safetensors"


def without_previews(trainer: type[PairTrainer]) -> type[PairTrainer]:
    """The trainer, less the pictures that it draws after its last step: nobody would see them here."""
    return type(trainer.__name__, (trainer,), {"sample_images": lambda self, *args: None})


def _one_pair(job: Job) -> tuple[Path, Path]:
    return tuple(PAIRS_DIR / place / f"{job.pair}.png" for place in ("content", job.operator))  # type: ignore[return-value]


def _pair_files(job: Job, folder: Path) -> tuple[Path, Path]:
    """Folders with the job's pair and the next ones."""
    names = list(CONTENTS)
    first = names.index(job.pair)
    chosen = [names[(first + i) % len(names)] for i in range(METHODS[job.method].num_pairs)]
    for place in ("content", job.operator):
        (folder / place).mkdir()
        for name in chosen:
            for suffix in (".png", ".txt"):
                (folder / place / f"{name}{suffix}").write_bytes((PAIRS_DIR / place / f"{name}{suffix}").read_bytes())
    return folder / "content", folder / job.operator
