"""Where in the noise schedule a denoising step is."""

from __future__ import annotations

import torch
from torch import Tensor

from ..protocols import Scheduler


def schedule_progress(scheduler: Scheduler, timestep: Tensor | float) -> float:
    """Part of the schedule that lies behind the current model call, in [0, 1): i / n at step i of n.

    It counts the scheduler's whole schedule, not the steps that this run takes, so that one style interval means the
    same noise levels in txt2img, in img2img (which enters the schedule late) and in a base/refiner split.

    Args:
        scheduler: The pipeline's, after ``set_timesteps``.
        timestep: What the pipeline gave the model: one value of the schedule, or that value / 1000 (FLUX).
    """
    # Schedulers with two calls per step count calls and list each timestep twice; index / length holds for them too.
    for counter in ("step_index", "begin_index"):
        index = getattr(scheduler, counter, None)
        if index is not None:
            return int(index) / len(scheduler.timesteps)
    # DDIM, DDPM and PNDM count nothing, and the others not yet at their first call. PNDM repeats a timestep.
    schedule = torch.tensor(list(dict.fromkeys(scheduler.timesteps.tolist())), dtype=torch.float64)
    value = torch.as_tensor(timestep).flatten()[0].double().cpu()
    distance = torch.stack([schedule - value, schedule / 1000 - value]).abs()
    return int(distance.argmin()) % len(schedule) / len(schedule)
