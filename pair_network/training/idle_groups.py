"""AdaFactor's schedule in phases in which a whole branch has no gradient.

With ``relative_step`` AdaFactor finds its rates by itself, and transformers' schedule only reads them back. It reads
them for the groups that have a gradient, so that in a content-only step the list is shorter than the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
    theirs = AdafactorSchedule.get_lr
    AdafactorSchedule.get_lr = _rates  # type: ignore[method-assign]
    try:
        yield
    finally:
        AdafactorSchedule.get_lr = theirs  # type: ignore[method-assign]


def _rates(schedule: Any) -> list[float]:
    optimizer = schedule.optimizer
    return [
        _rate(optimizer, group, initial)
        for group, initial in zip(optimizer.param_groups, schedule.base_lrs, strict=True)
    ]


def _rate(optimizer: Any, group: dict[str, Any], initial: float) -> float:
    states = [optimizer.state[parameter] for parameter in group["params"] if parameter in optimizer.state]
    stepped = [state for state in states if "step" in state]
    return float(optimizer._get_lr(group, stepped[0])) if stepped else initial
