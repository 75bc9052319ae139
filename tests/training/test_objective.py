"""Phases and losses, with the numbers worked by hand."""

import pytest
import torch

from pair_network import PairError
from pair_network.training.objective import (
    Phase,
    branch_losses,
    check_schedule,
    default_style_start,
    joint_loss,
    phase_of,
)


def test_joint_training_starts_at_the_style_step():
    phases = [phase_of(step, 2, "joint") for step in range(4)]
    assert phases == [Phase.CONTENT, Phase.CONTENT, Phase.JOINT, Phase.JOINT]


def test_alternation_takes_turns_after_the_start():
    phases = [phase_of(step, 1, "alternate") for step in range(5)]
    assert phases == [Phase.CONTENT, Phase.STYLE, Phase.CONTENT, Phase.STYLE, Phase.CONTENT]


def test_both_losses_of_eq_7_have_unit_weight():
    """Rows 1, 3 (content, mean 2) and 10, 20 (style, mean 15): eq. 7 is 17, the host's mean over rows 8.5."""
    per_row = torch.tensor([1.0, 3.0, 10.0, 20.0])
    assert joint_loss(per_row.mean(), Phase.JOINT).item() == 17
    assert joint_loss(per_row[:2].mean(), Phase.CONTENT).item() == 2
    named = branch_losses(per_row, Phase.JOINT)
    assert (named["content"].item(), named["style"].item()) == (2, 15)
    assert branch_losses(per_row, Phase.STYLE) == {"style": torch.tensor(8.5)}


def test_a_schedule_without_style_steps_is_refused():
    assert default_style_start(750) == 250  # the paper's figures
    check_schedule(749, 750)
    with pytest.raises(PairError, match="style_start_step=750 leaves no style step in max_train_steps=750"):
        check_schedule(750, 750)
