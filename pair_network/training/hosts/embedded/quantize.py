"""The frozen U-Net in eight bits, through diffusers' own loader: what small cards need."""

from __future__ import annotations

from pair_network.errors import PairError

from .config import EmbeddedOptions


def quantization(args: EmbeddedOptions) -> dict[str, object]:
    """What diffusers' loaders are told for --quantize; empty without it.

    "int8" is the weights of linear layers as eight-bit integers with a scale for each output channel.

    Raises:
        PairError: The package is missing or too old for this diffusers, or an option does not go with it.
    """
    if args.quantize is None:
        return {}
    if args.mixed_precision != "bf16":
        raise PairError(f"--quantize {args.quantize} computes in bf16 alone: add --mixed_precision bf16")
    if args.base_weights:
        raise PairError(
            "--base_weights cannot be merged into a model in 8 bits: leave --quantize out, or merge them into a "
            "checkpoint first (python -m convert bake)"
        )
    try:
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    except ImportError as cause:
        raise PairError("--quantize int8 needs a package that is not installed: pip install torchao") from cause
    except (ValueError, RuntimeError) as cause:
        raise PairError(f"--quantize int8: torchao is too old ({cause}); pip install -U torchao") from cause
