"""Folders of the official Pair Customization release: a style LoRA, and mostly the content LoRA beside it."""

from __future__ import annotations

from pathlib import Path

# The style's file below the folder, and the content's: SDXL, FLUX.
FILES = (
    ("style_weights/pytorch_lora_weights.safetensors", "content_weights/pytorch_lora_weights.safetensors"),
    ("style_lora.safetensors", "content_lora.safetensors"),
)
SDXL_LAYERS = (".to_q", ".to_k", ".to_v", ".to_out.0")  # all that the SDXL release trains


def official_files(path: Path) -> tuple[Path, Path | None] | None:
    """Files of style and content in a release's folder; None if the path is no such folder."""
    for style, content in FILES:
        if (path / style).is_file():
            return path / style, path / content if (path / content).is_file() else None
    return None
