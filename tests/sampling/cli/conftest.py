"""A tiny random model and style on disk, and pictures to start from."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

_path = Path(__file__).parents[1] / "pipelines" / "tiny_pipelines.py"
_spec = importlib.util.spec_from_file_location("tiny_pipelines", _path)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """model/ (diffusers), controlnet/, ink.safetensors, photo.png and mask.png, both 16 × 16."""
    root = tmp_path_factory.mktemp("cli")
    pipe = tiny.make_sd().to(torch.float32)
    tiny.make_controlnet(pipe.unet).float().save_pretrained(root / "controlnet")
    network = tiny.make_network(pipe.unet, seed=1)
    network.save_weights(str(root / "ink.safetensors"), None, {"modelspec.trigger_phrase": "in ink style"})
    pipe.save_pretrained(root / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC).save(root / "photo.png")
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(root / "mask.png")
    return root


@pytest.fixture
def args(folder, tmp_path):
    """Function: a verb's options for the tiny model, quick, with ``text`` split at blanks and @ for the folder."""

    def build(text="", style=True, steps=2):
        fixed = ["--model", str(folder / "model"), "--out", str(tmp_path), "--steps", str(steps), "--device", "cpu"]
        fixed += ["--style", str(folder / "ink.safetensors")] if style else []
        return [*fixed, *text.replace("@", f"{folder}/").split()]

    return build


@pytest.fixture
def builders():
    return SimpleNamespace(**{name: getattr(tiny, name) for name in dir(tiny) if name.startswith(("make_", "ready"))})
