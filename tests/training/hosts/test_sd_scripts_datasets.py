"""What newer releases of sd-scripts bring into a dataset: one image in several sizes, and inpainting models."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.sd_scripts


def content_pairs(sd_scripts):
    tensors = load_file(sd_scripts.out / "style.pair.safetensors")
    return {value.shape[0] for key, value in tensors.items() if key.startswith("content.") and "lora_up" in key}


def in_two_sizes(sd_scripts, identical):
    text = identical.read_text(encoding="utf-8")
    dataset = text[text.index("[[datasets]]") :]
    return sd_scripts.dataset(text + dataset.replace("resolution = 128", "resolution = 64"), "two.toml")


@pytest.mark.parametrize("caching", [[], ["--cache_latents"]])
def test_one_image_in_two_resolutions_is_one_pair_with_one_content_branch(sd_scripts, identical, caching):
    log = sd_scripts.train(
        "--dataset_config", in_two_sizes(sd_scripts, identical), "--max_train_epochs", "1", "--style_start_step", "0",
        *caching, PAIR_PATCH="sd_scripts_spy",
    )  # fmt: skip
    assert "'misaligned': 0" in log and "'rows': 20" in log, log[-1500:]
    assert content_pairs(sd_scripts) == {5}


def test_two_sizes_on_disk_are_trained_or_refused_before_one_overwrites_the_other(sd_scripts, identical):
    strategy = Path(sd_scripts.checkout, "library", "strategy_sd.py").read_text(encoding="utf-8")
    options = ["--dataset_config", in_two_sizes(sd_scripts, identical), "--cache_latents", "--cache_latents_to_disk"]
    if "multi_resolution=True" not in strategy:
        log = sd_scripts.train(*options, fails=True)
        assert "is trained in two sizes" in log and "leave --cache_latents_to_disk out" in log, log[-1500:]
        return
    log = sd_scripts.train(*options, "--max_train_epochs", "1", "--style_start_step", "0", PAIR_PATCH="sd_scripts_spy")
    assert "'misaligned': 0" in log and "'rows': 20" in log, log[-1500:]


def test_inpainting_models_train_on_pairs(sd_scripts, identical):
    if not sd_scripts.has("library/mask_generator.py"):
        pytest.skip("this sd-scripts trains no inpainting models")
    sd_scripts.train("--dataset_config", identical, "--train_inpainting", "--gradient_checkpointing")
    style = load_file(sd_scripts.out / "style.safetensors")
    assert all(value.abs().max() > 0 for key, value in style.items() if "lora_up" in key)
    log = sd_scripts.train("--dataset_config", identical, "--train_inpainting", "--cache_latents", fails=True)
    assert "cache_latents" in log


def test_text_encoder_layers_are_read_under_both_of_kohyas_names(sd_scripts):
    """Under transformers 5 kohya's own module leaves text_model out; ours are named as every UI reads them."""
    from safetensors.torch import save_file

    targets = ["--network_args", "targets=attention+text_encoder"]
    sd_scripts.train(*targets, "--max_train_steps", "2")
    style = load_file(sd_scripts.out / "style.safetensors")
    flat = {key.replace("lora_te_text_model_", "lora_te_"): value for key, value in style.items()}
    assert flat.keys() != style.keys()
    file = sd_scripts.folder / "flat.safetensors"
    save_file(flat, file)
    sd_scripts.train("--network_weights", file, *targets, "--learning_rate", "1e-6", "--output_name", "more")
    more = load_file(sd_scripts.out / "more.safetensors")
    assert more.keys() == style.keys()
    assert all((more[key] - style[key]).abs().max() < 1e-3 for key in style)
    assert "all weights merged" in sd_scripts.train("--base_weights", file, "--max_train_steps", "2")
