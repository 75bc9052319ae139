"""How a coupled checkpoint is told and named; it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .config import PairConfig

CONFIG_KEY = "pair_network_config"
PAIR_SUFFIX = ".pair.safetensors"


def pair_path(style_path: str | Path) -> Path:
    """NAME.pair.safetensors beside NAME.safetensors."""
    path = Path(style_path)
    return path.with_name(path.name.removesuffix(".safetensors") + PAIR_SUFFIX)


def is_pair_file(metadata: Mapping[str, str]) -> bool:
    return CONFIG_KEY in metadata


def read_config(metadata: Mapping[str, str], source: str) -> PairConfig:
    """The config that a coupled checkpoint brings.

    Raises:
        PairError: It is none.
    """
    return PairConfig.from_json(metadata[CONFIG_KEY], source)
