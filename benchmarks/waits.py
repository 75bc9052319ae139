"""What a user waits for around a training: ``python -m benchmarks.waits``. Writes benchmarks/results/waits.md.

Attaching to an SDXL-size U-Net and saving both files beside writing their bytes; a forward pass of the network with
base rows only beside the U-Net's own; the start of the commands. Random weights; seconds on the clock, medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from benchmarks.convert import make_lora
from benchmarks.guidance import SDXL_UNET
from benchmarks.speed.models import Data, load_unet, make_data
from pair_network import PairNetwork, create_network
from pair_network.network.route import BASE_ROW

ROOT = Path(__file__).resolve().parents[1]


def seconds(action: Callable[[], object], repeats: int = 1) -> float:
    """Median seconds on the clock."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def attach(unet: nn.Module, rank: int, orthogonality: str = "penalty") -> PairNetwork:
    """A network on the attention layers, applied."""
    network = create_network(1.0, rank, float(rank), None, None, unet, targets="attention", orthogonality=orthogonality)
    network.apply_to(None, unet)
    return network


def attaching(rank: int) -> tuple[float, PairNetwork]:
    """To SDXL's U-Net, whose weights are not there: none of them is needed."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    found: list[PairNetwork] = []
    return seconds(lambda: found.append(attach(unet, rank))), found[0]


def saving(network: PairNetwork, folder: Path, repeats: int) -> tuple[float, float, float]:
    """Seconds to save both files, to write as many bytes to the disk, and the megabytes."""
    file = folder / "style.safetensors"
    save = seconds(lambda: network.save_weights(str(file), torch.float16, {}), repeats)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    data = os.urandom(size)

    def write() -> None:
        with (folder / "bytes").open("wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())

    return save, seconds(write, repeats), size / 1e6


def base_rows(repeats: int) -> float:
    """Processor's seconds of a forward pass with base rows only, as a part of the U-Net's own; both in turn."""
    plain, coupled = (load_unet("embedded", "cpu", torch.float32).eval() for _ in range(2))
    data: Data = make_data("embedded", plain, 2, 16, 4)
    network = attach(coupled, 16)
    network.set_route([BASE_ROW] * len(data.latents))
    ratios = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            taken = []
            for unet in (plain, coupled):
                start = time.process_time()
                unet(data.latents, data.timesteps, data.states)
                taken.append(time.process_time() - start)
            ratios.append(taken[1] / taken[0])
    return statistics.median(ratios[1:])


def command(*words: str) -> Callable[[], object]:
    """A command in a process of its own."""
    return lambda: subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waits", description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores", help="in words")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "waits.md")
    args = parser.parse_args()
    attached, network = attaching(args.rank)
    with tempfile.TemporaryDirectory() as name:
        save, write, megabytes = saving(network, Path(name), args.repeats)
        make_lora(Path(name) / "lora.safetensors", args.rank)
        info = seconds(command("convert", "info", f"{name}/lora.safetensors"), args.repeats)
    rows = {
        f"attaching to SDXL's U-Net, rank {args.rank} + {args.rank}, attention": f"{attached:.1f} s",
        f"saving both files, {megabytes:.0f} MB": f"{save:.2f} s, {save / write:.2f} of writing as many bytes",
        "a forward pass with base rows only": f"{base_rows(args.repeats):.3f} of the U-Net's own",
        "`pair-network train --help`": f"{seconds(command('pair_network', 'train', '--help'), args.repeats):.2f} s",
        "`convert info` of an SDXL LoRA": f"{info:.2f} s",
    }
    lines = [f"# {(__doc__ or '').split(':')[0]}", "", f"`python -m benchmarks.waits`. Machine: {args.machine}; torch "
             f"{torch.__version__}, {time.strftime('%Y-%m-%d')}. Medians of {args.repeats}, attaching once.", "",
             "| | |", "|---|---|", *(f"| {what} | {took} |" for what, took in rows.items())]  # fmt: skip
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
