"""Metadata as careless and hostile programs write it."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convert.files.header import read_header
from pair_network.errors import PairError

KEYS = (
    "lora_adapter_metadata", "pair_network_config", "pair_network_converted", "ss_tag_frequency", "ss_v2", "software",
    "ss_base_model_version", "modelspec.architecture", "modelspec.trigger_phrase", "ss_output_name",
)  # fmt: skip


def odd_text(random):
    """Metadata as a careless or hostile program writes it: JSON of the wrong kind, damaged, deep, or no JSON."""
    good = [
        '{"unet.r": 2, "unet.lora_alpha": 4}',
        '{"1_dog": {"sbu": 3}}',
        '[{"verb": "kohya"}]',
        '{"rank": 2}',
        "True",
    ]
    odd = [
        "",
        "{",
        "[]",
        "null",
        "1e999",
        "NaN",
        "-0",
        '"x"',
        "[" * 3000,
        '{"a": Infinity}',
        "sdxl_",
        "\0\x1b[2J",
        "水彩",
    ]
    if random.random() < 0.4:
        return random.choice(odd)
    text = random.choice(good)
    for _ in range(random.randint(0, 3)):
        place = random.randrange(len(text) + 1)
        text = (
            text[:place] + random.choice(['"', "{", "}", "[", ":", ",", "9", "-", "null", "1e400", "\\"]) + text[place:]
        )
    return text


NUMBERS = {"ss_network_dim": "64", "ss_network_alpha": "32"}  # of another file: whatever is written must correct them


ALIKE = [("kohya",), ("diffusers",), ("peft",), ("pair",), ("a1111",), ("a1111", "--naming", "diffusers")]
STRONGER = ("a1111", "--strength", "0.6")


@pytest.mark.parametrize(
    "family, arguments",
    [
        *((family, arguments) for family in ("sd1", "sdxl", "sd3", "flux") for arguments in [*ALIKE, STRONGER]),
        ("sdxl", ("official",)),
        ("flux", ("official",)),
        ("sd3", ("a1111", "--ui", "a1111")),
    ],
)
def test_rank_and_alpha_are_those_of_the_file(family, arguments, lora, run, tmp_path):
    """Where alpha is folded into the ups it is the rank; a strength goes into alpha."""
    source = lora(family, keys=LAYERS[family], rank=4, alpha=2, metadata=NUMBERS)
    is_folded = arguments[0] in ("diffusers", "official") or "--ui" in arguments
    alpha = "4" if is_folded else "1.2" if arguments == STRONGER else "2"
    files = files_of(source, arguments, run, tmp_path)
    assert files
    for file in files:
        metadata = read_header(file).metadata
        assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", alpha), file


LAYERS = {
    "sd1": ["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"],
    "sdxl": ["lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q"],
    "sd3": ["lora_unet_joint_blocks_0_x_block_attn_qkv"],
    "flux": [f"lora_unet_double_blocks_0_{part}" for part in ("img_attn_qkv", "txt_attn_proj")],
}  # fmt: skip


def files_of(source, arguments, run, tmp_path):
    """The files that a verb writes."""
    ending = {"peft": "", "official": "", "pair": ".pair.safetensors"}.get(arguments[0], ".safetensors")
    target = tmp_path / f"out{ending}"
    status, _, errors = run(*arguments, source, "-o", target)
    assert status == 0, errors
    return [target] if target.is_file() else list(target.rglob("*.safetensors"))


def test_joined_layers_have_the_sum_of_the_ranks(run, tmp_path):
    """q and k with downs of their own are one layer of kohya's, and two again behind it."""
    tensors = {}
    for part in ("to_q", "to_k"):
        name = f"transformer.transformer_blocks.3.attn.{part}"
        tensors.update({f"{name}.lora_A.weight": torch.randn(2, 8), f"{name}.lora_B.weight": torch.randn(8, 2)})
    save_file(tensors, tmp_path / "x.safetensors", NUMBERS)
    (joint,) = files_of(tmp_path / "x.safetensors", ("kohya", "--family", "flux"), run, tmp_path)
    assert read_header(joint).metadata["ss_network_dim"] == read_header(joint).metadata["ss_network_alpha"] == "4"
    (split,) = files_of(joint, ("diffusers",), run, tmp_path / "back")
    assert read_header(split).metadata["ss_network_dim"] == read_header(split).metadata["ss_network_alpha"] == "2"


def test_rank_and_alpha_are_not_invented(run, tmp_path):
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}, tmp_path / "x.safetensors")
    (file,) = files_of(tmp_path / "x.safetensors", ("diffusers",), run, tmp_path)
    assert not NUMBERS.keys() & read_header(file).metadata.keys()


def test_ten_thousand_metadata():
    """Read, described and rewritten with one line of refusal at most, and never a text that is no text."""
    from convert.files.lazy import from_tensor
    from convert.formats import metadata
    from convert.formats.assemble import adapter_alphas
    from convert.formats.read import _coupled, _plain
    from convert.verbs.info import _identity

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_{part}.weight": from_tensor(torch.ones(2, 2)) for part in "AB"}
    coupled = {f"{branch}.{key}": tensor for branch in ("style", "content") for key, tensor in tensors.items()}
    source, path, refused = random.Random(0), Path("name.safetensors"), 0
    for _ in range(10_000):
        values = {key: odd_text(source) for key in source.sample(KEYS, source.randint(1, 4))}
        try:
            if "pair_network_config" in values:
                adapter = _coupled(path, coupled, values, None)
            else:
                adapter = _plain(path, tensors, values, None, adapter_alphas(values, path))
        except PairError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1 and str(error).startswith("name.safetensors: "), error
            continue
        written = metadata.converted(adapter, "kohya")
        metadata.set_kohya(written, adapter, adapter.style, "name")
        assert all(isinstance(value, str) for value in written.values())
        json.dumps(_identity(adapter, path))
    assert 0 < refused < 8_000
