"""What the product without gradient in pair_network/network/product.py gains: ``python benchmarks/products.py``.

Prints its time as a share of that of the product for training, smallest of several runs, on one CPU thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from pair_network.network.factors import CoupledUp
from pair_network.network.product import add_up_product
from pair_network.network.route import Row, RowPlan

RUNS = 15


def seconds(run: Callable[[], object]) -> float:
    """The shortest of several runs."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def in_place() -> float:
    """One row of 64 tokens, 320 wide, rank 32: in place against the weighted copy and the autograd function."""
    base, plan = nn.Linear(320, 320), RowPlan([Row(style=1.0)], 1.0, torch.device("cpu"))
    output, hidden, up = torch.randn(1, 64, 320), torch.randn(1, 64, 32), torch.randn(320, 32)

    def plain() -> Tensor:
        return CoupledUp.apply(output, hidden * plan.weights(0, 32, 1.0, 1.0, hidden.dtype), None, up, plan)

    return seconds(lambda: add_up_product(output, hidden, up, 1.0, base)) / seconds(plain)


def main() -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        print(f"up product in place: {in_place():.2f} of the time with a copy and an autograd function")


if __name__ == "__main__":
    main()
