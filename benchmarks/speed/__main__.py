"""Cost of a training step: ``python -m benchmarks.speed --model embedded|sd15|sdxl``. Adds to results/speed.*

All ways make their step in turn, in every repetition, on the same rows in one process, so that a change of the
machine's load meets them alike; the figures are ratios within a repetition. On a CPU times are the processor's.
Memory is what a step keeps for its backward pass, counted by storages, beside the gradients and AdamW's moments; on a
GPU the allocator's peak stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from tqdm import tqdm

from benchmarks.guidance import DTYPES, load

from .models import MODELS, load_unet, load_vae, make_data
from .ways import FLOOR, PLAIN, Setting, Way, make_ways

ROOT = Path(__file__).resolve().parents[2]
MB = 2**20


@dataclass(frozen=True)
class Cost:
    """What a way's step costs.

    Attributes:
        seconds: median of a step.
        to_plain, to_floor: median ratio to the plain LoRA's and the frozen U-Net's step of the same repetition.
        low, high: quartiles of `to_plain`.
        rows_per_second: rows with gradients.
        saved_mb: kept by autograd between forward and backward pass, weights left out.
        state_mb: gradients and AdamW's moments of what is trained.
        peak_mb: the GPU allocator's peak beyond what lay there before, or None.
    """

    seconds: float
    to_plain: float
    to_floor: float
    low: float
    high: float
    rows_per_second: float
    saved_mb: float
    state_mb: float
    peak_mb: float | None


class Kept:
    """A tensor that autograd keeps; its storage counts for as long as one of them lives."""

    holders: ClassVar[dict[int, int]] = {}
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def __init__(self, tensor: torch.Tensor, weights: set[int]) -> None:
        self.tensor, self.place = tensor, tensor.untyped_storage().data_ptr()
        self.is_counted = self.place not in weights
        if self.is_counted:
            if not Kept.holders.get(self.place):
                Kept.now += tensor.untyped_storage().nbytes()
                Kept.most = max(Kept.most, Kept.now)
            Kept.holders[self.place] = Kept.holders.get(self.place, 0) + 1

    def __del__(self) -> None:
        if self.is_counted:
            Kept.holders[self.place] -= 1
            if not Kept.holders[self.place]:
                Kept.now -= self.tensor.untyped_storage().nbytes()


def saved_bytes(way: Way, weights: set[int]) -> int:
    """Bytes of all storages that autograd keeps at the fullest moment of a step, without those in `weights`."""
    Kept.holders, Kept.now, Kept.most = {}, 0, 0
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: Kept(tensor, weights), lambda kept: kept.tensor):
        way.step()
    return Kept.most


def timed(way: Way, device: str) -> float:
    """Seconds of one step."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
    clock = time.perf_counter if on_gpu else time.process_time
    started = clock()
    way.step()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


def peak(way: Way, device: str) -> float | None:
    """Peak of the GPU's allocator in a step, in MB beyond what it held before."""
    if not device.startswith("cuda"):
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    way.step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MB


