"""Pair Network: learns an artistic style from one before/after image pair (Pair Customization, arXiv:2405.01536).

The package is a kohya-compatible network module: ``--network_module pair_network``.
"""

from .errors import PairError
from .network.creation import create_network, create_network_from_weights
from .network.pair_network import PairNetwork

__all__ = ["PairError", "PairNetwork", "create_network", "create_network_from_weights"]
__version__ = "0.1.0"
