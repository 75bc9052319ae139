"""Which jobs a run consists of, and what they cost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.quality.jobs import Job
from benchmarks.quality.methods import METHODS, PAIRS, RIVALS, ROW_UPDATES
from benchmarks.quality.sampler import MODES, STEPS
from demo.make_pairs import CONTENTS
from demo.model_config import build_unet
from demo.parallel import autocast, device
from demo.styles import HELD_OUT_STYLES

# Kept out of every choice of a setting, and reported apart.
RESERVED_OPERATORS = ("watercolour", "pixel")
RESERVED_PAIR = "mug"
CHOICE_OPERATORS = tuple(name for name in HELD_OUT_STYLES if name not in RESERVED_OPERATORS)
CHOICE_PAIRS = tuple(name for name in CONTENTS if name != RESERVED_PAIR)
MAIN = ("ours", "plain", "official")
# Closest where styles are strongest: beyond these every method gives way.
THREE = {"lora": (0.6, 1.0, 1.4), "guidance": (1.0, 1.5, 2.2)}
FIVE = {"lora": (0.4, 0.7, 1.0, 1.3, 1.6), "guidance": (0.5, 1.0, 1.5, 2.0, 3.0)}
CFG_END = 0.4
# Ways to draw with a style LoRA: the sampler's mode, where the content's CFG ends, and at which strengths.
SCALES = (*THREE["guidance"], 3.2)
WAYS: dict[str, tuple[str, float, tuple[float, ...]]] = {
    "lora": ("lora", 1.0, THREE["lora"]),
    "positive rows": ("positive", 1.0, THREE["lora"]),
    "guidance": ("guidance", 1.0, SCALES),
    "guidance, CFG ends": ("guidance", CFG_END, SCALES),
}
LEARNING_RATES = (5e-4, 1.5e-3, 4e-3, 1e-2)


@dataclass(frozen=True)
class Cost:
    """What a run needs: trainings, pictures, and seconds of one core (or of the GPU)."""

    trainings: int
    pictures: int
    seconds: float


def quick_jobs() -> list[Job]:
    """One style, one pair, the three main methods."""
    return [Job(method, "poster", "house", 0, 30, THREE) for method in MAIN]


def full_jobs(large: bool) -> list[Job]:
    """The full form: what fits into 12 core-hours, or, `large`, what a GPU is for."""
    operators, pairs = tuple(HELD_OUT_STYLES), tuple(CONTENTS)
    if large:
        return _grid(tuple(METHODS), operators, pairs, 3, 100, FIVE)
    few = _grid(tuple(METHODS), CHOICE_OPERATORS, CHOICE_PAIRS[:2], 1, 40, THREE)
    main = _grid(MAIN, operators, pairs, 2, 100, THREE)
    jobs = main + [job for job in few if job.method not in MAIN]
    # Training by training: a run that is stopped early has compared all methods on what it did.
    return sorted(jobs, key=lambda job: (job.seed, pairs.index(job.pair), operators.index(job.operator)))


def search_jobs() -> list[Job]:
    """The small search that every method's learning rate comes from: the same rates on the same two jobs."""
    jobs = [Job(method, operator, pair, 0, 30, THREE) for method in RIVALS for operator, pair in
            zip(CHOICE_OPERATORS[:2], CHOICE_PAIRS[:2], strict=True)]  # fmt: skip
    return [replace(job, learning_rate=rate) for job in jobs for rate in LEARNING_RATES]


def _grid(
    methods: Sequence[str], operators: Sequence[str], pairs: Sequence[str], seeds: int, prompts: int,
    strengths: dict[str, tuple[float, ...]],
) -> list[Job]:  # fmt: skip
    return [
        Job(method, operator, pair, seed, prompts, strengths)
        for seed in range(seeds)
        for pair in pairs
        for operator in operators
        for method in methods
    ]


def estimate(jobs: Sequence[Job]) -> Cost:
    """The cost of jobs by this machine's speed, measured for a few seconds on one core (or on the GPU)."""
    pictures = sum(job.prompts * len(job.strengths[mode]) for job in jobs for mode in MODES)
    rows = sum(
        STEPS * job.prompts * len(job.strengths[mode]) * (2 if mode == "lora" else 3) for job in jobs for mode in MODES
    )
    # A backward pass to the LoRA costs about as much again as the forward pass; loading, decoding and scoring add.
    trained = 2.5 * ROW_UPDATES * _seconds_per_row(contextlib.nullcontext) * len(jobs)
    return Cost(len(jobs), pictures, 1.1 * (trained + rows * _seconds_per_row(autocast)) + 12 * len(jobs))


@torch.no_grad()
def _seconds_per_row(precision: Callable[[], contextlib.AbstractContextManager]) -> float:
    """One row through the U-Net, forwards: trained in float32, drawn in the machine's fastest precision."""
    unet, batch = build_unet().to(device()), 2 * PAIRS
    size = unet.config.sample_size
    latents = torch.randn(batch, unet.config.in_channels, size, size, device=device())
    states = torch.randn(batch, 32, unet.config.cross_attention_dim, device=device())
    times = []
    for _ in range(4):
        started = time.perf_counter()
        with precision():
            unet(latents, torch.tensor(500), states).sample.cpu()
        times.append(time.perf_counter() - started)
    return min(times) / batch
