"""The nodes: a style, and two ways of sampling with a list of them."""

from __future__ import annotations

import math
import os
from typing import Any

import folder_paths

from .lora import read_style
from .sampling import Style, StyleGuider, patched

CATEGORY = "Pair Network"
LIST = "PAIR_STYLE"
SHARE = {"min": 0.0, "max": 1.0, "step": 0.01}


class PairStyle:
    """A style LoRA with its prompt and its numbers, behind the styles that came before it."""

    CATEGORY = CATEGORY
    FUNCTION = "add"
    RETURN_TYPES = (LIST,)
    RETURN_NAMES = ("styles",)
    DESCRIPTION = "A style for guidance. Chain several: their shifts add up."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        scale = "λ: how much of the style's change is added. The paper: 3 for the pair's subject, 4 others, 6 on FLUX"
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "The prompt with the style's words"}),
                "lora_name": (folder_paths.get_filename_list("loras"), {"tooltip": "The style LoRA"}),
                "scale": ("FLOAT", {"default": 3.0, "min": -30.0, "max": 30.0, "step": 0.1, "tooltip": scale}),
                "start": (
                    "FLOAT",
                    {"default": 0.2, **SHARE, "tooltip": "0: from pure noise on"},
                ),
                "end": ("FLOAT", {"default": 1.0, **SHARE, "tooltip": "1: to the finished picture"}),
            },
            "optional": {
                "styles": (LIST, {"tooltip": "Styles to add this one to"}),
                "lora_strength": (
                    "FLOAT",
                    {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05, "tooltip": "Strength of the LoRA itself"},
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_: Any) -> str:
        """ComfyUI keeps a node's output while this stays the same; a file may be overwritten by a new training."""
        path = folder_paths.get_full_path("loras", lora_name)
        stat = os.stat(path) if path else None
        return f"{stat.st_mtime_ns} {stat.st_size}" if stat else "missing"

    def add(
        self,
        conditioning: list,
        lora_name: str,
        scale: float,
        start: float,
        end: float,
        styles: list[Style] | None = None,
        lora_strength: float = 1.0,
    ) -> tuple[list[Style]]:
        if not end > start:
            raise ValueError(f"{lora_name}: end ({end}) is not after start ({start}), so no step would have the style")
        file = read_style(folder_paths.get_full_path_or_raise("loras", lora_name), lora_name)
        style = Style(file, conditioning, scale, start, end, lora_strength)
        return ([*(styles or []), style],)


class PairStyleGuider:
    """Guider for SamplerCustomAdvanced: CFG plus the styles' shifts."""

    CATEGORY = CATEGORY
    FUNCTION = "guide"
    RETURN_TYPES = ("GUIDER",)
    DESCRIPTION = "Style guidance for SamplerCustomAdvanced."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        cfg = {"default": 7.5, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01, "tooltip": "1 for FLUX dev"}
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "styles": (LIST,),
                "cfg": ("FLOAT", cfg),
            },
            "optional": {"negative": ("CONDITIONING", {"tooltip": "Not needed at cfg 1"})},
        }

    def guide(
        self, model: Any, positive: list, styles: list[Style], cfg: float, negative: list | None = None
    ) -> tuple[StyleGuider]:
        if negative is None and not math.isclose(cfg, 1.0):
            raise ValueError(
                f"cfg is {cfg}, which needs a negative prompt; connect one (it may be empty), or set cfg to 1"
            )
        guider = StyleGuider(model, styles)
        guider.inner_set_conds(
            {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
        )
        guider.set_cfg(cfg)
        return (guider,)


class PairStylePatch:
    """A model that samples with the styles' shifts, for KSampler and every other sampler node."""

    CATEGORY = CATEGORY
    FUNCTION = "patch"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = "Style guidance for KSampler: the prompts stay where they are."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "styles": (LIST,)}}

    def patch(self, model: Any, styles: list[Style]) -> tuple[Any]:
        return (patched(model, styles),)


NODE_CLASS_MAPPINGS = {
    "PairNetworkStyle": PairStyle,
    "PairNetworkGuider": PairStyleGuider,
    "PairNetworkPatch": PairStylePatch,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PairNetworkStyle": "Pair Style",
    "PairNetworkGuider": "Pair Style Guider",
    "PairNetworkPatch": "Pair Style Patch",
}
