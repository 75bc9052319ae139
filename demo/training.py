"""The training loop that the autoencoder and the U-Net share: schedule, averaged weights, checkpoints, log."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from demo import parallel


@dataclass(frozen=True)
class Budget:
    """How long and how fast to train.

    Attributes:
        max_steps: the training ends after so many steps in all.
        max_minutes: or after so many minutes of this run.
        lr: peak learning rate.
        warm_up: steps of this run until the peak; a resumed run warms up again.
        ema: final decay of the averaged weights, per step.
        save_every: steps between checkpoints.
    """

    max_steps: int
    max_minutes: float
    lr: float
    warm_up: int
    ema: float
    save_every: int


def cosine_rate(progress: float, step: int, warm_up: int) -> float:
    """Learning-rate factor: linear over `warm_up` steps, along a cosine to 0 at `progress` 1."""
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


class Average:
    """Exponential moving average of a module's parameters, fast at first so that the initial values fade."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the current parameters in, after optimizer step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = dict(self.module.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [current[name] for name in self.values], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the module has the averaged parameters."""
        held = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        self.module.load_state_dict(self.values, strict=False)
        try:
            yield
        finally:
            self.module.load_state_dict(held, strict=False)


class Training:
    """Minimises a module's loss; goes on from the checkpoint in `work` where there is one.

    Args:
        name: names the checkpoint, the log and the progress bar.
        work: folder of both files.
        module: gives the loss of a batch; on its device.
        budget: how long and how fast.
    """

    def __init__(self, name: str, work: Path, module: torch.nn.Module, budget: Budget) -> None:
        self.name, self.module, self.budget = name, module, budget
        self.file, self.log_file = work / f"{name}.pt", work / f"{name}_log.jsonl"
        self.optimizer = torch.optim.AdamW(
            module.parameters(), budget.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = Average(module, budget.ema)
        self.step, self.samples, self.minutes = 0, 0, 0.0
        self.losses: list[float] = []
        if self.file.exists():
            self._load()

    def run(self, source: Iterator[tuple[torch.Tensor, ...]], on_save: Callable[[], None] = lambda: None) -> None:
        """Trains to the end of the budget.

        Args:
            source: endless batches, each the arguments of the module; their first dimension is the batch.
            on_save: called by the first process at each checkpoint, and at the end.
        """
        model = parallel.data_parallel(self.module)
        first_step, start, earlier = self.step, time.monotonic(), self.minutes
        bar = tqdm(
            desc=self.name, total=self.budget.max_steps, initial=self.step, disable=parallel.rank() > 0, mininterval=10
        )
        while (progress := self._progress(time.monotonic() - start)) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.budget.lr * cosine_rate(progress, self.step - first_step, self.budget.warm_up)
            batch = next(source)
            self._update(model, batch)
            self.samples += len(batch[0]) * parallel.world_size()
            self.minutes = earlier + (time.monotonic() - start) / 60
            bar.update()
            bar.set_postfix(loss=f"{self.losses[-1]:.4f}", refresh=False)
            if self.step % self.budget.save_every == 0:
                self._save(on_save)
        self._save(on_save)
        parallel.wait_for_all()

    def _update(self, model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
        """One step of the optimizer."""
        device = parallel.device()
        with parallel.autocast():
            loss = model(*(tensor.to(device) for tensor in batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.average.update(self.step)
        self.losses.append(loss.item())

    def _progress(self, seconds: float) -> float:
        """Share that is done, in [0, 1], of steps or minutes, whichever is larger; the same on every process."""
        share = torch.tensor(max(self.step / self.budget.max_steps, seconds / 60 / self.budget.max_minutes))
        if parallel.world_size() > 1:
            dist.broadcast(share, 0)
        return min(1.0, share.item())

    def _load(self) -> None:
        state = torch.load(self.file, map_location=parallel.device(), weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        self.step, self.samples, self.minutes = state["step"], state["samples"], state["minutes"]

    def _save(self, on_save: Callable[[], None]) -> None:
        """Checkpoint, a line in the log, and what the caller saves; by the first process only."""
        if parallel.rank() > 0:
            return
        counts = {"step": self.step, "samples": self.samples, "minutes": self.minutes}
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            **counts,
        }
        # Renamed when complete, so that a run that is killed here leaves the previous checkpoint whole.
        temporary = self.file.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, self.file)
        with self.log_file.open("a", encoding="utf-8") as log:
            loss = sum(self.losses) / max(1, len(self.losses))
            log.write(json.dumps({**counts, "minutes": round(self.minutes, 1), "loss": round(loss, 5)}) + "\n")
        self.losses.clear()
        on_save()
