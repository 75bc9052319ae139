"""What people and programs really hand in by mistake, or worse: one line that names it, at once."""

import json
import logging
import shutil
import unicodedata

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pair_network.errors import LONGEST, PairError
from pair_network.reading import read_toml
from pair_network.training.hosts.embedded.config_file import verify
from pair_network.training.hosts.embedded.dataset import make_dataset_group
from pair_network.training.hosts.embedded.model import read_model_facts
from pair_network.training.hosts.embedded.model_files import check_model_folder
from pair_network.training.hosts.embedded.previews import Prompt, read_prompts


def refusal(function, *args, **named):
    """The one line that a mistake ends in."""
    with pytest.raises(PairError) as refused:
        function(*args, **named)
    words = str(refused.value)
    assert words.isprintable() and len(words) <= LONGEST + 10, words
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "not a TOML file"),
        ("[" + "a." * 5000 + "a]", "20 deep"),
        ("[x.network_dim." + "a." * 500 + "a]", "20 deep"),
        ("a = {" * 3000, "not a TOML file"),
        ('model = "C:\\ai\\models"', "in single quotes"),
        ('model = "C:\\new\\train"', "in single quotes"),
        ('model = "a\u0000b"', ""),
        ("x" * 2_000_000, "more than 1,000,000 bytes"),
        ("a = " + "9" * 5000, ""),
    ],
)
def test_toml_files_end_in_one_line(tmp_path, text, words):
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    if not words:  # whatever the toml package thinks of these, it is no traceback
        try:
            read_toml(tmp_path / "c.toml")
        except PairError:
            return
        return
    assert words in refusal(read_toml, tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("where", "key", "value", "words"),
    [
        ("subset", "image_dir", ["a", "b"], "image_dir must be a text in quotes"),
        ("subset", "image_dir", 3, "image_dir must be a text in quotes"),
        ("subset", "num_repeats", 10**12, "num_repeats is 1000000000000"),
        ("subset", "caption_extension", "/../x", "caption_extension"),
        ("subset", "caption_extension", ".", "caption_extension"),
        ("subset", "class_tokens", ["x" * 5000], "class_tokens must be a text"),
        ("subset", "\x1b[31mred" + "k" * 5000, 1, "unknown key"),
        ("dataset", "subsets", 5, "subsets must be a list"),
        ("dataset", "subsets", ["x"], "must be a table"),
        ("dataset", "resolution", [], "resolution must be a size"),
        ("dataset", "resolution", 10**6 * 8, "more than 16384 pixels"),
        ("dataset", "batch_size", -(10**9), "batch_size"),
    ],
)
def test_wrong_types_and_sizes_in_a_dataset_are_one_line(pairs, options, where, key, value, words):
    target = pairs["datasets"][0] if where == "dataset" else pairs["datasets"][0]["subsets"][0]
    target[key] = value
    assert words in refusal(make_dataset_group, pairs, options(), 0)


def test_an_extension_without_its_dot_is_meant_with_it(tmp_path, pairs, options):
    pairs["datasets"][0]["subsets"][0]["caption_extension"] = "txt"
    (tmp_path / "style" / "cat.txt").write_text("a photo of a red fox")
    assert "a photo of a red fox" in [style for _, style in make_dataset_group(pairs, options(), 0).pair_captions()]


def test_captions_of_the_other_suffix_are_read_and_named(tmp_path, pairs, options, caplog):
    """kohya's default is .caption, taggers write .txt: the captions must not be ignored in silence."""
    for side in ("style", "content"):
        (tmp_path / side / "cat.txt").write_text(f"a photo of a red fox {side}")
    with caplog.at_level(logging.WARNING):
        captions = make_dataset_group(pairs, options(), 0).pair_captions()
    assert ("a photo of a red fox content", "a photo of a red fox style") in captions
    assert "cat.txt is read as a caption" in caplog.text


def test_hidden_files_other_kinds_and_unicode_forms(tmp_path, pairs, options, caplog, make_picture):
    for side in ("content", "style"):
        (tmp_path / side / "._cat.png").write_bytes(b"\x00\x05\x16\x07" + bytes(4000))  # macOS, on foreign drives
        (tmp_path / side / "owl.jxl").write_bytes(b"\xff\x0a")
    make_picture(tmp_path / "content" / unicodedata.normalize("NFC", "café.png"), (64, 64), 5)
    make_picture(tmp_path / "style" / unicodedata.normalize("NFD", "café.png"), (64, 64), 6)
    with caplog.at_level(logging.WARNING):
        assert make_dataset_group(pairs, options(), 0).num_pairs == 4
    assert "owl.jxl is left out" in caplog.text


