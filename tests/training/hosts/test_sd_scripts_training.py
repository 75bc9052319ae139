"""Stable Diffusion and SDXL on kohya's real trainers, through kohya's own machinery."""

import json
import re

import pytest
import toml
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytestmark = pytest.mark.sd_scripts


def ups(path, branch=""):
    return {key: value for key, value in load_file(path).items() if key.startswith(branch) and "lora_up" in key}


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def moved(values):
    return sum(bool(value.abs().max() > 0) for value in values.values())


# --- one pair ---


@pytest.mark.parametrize(("model_type", "layers"), [("sd", 128), ("sdxl", 88)])
def test_trains_four_steps_with_gradient_checkpointing_and_saves_both_files(sd_scripts, model_type, layers):
    """Step 0 is content-only, 1 to 3 are joint: both branches must have moved, and only the ups."""
    log = sd_scripts.train("--gradient_checkpointing", "--cache_latents", model_type=model_type)
    style, coupled = sd_scripts.out / "style.safetensors", sd_scripts.out / "style.pair.safetensors"
    assert len(ups(style)) == moved(ups(style)) == layers, log[-2000:]
    assert len(ups(coupled, "content.")) == moved(ups(coupled, "content.")) == layers
    values = metadata(style)
    assert values["ss_network_module"] == "pair_network" and float(values["pair_network_gram_defect"]) < 1e-5
    architectures = {"sd": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}
    assert values["modelspec.architecture"] == architectures[model_type]
    assert values["modelspec.trigger_phrase"] == "in digital art style"
    assert values["pair_network_num_pairs"] == "1"
    assert values["ss_steps"] == "4" and values["pair_network_style_start_step"] == "1"


def test_default_style_start_is_in_the_metadata(sd_scripts):
    """It is only known once the host has counted its steps: "None" was written there once."""
    sd_scripts.train(
        common=["--network_dim", "4", "--max_train_steps", "6", "--output_name", "style", "--resolution", "64"]
    )
    assert metadata(sd_scripts.out / "style.safetensors")["pair_network_style_start_step"] == "2"


def test_content_only_steps_leave_style_ups_at_zero(sd_scripts):
    sd_scripts.train("--style_start_step", "3", "--save_every_n_steps", "3")
    before = ups(sd_scripts.out / "style-step00000003.safetensors")
    assert moved(before) == 0 and moved(ups(sd_scripts.out / "style.safetensors")) == len(before)


@pytest.mark.parametrize("model_type", ["sd", "sdxl"])
def test_text_encoders_train_on_request(sd_scripts, model_type):
    """Captions of two chunks: an encoder then sees two rows for each of the batch's."""
    options = ["--network_args", "targets=attention+text_encoder", "--max_token_length", "150"]
    sd_scripts.train(*options, model_type=model_type)
    keys = ups(sd_scripts.out / "style.safetensors")
    prefixes = {key.split("_text_model")[0] for key in keys if "text_model" in key}
    assert prefixes == ({"lora_te"} if model_type == "sd" else {"lora_te1", "lora_te2"})
    moved_keys = [key for key, value in keys.items() if value.abs().max() > 0 and key.startswith("lora_te")]
    assert len(moved_keys) > 10


def test_sdxl_caches_text_encoder_outputs(sd_scripts):
    sd_scripts.train("--cache_text_encoder_outputs", "--cache_latents", model_type="sdxl")
    assert moved(ups(sd_scripts.out / "style.safetensors")) == 88
    sd_scripts.train("--cache_text_encoder_outputs_to_disk", "--cache_text_encoder_outputs", "--cache_latents_to_disk",
                     "--cache_latents", model_type="sdxl")  # fmt: skip
    caches = [path.name for path in (sd_scripts.out / "style-dataset/content").glob("*.npz")]
    assert len(caches) == 2, "latents and text of the content image are cached beside it"


def test_the_quick_form_forgets_the_disk_caches_of_other_images(sd_scripts, make_picture):
    """kohya's cache files are named after the image alone: a new image of that size would never be looked at."""
    options = ["--cache_latents", "--cache_latents_to_disk", "--max_train_steps", "2"]
    sd_scripts.train(*options)
    (cache,) = (sd_scripts.out / "style-dataset/style").glob("*.npz")
    first = cache.read_bytes()
    other = sd_scripts.pair()
    make_picture(other[3], (250, 250, 10))
    sd_scripts.train(*options, *other)
    assert cache.read_bytes() != first


