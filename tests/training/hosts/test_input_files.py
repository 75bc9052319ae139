"""Options that name files: missing, a folder, another kind; one line, before anything is loaded."""

import json
import struct

import pytest

from pair_network import PairError
from pair_network.training.hosts.input_files import check_input_files

OPEN = ("pretrained_model_name_or_path", "vae")


def weights(path, names=("a",)):
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def folder(tmp_path, make_picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_picture(tmp_path / "picture.png", (1, 2, 3))
    weights(tmp_path / "model.safetensors")
    weights(tmp_path / "lora.safetensors", ["lora_unet_a.lora_down.weight"])
    weights(tmp_path / "xl.safetensors", ["model.diffusion_model.label_emb.0.0.weight"])
    (tmp_path / "cut.safetensors").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "text.txt").write_text("a cat\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty").mkdir()
    (tmp_path / "in").mkdir()
    weights(tmp_path / "in/dit.safetensors")
    (tmp_path / "diffusers/vae").mkdir(parents=True)
    (tmp_path / "diffusers/vae/config.json").write_text("{}", encoding="utf-8")
    for name, text in (("one.toml", "[prompt]\nwidth = 8\n"), ("broken.toml", "[prompt"), ("one.json", '{"a": 1}')):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("option", ["dit", "ae", "t5xxl", "text_encoder", "unconditional_dit", "llm_adapter_path"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("modle.safetensors", r"no such file; name a \.safetensors file \(did you mean model\.safetensors\?\)"),
        ("nowhere/model.safetensors", "no such file"),
        ("empty", r"a folder; name a \.safetensors file"),
        ("in", r"a folder; name the file in it, such as in.dit\.safetensors"),
        ("picture.png", r"not a \.safetensors file"),
        ("cut.safetensors", "not an intact safetensors file"),
        ("lora.safetensors", "is a LoRA, not a model"),
        ("someone/model", "no such file"),
    ],
)
def test_weights_that_are_none_are_refused_by_the_options_name(folder, option, name, words):
    with pytest.raises(PairError, match=words) as caught:
        check_input_files({option: name})
    assert str(caught.value).startswith(f"--{option} ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"network_weights": "no.safetensors"}, r"--network_weights no\.safetensors: no such file"),
        ({"base_weights": ["lora.safetensors", "picture.png"]}, r"--base_weights picture\.png: not a \.safetensors"),
        ({"base_weights": ["empty"]}, "--base_weights empty: a folder"),
        ({"network_weights": "xl.safetensors"}, r"--network_weights xl\.safetensors: is a model, not a LoRA"),
        ({"vae": "empty"}, "--vae empty: a folder without a model"),
        ({"vae": "picture.png"}, "--vae picture.png: not a .safetensors"),
        ({"vae": "no.safetensors"}, "--vae no.safetensors: no such file"),
        ({"sample_prompts": "no.txt"}, "--sample_prompts no.txt: no such file; name a text file"),
        ({"sample_prompts": "empty"}, "--sample_prompts empty: a folder"),
        ({"sample_prompts": "picture.png"}, r"--sample_prompts picture\.png: must be a file of \.txt or"),
        ({"sample_prompts": "latin.txt"}, r"--sample_prompts latin\.txt: not UTF-8"),
        ({"sample_prompts": "one.toml"}, r"one\.toml: needs a table \[prompt\] with"),
        ({"sample_prompts": "broken.toml"}, r"broken\.toml: not a TOML file"),
        ({"sample_prompts": "one.json"}, r"one\.json: needs a list of prompts"),
        ({"log_tracker_config": "no.toml"}, "--log_tracker_config no.toml: no such file"),
        ({"log_tracker_config": "text.txt"}, r"--log_tracker_config text\.txt: must be a file of \.toml"),
        ({"t5_tokenizer_path": "nowhere"}, "--t5_tokenizer_path nowhere: no such folder"),
        ({"output_dir": "text.txt"}, r"--output_dir text\.txt: text\.txt is a file; name a folder"),
        ({"logging_dir": "text.txt/logs"}, r"--logging_dir text\.txt/logs: text\.txt is a file"),
        ({"resume": "nowhere"}, "--resume nowhere: no such folder"),
        ({"resume": "text.txt"}, "--resume text.txt: no such folder"),
        ({"resume": "empty"}, r"--resume empty: not a saved state \(no optimizer\.bin\)"),
    ],
)
def test_every_other_file_is_named_by_its_option(folder, args, words):
    with pytest.raises(PairError, match=words) as caught:
        check_input_files(args, OPEN)
    assert "\n" not in str(caught.value)


def test_what_the_trainers_read_passes(folder):
    (folder / "style-state").mkdir()
    (folder / "style-state/optimizer.bin").write_bytes(b"")
    (folder / "good.toml").write_text('[prompt]\n[[prompt.subset]]\nprompt = "a cat"\n', encoding="utf-8")
    (folder / "good.json").write_text('["a cat", {"prompt": "a dog"}]', encoding="utf-8")
    (folder / "old.ckpt").write_bytes(b"pickle")
    for prompts in ("text.txt", "good.toml", "good.json"):
        check_input_files({"sample_prompts": prompts, "dit": "model.safetensors", "resume": "style-state"})
    for model in ("diffusers", "diffusers/vae", "old.ckpt", "someone/sd-1.5", "model.safetensors"):
        check_input_files({"pretrained_model_name_or_path": model, "vae": model, "output_dir": "new/out"}, OPEN)
    check_input_files(
        {"resume": "someone/state", "resume_from_huggingface": True, "network_weights": "lora.safetensors"}
    )
