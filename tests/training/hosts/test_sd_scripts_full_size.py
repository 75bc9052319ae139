"""One run at the real size: SD1.5's own widths, with random weights (about 7 GB of memory and a minute)."""

import os

import pytest
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif(not os.environ.get("SD_SCRIPTS_FULL_SIZE"), reason="set SD_SCRIPTS_FULL_SIZE=1: it takes 7 GB"),
]


def test_sd15_at_its_full_size_trains_and_saves(sd_scripts):
    common = ["--network_dim", "16", "--network_alpha", "16", "--max_train_steps", "4", "--learning_rate", "1e-4"]
    common += ["--style_start_step", "1", "--output_name", "style", "--resolution", "128", "--seed", "1"]
    options = ("--gradient_checkpointing", "--cache_latents", "--sdpa")
    sd_scripts.train(*options, common=common, PAIR_PATCH="sd_scripts_full")
    ups = {key: value for key, value in load_file(sd_scripts.out / "style.safetensors").items() if "lora_up" in key}
    assert len(ups) == 128 and all(value.abs().max() > 0 for value in ups.values())
    assert max(value.shape[0] for value in ups.values()) == 1280
