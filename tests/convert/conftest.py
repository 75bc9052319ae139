"""LoRA files in the families' real layouts, with widths small enough to be quick."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.formats.checkpoints import single_file_places
from convert.formats.families import FAMILIES
from convert.formats.names import kohya_entries, names_of

HIDDEN = 8
# Inputs of the layers whose width tells the family.
CONTEXT = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
CLIP_WIDTH = {"sd1": 768, "sd2": 1024}
KERNEL_1 = ("skip_connection", "conv_shortcut")
KERNEL_3 = ("in_layers_2", "out_layers_3", "_op", "conv1", "conv2", "samplers_0_conv", "_2_conv", "_1_conv")


def size(width, family):
    """A width in a narrow model; Lumina's must divide by three. Constants are as wide as the model."""
    hidden = 3 * HIDDEN if family == "lumina2" else HIDDEN
    return int(width.multiples[0] * hidden) if width.multiples else HIDDEN


def layer_shape(family, key):
    """(out, in, kernel) of a layer by its kohya key."""
    if key.startswith("lora_te"):
        return HIDDEN, (CLIP_WIDTH.get(family, HIDDEN) if "attn_q_proj" in key else HIDDEN), ()
    if FAMILIES[family].component == "transformer":
        known = names_of(FAMILIES[family])[key]
        return size(known.rows, family), size(known.columns, family), (2, 2) if key.endswith("x_embedder_proj") else ()
    if "attn2_to_k" in key or "attn2_to_v" in key:
        return HIDDEN, CONTEXT[family], ()
    if key.endswith(("proj_in", "proj_out")):
        return HIDDEN, HIDDEN, (1, 1) if family == "sd1" else ()
    if key.endswith(KERNEL_1):
        return 2 * HIDDEN, HIDDEN, (1, 1)
    if key.endswith(KERNEL_3) or key in (
        "lora_unet_conv_in",
        "lora_unet_conv_out",
        "lora_unet_input_blocks_0_0",
        "lora_unet_out_2",
    ):
        return 2 * HIDDEN, HIDDEN, (3, 3)
    return 2 * HIDDEN, HIDDEN, ()


def kohya_tensors(family, keys=None, seed=0, dtype=torch.float32, rank=None, alpha=None, lead=()):
    """Random tensors of a kohya LoRA: rank and alpha vary from layer to layer unless they are given."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, key in enumerate(kohya_entries(FAMILIES[family]) if keys is None else keys):
        out, width, kernel = layer_shape(family, key)
        own_rank = rank or 2 + number % 3
        own_alpha = alpha or (own_rank, 1.0, 3.0, own_rank / 2)[number % 4]
        down = torch.randn(own_rank, width, *kernel, generator=generator)
        up = torch.randn(*lead, out, own_rank, *(1,) * len(kernel), generator=generator)
        tensors[f"{key}.lora_down.weight"] = down.to(dtype)
        tensors[f"{key}.lora_up.weight"] = up.to(dtype)
        tensors[f"{key}.alpha"] = torch.tensor(float(own_alpha))
    return tensors


def some_keys(family, every=9):
    """A thinned list of layers that still holds each kind, joint layers among them."""
    keys = list(kohya_entries(FAMILIES[family]))
    kinds = {}
    for key in keys:
        kinds.setdefault("".join(c for c in key if not c.isdigit()), key)
    return list(dict.fromkeys([*kinds.values(), *keys[::every]]))


def deltas(tensors):
    """alpha / rank · up @ down of every layer of a kohya file, in float64: nothing of the converters is used."""
    found = {}
    for name in tensors:
        if name.endswith(".lora_down.weight"):
            key = name.removesuffix(".lora_down.weight")
            down, up = tensors[name].double(), tensors[f"{key}.lora_up.weight"].double()
            alpha = float(tensors[f"{key}.alpha"]) if f"{key}.alpha" in tensors else down.shape[0]
            found[key] = alpha / down.shape[0] * up.flatten(1) @ down.flatten(1)
    return found


def assert_same_deltas(first, second, tolerance=1e-6):
    first, second = deltas(first), deltas(second)
    assert first.keys() == second.keys()
    for key, wanted in first.items():
        assert (second[key] - wanted).norm() <= tolerance * wanted.norm(), key


def base_checkpoint(family, prefix="model.diffusion_model.", seed=5, encoders=False):
    """A checkpoint in the original layout with the widths of the test LoRAs."""
    shapes = {modules: layer_shape(family, key) for key, (modules, _) in kohya_entries(FAMILIES[family]).items()}
    by_module = {modules[0]: (shape, modules) for modules, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, place in single_file_places(FAMILIES[family], prefix).items():
        if not encoders and not key.startswith(prefix):
            continue
        parts = [by_module[m][0] for m in place.modules if m in by_module]
        (_, width, kernel), rows = parts[0], sum(part[0] for part in parts)
        suffix = "_weight" if key.endswith("in_proj") else ".weight"
        tensors[key + suffix] = torch.randn(rows, width, *kernel, generator=generator)
        tensors[key + ".bias"] = torch.randn(rows, generator=generator)
    return {**tensors, "first_stage_model.x.weight": torch.randn(4, 4, generator=generator)}


@pytest.fixture
def lora(tmp_path):
    """Function: writes a kohya LoRA of a family and returns its path."""

    def write(family, name="source.safetensors", metadata=None, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(kohya_tensors(family, **options), path, {"ss_network_dim": "4", **(metadata or {})})
        return path

    return write


@pytest.fixture
def run(capsys):
    """Function: runs a command line of the converters; returns exit status, standard output and error."""
    from convert.cli import main

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def helpers():
    """The functions above: test modules cannot import each other here."""

    class Helpers:
        pass

    for name, value in globals().items():
        if callable(value) and not name.startswith("_"):
            setattr(Helpers, name, staticmethod(value))
    Helpers.HIDDEN = HIDDEN
    Helpers.load = staticmethod(load_file)
    Helpers.raw = staticmethod(raw_file)
    return Helpers


def raw_file(path, header, data=b""):
    """A file with this header, bytes or what JSON takes, whether it makes sense or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path
