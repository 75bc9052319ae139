"""Hostile and damaged files: one line that names file and cause, and nothing is written."""

import io
import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.torch import save, save_file

from convert.files.header import check_header, read_header
from pair_network.errors import PairError

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAF, lambda child: st.lists(child) | st.dictionaries(st.text(), child), max_leaves=12)
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
KEY = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"


@pytest.mark.parametrize(
    "header, data, words",
    [
        (b"{" * 200_000, b"", "not JSON"),
        (b"[]", b"", "begin"),
        (b"{}garbage", b"", "not JSON"),
        ({KEY: ENTRY}, b"\0" * 7, "beyond the end"),
        ({KEY: ENTRY}, b"\0" * 9, "belong to no tensor"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12, "overlaps"),
        ({"a": ENTRY, "b": ENTRY}, b"\0" * 8, "overlaps"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [16, 24]}}, b"\0" * 24, "hole"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8, "bytes where"),
        ({"a": {**ENTRY, "data_offsets": [-8, 0]}}, b"", "whole numbers"),
        ({"a": {**ENTRY, "shape": [1 << 40, 1 << 40]}}, b"\0" * 8, "bytes where"),
        ({"a": {**ENTRY, "shape": [1 << 70]}}, b"\0" * 8, "whole numbers"),
        ({"a": {**ENTRY, "shape": [True]}}, b"\0" * 8, "whole numbers"),
        ({"a": {**ENTRY, "shape": [2.0]}}, b"\0" * 8, "whole numbers"),
        ({"a": {**ENTRY, "dtype": "F128"}}, b"\0" * 8, "unknown dtype"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, b"\0" * 8, "unknown dtype"),
        ({"a": {**ENTRY, "dtype": "F16"}}, b"\0" * 8, "bytes where"),
        ({"a": {**ENTRY, "extra": 1}}, b"\0" * 8, "not described"),
        ({"a": 3}, b"", "not described"),
        ({"../../etc/passwd": ENTRY}, b"\0" * 8, "no name"),
        ({"a/b": ENTRY}, b"\0" * 8, "no name"),
        ({"a\\b": ENTRY}, b"\0" * 8, "no name"),
        ({"a\x1b[2Jb": ENTRY}, b"\0" * 8, "no name"),
        ({"": ENTRY}, b"\0" * 8, "no name"),
        ({"a" * 5000: ENTRY}, b"\0" * 8, "characters long"),
        ({"__metadata__": {"a": 1}}, b"", "not a map from text"),
        ({"__metadata__": []}, b"", "not a map from text"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":3}', b"\0" * 8, "twice"),
        (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', b"\0" * 8, "NaN"),
        (b'{"a":"\xff"}', b"", "not JSON"),
    ],
)
def test_headers_that_no_program_writes(header, data, words, tmp_path, helpers, run):
    path = helpers.raw(tmp_path / "hostile.safetensors", header, data)
    status, _, errors = run("kohya", path, "-o", tmp_path / "out.safetensors")
    assert status == 1 and words in errors and "hostile.safetensors" in errors
    assert len(errors.splitlines()) == 1 and errors.isascii() | ("…" in errors)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("length", [0, 1, 7, 8])
def test_files_without_a_header(length, tmp_path, run):
    path = tmp_path / "short.safetensors"
    path.write_bytes(b"\xff" * length)
    status, _, errors = run("info", path)[0], None, run("kohya", path)[2]
    assert status == 1 and "not an intact safetensors file" in errors


def test_a_huge_header_length_is_refused_before_memory_is_taken(tmp_path, run):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    assert "claims" in run("kohya", path)[2]


def test_the_checker_takes_what_safetensors_writes(tmp_path, helpers):
    """And so can fail to refuse: every dtype of ours, empty tensors, text of any language in the metadata."""
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {f"t{i}": torch.zeros(i + 1, 3).to(dtype) for i, dtype in enumerate(dtypes)} | {
        "empty": torch.zeros(0, 4)
    }
    save_file(tensors, tmp_path / "good.safetensors", {"title": "水彩 \n ☂"})
    header = read_header(tmp_path / "good.safetensors")
    assert {k: s.shape for k, s in header.tensors.items()} == {k: tuple(t.shape) for k, t in tensors.items()}
    assert header.metadata == {"title": "水彩 \n ☂"}


