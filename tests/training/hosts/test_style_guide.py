"""kohya's previews with style guidance, on a model that answers with known numbers: eq. 10 and where its CFG ends."""

import contextlib

import pytest
import torch
from torch import nn

from pair_network.families import PreviewInputs
from pair_network.training.hosts.sd_scripts.previews import StyleGuide

CFG, SCALE, STEPS = 5.0, 2.0, 10


class Model(nn.Module):
    """Answers each row with its text: 1 for the null prompt, 3 for the prompt, 4 for the styled prompt."""

    def forward(self, latents, text):
        return text.expand_as(latents).clone()


class Network:
    """Stands for the network, whose routing this model does not need."""

    def route(self, rows):
        return contextlib.nullcontext()


def text(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def predictions(cond_row, start, cfg_end):
    """What kohya's CFG makes of each step's two rows."""
    model = Model()
    guide = StyleGuide(Network(), model, PreviewInputs(("text",), cond_row, 30), SCALE, start, cfg_end)
    rows = text(3.0, 1.0) if cond_row == 0 else text(1.0, 3.0)
    with guide.recording():
        for _ in range(STEPS):
            model(torch.zeros(2, 1, dtype=torch.float64), text(4.0, 0.0) if cond_row == 0 else text(0.0, 4.0))
    found = []
    with guide.guiding():
        for _ in range(STEPS):
            output = model(torch.zeros(2, 1, dtype=torch.float64), rows)
            cond, null = output[cond_row].item(), output[cond_row - 1].item()
            found.append(null + CFG * (cond - null))
    return found


@pytest.mark.parametrize("cond_row", [0, -1])
def test_equation_10_and_the_end_of_its_cfg(cond_row):
    """Plain 1 + 5 · 2 = 11, guided 11 + 2 · (4 − 3) = 13, without CFG 3 + 2 = 5, and 3 where neither is on."""
    assert predictions(cond_row, 0.2, 1.0) == [11.0] * 2 + [13.0] * 8
    assert predictions(cond_row, 0.2, 0.4) == [11.0] * 2 + [13.0] * 2 + [5.0] * 6
    assert predictions(cond_row, 0.8, 0.4) == [11.0] * 4 + [3.0] * 4 + [5.0] * 2
    assert predictions(cond_row, 0.0, 0.0) == [5.0] * 10
