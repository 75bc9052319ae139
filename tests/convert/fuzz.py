"""Files that are intact and mean nonsense: odd shapes, dtypes, names, alphas and settings, by the thousand.

``run(entry, count, seed, folder)`` writes each to disk and gives it to a program that reads LoRA files; the only
answers allowed are a result and that program's own one-line error. ``python -m tests.convert.fuzz 10000`` runs all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from convert.cli import main as convert
from pair_network.errors import PairError
from pair_network.network.config import PairConfig
from pair_network.network.creation import create_network_from_weights
from pair_network.network.pair_file import CONFIG_KEY

ROOT = Path(__file__).parents[2]
KEYS = (
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_mid_block_attentions_0_proj_in",
    "lora_unet_mid_block_resnets_0_conv1",
)
WIDTH, RANK = 8, 2
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int32, torch.uint8, torch.bool)
SHAPES = ((), (0,), (1,), (3,), (2, 0), (0, 8), (8,), (2, 8, 3), (2, 8, 1, 1), (1, 2, 8), (2, 3, 8, 1, 1), (8, 2))
ODD = (
    0, 1, -1, 3, 10**9, 10**400, 1.5, float("nan"), float("inf"), True, None, "", "16", "frozen", [], {}, [[]],
    ["attention"], [["down_blocks", 10**9]], [["x", "y"]], [[1, 2, 3]], {"a": 1}, "\x1b[2J",
)  # fmt: skip
FOREIGN = (
    "bundle_emb.x.clip_l", f"{KEYS[0]}.dora_scale", f"{KEYS[1]}.lokr_w1", f"{KEYS[0]}.diff_b", "x.w_norm", "odd",
    f"{KEYS[0]}.lora_mid.weight", "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "style.x",
    f"{KEYS[0]}.lora_A.name.weight", "lora_unet_nowhere.alpha",
)  # fmt: skip


def layers(lead: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """A small plain LoRA; with ``lead`` the ups of a content branch."""
    tensors = {}
    for key in KEYS:
        kernel = (3, 3) if "conv" in key else ()
        tensors[f"{key}.lora_down.weight"] = torch.ones(RANK, WIDTH, *kernel)
        tensors[f"{key}.lora_up.weight"] = torch.ones(*lead, WIDTH, RANK, *(1,) * len(kernel))
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    return tensors


def hostile(tensors: dict[str, Tensor], source: random.Random) -> dict[str, Tensor]:
    """The tensors with one to three things wrong."""
    tensors = dict(tensors)
    for _ in range(source.randint(1, 3)):
        if not tensors:
            break
        key, how = source.choice(sorted(tensors)), source.randrange(9)
        if how == 0:
            tensors[key] = torch.ones(source.choice(SHAPES))
        elif how == 1:
            tensors[key] = tensors[key].float().to(source.choice(DTYPES))
        elif how == 2:
            odd = source.choice((float("nan"), float("inf"), 0.0, -1.0, 1e30))
            tensors[key] = torch.full(tensors[key].shape, odd)
        elif how == 3:
            del tensors[key]
        elif how == 4:
            tensors[source.choice(FOREIGN)] = torch.ones(source.choice(SHAPES))
        elif how == 5:
            tensors[key.replace(source.choice(KEYS), source.choice(("lora_unet_x", *KEYS)))] = tensors.pop(key)
        elif how == 6:
            tensors[key] = tensors[key].unsqueeze(source.choice((0, -1)))
        elif how == 7:
            tensors[key] = tensors[key].flatten()[:: source.randint(1, 3)]
        else:
            alpha = f"{source.choice(('', 'style.', 'content.'))}{source.choice(KEYS)}.alpha"
            tensors[alpha] = torch.ones(source.choice(SHAPES)) * source.choice((1, 1e38, -3))
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def hostile_config(source: random.Random) -> str:
    """A coupled checkpoint's settings with up to two values of another kind."""
    values = json.loads(PairConfig(rank=RANK, content_rank=RANK, alpha=1.0, content_alpha=1.0).to_json())
    for _ in range(source.randint(0, 2)):
        values[source.choice([*values, "unknown", "rank", "num_pairs", "targets"])] = source.choice(ODD)
    text = json.dumps(values)
    return source.choice((text, text, text, "[" * 100_000, "null", "3", text[:-4], f"[{text}]"))


def plain_file(path: Path, source: random.Random) -> None:
    save_file(hostile(layers(), source), path, {"ss_base_model_version": "sd_v1"})


