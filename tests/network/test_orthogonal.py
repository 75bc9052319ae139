"""Orthonormal bases: what they promise, and that the measures notice when it is broken."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pair_network import PairError
from pair_network.network.orthogonal import (
    branch_overlap,
    gram_defect,
    layer_generator,
    orthonormal_rows,
    overlap_penalty,
)

TOLERANCE = {torch.float64: 2e-7, torch.float32: 2e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@settings(max_examples=60)
@given(data=st.data(), width=st.integers(2, 400), seed=st.integers(0, 2**31), dtype=st.sampled_from(list(TOLERANCE)))
def test_gram_is_the_identity_for_any_rank_width_and_dtype(data, width, seed, dtype):
    count = data.draw(st.integers(1, min(width, 96)))
    rows = orthonormal_rows(count, width, layer_generator(seed, "layer")).to(dtype)
    assert rows.shape == (count, width)
    assert gram_defect(rows) <= TOLERANCE[dtype] * 4
    assert gram_defect(torch.cat([rows, rows[:1]])) > 0.9  # a repeated row is noticed


@settings(max_examples=30)
@given(known=st.integers(1, 20), count=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_rows_avoid_the_span_of_given_rows_even_when_those_are_not_orthonormal(known, count, seed):
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(known, 48, generator=generator) * 3
    rows = orthonormal_rows(count, 48, layer_generator(seed, "layer"), orthogonal_to=others)
    assert branch_overlap(rows, others) < 1e-5 and gram_defect(rows) < 1e-5
    assert branch_overlap(orthonormal_rows(count, 48, layer_generator(seed, "layer")), others) > 1e-3


def test_bases_depend_on_seed_and_name_alone_and_leave_the_callers_stream():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = orthonormal_rows(4, 32, layer_generator(0, "a"))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(orthonormal_rows(4, 32, layer_generator(0, "a")), first)
    assert not torch.equal(orthonormal_rows(4, 32, layer_generator(0, "b")), first)
    assert not torch.equal(orthonormal_rows(4, 32, layer_generator(1, "a")), first)


def test_a_rank_that_does_not_fit_names_the_layer_and_the_width():
    orthonormal_rows(8, 8, layer_generator(0, "x"))
    with pytest.raises(PairError, match=r"lora_unet_mid: 9 orthogonal rows .* width 8; lower network_dim"):
        orthonormal_rows(9, 8, layer_generator(0, "x"), layer_name="lora_unet_mid")
    with pytest.raises(PairError, match="9 orthogonal rows"):
        orthonormal_rows(4, 8, layer_generator(0, "x"), orthogonal_to=torch.eye(8)[:5])


def test_penalty_by_hand():
    """Rows (3,0) and (1,1)/√2·5 against (0,2): cosines 0 and 1/√2, so the sum of squares is 1/2."""
    content = torch.tensor([[3.0, 0.0], [5 / math.sqrt(2), 5 / math.sqrt(2)]])
    style = torch.tensor([[0.0, 2.0]])
    assert overlap_penalty([(content, style)]).item() == pytest.approx(0.5, abs=1e-6)
    assert overlap_penalty([(content[:1], style)]).item() == 0
    assert branch_overlap(content, style) == pytest.approx(1 / math.sqrt(2), abs=1e-6)


def test_descending_the_penalty_makes_branches_orthogonal_without_shrinking_them():
    content, style = (nn.Parameter(torch.randn(4, 32, generator=torch.Generator().manual_seed(i))) for i in range(2))
    norms = [p.detach().norm() for p in (content, style)]
    before = branch_overlap(content, style)
    optimizer = torch.optim.Adam([content, style], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        overlap_penalty([(content, style)]).backward()
        optimizer.step()
    assert before > 0.1 > 0.02 > branch_overlap(content, style)
    for parameter, norm in zip((content, style), norms, strict=True):
        assert parameter.detach().norm() > 0.9 * norm
