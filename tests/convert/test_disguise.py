"""Files that have the name of a safetensors file and are something else: each is called what it is, with a remedy."""

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


@pytest.mark.parametrize("length", [0x8B1F, 0x7B])
def test_a_header_whose_length_looks_like_a_mark_is_read(length, run, tmp_path):
    """0x8B1F bytes of header begin as gzip does, 0x7B as JSON."""
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


def test_a_file_without_tensors_is_no_checkpoint(run, tmp_path):
    save_file({}, tmp_path / "none.safetensors", {"ss_network_dim": "4"})
    assert "holds no tensors at all" in run("kohya", tmp_path / "none.safetensors")[2]