def measure(ways: dict[str, Way], setting: Setting, device: str, repeats: int) -> dict[str, Cost]:
    """Costs by way; one round before the first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in tqdm(range(repeats + 1), "rounds"):
        for name, way in ways.items():
            seconds = timed(way, device)
            if repeat:
                times[name].append(seconds)
    weights = {tensor.untyped_storage().data_ptr() for tensor in setting.unet.parameters()}
    costs = {}
    for name, way in ways.items():
        ratios = {other: [a / b for a, b in zip(times[name], times[other], strict=True)] for other in (PLAIN, FLOOR)}
        low, _, high = statistics.quantiles(ratios[PLAIN], n=4) if repeats > 1 else (ratios[PLAIN][0],) * 3
        own = weights | {parameter.untyped_storage().data_ptr() for parameter in way.trained}
        state = 3 * sum(parameter.numel() * parameter.element_size() for parameter in way.trained)
        seconds = statistics.median(times[name])
        costs[name] = Cost(
            seconds, statistics.median(ratios[PLAIN]), statistics.median(ratios[FLOOR]), low, high, way.rows / seconds,
            saved_bytes(way, own) / MB, state / MB, peak(way, device),
        )  # fmt: skip
    return costs


def page(entries: dict[str, dict]) -> str:
    """The Markdown page of all entries."""
    lines = [
        "# Cost of a training step", "",
        "`python -m benchmarks.speed --model embedded|sd15|sdxl`: one optimizer update (AdamW), all ways in turn in",
        "one process; ratios within a repetition, median (quartiles). On a CPU the processor's seconds. *saved*: what",
        "autograd keeps for the backward pass beside the weights; *state*: gradients and AdamW's moments. A plain LoRA",
        "has both branches' ranks and the same rows as our joint step; `alternate` and `content only` pass half of the",
        "rows in a step. The official procedure is rebuilt from its description. Weights of sd15 and sdxl are random.",
        "What was tried: [NOTES.md](../NOTES.md).",
    ]  # fmt: skip
    for name, entry in entries.items():
        lines += [
            "", f"## {name}", "", entry["shape"] + ".",
            f"Machine: {entry['machine']}; torch {entry['torch']}, {entry['date']};"
            f" load {entry['load'][0]:.1f} before, {entry['load'][1]:.1f} after.", "",
            "| | s per step | of the plain LoRA | of the frozen U-Net | rows/s | saved MB | state MB | GPU peak MB |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for way, cost in entry["ways"].items():
            memory = "not run" if cost["peak_mb"] is None else f"{cost['peak_mb']:.0f}"
            lines.append(
                f"| {way} | {cost['seconds']:.3g} | {cost['to_plain']:.2f} ({cost['low']:.2f} to {cost['high']:.2f}) | "
                f"{cost['to_floor']:.2f} | {cost['rows_per_second']:.3g} | {cost['saved_mb']:.0f} | "
                f"{cost['state_mb']:.1f} | {memory} |"
            )
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="embedded")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="fp32; sdxl: bf16")
    parser.add_argument("--side", type=int, default=16, help="side of the latents (16; 64: 512 px, 128: 1024 px)")
    parser.add_argument("--pairs", type=int, default=1, help="in a step")
    parser.add_argument(
        "--rank", type=int, help="of either branch (32; embedded: 16, whose narrowest layers take no more)"
    )
    parser.add_argument("--targets", default="attention", help="kinds of layers, joined by +")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--compile", action="store_true", help="torch.compile on every way's U-Net; takes minutes each")
    parser.add_argument("--ways", nargs="+", default=[], help='parts of names; all but "kohya" by default')
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores", help="in words")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "speed")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = parse_arguments()
    dtype = options.dtype or ("bf16" if options.model == "sdxl" else "fp32")
    rank = options.rank or (16 if options.model == "embedded" else 32)
    side, before = options.side, load()
    unet = load_unet(options.model, options.device, DTYPES[dtype])
    vae = load_vae(options.model, options.device, DTYPES[dtype])
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    data = make_data(options.model, unet, options.pairs, side, factor)
    setting = Setting(unet, data, rank, options.targets, options.checkpointing, vae, options.compile)
    costs = measure(make_ways(setting, options.ways), setting, options.device, options.repeats)
    parameters = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    shape = (
        f"U-Net of {parameters:.4g} M parameters, {dtype}, latents {side} × {side}, {options.pairs} pair(s), rank "
        f"{rank} + {rank}, {options.targets}, {'' if options.checkpointing else 'no '}checkpointing, "
        f"{'compiled, ' if options.compile else ''}{options.repeats} repetitions, {torch.get_num_threads()} thread(s)"
    )
    file = options.output.with_suffix(".json")
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.machine
    name = f"{options.model}, {options.device.partition(':')[0]}, {options.targets}{', compiled' * options.compile}"
    entries[name] = {
        "shape": shape, "machine": device, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
        "load": [before, load()], "ways": {name: asdict(cost) for name, cost in costs.items()},
    }  # fmt: skip
    file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(entries), encoding="utf-8")
    print(page(entries))


if __name__ == "__main__":
    main()
