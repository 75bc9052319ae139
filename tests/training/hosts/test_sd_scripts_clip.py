"""CLIP's text encoder for sd-scripts: transformers 4's shape, which kohya's code names, under transformers 5."""

import sys

import pytest
import torch
from transformers import CLIPTextConfig, __version__
from transformers import CLIPTextModel as Flat

from pair_network.training.hosts.sd_scripts.clip import restore_text_model

CONFIG = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
pytestmark = pytest.mark.skipif(int(__version__.split(".")[0]) < 5, reason="it has that shape itself")


def imported():
    """What a module that is imported now gets."""
    from transformers import CLIPTextModel

    return CLIPTextModel


@pytest.fixture
def models(monkeypatch):
    """One text encoder in transformers 5's shape and in the restored one, with the same weights."""
    torch.manual_seed(0)
    plain = Flat(CLIPTextConfig(**CONFIG)).eval()
    monkeypatch.setattr(sys.modules["transformers"], "CLIPTextModel", Flat)  # puts it back afterwards
    restore_text_model()
    restored = imported()(CLIPTextConfig(**CONFIG)).eval()
    # A checkpoint's names; kohya's loader is strict.
    restored.load_state_dict({f"text_model.{key}": value for key, value in plain.state_dict().items()})
    return plain, restored


def test_what_sd_scripts_reads_of_a_text_encoder_is_there(models):
    """Embeddings (gradient checkpointing, fp8), the last norm (clip_skip), and hidden states as they were."""
    plain, restored = models
    tokens = torch.arange(14).reshape(2, 7)
    ours, theirs = (model(tokens, output_hidden_states=True, return_dict=True) for model in (restored, plain))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours.pooler_output, theirs.pooler_output)
    assert len(ours.hidden_states) == 4 and torch.equal(ours["hidden_states"][-2], theirs.hidden_states[-2])
    restored.text_model.embeddings.requires_grad_(True)
    restored.gradient_checkpointing_enable()
    restored.train()
    assert restored.text_model.final_layer_norm(ours.hidden_states[-2]).shape == (2, 7, 16)
    restored(tokens)[0].sum().backward()
    assert restored.get_input_embeddings().weight.grad.abs().max() > 0


def test_a_folder_of_either_shape_is_loaded(models, tmp_path):
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
        loaded = imported().from_pretrained(tmp_path / str(number))
        assert type(loaded) is type(models[1])
        for key, value in models[1].state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


def test_it_is_restored_once(models):
    restore_text_model()
    assert imported() is type(models[1]) is not Flat
