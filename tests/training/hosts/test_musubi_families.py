"""Which of musubi-tuner's models are trained on pairs, and what is said of the others."""

import pytest

from pair_network import PairError
from pair_network.training.hosts.musubi.families import REFUSED, TRAINERS, trainer_of


def test_every_trainer_is_found_by_its_model_type():
    assert {name: trainer_of(name).module for name in TRAINERS} == {
        "flux2": "flux_2_train_network", "qwen_image": "qwen_image_train_network", "z_image": "zimage_train_network",
        "krea2": "krea2_train_network", "ideogram4": "ideogram4_train_network",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        *(
            (name, f"--model_type {name}: no pairs are trained on it: {reason[:20]}")
            for name, reason in REFUSED.items()
        ),
        ("z_imag", r"must be one of .* \(did you mean z_image\?\)"),
        (None, "--model_type is missing"),
    ],
)
def test_other_models_are_refused_with_the_reason(model_type, words):
    with pytest.raises(PairError, match=words):
        trainer_of(model_type)
