"""Keeps the content branches of pairs that a step did not see exactly where they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@contextmanager
def absent_pairs_kept(content_ups: Iterable[Tensor]) -> Iterator[None]:
    """Inside the block, no optimizer moves the rows of pairs whose gradient is zero.

    All pairs share one parameter (pairs, out, rank), so momentum and weight decay would move the pairs that a step
    did not see. Whether a pair was seen is read from the reduced gradient, so every process decides alike. The hooks
    are global because hosts create their optimizer, of any class, where a plug-in cannot reach it.
    """
    watched = {id(up) for up in content_ups}
    before: dict[int, tuple[Tensor, Tensor, dict[str, Tensor]]] = {}

    def remember(optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for parameter, grad in _watched_parameters(optimizer, watched):
            seen = grad.flatten(1).any(dim=1)
            state = {key: value.clone() for key, value in _row_state(optimizer, parameter).items()}
            before[id(parameter)] = (seen, parameter.detach().clone(), state)

    def put_back(optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for parameter, _ in _watched_parameters(optimizer, watched):
            if id(parameter) not in before:
                continue
            seen, weight, state = before.pop(id(parameter))
            mask = seen.view(-1, *[1] * (parameter.dim() - 1))
            with torch.no_grad():
                parameter.copy_(torch.where(mask, parameter, weight))
                for key, value in _row_state(optimizer, parameter).items():
                    if key in state:
                        value.copy_(torch.where(mask, value, state[key]))

    with register_optimizer_step_pre_hook(remember), register_optimizer_step_post_hook(put_back):
        yield


def _watched_parameters(optimizer: torch.optim.Optimizer, watched: set[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The parameters with their gradients, where they have one."""
    for group in optimizer.param_groups:
        yield from ((p, p.grad) for p in group["params"] if id(p) in watched and p.grad is not None)


def _row_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's per-element state (moments). Quantised state is left out: its bytes mean nothing by row."""
    state = optimizer.state.get(parameter, {})
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()
    }
