"""AdaFactor's schedule in phases in which a whole branch has no gradient.

With ``relative_step`` AdaFactor finds its rates by itself, and transformers' schedule only reads them back. It reads
them for the groups that have a gradient, so that in a content-only step the list is shorter than the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from .replaced import replaced


class Adafactor(Protocol):
    """What is used of transformers' optimizer of this name."""

    param_groups: list[dict[str, Sequence[Tensor]]]
    state: Mapping[Tensor, Mapping[str, object]]

    def _get_lr(self, group: Mapping[str, object], state: Mapping[str, object]) -> float: ...


class Schedule(Protocol):
    """What is used of its schedule."""

    optimizer: Adafactor
    base_lrs: list[float]


@contextmanager
def idle_groups_scheduled() -> Iterator[None]:
    """Inside the block, AdaFactor's schedule names a rate for every group; one that never stepped has the initial one.

    Hosts create their schedule where a plug-in cannot reach it, so the class is changed, and restored afterwards.
    """
    try:
        from transformers.optimization import AdafactorSchedule
    except ImportError:  # a host without transformers has no such schedule either
        yield
        return
    with replaced(AdafactorSchedule, {"get_lr": _rates}):
        yield


def _rates(schedule: Schedule) -> list[float]:
    optimizer = schedule.optimizer
    return [
        _rate(optimizer, group, initial)
        for group, initial in zip(optimizer.param_groups, schedule.base_lrs, strict=True)
    ]


def _rate(optimizer: Adafactor, group: Mapping[str, Sequence[Tensor]], initial: float) -> float:
    states = [optimizer.state[parameter] for parameter in group["params"] if parameter in optimizer.state]
    stepped = [state for state in states if "step" in state]
    return float(optimizer._get_lr(group, stepped[0])) if stepped else initial
