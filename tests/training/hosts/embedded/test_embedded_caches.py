"""Latents and captions on disk, and the U-Net in eight bits, on the embedded host."""

import importlib.util
import sys

import pytest
import torch
from safetensors.torch import load_file

from pair_network.errors import PairError
from pair_network.training.hosts.embedded import caching
from pair_network.training.hosts.embedded.disk_cache import DiskCache

DISK = ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk")
SHORT = ("--max_train_steps", "2", "--style_start_step", "0")


def weights(out):
    return load_file(out / "x.pair.safetensors")


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_caches_on_disk_train_what_memory_trains_and_are_used_again(train, pairs, monkeypatch, make_picture, tmp_path):
    pairs["datasets"][0]["subsets"][0]["flip_aug"] = True
    memory = weights(train(pairs, "--cache_latents", *SHORT, name="memory"))
    out = train(pairs, *DISK, *SHORT)
    assert_equal(weights(out), memory)
    files = sorted((out / "x-cache").iterdir())
    assert len(files) == 12 + 2, "three pairs and their mirror images; two captions"

    encoded = []
    original = caching._cache_chunk
    monkeypatch.setattr(
        caching, "_cache_chunk", lambda chunk, *rest: encoded.extend(chunk) or original(chunk, *rest)
    )  # fmt: skip
    files[0].write_bytes(files[0].read_bytes()[:40])  # cut off: made anew
    assert_equal(weights(train(pairs, *DISK, *SHORT)), memory)
    assert len(encoded) <= 1 and sorted((out / "x-cache").iterdir()) == files

    encoded.clear()
    make_picture(tmp_path / "style/cat.png", (64, 64), 99)  # another picture under the same name
    train(pairs, *DISK, *SHORT)
    assert [(image.path.parent.name, image.path.stem, flipped) for _, image, flipped in encoded] == [
        ("style", "cat", False), ("style", "cat", True)
    ]  # fmt: skip


def test_a_cache_that_vanishes_is_named(tmp_path):
    stored = DiskCache(tmp_path, ()).entry("a")
    with pytest.raises(PairError, match=r"\.safetensors: cannot be read any more; start again"):
        stored.load()


def test_entries_depend_on_all_facts(tmp_path):
    names = {
        DiskCache(tmp_path, facts).entry(*own).path
        for facts in ((), ("model",), ("other",))
        for own in (("a",), ("b",), ("a", True))
    }
    assert len(names) == 9


@pytest.mark.parametrize(
    ("argv", "shuffle", "words"),
    [
        (("--network_args", "targets=attention+text_encoder"), False, "text encoders train"),
        ((), True, "captions are shuffled"),
    ],
)
def test_captions_that_change_are_not_kept(train, pairs, argv, shuffle, words):
    pairs["datasets"][0]["subsets"][0]["shuffle_caption"] = shuffle
    with pytest.raises(PairError, match=f"--cache_text_encoder_outputs_to_disk: {words}"):
        train(pairs, "--cache_text_encoder_outputs_to_disk", *argv)


# --- eight bits ---

EIGHT_BITS = ("--quantize", "int8", "--mixed_precision", "bf16")


def test_without_torchao_the_remedy_is_named(train, pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(PairError, match=r"--quantize int8 needs a package that is not installed: pip install torchao"):
        train(pairs, *EIGHT_BITS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--mixed_precision", "no"), "computes in bf16 alone: add --mixed_precision bf16"),
        (("--base_weights", "{file}"), "--base_weights cannot be merged into a model in 8 bits"),
    ],
)
def test_what_eight_bits_cannot_do_is_refused(train, pairs, model, argv, words):
    file = str(model / "unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(PairError, match=words):
        train(pairs, *EIGHT_BITS, *(part.format(file=file) for part in argv))


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs the torchao package")
def test_the_frozen_unet_in_eight_bits_trains_nearly_the_same(train, pairs, sdxl):
    options = ("--cache_latents", "--gradient_checkpointing", "--mixed_precision", "bf16")
    full = weights(train(pairs, *options, name="full", base=sdxl))
    small = weights(train(pairs, *options, "--quantize", "int8", name="small", base=sdxl))
    ups = [key for key in full if "lora_up" in key]
    ours, theirs = (torch.cat([each[key].float().flatten() for key in ups]) for each in (small, full))
    assert not torch.equal(ours, theirs), "nothing was quantised: this would prove nothing"
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9
