"""Broken files by the thousand: settings, tensors, pictures and states, damaged in the ways that files are."""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from convert.cli import main as convert
from convert.verbs import sidecars
from pair_network.errors import PairError
from pair_network.images import FORMATS, open_image
from pair_network.network import checkpoint
from pair_network.training.hosts.embedded.config_file import read_config_file
from pair_network.training.hosts.embedded.dataset_config import read_dataset_config
from pair_network.training.hosts.embedded.options import setup_parser
from pair_network.training.hosts.embedded.state import TrainState, load_state, read_train_state, save_state

from .trials import SLOWEST, Score, timed

WORDS = [
    b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"[" * 3000, b"{" * 3000, b'"', b"\n", b"\\", b"=", b"]]",
    b"[[x]]\n", b"9" * 400, b"-1", b"1e400", b"nan", b"true", b"\xed\xa0\x80", "ＮaN".encode(), b"../", b"\x1b[2J",
    b"'''", b'"""', b".",
]  # fmt: skip
STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.startfile")
_started: list[str] = []


def _watch(event: str, _arguments: Any) -> None:
    if event in STARTED:
        _started.append(event)


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The content with one to six changes: bits, words, cuts, doubled and moved parts."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(data) + 1)
        length = min(generator.choice([1, 2, 4, 8, 40]), len(data) - place)
        how = generator.randrange(7)
        if how == 0 and data:
            data[place % len(data)] ^= 1 << generator.randrange(8)
        elif how == 1:
            data[place : place + length] = generator.randbytes(length)
        elif how == 2:
            del data[place : place + length]
        elif how == 3:
            data[place:place] = generator.choice(WORDS)
        elif how == 4:
            data[place:place] = data[place : place + length] * generator.choice([2, 50])
        elif how == 5:
            data[place : place + length] = generator.choice(WORDS)
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


def run(folder: Path, trials: int, seed: int, until: float) -> list[Score]:
    """``trials`` inputs of each kind, or as many as there is time for."""
    sys.addaudithook(_watch)
    # torch warns of what it reads from a damaged state; that is the state's affair, and refused right after
    warnings.simplefilter("ignore")
    kinds: dict[str, Callable[[Path], Iterator[tuple[str, bytes, Callable[[Path], object]]]]] = {
        "TOML": _toml, "safetensors": _safetensors, "pictures": _pictures, "states": _states,
    }  # fmt: skip
    scores = []
    for number, (name, sources) in enumerate(kinds.items()):
        score, generator = Score(f"fuzzed {name}"), random.Random(seed * 10 + number)
        place = folder / name
        place.mkdir(parents=True)
        end = time.monotonic() + (until - time.monotonic()) / (len(kinds) - number)
        with timed(score), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            known = list(sources(place))
            while score.trials < trials and time.monotonic() < end:
                file, content, read = generator.choice(known)
                _one(place / file, damaged(content, generator), read, score)
                score.trials += 1
        scores.append(score)
    return scores


def _one(file: Path, content: bytes, read: Callable[[Path], object], score: Score) -> None:
    file.write_bytes(content)
    begun = time.monotonic()
    try:
        read(file)
        score.count("read")
    except PairError as mistake:
        score.count("refused")
        score.check(str(mistake).isprintable(), f"{file.name}: not one line: {str(mistake)!r}")
        score.check("weights_only=False" not in str(mistake), f"{file.name}: tells to run foreign code")
    except (Exception, SystemExit) as failure:
        kept = file.with_name(f"failed-{len(score.failures)}-{file.name}")
        kept.write_bytes(content)
        score.check(False, f"{file.name}: {type(failure).__name__}: {failure} ({kept})")
    took = time.monotonic() - begun
    score.check(took < SLOWEST, f"{file.name}: took {took:.1f} s")
    score.check(not _started, f"{file.name}: started {_started}")
    _started.clear()


def _toml(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
    parser = setup_parser()
    options = parser.parse_args([])

    def config(file: Path) -> object:
        return read_config_file(argparse.Namespace(config_file=str(file)), parser, [])

    def dataset(file: Path) -> object:
        return read_dataset_config(file, options)

    yield (
        "config.toml",
        b'pretrained_model_name_or_path = "models/sd15"\n[network]\nnetwork_dim = 16\nnetwork_alpha = 16.0\n'
        b'network_args = ["orthogonality=penalty", "targets=attn"]\n[optimizer]\noptimizer_type = "Lion"\n'
        b'learning_rate = 1e-4\nlr_warmup_steps = "10%"\n[rest]\nflip_aug = true\nloss_type = "huber"\nseed = 5\n',
        config,
    )
    yield (
        "dataset.toml",
        b'[general]\ncaption_extension = ".txt"\nenable_bucket = true\n\n[[datasets]]\nresolution = [512, 768]\n'
        b'batch_size = 2\n  [[datasets.subsets]]\n  image_dir = "style"\n  class_tokens = "a cat in ink"\n'
        b'  num_repeats = 3\n  custom_attributes = { content_dir = "content", content_class_tokens = "a cat" }\n',
        dataset,
    )


def _lora() -> dict[str, torch.Tensor]:
    tensors = {}
    for number in range(2):
        key = f"lora_unet_down_blocks_{number}_attentions_0_transformer_blocks_0_attn1_to_q"
        tensors[f"{key}.lora_down.weight"] = torch.ones(2, 8)
        tensors[f"{key}.lora_up.weight"] = torch.ones(8, 2)
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return tensors


def _safetensors(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
    save_file(_lora(), str(folder / "lora.safetensors"), {"ss_network_dim": "2", "ss_output_name": "x"})
    content = (folder / "lora.safetensors").read_bytes()

    def converted(file: Path) -> object:
        argv = ["diffusers", str(file), "-o", str(folder / "out.safetensors"), "--overwrite"]
        status = convert(argv)
        if status not in (0, 1):
            raise AssertionError(f"convert ended with {status}")
        return status

    def trained_from(file: Path) -> object:
        tensors, _ = checkpoint.read(file)
        return checkpoint.layers_of(tensors, str(file))

    yield "converted.safetensors", content, converted
    yield "lora.safetensors", content, trained_from


def _pictures(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
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


def _states(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
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

        def read(path: Path, state: Path = state, name: str = file.name) -> object:
            shutil.copyfile(path, state / name)
            read_train_state(state)
            load_state(accelerator, state)
            return state

        yield file.name, file.read_bytes(), read
