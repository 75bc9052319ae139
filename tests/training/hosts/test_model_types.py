"""What a checkpoint's header shows of models that musubi-tuner trains, and where each host sends them."""

import json
import struct
from types import SimpleNamespace

import pytest

from pair_network import PairError
from pair_network.families import FAMILIES
from pair_network.training.hosts.embedded.model_files import check_checkpoint
from pair_network.training.hosts.model_types import detect_model_type, size_of
from pair_network.training.hosts.musubi.entry import check_model
from pair_network.training.hosts.musubi.families import TRAINERS, trainer_of
from pair_network.training.hosts.sd_scripts.entry import choose_model_type

MUSUBI = {name: family for name, family in FAMILIES.items() if family.musubi}
CASES = [(name, mark) for name, family in MUSUBI.items() for mark in family.marks]


def checkpoint(path, names):
    header = json.dumps({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return str(path)


def blocks(family):
    """Names of a model of the family's size."""
    counted = [each for each in family.blocks if "{}" in each.native]
    return [each.native.format(number) + "weight" for each in counted for number in range(each.count)]


def test_every_model_of_musubi_tuner_has_a_mark():
    assert {FAMILIES[name].musubi.model_type for name, _ in CASES} == set(TRAINERS)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(("name", "mark"), CASES)
def test_its_files_are_known_and_no_other_host_takes_them(tmp_path, name, mark, prefix):
    model_type = MUSUBI[name].musubi.model_type
    # Z-Image's refiner has Lumina 2's name in files for ComfyUI.
    model = checkpoint(tmp_path / "m.safetensors", [prefix + mark, prefix + "noise_refiner.0.attention.qkv.weight"])
    assert detect_model_type(model) == model_type
    remedy = rf"type {model_type}.* give --musubi DIR, .*--dit .*m\.safetensors"
    with pytest.raises(PairError, match=remedy):
        choose_model_type(["--pretrained_model_name_or_path", model], {})
    with pytest.raises(PairError, match=remedy):
        check_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(("pipeline", "model_type"), [("Flux2KleinPipeline", "flux2"), ("ZImagePipeline", "z_image"),
                                                      ("FluxPipeline", "flux")])  # fmt: skip
def test_a_diffusers_folder_shows_the_longest_name_that_fits(tmp_path, pipeline, model_type):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}), encoding="utf-8")
    assert detect_model_type(str(tmp_path)) == model_type


@pytest.mark.parametrize("name", ["flux2_dev", "flux2_klein_4b", "flux2_klein_9b"])
def test_the_sizes_of_a_model_are_told_by_their_blocks(tmp_path, name):
    family = MUSUBI[name]
    model = checkpoint(tmp_path / "m.safetensors", [*blocks(family), family.marks[0]])
    assert size_of("flux2", model) is family
    fitting = family.musubi.versions[-1]
    check_model(SimpleNamespace(dit=model, model_version=fitting), trainer_of("flux2"))
    other = next(one.musubi.versions[0] for one in MUSUBI.values() if one.musubi.versions and one is not family)
    with pytest.raises(PairError, match=f"--model_version {other}: .* of {family.title}; give --model_version"):
        check_model(SimpleNamespace(dit=model, model_version=other), trainer_of("flux2"))


def test_another_model_is_named_before_anything_is_loaded(tmp_path):
    model = checkpoint(tmp_path / "m.safetensors", MUSUBI["qwen_image"].marks)
    with pytest.raises(PairError, match=r"--model_type z_image: .* is a checkpoint of type qwen_image"):
        check_model(SimpleNamespace(dit=model), trainer_of("z_image"))