def test_long_and_narrow_pictures_are_refused_at_once(tmp_path, pairs, options):
    for side in ("content", "style"):
        Image.new("RGB", (1, 100_000)).save(tmp_path / side / "cat.png")
    assert "too long and narrow" in refusal(make_dataset_group, pairs, options(), 0)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--learning_rate", "1e38"], "--learning_rate 1e+38"),
        (["--unet_lr", "nan"], "--unet_lr nan"),
        (["--text_encoder_lr", "1e-4", "-1"], "--text_encoder_lr -1"),
        (["--noise_offset", "inf"], "--noise_offset inf"),
        (["--network_alpha", "nan"], "--network_alpha nan"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", "9" * 30], "--seed 9"),
        (["--lr_scheduler_power", "inf"], "--lr_scheduler_power inf"),
        (["--sample_style_scale", "nan"], "--sample_style_scale"),
    ],
)
def test_numbers_that_no_run_can_use_are_refused_before_it(model, tmp_path, options, argv, words):
    where = ["--pretrained_model_name_or_path", str(model), "--output_dir", str(tmp_path / "out")]
    assert words in refusal(verify, options(*where, "--dataset_config", "d.toml", *argv))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--network_weights", "no.safetensors"], "--network_weights no.safetensors: no such file"),
        (["--network_weights", "picture.png"], "--network_weights picture.png: not a .safetensors file"),
        (["--base_weights", "empty"], "--base_weights empty: a folder"),
        (["--base_weights", "a.ckpt"], "a.ckpt: a .ckpt file can run code"),
        (["--resume", "empty"], "--resume empty: not a saved state"),
        (["--sample_prompts", "no.txt"], "--sample_prompts no.txt: no such file"),
        (["--output_dir", "picture.png"], "--output_dir picture.png: picture.png is a file"),
        (["--logging_dir", "picture.png/x"], "--logging_dir picture.png/x: picture.png is a file"),
        (["--pretrained_model_name_or_path", "no.safetensors", "--model_config", "empty"],
         "--pretrained_model_name_or_path no.safetensors: no such file or folder"),
        (["--pretrained_model_name_or_path", "xl.safetensors", "--model_config", "empty"],
         "--model_config empty: no diffusers folder"),
    ],
)  # fmt: skip
def test_a_file_that_is_missing_or_another_is_named_by_its_option(
    model, tmp_path, monkeypatch, make_picture, options, argv, words
):
    monkeypatch.chdir(tmp_path)
    make_picture(tmp_path / "picture.png", (64, 64), 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.ckpt").write_bytes(b"")
    save_file({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, str(tmp_path / "xl.safetensors"))
    where = ["--pretrained_model_name_or_path", str(model), "--output_dir", "out", "--dataset_config", "d.toml"]
    assert words in refusal(verify, options(*where, *argv))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_train_timesteps", 10**9, "num_train_timesteps"),
        ("num_train_timesteps", "1000", "num_train_timesteps"),
        ("num_train_timesteps", 0, "num_train_timesteps"),
        ("beta_start", "a", "beta_start"),
        ("beta_end", float("nan"), "beta_end"),
        ("beta_end", 7, "beta_end"),
        ("beta_schedule", "no such", "beta_schedule"),
        ("beta_schedule", ["linear"], "beta_schedule"),
        ("trained_betas", [0.1, 0.2], "trained_betas"),
        ("prediction_type", ["x"], "prediction_type"),
        ("rescale_betas_zero_snr", "yes", "rescale_betas_zero_snr"),
    ],
)
def test_a_broken_noise_schedule_is_named(model, tmp_path, key, value, words):
    folder = shutil.copytree(model, tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert words in refusal(read_model_facts, folder)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, '{"a": ', ""])
def test_a_broken_json_file_of_the_model_is_named(model, tmp_path, text):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    assert "scheduler_config.json" in refusal(read_model_facts, folder)


def test_an_inpainting_unet_is_refused_by_name(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 9}))
    assert "takes 9 channels where the latents have 4" in refusal(check_model_folder, folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_nan_in_the_base_model_is_named_and_not_blamed_on_the_learning_rate(model, tmp_path, train, pairs, part):
    folder = shutil.copytree(model, tmp_path / "model")
    file = next((folder / part).glob("*.safetensors"))
    weights = load_file(str(file))
    name = next(key for key in weights if weights[key].is_floating_point())
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, str(file), {"format": "pt"})
    words = refusal(train, pairs, base=folder)
    assert "NaN" in words and part in words and "learning rate" not in words


