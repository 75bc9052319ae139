"""Opens files of tensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES

from .disguise import is_pickle
from .elements import OF_TORCH, element_of
from .finite import BAD_INPUT, is_finite
from .header import read_header, start_of
from .lazy import Lazy, from_stored, from_tensor

if TYPE_CHECKING:  # torch is imported with the first pickle
    from torch import Tensor


def open_tensors(path: str | Path, allow_pickle: bool = False) -> tuple[dict[str, Lazy], dict[str, str]]:
    """Tensors by key, not yet read, and the metadata.

    Args:
        path: A .safetensors file; with ``allow_pickle`` also a pickle that holds nothing but tensors.
        allow_pickle: Read .pt, .ckpt, … through torch's weights_only loading.

    Raises:
        PairError: The file is missing, damaged or hostile.
    """
    path = Path(path)
    if allow_pickle and path.suffix.lower() in PICKLES and path.is_file() and is_pickle(start_of(path)):
        return _open_pickle(path), {}
    header = read_header(path)
    return {key: from_stored(stored) for key, stored in header.tensors.items()}, header.metadata


def _open_pickle(path: Path) -> dict[str, Lazy]:
    import torch

    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise PairError(
            f"{path}: weights_only loading refused it, it holds other things than tensors; save the tensors as "
            ".safetensors with the program that wrote it"
        ) from cause
    except Exception as cause:  # torch raises whatever the unpickler meets
        reason = printable(str(cause).partition(". ")[0] or type(cause).__name__, 120)
        raise PairError(f"{path}: weights_only loading failed ({reason}); copy or download it again") from cause
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if isinstance(values, dict) and "string_to_param" in values:
        raise PairError(f"{path}: is a textual inversion, no LoRA; the UIs read it from their folder of embeddings")
    if not isinstance(values, dict) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise PairError(f"{path}: holds something else than a map from names to tensors; export it as .safetensors")
    return {str(key): from_tensor(_plain(value, f"{path}: {printable(str(key), 80)}")) for key, value in values.items()}


def _plain(value: Tensor, where: str) -> Tensor:
    """A pickled tensor as numbers alone, side by side in memory."""
    import torch

    if str(value.dtype) not in OF_TORCH:
        raise PairError(f"{where} is of {value.dtype}, which no LoRA is")
    if value.is_meta:
        raise PairError(f"{where} has no numbers, only a shape; save it again from a model that is loaded")
    plain = value.detach().to_dense().contiguous() if value.layout != torch.strided else value.detach().contiguous()
    if not is_finite(plain.flatten().view(torch.uint8).numpy().data, element_of(plain.dtype)):
        raise PairError(f"{where} {BAD_INPUT}")
    return plain
