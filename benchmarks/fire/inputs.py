"""What is broken, and by whom it is read: sound files of every kind that the project takes from elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import save, save_file
from torch import Tensor, nn

from convert.cli import main as convert
from convert.verbs import sidecars
from pair_network.errors import PairError
from pair_network.images import FORMATS, open_image
from pair_network.network import checkpoint
from pair_network.network.config import PairConfig
from pair_network.network.creation import create_network_from_weights
from pair_network.network.pair_file import CONFIG_KEY
from pair_network.training.hosts.embedded.config_file import read_config_file
from pair_network.training.hosts.embedded.dataset_config import read_dataset_config
from pair_network.training.hosts.embedded.model_files import check_model_folder
from pair_network.training.hosts.embedded.options import setup_parser
from pair_network.training.hosts.embedded.previews import read_prompts
from pair_network.training.hosts.embedded.state import TrainState, load_state, read_train_state, save_state
from pair_network.training.hosts.kohya_config import check_config, read_config
from pair_network.training.kohya_gui import read_gui_json

from .trials import MODEL

Read = Callable[[Path], object]
Source = tuple[str, bytes, Read]  # name of the file, its sound content, its reader
CONVERT = MODEL.parents[1] / "convert"
LAYERS = ("down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "mid_block_attentions_0_proj_in")
WIDTH, RANK = 8, 2
REFUSED = ("x.png", "x.jpeg", "x.webp", "x.tiff", "x.avif")  # they carry a mark that training does not take


@functools.cache
def refusals() -> tuple[type[Exception], ...]:
    """The one exception of each reader that a user may see."""
    return PairError, _webui("errors").GuidanceError, _comfyui().StyleFileError


def _webui(name: str) -> ModuleType:
    folder = str(CONVERT / "webui")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(f"lib_pair_network.{name}")


@functools.cache
def _comfyui() -> ModuleType:
    name = "pair_network_comfyui_lora"
    spec = importlib.util.spec_from_file_location(name, CONVERT / "comfyui" / "lora.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _toml(folder: Path) -> Iterator[Source]:
    parser = setup_parser()
    options = parser.parse_args([])

    def config(file: Path) -> object:
        return read_config_file(argparse.Namespace(config_file=str(file)), parser, [])

    def of_kohya(file: Path) -> None:
        check_config(read_config(file), parser, file)

    settings = (
        b'pretrained_model_name_or_path = "models/sd15"\n[network]\nnetwork_dim = 16\nnetwork_alpha = 16.0\n'
        b'network_args = ["orthogonality=penalty", "targets=attn"]\n[optimizer]\noptimizer_type = "Lion"\n'
        b'learning_rate = 1e-4\nlr_warmup_steps = "10%"\n[rest]\nflip_aug = true\nloss_type = "huber"\nseed = 5\n'
    )
    yield "config.toml", settings, config
    yield "kohya.toml", settings, of_kohya
    yield (
        "dataset.toml",
        b'[general]\ncaption_extension = ".txt"\nenable_bucket = true\n\n[[datasets]]\nresolution = [512, 768]\n'
        b'batch_size = 2\n  [[datasets.subsets]]\n  image_dir = "style"\n  class_tokens = "a cat in ink"\n'
        b'  num_repeats = 3\n  custom_attributes = { content_dir = "content", content_class_tokens = "a cat" }\n',
        lambda file: read_dataset_config(file, options),
    )
    prompts = b'[prompt]\nwidth = 512\nscale = 7.5\n\n[[prompt.subset]]\nprompt = "a cat"\nseed = 5\n'
    yield "prompts.toml", prompts, read_prompts


def _json(folder: Path) -> Iterator[Source]:
    """The settings beside a PEFT adapter, a model, a LoRA; the GUI's; prompts in three forms."""
    style = folder / "x.safetensors"
    save_file(lora(), str(style))
    peft = folder / "peft"
    _converted(["peft", str(style), "-o", str(peft), "--family", "sd1"])
    model = folder / "model"
    shutil.copytree(MODEL, model)
    card = json.dumps({"activation text": "in ink", "preferred weight": 0.8, "style guidance scale": 3, "description":
                       "<b>ink</b>", "sd version": "SD1"}).encode()  # fmt: skip
    yield (
        "adapter.json",
        (peft / "adapter_config.json").read_bytes(),
        _in_place(peft / "adapter_config.json", lambda: _converted(["kohya", str(peft), *_onto(folder)])),
    )
    for name in ("model_index.json", "unet/config.json", "vae/config.json"):
        checked = _in_place(model / name, lambda: check_model_folder(model))
        yield name.replace("/", "-"), (MODEL / name).read_bytes(), checked
    yield "x.json", card, lambda file: _converted(["a1111", str(style), *_onto(folder)])
    yield "y.json", card, lambda file: _webui("card").read_card(file.with_suffix(".safetensors"))
    gui = {"pretrained_model_name_or_path": "x", "LoRA_type": "Standard", "network_dim": 8, "train_batch_size": 1}
    yield "gui.json", json.dumps(gui).encode(), read_gui_json
    yield "prompts.json", b'[{"prompt": "a cat", "seed": 5, "width": 64}, {"prompt": "a dog"}]', read_prompts
    yield "prompts.txt", b"a cat --d 5 --s 20 --w 64 --l 3.5\n# no\na dog --n blurred\n", read_prompts


