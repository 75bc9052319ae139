"""Opens files of tensors."""

from __future__ import annotations

from pathlib import Path

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES

from .elements import OF_TORCH
from .finite import BAD_INPUT
from .header import read_header
from .lazy import Lazy, from_stored, from_tensor


def open_tensors(path: str | Path, allow_pickle: bool = False) -> tuple[dict[str, Lazy], dict[str, str]]:
    """Tensors by key, not yet read, and the metadata.

    Args:
        path: A .safetensors file; with ``allow_pickle`` also a pickle that holds nothing but tensors.
        allow_pickle: Read .pt, .ckpt, … through torch's weights_only loading.

    Raises:
        PairError: The file is missing, damaged or hostile.
    """
    path = Path(path)
    if allow_pickle and path.suffix.lower() in PICKLES:
        return _open_pickle(path), {}
    header = read_header(path)
    return {key: from_stored(stored) for key, stored in header.tensors.items()}, header.metadata


def _open_pickle(path: Path) -> dict[str, Lazy]:
    import torch

    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises whatever the unpickler meets
        raise PairError(f"{path}: weights_only loading refused it ({printable(str(cause), 120)})") from cause
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise PairError(f"{path}: holds something else than a map from names to tensors; export it as .safetensors")
    for key, value in values.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise PairError(f"{path}: {printable(str(key), 80)} {BAD_INPUT}")
        if str(value.dtype) not in OF_TORCH:
            raise PairError(f"{path}: {printable(str(key), 80)} is of {value.dtype}, which no LoRA is")
    return {str(key): from_tensor(value.contiguous()) for key, value in values.items()}