def coupled_file(path: Path, source: random.Random) -> None:
    both = {f"style.{key}": tensor for key, tensor in layers().items()}
    both |= {f"content.{key}": tensor for key, tensor in layers((1,)).items()}
    damaged = hostile(both, source) if source.random() < 0.8 else both
    save_file(damaged, path, {"ss_base_model_version": "sd_v1", CONFIG_KEY: hostile_config(source)})


def converters(source: random.Random) -> Callable[[Path], object]:
    """A verb on a plain or a coupled file; it must end with status 0, or 1 and one line."""
    verb = source.choice(
        (["kohya"], ["a1111", "--no-card"], ["diffusers"], ["peft"], ["pair"], ["info"], ["resize", "--rank", "1"],
         ["kohya", "--skip-unknown"], ["kohya", "--branch", "both"], ["kohya", "--verify"], ["blend"])
    )  # fmt: skip

    def read(path: Path) -> None:
        target = path.with_name("out" if verb[0] == "peft" else "out.safetensors")
        arguments = [str(path), "--family", "sd1", *verb[1:]]
        if verb[0] != "info":
            arguments += ["-o", str(target), "--overwrite"]
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = convert([verb[0], *arguments])
        lines = [line for line in said.getvalue().splitlines() if not line.startswith("note: ")]
        if status:
            assert status == 1 and len(lines) == 1 and lines[0].startswith("error: "), said.getvalue()
            raise PairError(lines[0])
        assert not lines, said.getvalue()

    return read


def coupled(source: random.Random) -> Callable[[Path], object]:
    """The trainer's own reader, which rebuilds a network from a file."""
    model = _Model()
    return lambda path: create_network_from_weights(1.0, str(path), None, None, model)


def webui(source: random.Random) -> Callable[[Path], object]:
    folder = str(ROOT / "convert" / "webui")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("lib_pair_network.lora_file").read_style


def comfyui(source: random.Random) -> Callable[[Path], object]:
    name = "pair_network_comfyui_lora"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "convert" / "comfyui" / "lora.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return lambda path: sys.modules[name].read_style(path, path.name)


class _Model(torch.nn.Module):
    """The layers of ``KEYS`` in a module of diffusers' names."""

    def __init__(self) -> None:
        super().__init__()
        for path in (
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in",
            "mid_block.resnets.0.conv1",
        ):  # fmt: skip
            *parents, last = path.split(".")
            place: torch.nn.Module = self
            for name in parents:
                if name not in dict(place.named_children()):
                    place.add_module(name, torch.nn.Module())
                place = place.get_submodule(name)
            is_convolution = last.startswith("conv")
            layer = torch.nn.Conv2d(WIDTH, WIDTH, 3) if is_convolution else torch.nn.Linear(WIDTH, WIDTH)
            place.add_module(last, layer)


Reader = Callable[[random.Random], Callable[[Path], object]]
ENTRIES: dict[str, tuple[Reader, tuple[Callable[[Path, random.Random], None], ...]]] = {
    "converters": (converters, (plain_file, plain_file, coupled_file)),
    "coupled reader": (coupled, (coupled_file, coupled_file, plain_file)),
    "webui reader": (webui, (plain_file, plain_file, plain_file, coupled_file)),
    "comfyui reader": (comfyui, (plain_file, plain_file, plain_file, coupled_file)),
}


def run(entry: str, count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Gives ``count`` files to an entry point.

    Returns:
        How many were read and refused, and the failures: number, exception and its last line of code.
    """
    reader, writers = ENTRIES[entry]
    answers: Counter[str] = Counter()
    failures = []
    for number in range(count):
        source = random.Random(f"{entry} {seed} {number}")
        path = folder / "hostile.safetensors"
        source.choice(writers)(path, source)
        try:
            reader(source)(path)
            answers["read"] += 1
        except Exception as error:
            own = type(error).__name__ in ("PairError", "GuidanceError", "StyleFileError")
            if own and len(str(error).splitlines()) == 1 and str(error).isprintable():
                answers["refused"] += 1
                continue
            place = traceback.extract_tb(error.__traceback__)[-1]
            failures.append(f"{number}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})")
    return answers, failures


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    bad = 0
    for name in ENTRIES:
        with tempfile.TemporaryDirectory() as temporary:
            found, failed = run(name, wanted, 0, Path(temporary))
        print(f"{name}: {found['read']} read, {found['refused']} refused, {len(failed)} failed")
        for failure in failed[:20]:
            print(f"  {failure}")
        bad += len(failed)
    sys.exit(bool(bad))
