"""Intact files that mean nonsense: each reader answers with a result or its own one line."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pair_network import create_network_from_weights
from pair_network.errors import PairError
from pair_network.network.config import PairConfig

SPEC = importlib.util.spec_from_file_location("pair_network_fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = fuzz
SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("entry", fuzz.ENTRIES)
def test_a_few_hundred_of_each(entry, tmp_path):
    answers, failures = fuzz.run(entry, 150, seed=7, folder=tmp_path)
    assert not failures, failures[:3]
    assert answers["read"] > 3 and answers["refused"] > 30, "else the files are no test of either answer"


def test_whatever_a_reader_raises_otherwise_is_found(tmp_path, monkeypatch):
    """And so the check can fail."""

    def careless(source):
        return lambda path: 1 / 0

    monkeypatch.setitem(fuzz.ENTRIES, "careless", (careless, (fuzz.plain_file,)))
    assert len(fuzz.run("careless", 3, 0, tmp_path)[1]) == 3


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rank": 10**9}, "rank = 1000000000"),
        ({"rank": 0}, "rank = 0"),
        ({"rank": True}, "rank = True"),
        ({"rank": "16"}, "whole number"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"alpha": 0}, "must not be 0"),
        ({"content_alpha": None}, "content_alpha = None"),
        ({"orthogonality": ["frozen"]}, "must be one of"),
        ({"targets": "attention"}, "list of attention"),
        ({"targets": [["attention"]]}, "list of attention"),
        ({"block_dims": [["mid", 10**9]]}, "from 0 to"),
        ({"num_pairs": 10**9}, "num_pairs"),
        ({"basis_seed": 10**40}, "64 bits"),
        ({"split_qkv": 1}, "true or false"),
        ({"dropout": 2}, "probability"),
        ({"learning": 1}, "learning is no setting"),
    ],
)
def test_settings_of_a_coupled_file_are_checked_by_type_and_range(changes, words):
    import json

    values = {**json.loads(PairConfig().to_json()), **changes}
    with pytest.raises(PairError, match="x: the pair_network_config metadata") as error:
        PairConfig.from_json(json.dumps(values), "x")
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


def test_settings_come_back_as_they_were_written():
    config = PairConfig(
        rank=3, alpha=-1.5, targets=("conv", "ff"), block_dims=(("mid", 0),), content_lr=1e-4, num_pairs=2
    )
    assert PairConfig.from_json(config.to_json(), "x") == config


@pytest.mark.parametrize("branch", ["style", "content"])
def test_a_coupled_file_with_a_layer_renamed(branch, tmp_path, run):
    """To another layer of the model, and to one that no model has."""
    both = {f"style.{key}": tensor for key, tensor in fuzz.layers().items()}
    both |= {f"content.{key}": tensor for key, tensor in fuzz.layers((1,)).items()}
    config = PairConfig(rank=2, content_rank=2, alpha=1.0, content_alpha=1.0).to_json()
    for name in ("lora_unet_mid_block_attentions_0_proj_out", "lora_unet_nowhere"):
        renamed = {
            key.replace(fuzz.KEYS[1], name) if key.startswith(branch) else key: tensor.clone()
            for key, tensor in both.items()
        }
        path = tmp_path / "x.pair.safetensors"
        save_file(renamed, path, {"pair_network_config": config, "ss_base_model_version": "sd_v1"})
        with pytest.raises(PairError) as error:
            create_network_from_weights(1.0, str(path), None, None, fuzz._Model())
        assert "x.pair.safetensors" in str(error.value) and len(str(error.value).splitlines()) == 1
        if name == "lora_unet_nowhere":
            status, _, errors = run("kohya", path, "-o", tmp_path / "o.safetensors")
            assert status == 1 and name in errors and len(errors.splitlines()) == 1


def test_alphas_of_one_element_are_numbers(tmp_path, run):
    tensors = fuzz.layers()
    tensors[f"{fuzz.KEYS[0]}.alpha"] = torch.tensor([[2.0]])
    save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": "sd_v1"})
    assert run("kohya", tmp_path / "a.safetensors")[0] == 0
