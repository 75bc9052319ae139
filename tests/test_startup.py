"""Looking at what a program can do imports no torch, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert.verbs import SUMMARIES
from pair_network.__main__ import VERBS

ROOT = Path(__file__).parents[1]
# Runs the command lines one after the other, which are separated by "+"; says after each how much it printed.
CODE = """
import contextlib, io, runpy, sys
for line in " ".join(sys.argv[1:]).split(" + "):
    program, *sys.argv[1:] = line.split()
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        run(program, run_name="__main__")
    print(len(said.getvalue()), sorted({"torch", "transformers", "diffusers", "accelerate"} & set(sys.modules)), line)
"""


def heavy_after(*command):
    """How much a command said, and which heavy modules it had imported at its end."""
    (found,) = heavy_after_each(command)
    return found[:2]


def heavy_after_each(*commands):
    """(how much it said, heavy modules imported by then, the command) of each, run in one process."""
    words = " + ".join(" ".join(command) for command in commands).split()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], cwd=ROOT, capture_output=True, text=True, timeout=900, check=True
    )
    rows = (line.replace("[", "]").split("]") for line in done.stdout.splitlines())
    return [(int(size), modules, line.strip()) for size, modules, line in rows]


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
    assert size > 100 and modules == ""


@pytest.mark.parametrize(
    ("program", "verbs"), [("convert", SUMMARIES), ("pair_network", VERBS.keys() - {"convert", "demo"})], ids=str
)
def test_no_verbs_help_needs_torch(program, verbs):
    found = heavy_after_each(*((program, verb, "--help") for verb in verbs))
    assert [line for size, modules, line in found if modules or size < 100] == []
    assert len(found) == len(verbs)


def test_info_needs_no_torch(tmp_path):
    generator, key = np.random.default_rng(0), "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{key}.lora_down.weight": generator.normal(size=(4, 640)).astype(np.float16),
        f"{key}.lora_up.weight": generator.normal(size=(640, 4)).astype(np.float16),
        f"{key}.alpha": np.array(4, np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"ss_base_model_version": "sd_v1"})
    size, modules = heavy_after("convert", "info", str(tmp_path / "x.safetensors"))
    assert size > 100 and modules == ""


def test_torch_would_be_noticed():
    size, modules = heavy_after("pair_network", "generate", "--model", "nowhere", "--prompt", "a cat")
    assert size == 0 and "torch" in modules