def test_trains_in_bf16_throughout(sd_scripts):
    sd_scripts.train("--mixed_precision", "bf16", "--full_bf16")
    values = ups(sd_scripts.out / "style.safetensors")
    assert moved(values) == 128 and all(torch.isfinite(value).all() for value in values.values())


def test_the_quick_form_takes_images_of_any_shape(sd_scripts, make_picture):
    """kohya refuses an image larger than the resolution, unless buckets are on."""
    options = []
    for side, color in (("content", (200, 40, 40)), ("style", (20, 60, 160))):
        options += [f"--{side}", make_picture(sd_scripts.folder / f"{side}.png", color, (300, 210))]
    options += ["--content_prompt", "a house", "--style_prompt", "in ink style", "--resolution", "128"]
    sd_scripts.train(*options, "--max_train_steps", "2")
    assert '"resolution": [128, 128]' in metadata(sd_scripts.out / "style.safetensors")["ss_datasets"]


def test_alternating_steps_penalty_and_max_norm(sd_scripts):
    log = sd_scripts.train(
        "--pair_schedule", "alternate", "--scale_weight_norms", "1", "--max_train_steps", "6",
        "--network_args", "orthogonality=penalty", "content_dim=2", "--lr_scheduler", "cosine",
    )  # fmt: skip
    assert moved(ups(sd_scripts.out / "style.safetensors")) == 128, log[-1500:]


@pytest.mark.parametrize("optimizer", ["AdaFactor", "Lion", "Prodigy", "AdamWScheduleFree"])
def test_kohyas_optimizers_train_while_the_style_branch_stands_still(sd_scripts, optimizer):
    """A content-only step leaves the style branch's parameter groups without a gradient."""
    log = sd_scripts.train("--optimizer_type", optimizer, "--style_start_step", "3", "--max_train_steps", "6")
    assert moved(ups(sd_scripts.out / "style.safetensors")) == 128, log[-1500:]


# --- many pairs ---

REGULARISATION = """
  [[datasets.subsets]]
  image_dir = "FOLDER/content"
  class_tokens = "a house"
  is_reg = true
"""


@pytest.mark.parametrize("caching", [[], ["--cache_latents"], ["--cache_latents_to_disk", "--cache_latents"]])
@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_stay_aligned_through_buckets_flips_and_caches(sd_scripts, identical, caching, workers):
    log = sd_scripts.train(
        "--dataset_config", identical, "--max_train_epochs", "2", "--style_start_step", "0", *caching, workers=workers,
        PAIR_PATCH="sd_scripts_spy",
    )  # fmt: skip
    found = re.search(r"ALIGNMENT (.*)", log)[1]
    assert "'misaligned': 0" in found and "'rows': 20" in found, found
    assert "'flipped': 0" not in found, f"the flips were not exercised: {found}"
    assert found.count("), (") == 1, f"two bucket sizes: {found}"
    assert ups(sd_scripts.out / "style.pair.safetensors", "content.").popitem()[1].shape[0] == 5


def test_validation_split_on_pairs(sd_scripts, identical):
    log = sd_scripts.train(
        "--dataset_config", identical, "--validation_split", "0.4", "--validate_every_n_steps", "2", "--cache_latents",
        "--validation_seed", "3",
    )  # fmt: skip
    assert "validation steps" in log
    content = ups(sd_scripts.out / "style.pair.safetensors", "content.").popitem()[1]
    assert content.shape[0] == 3, "validation pairs have no content branch"


