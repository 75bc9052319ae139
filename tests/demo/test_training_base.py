"""Making the embedded model: sizes, going on from weights of another shape, and compute that the machine has."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from demo import parallel, train_base, train_unet, train_vae
from demo.data import load_scenes
from demo.model_config import MODEL_DIR, SHAPES, build_text_encoder, build_unet, build_vae, load_pipeline
from demo.sample_sheet import generate
from demo.vocabulary import WORDS, write_tokenizer


@pytest.fixture
def small_vae(tmp_path):
    """An autoencoder in a folder, its latents normalised as trained ones are."""
    torch.manual_seed(0)
    vae = build_vae()
    train_vae.normalise_latents(vae, torch.rand(4, 3, 64, 64) * 2 - 1)
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def shape_with(latent_channels):
    return replace(SHAPES[64], latent_channels=latent_channels)


def test_an_autoencoder_with_more_latent_channels_starts_as_good_as_it_was(small_vae):
    before = AutoencoderKL.from_pretrained(small_vae)
    grown = build_vae(shape_with(before.config.latent_channels + 3))
    train_vae.start_from(grown, small_vae)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = grown.encode(pixels).latent_dist.mean
    torch.testing.assert_close(grown.decode(latents).sample, before(pixels).sample, atol=1e-5, rtol=1e-5)
    # The further channels say something, so that the decoder can learn to use them.
    assert latents[:, before.config.latent_channels :].std() > 1e-3


def test_fewer_latent_channels_are_refused(small_vae):
    with pytest.raises(ValueError, match=r"--vae_init .*vae: \d+ latent channels, .* has 2"):
        train_vae.start_from(build_vae(shape_with(2)), small_vae)


def test_a_unet_for_other_latents_keeps_all_but_its_ends():
    torch.manual_seed(0)
    given = build_unet()
    unet = build_unet(shape_with(given.config.in_channels + 3))
    train_unet.start_from(unet, given)
    source = given.state_dict()
    fresh = {name for name, value in unet.state_dict().items() if not torch.equal(value, source.get(name))}
    assert fresh == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}


@pytest.mark.parametrize(
    ("unit", "dtype"), [(None, torch.float32), ("avx512", torch.bfloat16), ("amx", torch.bfloat16)]
)
def test_bfloat16_only_where_the_processor_has_it(unit, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {f"{unit}_bf16": True})
    monkeypatch.setattr(parallel, "device", lambda: torch.device("cpu"))
    with parallel.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("size", SHAPES)
def test_every_size_has_latents_of_the_same_size(size):
    vae, unet = build_vae(SHAPES[size]), build_unet(SHAPES[size])
    latents = vae.encode(torch.zeros(1, 3, size, size)).latent_dist.mean
    assert latents.shape[1:] == (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    assert vae.decode(latents).sample.shape[1:] == (3, size, size)


def test_known_words_keep_their_meaning_in_a_larger_vocabulary(tmp_path):
    small, large = write_tokenizer(tmp_path / "small", WORDS), write_tokenizer(tmp_path / "large")
    given, grown = build_text_encoder(small), build_text_encoder(large)
    train_unet.start_from(grown, given)
    train_unet.start_words(grown, large, given, small)
    known, new = "a photo of a red house on a blue background in zq style", "a photo in crosshatched style"
    states = [model(tok(known, return_tensors="pt").input_ids).last_hidden_state
              for model, tok in ((given, small), (grown, large))]  # fmt: skip
    torch.testing.assert_close(states[0], states[1])
    assert len(large.tokenize(new)) == len(new.split()) < len(small.tokenize(new))


def test_captions_name_the_style_of_the_picture_or_of_none():
    rng = np.random.default_rng(0)
    photo, family = (np.array([0, 0, 0, style]) for style in (0, -1))
    captions = {draw: train_unet.draw_caption(rng, family, ["navy", "cream", "hatched"]) for draw in range(400)}
    said = [caption.split(" in ")[1] for caption in captions.values() if caption]
    assert 0.05 < list(captions.values()).count("") / 400 < 0.16
    assert "navy cream hatched style" in said
    assert all(set(words.split()[:-1]) <= {"navy", "cream", "hatched"} and words.endswith(" style") for words in said)
    assert len(set(said)) == 7, "every choice of at least one word"
    assert not any("hatched" in train_unet.draw_caption(rng, photo, []) for _ in range(400))


@pytest.mark.parametrize("size", SHAPES)
def test_the_whole_command_in_miniature_and_on_from_its_result(size, tmp_path, monkeypatch):
    """Renders, trains both stages, writes a model that draws at its size; a second run goes on from its weights."""
    monkeypatch.setattr("demo.data.CHUNK", 4)
    monkeypatch.setattr("demo.data.get_context", lambda _: InOneProcess)
    monkeypatch.setattr("demo.train_vae.psnr_by_style", lambda vae: {})
    small = ["--size", str(size), "--scenes", "4", "--family", "8", "--textures", "4", "--processes", "1"]
    short = ["--vae_steps", "1", "--vae_batch", "4", "--max_steps", "2", "--batch", "4"]
    first = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "model")]
    monkeypatch.setattr(sys, "argv", ["train_base", *small, *short, *first])
    train_base.main()
    assert generate(load_pipeline(tmp_path / "model"), ["a photo"], 0, 1, 3.0).shape == (1, size, size, 3)
    on = ["--init", str(tmp_path / "model"), "--work", str(tmp_path / "on"), "--out", str(tmp_path / "later")]
    monkeypatch.setattr(sys, "argv", ["train_base", *small, *short, *on])
    train_base.main()
    first_words, later_words = (
        CLIPTokenizer.from_pretrained(tmp_path / folder / "tokenizer").get_vocab() for folder in ("model", "later")
    )
    assert first_words == later_words


def test_a_run_with_fewer_steps_than_its_checkpoint_has_adds_nothing(tmp_path, monkeypatch):
    """What is in the work folder is gone on from: both runs end at the same step."""
    monkeypatch.setattr("demo.data.CHUNK", 4)
    monkeypatch.setattr("demo.data.get_context", lambda _: InOneProcess)
    small = ["--scenes", "4", "--family", "4", "--processes", "1", "--batch", "4", "--max_steps", "2"]
    places = ["--init", str(MODEL_DIR), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "model")]
    monkeypatch.setattr(sys, "argv", ["train_base", *small, *places])
    train_base.main()
    train_base.main()
    assert torch.load(tmp_path / "work" / "unet.pt", weights_only=True)["step"] == 2


class InOneProcess:
    """In place of multiprocessing's spawn context: the same calls without new processes."""

    class Pool:
        def __init__(self, processes):
            self.imap = map

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None


def test_another_first_seed_gives_other_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.data.CHUNK", 2)
    monkeypatch.setattr("demo.data.get_context", lambda _: InOneProcess)
    first, again, other = (load_scenes(tmp_path / str(i), 2, 1, "family", first=s) for i, s in enumerate((0, 0, 2)))
    assert (first.images == again.images).all() and first.words == again.words
    assert (first.images != other.images).any()
    # The end of one pool is the start of the next.
    longer = load_scenes(tmp_path, 4, 1, "family")
    assert (longer.images[2:] == other.images).all() and longer.words[2:] == other.words