def mutated(content, random):
    """One of many kinds of damage to a valid file."""
    kind, content = random.randrange(6), bytearray(content)
    length = int.from_bytes(content[:8], "little")
    if kind == 0:  # bytes of the header
        for _ in range(random.randint(1, 4)):
            content[random.randrange(8 + length)] = random.randrange(256)
    elif kind == 1:  # cut or padded
        cut = random.randrange(len(content))
        content = content[:cut] if random.random() < 0.5 else content + bytes(cut)
    elif kind == 2:  # another header length
        content[:8] = struct.pack("<Q", random.choice([0, 1, length - 1, length + 1, 1 << 31, (1 << 64) - 1]))
    else:  # a field of the JSON header
        header = json.loads(content[8 : 8 + length])
        entry = header[random.choice([key for key in header if key != "__metadata__"])]
        odd = [
            -1,
            0,
            1,
            7,
            8,
            1 << 33,
            1 << 63,
            1e308,
            None,
            "",
            "F16",
            "F32",
            "I8",
            [],
            {},
            [0],
            [2, 3],
            [0, 24],
            True,
        ]
        if kind == 3:
            entry[random.choice(["dtype", "shape", "data_offsets"])] = random.choice(odd)
        elif kind == 4:
            numbers = entry[random.choice(["shape", "data_offsets"])]
            numbers[random.randrange(len(numbers))] = random.choice(odd)
        else:
            header["__metadata__"] = random.choice([*odd, {"a": random.choice(odd)}])
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + content[8 + length :]
    return bytes(content)


def test_ten_thousand_damaged_headers():
    """Never another exception than PairError, always one line; and whatever is accepted, safetensors accepts too."""
    tensors = {f"layer.{i}.lora_{p}.weight": torch.zeros(2, 3) for i in range(3) for p in ("down", "up")}
    content, source, accepted = save(tensors, {"ss_v2": "False"}), random.Random(0), 0
    for _ in range(10_000):
        damaged = mutated(content, source)
        try:
            header = check_header(Path("name.safetensors"), io.BytesIO(damaged), len(damaged))
        except PairError as error:
            assert "\n" not in str(error) and str(error).startswith("name.safetensors: ")
            continue
        accepted += 1
        try:
            assert {key for key, _ in deserialize(damaged)} == set(header.tensors)
        except SafetensorError as error:
            pytest.fail(f"accepted what safetensors refuses: {error}")
    assert 0 < accepted < 5_000


@settings(max_examples=150)
@given(header=JSON)
def test_any_json_is_answered_with_one_line(header, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "f.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        read_header(path)
    except PairError as error:
        assert len(str(error).splitlines()) == 1


@settings(max_examples=60)
@given(metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=60), max_size=6))
def test_any_metadata_is_carried_over(metadata, tmp_path_factory):
    """Text metadata of any content neither breaks a conversion nor gets lost, except what the conversion sets."""
    from convert.cli import main
    from convert.formats.metadata import STALE

    folder = tmp_path_factory.mktemp("metadata")
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 3), f"{name}.lora_up.weight": torch.ones(3, 2)}
    keys = {key: value for key, value in metadata.items() if key not in STALE and not key.startswith(("ss_", "pair_"))}
    save_file(tensors, folder / "a.safetensors", keys)
    assert main(["kohya", str(folder / "a.safetensors"), "-o", str(folder / "b.safetensors"), "--family", "sd1"]) == 0
    written = read_header(folder / "b.safetensors").metadata
    assert {key: written[key] for key in keys if key != "modelspec.architecture"} == keys


