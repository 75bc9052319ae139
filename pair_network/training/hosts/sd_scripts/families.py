"""The model families that sd-scripts trains: their trainer classes, and how a checkpoint shows its family."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pair_network.errors import PairError, nearest


@dataclass(frozen=True)
class PreviewInputs:
    """What a preview must know about a model's forward.

    Attributes:
        text: Parameters that come from the prompt.
        cond_row: Row of the prompt in a batch of two, the other being the negative prompt's.
        default_steps: Sampling steps of a prompt that names none.
    """

    text: tuple[str, ...]
    cond_row: int
    default_steps: int


@dataclass(frozen=True)
class Family:
    """One of sd-scripts' network trainers.

    Attributes:
        name: Value of --model_type.
        module: Module of the checkout with the trainer and ``setup_parser``.
        trainer: Name of the trainer class.
        previews: None: kohya's own samples, with the style branch on.
    """

    name: str
    module: str
    trainer: str
    previews: PreviewInputs | None = None


FAMILIES = {
    family.name: family
    for family in (
        Family("sd", "train_network", "NetworkTrainer", PreviewInputs(("encoder_hidden_states",), -1, 30)),
        Family("sdxl", "sdxl_train_network", "SdxlNetworkTrainer", PreviewInputs(("context", "y"), -1, 30)),
        Family("sd3", "sd3_train_network", "Sd3NetworkTrainer", PreviewInputs(("context", "y"), 0, 30)),
        Family(
            "flux",
            "flux_train_network",
            "FluxNetworkTrainer",
            PreviewInputs(("txt", "txt_ids", "y", "txt_attention_mask"), -1, 20),
        ),
        Family("lumina", "lumina_train_network", "LuminaNetworkTrainer"),
        Family("hunyuan_image", "hunyuan_image_train_network", "HunyuanImageNetworkTrainer"),
        Family("anima", "anima_train_network", "AnimaNetworkTrainer"),
    )
}
# Chroma is trained by the FLUX trainer, whose own --model_type tells the two apart.
FAMILY_OF_TYPE = {**{name: name for name in FAMILIES}, "chroma": "flux"}

# A tensor that only checkpoints of one type have; the first type whose mark is there wins.
_MARKS = (
    ("hunyuan_image", "double_blocks.0.img_attn_qkv.weight"),
    ("chroma", "distilled_guidance_layer.in_proj.weight"),
    ("flux", "double_blocks.0.img_attn.qkv.weight"),
    ("flux", "single_transformer_blocks.0.attn.to_q.weight"),
    ("sd3", "joint_blocks.0.x_block.attn.qkv.weight"),
    ("lumina", "noise_refiner.0.attention.qkv.weight"),
    ("anima", "llm_adapter.blocks.0.cross_attn.q_proj.weight"),
    ("sdxl", "label_emb.0.0.weight"),
    ("sd", "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"),
)
_PREFIXES = ("model.diffusion_model.", "net.")
_LARGEST_HEADER = 100_000_000


def family_of(model_type: str) -> Family:
    """The family of a --model_type.

    Raises:
        PairError: No such type.
    """
    if model_type not in FAMILY_OF_TYPE:
        accepted = ", ".join(FAMILY_OF_TYPE)
        raise PairError(f"--model_type {model_type}: must be one of {accepted}{nearest(model_type, FAMILY_OF_TYPE)}")
    return FAMILIES[FAMILY_OF_TYPE[model_type]]


def detect_model_type(checkpoint: str | None) -> str | None:
    """The model type that a checkpoint's tensor names prove, or None where they prove nothing.

    Only a .safetensors header or a diffusers folder's model_index.json is read, no tensor.
    """
    path = Path(checkpoint) if checkpoint else None
    if path is None or not path.exists():
        return None  # a Hugging Face name: nothing to read without downloading it
    if path.is_dir():
        return _type_of_folder(path)
    if path.suffix != ".safetensors":
        return None
    return type_of_names(tensor_names(path))


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors header.

    Raises:
        PairError: The file is cut off or of another kind.
    """
    with path.open("rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise PairError(f"{path}: not an intact safetensors file; copy or download it again")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as cause:
            raise PairError(f"{path}: not an intact safetensors file ({cause}); copy or download it again") from cause
    return [name for name in header if name != "__metadata__"]


def type_of_names(names: Collection[str]) -> str | None:
    """The model type that tensor names prove, or None."""
    bare = set(names)
    for prefix in _PREFIXES:
        bare |= {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return next((model_type for model_type, mark in _MARKS if mark in bare), None)


def _type_of_folder(folder: Path) -> str | None:
    index = folder / "model_index.json"
    if not index.is_file():
        return None
    pipeline = json.loads(index.read_text(encoding="utf-8")).get("_class_name", "")
    for start, model_type in (("StableDiffusionXL", "sdxl"), ("StableDiffusion3", "sd3"), ("StableDiffusion", "sd")):
        if pipeline.startswith(start):
            return model_type
    return "flux" if pipeline.startswith("Flux") else None
