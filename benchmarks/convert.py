"""Speed and memory of the converters: ``python benchmarks/convert.py``. Writes benchmarks/results/convert.md.

Key-only conversions (a1111, kohya, peft, diffusers at alpha = rank) against a plain copy of the same file, batch
over the cores, and the peak memory of a merge. Files are made from random numbers in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from convert.cli import main as convert_main  # noqa: E402
from convert.files.elements import F16, F32, Element  # noqa: E402
from convert.files.lazy import Lazy  # noqa: E402
from convert.files.writer import write_tensors  # noqa: E402
from convert.formats.checkpoints import single_file_places  # noqa: E402
from convert.formats.families import FAMILIES  # noqa: E402
from convert.formats.names import kohya_entries, names_of  # noqa: E402

COPY = "plain copy"
VERBS = {"kohya": ".safetensors", "a1111": ".safetensors", "diffusers": ".safetensors", "peft": ""}


def random_lazy(*shape: int, element: Element = F16) -> Lazy:
    return Lazy(shape, element, lambda: torch.randn(shape).to(element.dtype))


def make_lora(path: Path, rank: int) -> None:
    """An SDXL attention LoRA at its real widths, alpha = rank."""
    names, tensors = names_of(FAMILIES["sdxl"]), {}
    for key, (modules, _) in kohya_entries(FAMILIES["sdxl"]).items():
        if ".attn" in modules[0]:
            tensors[f"{key}.lora_down.weight"] = random_lazy(rank, names[key].columns.numbers[0])
            tensors[f"{key}.lora_up.weight"] = random_lazy(names[key].rows.numbers[0], rank)
            tensors[f"{key}.alpha"] = Lazy((), F32, lambda: torch.tensor(float(rank)))
    write_tensors(path, tensors, {"ss_base_model_version": "sdxl_base_v1-0"})


def make_checkpoint(path: Path, gigabytes: float) -> None:
    """A FLUX-shaped fp16 checkpoint of about this size: real names, the real 3072 width, as many blocks as fit."""
    hidden, tensors, size = 3072, {}, 0.0
    for key in single_file_places(FAMILIES["flux"], ""):
        if "_blocks." not in key or size > gigabytes * 1e9:
            continue
        name = names_of(FAMILIES["flux"])[f"diffusion_model.{key}"]
        rows, columns = (int(width.multiples[0] * hidden) for width in (name.rows, name.columns))
        tensors[f"{key}.weight"] = random_lazy(rows, columns)
        size += 2 * rows * columns
    write_tensors(path, tensors, {}, hashed=False)


def make_flux_lora(path: Path, rank: int = 16) -> None:
    key = "lora_unet_double_blocks_{}_img_attn_qkv"
    tensors = {}
    for block in range(19):
        tensors[f"{key.format(block)}.lora_down.weight"] = random_lazy(rank, 3072)
        tensors[f"{key.format(block)}.lora_up.weight"] = random_lazy(9216, rank)
    write_tensors(path, tensors, {"ss_base_model_version": "flux1"})


def timed(action: Callable[[], object], target: Path, repeats: int) -> tuple[float, float]:
    """Median seconds on the clock and of the processor to write a new file, after one run that warms the page cache."""
    action()
    clock, processor = [], []
    for _ in range(repeats):
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        start, start_processor = time.perf_counter(), time.process_time()
        action()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return statistics.median(clock), statistics.median(processor)


def plain_copy(source: Path, target: Path, to_disk: bool) -> None:
    """A read and write loop: what a converter must do at the least, as it changes the header.

    Args:
        source: Read.
        target: Written.
        to_disk: It waits until the disk has it, as everything does that we write.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 23)
        if to_disk:
            writer.flush()
            os.fsync(writer.fileno())


