"""Joining content and style rows: content first, nothing of the host's batch touched."""

import torch

from pair_network.network.route import Row
from pair_network.training.batch import content_and_style, content_only, style_only
from pair_network.training.objective import Phase
from pair_network.training.trainer import routed_batch


def example(value, length=5):
    return {
        "latents": torch.full((2, 4, 2, 2), float(value)),
        "images": None,
        "captions": [f"{value}a", f"{value}b"],
        "input_ids_list": [torch.full((2, 1, 7), value), torch.full((2, 1, 7), value)],
        "text_encoder_outputs_list": [torch.full((2, length, 3), float(value)), None],
        "flippeds": [False, True],
        "loss_weights": torch.ones(2),
    }


def pair_batch(style_length=5):
    return {**example(2, style_length), "content": example(1), "pair_indices": [0, 1]}


def test_content_rows_come_first_in_every_value():
    joined = content_and_style(pair_batch())
    assert joined["latents"][:, 0, 0, 0].tolist() == [1, 1, 2, 2]
    assert joined["captions"] == ["1a", "1b", "2a", "2b"]
    assert [ids[:, 0, 0].tolist() for ids in joined["input_ids_list"]] == [[1, 1, 2, 2]] * 2
    assert joined["images"] is None and joined["text_encoder_outputs_list"][1] is None
    assert joined["loss_weights"].shape == (4,)
    assert "content" not in joined and "pair_indices" not in joined


def test_cached_outputs_of_different_length_are_padded_with_zeros():
    outputs = content_and_style(pair_batch(style_length=8))["text_encoder_outputs_list"][0]
    assert outputs.shape == (4, 8, 3)
    assert outputs[0, :5].eq(1).all() and outputs[0, 5:].eq(0).all() and outputs[2].eq(2).all()


def test_writing_into_the_joined_lists_leaves_the_batch_alone():
    for make in (content_and_style, content_only, style_only):
        batch = pair_batch()
        made = make(batch)
        made["text_encoder_outputs_list"][0] = None
        assert batch["text_encoder_outputs_list"][0] is not None
        assert batch["content"]["text_encoder_outputs_list"][0] is not None


def test_phases_route_and_cut_the_batch():
    rows, batch = routed_batch(pair_batch(), Phase.JOINT)
    assert len(rows) == 4 == len(batch["captions"])
    assert rows == [Row(pair=0), Row(pair=1), Row(0, 1.0, True), Row(1, 1.0, True)]
    rows, batch = routed_batch(pair_batch(), Phase.CONTENT)
    assert rows == [Row(pair=0), Row(pair=1)] and batch["captions"] == ["1a", "1b"]
    rows, batch = routed_batch(pair_batch(), Phase.STYLE)
    assert all(row.shielded for row in rows) and batch["captions"] == ["2a", "2b"]


def test_a_pair_without_a_content_branch_uses_the_base_and_the_style_alone():
    rows, _ = routed_batch({**pair_batch(), "pair_indices": [-1, 0]}, Phase.JOINT)
    assert rows[0] == Row() and rows[2] == Row(style=1.0) and rows[3].shielded
