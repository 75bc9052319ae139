"""Files that have the name of a safetensors file and are something else: each is called what it is, with a remedy."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

FILES = {
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 151112\n",
    "web page": b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
    "JSON text": b'{"error": "The creator of this asset requires you to be logged in to download it"}',
    "an index": b'{\n  "metadata": {},\n  "weight_map": {}\n}\n',
    "GGUF": b"GGUF\3\0\0\0" + bytes(64),
    "zip archive": b"PK\3\4" + bytes(64),
    "gzip archive": b"\x1f\x8b\x08\0" + bytes(64),
    "rar archive": b"Rar!\x1a\7\1\0" + bytes(64),
    "7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(64),
    "PNG picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "JPEG picture": b"\xff\xd8\xff\xe0" + bytes(64),
    "text, such as": b"Access denied. Please log in.",
    "a pickle": pickle.dumps({"a": 1}, protocol=2) + bytes(64),
    "companion": b"\0\5\x16\7" + bytes(64),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("verb", ["info", "kohya"])
def test_what_is_none_is_called_what_it_is(what, verb, run, tmp_path):
    path = tmp_path / "dog.safetensors"
    path.write_bytes(FILES[what])
    status, _, errors = run(verb, path)
    assert status == 1 and f"is no safetensors file but {'' if what != 'an index' else 'JSON text'}" in errors
    assert what in errors and len(errors.splitlines()) == 1 and "claims" not in errors
    assert [each.name for each in tmp_path.iterdir()] == ["dog.safetensors"]


def test_a_pickle_under_another_name_is_told_its_right_ending(run, tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "dog.safetensors")
    assert "--allow-pickle" in run("info", tmp_path / "dog.safetensors")[2]


@pytest.mark.parametrize("length", [0x8B1F, 0x7B, 0x280])
def test_a_header_whose_length_looks_like_a_mark_is_read(length, run, tmp_path):
    """0x8B1F bytes of header begin as gzip does, 0x7B as JSON, 0x280 as a pickle."""
    key = "lora_unet_mid_block_attentions_0_proj_in" if length > 200 else "lora"
    tensors = {f"{key}.lora_down.weight": torch.ones(1, 8), f"{key}.lora_up.weight": torch.ones(8, 1)}
    path = tmp_path / "dog.safetensors"
    save_file(tensors if length > 200 else {"a": torch.ones(1)}, path)
    data = path.read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    assert len(header) <= length
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + data[8 + len(header) :])
    status, _, errors = run("info", path, "--family", "sd1")
    assert "is no safetensors file" not in errors and (status == 0 or "holds no LoRA layers" in errors)


@pytest.mark.parametrize("what", ["Git LFS", "web page", "GGUF"])
def test_a_pickles_ending_is_asked_for_no_option_that_does_not_help(what, run, tmp_path):
    (tmp_path / "dog.ckpt").write_bytes(FILES[what])
    for option in ((), ("--allow-pickle",)):
        status, _, errors = run("info", tmp_path / "dog.ckpt", *option)
        assert status == 1 and what in errors and "allow-pickle" not in errors and len(errors.splitlines()) == 1


def test_safetensors_under_a_pickles_ending_are_read(run, tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{key}.lora_down.weight": torch.ones(1, 8), f"{key}.lora_up.weight": torch.ones(8, 1)}
    save_file(tensors, tmp_path / "dog.safetensors")
    (tmp_path / "dog.safetensors").rename(tmp_path / "dog.pt")
    for option in ((), ("--allow-pickle", "--overwrite")):
        assert run("kohya", tmp_path / "dog.pt", "--family", "sd1", *option)[0] == 0


def test_types_that_no_lora_has_are_named_and_the_file_not_called_damaged(run, tmp_path, helpers):
    for name, size in (("C64", 8), ("F8_E8M0", 1), ("F4", 1)):
        header = {"x": {"dtype": name, "shape": [1], "data_offsets": [0, size]}}
        errors = run("info", helpers.raw(tmp_path / "odd.safetensors", header, bytes(size)))[2]
        assert f"x is of type {name}" in errors and "not intact" not in errors and "fp16" in errors
    header = {"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 1]}}
    assert "unknown dtype F99" in run("info", helpers.raw(tmp_path / "odd.safetensors", header, b"0"))[2]


def test_a_file_without_tensors_is_no_checkpoint(run, tmp_path):
    save_file({}, tmp_path / "none.safetensors", {"ss_network_dim": "4"})
    assert "holds no tensors at all" in run("kohya", tmp_path / "none.safetensors")[2]
