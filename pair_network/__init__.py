"""Pair Network: learns an artistic style from one before/after image pair (Pair Customization, arXiv:2405.01536).

The package is a network module for kohya's trainers: ``--network_module pair_network``. Importing it takes no time:
torch comes with the first use of a network.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if sys.argv[:1] == ["-m"] and "-mpair_network" in "".join(sys.orig_argv):
    # ``python -m pair_network`` searches the current folder first; a torch.py that lies there is not ours to run.
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != os.path.realpath(_root):
        del sys.path[0]

from .errors import PairError

if TYPE_CHECKING:
    from .network.creation import (
        create_arch_network,
        create_arch_network_from_weights,
        create_network,
        create_network_from_weights,
    )
    from .network.pair_network import PairNetwork

__all__ = [
    "PairError",
    "PairNetwork",
    "create_arch_network",
    "create_arch_network_from_weights",
    "create_network",
    "create_network_from_weights",
    "prepare_network",
]
__version__ = "0.1.0"


def prepare_network(network: PairNetwork, args: object) -> None:
    """musubi-tuner only shows a network its options when the module has this; sd-scripts asks the network itself."""
    network.prepare_network(args)


def __getattr__(name: str) -> object:
    if name == "PairNetwork":
        from .network.pair_network import PairNetwork

        return PairNetwork
    if name.startswith("create_") and name in __all__:
        from .network import creation

        return getattr(creation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
