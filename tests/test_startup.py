"""Looking at what a program can do imports no torch, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[1]
CODE = """
import contextlib, io, runpy, sys
program, sys.argv[1:] = sys.argv[1], sys.argv[2:]
run = runpy.run_path if program.endswith(".py") else runpy.run_module
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    run(program, run_name="__main__")
print(len(said.getvalue()), sorted({"torch", "transformers", "diffusers", "accelerate"} & set(sys.modules)))
"""


def heavy_after(*command):
    """How much a command said, and which heavy modules it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    size, _, modules = done.stdout.strip().partition(" ")
    return int(size), modules


@pytest.mark.parametrize(
    "command",
    [
        ("run.py", "--help"),
        ("convert", "--help"),
        ("pair_network", "--help"),
        ("pair_network", "train", "--help"),
        ("train_pair_network.py", "--help"),
    ],
    ids=" ".join,
)
def test_help_needs_no_torch(command):
    size, modules = heavy_after(*command)
    assert size > 100 and modules == "[]"


def test_info_needs_no_torch(tmp_path):
    generator, key = np.random.default_rng(0), "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{key}.lora_down.weight": generator.normal(size=(4, 640)).astype(np.float16),
        f"{key}.lora_up.weight": generator.normal(size=(640, 4)).astype(np.float16),
        f"{key}.alpha": np.array(4, np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"ss_base_model_version": "sd_v1"})
    size, modules = heavy_after("convert", "info", str(tmp_path / "x.safetensors"))
    assert size > 100 and modules == "[]"


def test_torch_would_be_noticed():
    size, modules = heavy_after("convert", "kohya", "--help")
    assert size > 300 and "torch" in modules