@pytest.mark.parametrize("cached", [True, False])
def test_nan_from_the_autoencoder_is_named(train, pairs, monkeypatch, cached):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior

    made = Posterior.__init__

    def spoiled(self, parameters, *rest, **named):
        made(self, parameters * float("nan"), *rest, **named)

    monkeypatch.setattr(Posterior, "__init__", spoiled)
    words = refusal(train, pairs, *(["--cache_latents"] if cached else []))
    assert "no finite latents" in words and "--no_half_vae" in words


def test_penalty_with_an_impossible_rank_is_one_line_at_once(train, pairs):
    words = refusal(train, pairs, "--network_dim", "100000", "--network_args", "orthogonality=penalty")
    assert "rank 100000 is more than the" in words and "network_dim" in words


def test_a_branch_that_is_not_finite_replaces_neither_file(train, pairs):
    out = train(pairs, "--style_start_step", "1", "--cache_latents")
    from pair_network.network import checkpoint

    before = [(out / name).read_bytes() for name in ("x.safetensors", "x.pair.safetensors")]
    tensors, metadata = checkpoint.read(out / "x.safetensors")
    both, _ = checkpoint.read(out / "x.pair.safetensors")
    broken = {**both, "content.bad": torch.tensor([float("inf")])}
    files = {out / "x.safetensors": (tensors, {**metadata, "new": "1"}), out / "x.pair.safetensors": (broken, metadata)}
    assert "content.bad" in refusal(checkpoint.write_together, files)
    assert [(out / name).read_bytes() for name in ("x.safetensors", "x.pair.safetensors")] == before


def test_prompts_in_kohyas_other_forms_are_read(tmp_path):
    (tmp_path / "p.toml").write_text(
        '[prompt]\nwidth = 64\nheight = 64\nsample_steps = 2\nnegative_prompt = "bad"\n\n'
        '[[prompt.subset]]\nprompt = "a cat"\nseed = 7\n'
    )
    entry = {"prompt": "a cat", "width": 64, "height": 64, "sample_steps": 2, "seed": 7, "negative_prompt": "bad"}
    (tmp_path / "p.json").write_text(json.dumps([entry], indent=2))
    (tmp_path / "p.txt").write_text("a cat --w 64 --h 64 --s 2 --n bad --d 7\n")
    assert read_prompts(tmp_path / "p.toml") == read_prompts(tmp_path / "p.json") == read_prompts(tmp_path / "p.txt")
    (tmp_path / "lines.json").write_text('["a cat --w 64 --h 64 --s 2 --n bad --d 7"]')  # so too for kohya
    assert read_prompts(tmp_path / "lines.json") == read_prompts(tmp_path / "p.txt")


def test_kohyas_flags_for_other_previews_are_passed_over_and_said(tmp_path, caplog):
    """docs/kohya.md: the same file of prompts."""
    caplog.set_level("INFO")
    (tmp_path / "p.txt").write_text("a cat --W 64 --ss euler_a --g 3.5 --fs 3 --cn c.png --ctr 0.5 --rcfg 1 --d 7\n")
    (tmp_path / "p.json").write_text(
        '[{"prompt": "a cat", "width": 64, "seed": 7, "sample_sampler": "euler_a", "guidance_scale": 3.5, "enum": 0}]'
    )
    assert read_prompts(tmp_path / "p.txt") == read_prompts(tmp_path / "p.json") == [Prompt("a cat", width=64, seed=7)]
    assert "--ss in" in caplog.text and "is not used by the previews" in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", "[" * 100_000),
        ("p.json", '{"prompt": 1}'),
        ("p.json", '[{"prompt": "a", "seeds": 1}]'),
        ("p.json", '[{"prompt": "a\\n--d 5"}]'),
        ("p.json", '[{"width": 64}]'),
        ("p.json", "[]"),
        ("p.json", "[[]]"),
        ("p.toml", "prompt = 3"),
        ("p.toml", "[prompt]\nsubset = 5"),
        ("p.txt", "a --d 99999999999999999999999"),
        ("p.txt", "a --l nan"),
        ("p.txt", "a --w 80000000"),
    ],
)
def test_broken_prompts_are_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert name in refusal(read_prompts, tmp_path / name)


def test_a_value_printed_back_is_short_and_has_no_control_characters(tmp_path):
    words = str(PairError(f"key {'x' * 5000} \x1b]0;title\x07 in {tmp_path}; the remedy"))
    assert words.isprintable() and len(words) < 700 and words.endswith("the remedy")
    many = str(PairError("a " * 5000 + "; the remedy"))
    assert len(many) <= LONGEST and many.endswith("the remedy")
    assert str(PairError("café.png")) == "café.png"
