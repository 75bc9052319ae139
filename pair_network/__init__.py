"""Pair Network: learns an artistic style from one before/after image pair (Pair Customization, arXiv:2405.01536).

The package is a network module for kohya's trainers: ``--network_module pair_network``.
"""

from typing import Any

from .errors import PairError
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


def prepare_network(network: PairNetwork, args: Any) -> None:
    """musubi-tuner only shows a network its options when the module has this; sd-scripts asks the network itself."""
    network.prepare_network(args)