def _in_place(file: Path, action: Callable[[], object]) -> Read:
    """A reader that finds the broken file under another name, beside what belongs to it."""

    def read(broken: Path) -> object:
        shutil.copyfile(broken, file)
        return action()

    return read


def lora(lead: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """A small plain LoRA in kohya's names; with ``lead`` the ups of a content branch."""
    tensors = {}
    for layer in LAYERS:
        tensors[f"lora_unet_{layer}.lora_down.weight"] = torch.ones(RANK, WIDTH)
        tensors[f"lora_unet_{layer}.lora_up.weight"] = torch.ones(*lead, WIDTH, RANK)
        tensors[f"lora_unet_{layer}.alpha"] = torch.tensor(2.0)
    return tensors


def _onto(folder: Path) -> list[str]:
    return ["-o", str(folder / "out.safetensors"), "--overwrite", "--family", "sd1"]


def _converted(argv: list[str]) -> None:
    """The converter ends with 0, or with 1 and one line."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = convert(argv)
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("note: ")]
    if status == 1 and len(lines) == 1 and lines[0].startswith("error: "):
        raise PairError(lines[0])
    if status or lines:
        raise AssertionError(f"convert ended with {status}: {lines}")


def _safetensors(folder: Path) -> Iterator[Source]:
    content = save(lora(), {"ss_network_dim": "2", "ss_output_name": "x", "ss_base_model_version": "sd_v1"})
    for verb in ("diffusers", "a1111", "pair"):
        yield f"{verb}.safetensors", content, lambda file, verb=verb: _converted([verb, str(file), *_onto(folder)])
    yield "info.safetensors", content, lambda file: _converted(["info", str(file)])
    yield "lora.safetensors", content, lambda file: checkpoint.layers_of(checkpoint.read(file)[0], str(file))


def _coupled(folder: Path) -> Iterator[Source]:
    tensors = {f"style.{key}": tensor for key, tensor in lora().items()}
    tensors |= {f"content.{key}": tensor for key, tensor in lora((1,)).items()}
    config = PairConfig(rank=RANK, content_rank=RANK, alpha=2.0, content_alpha=2.0)
    content = save(tensors, {CONFIG_KEY: config.to_json(), "ss_base_model_version": "sd_v1"})
    model = nn.Module()
    for layer in ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in"):
        _add(model, layer.split("."))
    yield "x.pair.safetensors", content, lambda file: create_network_from_weights(1.0, str(file), None, None, model)
    yield "y.pair.safetensors", content, lambda file: _converted(["kohya", str(file), *_onto(folder)])
    yield "z.pair.safetensors", content, lambda file: _converted(["info", str(file)])


def _add(model: nn.Module, names: list[str]) -> None:
    name, *rest = names
    if not rest:
        model.add_module(name, nn.Linear(WIDTH, WIDTH))
        return
    if not hasattr(model, name):
        model.add_module(name, nn.Module())
    _add(model.get_submodule(name), rest)


def _readers_of_webui(folder: Path) -> Iterator[Source]:
    content = save(lora(), {"modelspec.trigger_phrase": "in ink"})
    yield "webui.safetensors", content, lambda file: _webui("lora_file").read_style(file)
    yield "card.safetensors", content, lambda file: _webui("card").read_card(file)


def _readers_of_comfyui(folder: Path) -> Iterator[Source]:
    content = save(lora(), {"modelspec.trigger_phrase": "in ink"})
    yield "comfyui.safetensors", content, lambda file: _comfyui().read_style(file, file.name)
    yield "words.safetensors", content, lambda file: _comfyui().trigger_words(file)


def _pictures(folder: Path) -> Iterator[Source]:
    image = Image.effect_mandelbrot((48, 32), (-2, -1, 1, 1), 40).convert("RGB")
    mark = Image.Exif()
    mark[0x0112] = 6
    for kind in FORMATS:
        for source in (image, image.convert("P"), image.convert("RGBA")):
            buffer = io.BytesIO()
            try:
                source.save(buffer, kind, exif=mark)
            except (KeyError, OSError, TypeError):
                continue
            yield f"x.{kind.lower()}", buffer.getvalue(), open_image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    yield "card.png", buffer.getvalue(), lambda file: sidecars._png(file, 64)


def _states(folder: Path) -> Iterator[Source]:
    accelerator = Accelerator(cpu=True)
    network = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    whole = folder / "whole-state"
    save_state(accelerator, whole, TrainState(1, 3, False, 7, 2, 1, 1, {"seed": 7}))
    for file in sorted(whole.iterdir()):
        state = folder / f"{file.stem}-state"
        shutil.copytree(whole, state)

        def read(state: Path = state) -> None:
            read_train_state(state)
            load_state(accelerator, state)

        yield file.name, file.read_bytes(), _in_place(state / file.name, read)


KINDS: dict[str, Callable[[Path], Iterator[Source]]] = {
    "TOML": _toml, "JSON and prompts": _json, "safetensors": _safetensors, "coupled files": _coupled,
    "readers of A1111 and Forge": _readers_of_webui, "readers of ComfyUI": _readers_of_comfyui,
    "pictures": _pictures, "states": _states,
}  # fmt: skip
