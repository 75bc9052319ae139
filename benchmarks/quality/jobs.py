"""One job of the bench: train a method on a pair, draw with it at several strengths, score the pictures."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.quality.judge import Judge, load_judge
from benchmarks.quality.measures import Reference, score
from benchmarks.quality.methods import METHODS
from benchmarks.quality.sampler import MODES, Prompt, Sampler
from demo.make_pairs import CONTENTS, PAIRS_DIR
from demo.model_config import MODEL_DIR
from demo.scenes import BACKGROUNDS, COLOURS, caption, to_picture
from demo.styles import HELD_OUT_STYLES
from demo.subjects import SUBJECTS
from pair_network.hosts.embedded.entry import train_pairs

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "presets" / "embedded.toml"
SAME_CATEGORY = 0.2
STRIP = 6


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
    def key(self) -> str:
        """Names the job in the results; a job with other settings has another key."""
        settings = hashlib.sha256(repr((asdict(self), asdict(METHODS[self.method]))).encode()).hexdigest()[:8]
        return f"{self.method}-{self.operator}-{self.pair}-{self.seed}-{settings}"


def model_hash() -> str:
    """Names the weights of the embedded model; results of another model are not continued."""
    digest = hashlib.sha256()
    for file in sorted(MODEL_DIR.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


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
    file = work / f"base_{model_hash()}_{training_subject}_{count}.npy"
    if not file.exists():
        images = _tools(work)[0].draw(prompts)
        with tempfile.NamedTemporaryFile(dir=work, suffix=".npy", delete=False) as part:
            np.save(part, images)
        Path(part.name).replace(file)
    return prompts, np.load(file)


def run_job(job: Job, work: Path, strip: Path | None = None) -> dict[str, Any]:
    """The job's result: its settings, the scores by mode and strength, and the seconds it took.

    Args:
        job: what to do.
        work: folder of judge, base pictures and temporary files.
        strip: file for a picture of the first prompts, a row for each mode and strength.
    """
    sampler, judge = _tools(work)
    method, training_subject = METHODS[job.method], CONTENTS[job.pair][1]
    prompts, base = base_pictures(work, training_subject, job.prompts)
    numbers = np.array([list(SUBJECTS).index(prompt.subject) for prompt in prompts])
    style = HELD_OUT_STYLES[job.operator]
    reference = Reference.of(judge, base, style, numbers, list(SUBJECTS).index(training_subject))
    words = f"in {job.operator} style" if method.uses_words else ""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        started = time.monotonic()
        file = train(job, Path(folder))
        trained = time.monotonic() - started
        network = sampler.attach(file)
    curves: dict[str, list[dict[str, float]]] = {}
    rows = [base[-STRIP:], reference.truth[-STRIP:]]
    for mode in MODES:
        curves[mode] = []
        for strength in job.strengths[mode]:
            images = sampler.draw(prompts, words, network, mode, strength)
            curves[mode].append({"at": strength, **score(images, reference, judge)})
            rows.append(images[-STRIP:])
    network.restore()
    if strip is not None:
        _save_strip(rows, strip)
    seconds = {"train": round(trained, 1), "all": round(time.monotonic() - started, 1)}
    return {**asdict(job), "base": score(base, reference, judge), "curves": curves, "seconds": seconds}


def train(job: Job, folder: Path) -> Path:
    """Trains by the preset with the method's options; the style LoRA's file."""
    method = METHODS[job.method]
    content, style = _pair_files(job, folder) if method.num_pairs > 1 else _one_pair(job)
    argv = [
        "--config_file", str(PRESET), "--pretrained_model_name_or_path", str(MODEL_DIR),
        "--content", str(content), "--style", str(style), "--style_prompt", f"in {job.operator} style",
        "--output_dir", str(folder), "--output_name", "style", "--seed", str(job.seed),
        "--learning_rate", str(job.learning_rate or method.learning_rate),
        "--max_train_steps", str(method.steps), "--style_start_step", str(method.steps // 3),
        "--save_precision", "float", *method.options, "--network_args", *method.network_args,
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train_pairs(argv, method.trainer)
    return folder / "style.safetensors"


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


def _save_strip(rows: list[np.ndarray], file: Path) -> None:
    picture: Image.Image = to_picture(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