def single_speed(folder: Path, repeats: int, rank: int) -> list[str]:
    source = folder / "lora.safetensors"
    make_lora(source, rank)
    megabytes = source.stat().st_size / 1e6
    lines = [
        f"One SDXL LoRA of {megabytes:.0f} MB (rank {rank}, fp16) written to a new file, median of {repeats}. CPU",
        "seconds are of both threads: the hash and the search for NaN run on the second. *to the disk*: fsync, as is",
        "the rule; without: `PAIR_NETWORK_FSYNC=0`. Each beside a copy of its own kind.",
        "",
        "| | MB/s | of a copy | to the disk, MB/s | of a copy | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    copies: list[float] = []
    for verb, ending in {COPY: "", **VERBS}.items():
        cells = ""
        for place, to_disk in enumerate((False, True)):
            os.environ["PAIR_NETWORK_FSYNC"] = str(int(to_disk))
            target = folder / f"out-{verb}{ending}"
            arguments = (verb, source, "-o", target, "--overwrite")
            copying = partial(plain_copy, source, target, to_disk)
            action = copying if verb == COPY else partial(convert_quietly, *arguments)
            seconds, cpu = timed(action, target, repeats)
            copies += [seconds] if verb == COPY else []
            cells += f" {megabytes / seconds:.0f} | {100 * copies[place] / seconds:.0f} % |"
        lines.append(f"| {verb} |{cells} {cpu:.2f} |")
    del os.environ["PAIR_NETWORK_FSYNC"]
    return lines


def convert_quietly(*arguments: object) -> None:
    with open(os.devnull, "w") as nothing:
        before, sys.stdout = sys.stdout, nothing
        try:
            status = convert_main([str(argument) for argument in arguments])
        finally:
            sys.stdout = before
    if status:
        raise SystemExit(f"conversion failed: {arguments}")


def batch_speed(folder: Path, count: int, rank: int) -> list[str]:
    inputs = folder / "many"
    inputs.mkdir()
    for number in range(count):
        make_lora(inputs / f"{number}.safetensors", rank)
    total = sum(path.stat().st_size for path in inputs.iterdir()) / 1e6
    lines = [f"Batch `resize --rank 8` of {count} LoRAs, {total:.0f} MB in all; Python's start is included.", "",
             "| processes | seconds | speed-up |", "|---|---|---|"]  # fmt: skip
    first = 0.0
    for jobs in [n for n in (1, 2, 4, 8) if n <= (os.cpu_count() or 1)]:
        output = folder / f"batch{jobs}"
        start = time.perf_counter()
        command = ["batch", "resize", inputs, "-o", output, "--jobs", jobs, "--rank", 8]
        run_process(command)
        seconds = time.perf_counter() - start
        first = first or seconds
        lines.append(f"| {jobs} | {seconds:.1f} | {first / seconds:.2f} |")
        shutil.rmtree(output)
    return lines


def run_process(command: list[object]) -> float:
    """Runs the converters in a process of their own with one thread; returns its peak memory in MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "convert", *(str(part) for part in command)]
    subprocess.run(call, cwd=ROOT, check=True, env=environment, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def merge_memory(folder: Path, gigabytes: float) -> list[str]:
    """Must run first: the peak that the system reports is the highest of all processes started so far."""
    checkpoint, lora = folder / "base.safetensors", folder / "flux.safetensors"
    make_checkpoint(checkpoint, gigabytes)
    make_flux_lora(lora)
    size = checkpoint.stat().st_size / 1e9
    start = time.perf_counter()
    command = ["merge", checkpoint, lora, "-o", folder / "merged.safetensors", "--skip-missing"]
    peak = run_process(command)
    seconds = time.perf_counter() - start
    for name in ("base.safetensors", "merged.safetensors"):
        (folder / name).unlink()
    return [f"Merge into a FLUX-shaped checkpoint of {size:.1f} GB: {seconds:.0f} s, peak memory {peak:.0f} MB."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--machine", default=f"{platform.machine()}, {os.cpu_count()} cores", help="the machine, in words"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--files", type=int, default=4, help="files of the batch")
    parser.add_argument("--gigabytes", type=float, default=7.0, help="size of the checkpoint of the merge")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "convert.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [merge_memory(folder, options.gigabytes)]
        parts.append(single_speed(folder, options.repeats, options.rank))
        parts.append(batch_speed(folder, options.files, options.rank))
    head = ["# Converters", "", f"`python benchmarks/convert.py`. Machine: {options.machine}.", ""]
    options.output.write_text("\n".join(head + [line for part in parts for line in [*part, ""]]).rstrip() + "\n")
    print(options.output.read_text())


if __name__ == "__main__":
    main()
