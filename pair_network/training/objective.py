"""The paper's losses in terms of a batch of content rows followed by style rows."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from pair_network.errors import PairError

if TYPE_CHECKING:  # the schedules' names are options, which --help shows without torch
    from torch import Tensor

SCHEDULES = ("joint", "alternate")


class Phase(Enum):
    """Which losses a training step computes."""

    CONTENT = "content"  # eq. 4 alone
    STYLE = "style"  # eq. 6 alone
    JOINT = "joint"  # eq. 7: both, with unit weight each


def phase_of(step: int, style_start_step: int, schedule: str) -> Phase:
    """What the step trains: content alone at first, then both losses, in one batch or in turn.

    Args:
        step: Optimizer updates made so far; the same on every process.
        style_start_step: Number of content-only steps at the start.
        schedule: "joint" (2B rows in one pass) or "alternate" (B rows: style, content, style, …).
    """
    if step < style_start_step:
        return Phase.CONTENT
    if schedule == "joint":
        return Phase.JOINT
    return Phase.STYLE if (step - style_start_step) % 2 == 0 else Phase.CONTENT


def default_style_start(max_train_steps: int) -> int:
    """A third of the run: the paper trains 250 content-only steps and 500 joint ones."""
    return max_train_steps // 3


def check_schedule(style_start_step: int, max_train_steps: int) -> None:
    """Raises PairError when no step would train the style branch."""
    if style_start_step >= max_train_steps:
        raise PairError(
            f"style_start_step={style_start_step} leaves no style step in max_train_steps={max_train_steps}; "
            f"lower it (a third, {default_style_start(max_train_steps)}, is the default)"
        )


def joint_loss(mean_over_rows: Tensor, phase: Phase) -> Tensor:
    """L_content + L_combined (eq. 7) from the host's mean over all rows.

    A mean over B content and B style rows is half of the sum of the two means.
    """
    return 2 * mean_over_rows if phase is Phase.JOINT else mean_over_rows


def branch_losses(per_row: Tensor, phase: Phase) -> dict[str, Tensor]:
    """Mean loss of each branch from per-row losses ``(rows,)``, content rows first; detached scalars."""
    per_row = per_row.detach()
    if phase is not Phase.JOINT:
        return {phase.value: per_row.mean()}
    content, style = per_row.chunk(2)
    return {"content": content.mean(), "style": style.mean()}
