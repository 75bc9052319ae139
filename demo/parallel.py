"""Several training processes on one machine, with gloo between them; or one, on a GPU."""

from __future__ import annotations

import argparse
import contextlib
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

CPU_UNITS = ("avx512", "amx")


def run_parallel(function: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Runs `function(args)` in `args.processes` processes that can reduce gradients, each with one thread.

    Where a GPU is present, one process uses it and nothing is spawned.
    """
    if torch.cuda.is_available() or args.processes == 1:
        function(args)
        return
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    mp.spawn(_worker, (function, args, port), nprocs=args.processes)


def _worker(rank: int, function: Callable[[argparse.Namespace], None], args: argparse.Namespace, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=args.processes)
    try:
        function(args)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Returns when every process has come this far."""
    if dist.is_initialized():
        dist.barrier()


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_dtype() -> torch.dtype:
    """bfloat16 where the hardware computes in it; a CPU that emulates it takes 10 to 20 times as long as in float32."""
    has_bf16 = any(torch.cpu.get_capabilities().get(f"{unit}_bf16") for unit in CPU_UNITS)
    return torch.bfloat16 if device().type == "cuda" or has_bf16 else torch.float32


def autocast() -> contextlib.AbstractContextManager:
    """Layers compute in `fast_dtype`, weights stay as they are."""
    return torch.autocast(device().type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16)


def data_parallel(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with gradients averaged over the processes, itself when alone."""
    return torch.nn.parallel.DistributedDataParallel(module) if world_size() > 1 else module