def test_masked_loss_with_alpha_masks(sd_scripts, identical):
    text = identical.read_text(encoding="utf-8").replace("flip_aug = true", "flip_aug = true\n  alpha_mask = true")
    sd_scripts.train("--dataset_config", sd_scripts.dataset(text, "masked.toml"), "--masked_loss")
    assert moved(ups(sd_scripts.out / "style.safetensors")) == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("flip_aug = true", "random_crop = true"), "random_crop would crop the two images of a pair differently"),
        (
            ("  [[datasets.subsets]]", REGULARISATION + "  [[datasets.subsets]]"),
            "regularisation images have no content image",
        ),
        (("content_class_tokens", "content_class_token"), "did you mean content_class_tokens"),
        (("/content\"", "/elsewhere\""), "no such folder"),
        (("/style\"", "/elsewhere\""), "no such folder"),
        (("num_repeats", "num_repeat"), "extra keys not allowed"),
        (("resolution = 128", "resolution = 'big'"), "'resolution'"),
        (("[general]", "[general"), "not a TOML file"),
    ],
)  # fmt: skip
def test_what_would_break_pairs_is_refused_before_a_model_is_loaded(sd_scripts, identical, change, message):
    text = identical.read_text(encoding="utf-8").replace(*change).replace("FOLDER", sd_scripts.folder.as_posix())
    log = sd_scripts.train("--dataset_config", sd_scripts.dataset(text, "bad.toml"), fails=True)
    assert message in log and "prepare optimizer" not in log and "Traceback" not in log


# --- kohya's habits ---


def test_resume_continues_the_count_of_steps(sd_scripts):
    """The schedule's count goes on over two resumes; kohya's own train_state.json restarts at each."""
    schedule = ["--style_start_step", "5", "--save_state_on_train_end"]
    state = sd_scripts.out / "style-state"

    def saved(file, key):
        return json.loads((state / file).read_text(encoding="utf-8"))[key]

    sd_scripts.train(*schedule, "--max_train_steps", "6", "--style_start_step", "1")
    assert saved("pair_state.json", "pair_step") == saved("train_state.json", "current_step") == 6
    counts = []
    for steps in ("8", "10"):
        sd_scripts.train(*schedule, "--max_train_steps", steps, "--resume", state)
        counts.append(saved("pair_state.json", "pair_step"))
    assert 6 < counts[0] < counts[1] and counts[1] > saved("train_state.json", "current_step")


@pytest.mark.parametrize("suffix", [".safetensors", ".pair.safetensors"])
def test_continues_from_either_file(sd_scripts, suffix):
    sd_scripts.train()
    first = load_file(sd_scripts.out / "style.safetensors")
    weights = sd_scripts.out / f"style{suffix}"
    for options in (["--network_weights", weights], ["--network_weights", weights, "--dim_from_weights"]):
        sd_scripts.train("--learning_rate", "1e-6", "--output_name", "more", *options)
        more = load_file(sd_scripts.out / "more.safetensors")
        assert first.keys() == more.keys()
        assert all(torch.allclose(first[key], more[key], atol=1e-4) for key in first)


def test_base_weights_are_merged(sd_scripts):
    sd_scripts.train()
    log = sd_scripts.train("--base_weights", sd_scripts.out / "style.safetensors", "--base_weights_multiplier", "0.5")
    assert "all weights merged" in log


def test_old_checkpoints_go_with_their_coupled_siblings(sd_scripts):
    sd_scripts.out.mkdir()
    kept = sd_scripts.out / "style-mine.pair.safetensors"
    kept.write_bytes(b"kept")
    sd_scripts.train("--save_every_n_steps", "1", "--save_last_n_steps", "1")
    names = {path.name for path in sd_scripts.out.glob("*.safetensors")}
    steps = {name.removesuffix(".safetensors") for name in names if "step" in name and ".pair" not in name}
    assert 0 < len(steps) < 4
    assert {name for name in names if ".pair" in name} == {
        kept.name, "style.pair.safetensors", *(f"{step}.pair.safetensors" for step in steps)
    }  # fmt: skip


def test_two_processes_train_one_network(sd_scripts, identical):
    # On a CPU, accelerate's --cpu starts one process whatever --num_processes says.
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]  # fmt: skip
    log = sd_scripts.train(
        "--dataset_config", identical, "--style_start_step", "2", launcher=launcher, ACCELERATE_USE_CPU="true",
        PAIR_PATCH="sd_scripts_world",
    )  # fmt: skip
    assert log.count("process 0 of 2") == log.count("process 1 of 2") == 1
    content = ups(sd_scripts.out / "style.pair.safetensors", "content.")
    assert moved(ups(sd_scripts.out / "style.safetensors")) == 128 and moved(content) == 128