def lora_tensors(**changes):
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        f"{name}.lora_down.weight": torch.ones(2, 3),
        f"{name}.lora_up.weight": torch.ones(3, 2),
        f"{name}.alpha": torch.tensor(1.0),
    }
    tensors.update({f"{name}.{key.replace('_weight', '.weight')}": value for key, value in changes.items()})
    return {key: value for key, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lora_up_weight": torch.tensor([[1.0, float("nan")]] * 3)}, "NaN or infinity"),
        ({"lora_down_weight": torch.full((2, 3), float("inf"))}, "NaN or infinity"),
        ({"alpha": torch.tensor(float("nan"))}, "alpha is nan"),
        ({"alpha": torch.ones(3)}, "one number is needed"),
        ({"lora_up_weight": None}, "has no up"),
        ({"lora_up_weight": torch.ones(3, 5)}, "do not multiply"),
        ({"lora_up_weight": torch.ones(3)}, "no LoRA's"),
        ({"lora_down_weight": torch.ones(2, 3, dtype=torch.int32)}, "factors of type int32"),
        ({"dora_scale": torch.ones(3)}, "DoRA"),
        ({"hada_w1_a": torch.ones(3)}, "LoHa"),
        ({"lora_mid_weight": torch.ones(3)}, "CP-decomposed"),
        ({"strange": torch.ones(3)}, "a LoRA with further factors"),
    ],
)
def test_files_that_are_no_plain_lora(changes, words, tmp_path, run):
    save_file(lora_tensors(**changes), tmp_path / "odd.safetensors")
    status, _, errors = run("kohya", tmp_path / "odd.safetensors", "-o", tmp_path / "out.safetensors")
    assert status == 1 and words in errors and "odd.safetensors" in errors
    assert errors.count("error: ") == 1 and "Traceback" not in errors and not (tmp_path / "out.safetensors").exists()


def test_unknown_layers_name_the_nearest_family(tmp_path, run):
    save_file({**lora_tensors(), "lora_unet_nowhere.alpha": torch.tensor(1.0)}, tmp_path / "odd.safetensors")
    errors = run("kohya", tmp_path / "odd.safetensors")[2]
    assert "1 of 2 layers are unknown in Stable Diffusion 1" in errors and "lora_unet_nowhere" in errors


def test_pickles_need_an_option_and_still_run_nothing(tmp_path, run):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save(lora_tensors(), tmp_path / "good.pt")
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    assert "--allow-pickle" in run("kohya", tmp_path / "good.pt", "--family", "sd1")[2]
    assert run("kohya", tmp_path / "good.pt", "--family", "sd1", "--allow-pickle")[0] == 0
    assert "weights_only loading refused" in run("kohya", tmp_path / "evil.pt", "--allow-pickle")[2]
    assert not (tmp_path / "ran").exists() and (tmp_path / "good-kohya.safetensors").exists()


def test_devices_and_folders_are_no_files(tmp_path, run):
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file" in run("kohya", tmp_path / "pipe.safetensors")[2]
    assert "no PEFT adapter" in run("kohya", tmp_path)[2]


@pytest.mark.parametrize(
    "config, words",
    [
        ("[", "not a JSON file"), ("[]", "no table of settings"), ('{"peft_type": "LOHA"}', "plain LoRA"),
        ('{"peft_type": "LORA", "r": 0, "lora_alpha": 1}', "no rank or alpha"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": "x"}', "no rank or alpha"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": 1' + "0" * 400 + "}", "no rank or alpha"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": NaN}', "no rank or alpha"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": 1, "alpha_pattern": {"(a+)+$": 3}}', "no layer name"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": 1, "use_dora": true}', "plain LoRA"),
    ],
)  # fmt: skip
def test_hostile_adapter_configs(config, words, tmp_path, run):
    name = "base_model.model.mid_block.attentions.0.proj_in"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 3), f"{name}.lora_B.weight": torch.ones(3, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(config)
    status, _, errors = run("kohya", tmp_path, "-o", tmp_path / "o.safetensors", "--family", "sd1")
    assert status == 1 and words in errors and len(errors.splitlines()) == 1
