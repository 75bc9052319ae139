"""Pairs that a step did not see stay where they were, for every optimizer that derives from torch's."""

import pytest
import torch
from torch import nn

from pair_network.training.absent_pairs import absent_pairs_kept


def make(name, parameters):
    if name == "Lion":
        from lion_pytorch import Lion

        return Lion(parameters, lr=0.1, weight_decay=0.5)
    if name == "Prodigy":
        from prodigyopt import Prodigy

        return Prodigy(parameters, lr=1.0, weight_decay=0.5)
    if name == "SGD":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5)
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)


def step(up, optimizer, pair):
    optimizer.zero_grad()
    (up[pair].square().sum() + up[pair].sum()).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "Prodigy"])
def test_momentum_and_decay_do_not_move_absent_pairs(name):
    up = nn.Parameter(torch.ones(2, 3, 2))
    optimizer = make(name, [up])
    with absent_pairs_kept([up]):
        step(up, optimizer, 0)
        before = up.detach().clone()
        step(up, optimizer, 1)
        assert torch.equal(up[0], before[0]) and not torch.equal(up[1], before[1])
    before = up.detach().clone()
    step(up, optimizer, 1)  # outside the block: what would happen without it
    assert not torch.equal(up[0], before[0])


def test_moments_of_absent_pairs_stay_so_their_next_step_is_as_if_nothing_happened():
    seen_twice = nn.Parameter(torch.ones(2, 3, 2))
    optimizer = make("SGD", [seen_twice])
    with absent_pairs_kept([seen_twice]):
        for pair in (0, 1, 1, 0):
            step(seen_twice, optimizer, pair)
    alone = nn.Parameter(torch.ones(1, 3, 2))
    optimizer = make("SGD", [alone])
    step(alone, optimizer, 0)
    step(alone, optimizer, 0)
    torch.testing.assert_close(seen_twice[0], alone[0], rtol=0, atol=0)


def test_other_parameters_and_single_pairs_are_left_to_the_optimizer():
    single, other = nn.Parameter(torch.ones(1, 3, 2)), nn.Parameter(torch.ones(2, 3, 2))
    optimizer = make("AdamW", [single, other])
    with absent_pairs_kept([single]):
        step(other, optimizer, 0)
        before = other.detach().clone()
        step(other, optimizer, 1)
    assert not torch.equal(other[0], before[0])