def test_options_come_from_a_config_file(sd_scripts):
    config = sd_scripts.folder / "run.toml"
    config.write_text('[training]\nmin_snr_gamma = 5\nloss_type = "huber"\nnoise_offset = 0.05\n', encoding="utf-8")
    sd_scripts.train("--config_file", config)
    assert metadata(sd_scripts.out / "style.safetensors")["ss_min_snr_gamma"] == "5"
    config.write_text("min_snr_gama = 5\n", encoding="utf-8")
    log = sd_scripts.train("--config_file", config, fails=True)
    assert "unknown key 'min_snr_gama' (did you mean min_snr_gamma?)" in log


GUI = {
    "max_token_length": 75, "dynamo_backend": "no", "noise_offset_type": "Original", "epoch": 1, "noise_offset": 0.05,
    "max_data_loader_n_workers": 0, "lr_scheduler": "cosine", "lr_scheduler_args": [], "optimizer_args": [],
    "network_module": "networks.lora", "network_args": ["conv_dim=4"], "train_data_dir": "img", "min_snr_gamma": 5,
}  # fmt: skip
FIELDS = {
    "LoRA_type": "Standard", "max_resolution": "128,128", "optimizer": "AdamW", "lr_scheduler": "cosine", "epoch": 1,
    "lr_warmup": 25, "lr_warmup_steps": "", "lr_scheduler_num_cycles": "", "sample_prompts": "a dog --w 64 --h 64",
    "model_type": "flux", "discrete_flow_shift": 3, "sdxl_no_half_vae": True, "min_snr_gamma": 5, **GUI,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"), [("config_lora-1.toml", toml.dumps(GUI)), ("saved.json", json.dumps(FIELDS))]
)
def test_what_kohya_ss_gui_saves_trains(sd_scripts, name, text):
    config = sd_scripts.folder / name
    config.write_text(text, encoding="utf-8")
    log = sd_scripts.train("--config_file", config, "--sample_every_n_steps", "1000", PAIR_LAUNCH="1")
    assert f"{name} was saved by kohya_ss GUI" in log and "train_data_dir = 'img' is left out: name your pair" in log
    assert "network_args = ['conv_dim=4'] is left out" in log
    values = metadata(sd_scripts.out / "style.safetensors")
    assert values["ss_lr_scheduler"] == "cosine" and float(values["ss_min_snr_gamma"]) == 5
    assert values["ss_noise_offset"] == "0.05" and float(values["ss_lr_warmup_steps"]) == (
        0.25 if "json" in name else 0
    )
    assert moved(ups(sd_scripts.out / "style.safetensors")) == 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sample_prompts", "nowhere.txt"], "--sample_prompts nowhere.txt: no such file"),
        (["--vae", "nowhere.safetensors"], "--vae nowhere.safetensors: no such file"),
        (["--vae", "picture.png"], "--vae picture.png: "),
        (["--network_weights", "content.png"], "--network_weights content.png: not a .safetensors file"),
        (["--pretrained_model_name_or_path", "content.png"], "content.png: not a .safetensors file"),
        (["--reg_data_dir", "x"], "--reg_data_dir names images without their other halves"),
        (["--save_model_as", "ckpt"], "only safetensors is written"),
        (["--network_module", "networks.lora"], "pair training needs pair_network"),
        (["--deepspeed"], "cannot keep the content branches of absent pairs"),
        (["--initial_epoch", "2"], "use --initial_step"),
        (["--lerning_rate", "3"], "unknown option --lerning_rate (did you mean --learning_rate?)"),
        (["--network_args", "targets"], "'targets' is not KEY=VALUE"),
        (["--optimizer_type", "AdamX"], "--optimizer_type AdamX: "),
        (["--optimizer_args", "bogus=3"], "unexpected keyword argument 'bogus'; correct it"),
        (["--lr_scheduler", "cosin"], "--lr_scheduler cosin: "),
        (["--resolution", "1,2,3"], "--resolution must be SIZE or WIDTH,HEIGHT"),
        (["--resume", "nowhere"], "--resume nowhere: no such folder"),
        (["--dataset_config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["--train_data_dir", "x"], "--train_data_dir names images without their other halves"),
    ],
)
def test_options_that_cannot_work_are_refused(sd_scripts, options, message):
    log = sd_scripts.train(*options, fails=True)
    assert message in log and "Traceback" not in log
