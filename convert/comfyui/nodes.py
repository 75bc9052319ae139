"""The nodes: a style, two ways of sampling with a list of styles, and one node that does all of it for one style."""

from __future__ import annotations

import math
import os
from typing import Any

import folder_paths

from .lora import read_style, trigger_words
from .sampling import Style, StyleGuider, patched

CATEGORY = "Pair Network"
LIST = "PAIR_STYLE"
SHARE = {"min": 0.0, "max": 1.0, "step": 0.01}
LORA_TIP = "The style LoRA of a training, from models/loras: NAME.safetensors, not NAME.pair.safetensors"
SCALE = {
    "default": 3.0, "min": -30.0, "max": 30.0, "step": 0.1,
    "tooltip": "λ: how much of the style's change is added. The paper: 3 for the pair's subject, 4 others, 6 on FLUX",
}  # fmt: skip
START = {
    "default": 0.2,
    **SHARE,
    "tooltip": "Where the style begins. 0: pure noise; the first fifth decides the layout",
}
END = {"default": 1.0, **SHARE, "tooltip": "Where the style ends. 1: with the finished picture"}
STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05, "tooltip": "Strength of the LoRA itself"}
CFG_END = {
    "default": 1.0, **SHARE,
    "tooltip": "Part of the schedule after which the prompt's own CFG is 1: the style gets more weight. 1: never",
}  # fmt: skip
ALIASES = (
    "style guidance", "style lora", "lora", "lora style", "pair", "pair network", "pair customization", "guidance",
    "lora guidance", "style transfer",
)  # fmt: skip


def loras() -> list[str]:
    """The LoRA files, without coupled checkpoints, which lie beside the style LoRA of the same training."""
    names = folder_paths.get_filename_list("loras")
    return [name for name in names if not name.lower().endswith(".pair.safetensors")]


def state_of(lora_name: str) -> str:
    """ComfyUI keeps a node's output while this stays the same; a file may be overwritten by a new training."""
    path = folder_paths.get_full_path("loras", lora_name)
    stat = os.stat(path) if path else None
    return f"{stat.st_mtime_ns} {stat.st_size}" if stat else "missing"


def make_style(lora_name: str, conditioning: list, scale: float, start: float, end: float, strength: float) -> Style:
    """Reads the file and checks the numbers.

    Raises:
        ValueError: The interval is empty, or the file cannot be used.
    """
    if not end > start:
        raise ValueError(f"{lora_name}: end ({end}) is not after start ({start}), so no step would have the style")
    file = read_style(folder_paths.get_full_path_or_raise("loras", lora_name), lora_name)
    return Style(file, conditioning, scale, start, end, strength)


class PairStyle:
    """A style LoRA with its prompt and its numbers, behind the styles that came before it."""

    CATEGORY = CATEGORY
    FUNCTION = "add"
    RETURN_TYPES = (LIST,)
    RETURN_NAMES = ("styles",)
    OUTPUT_TOOLTIPS = (
        "The style, behind those that came in: for Style Guidance (model) or (guider), or another style",
    )
    DESCRIPTION = "A style LoRA with its prompt and λ, for style guidance. Chain several: their shifts add up."
    SEARCH_ALIASES = ALIASES

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "The plain prompt with the style's words behind it"}),
                "lora_name": (loras(), {"tooltip": LORA_TIP}),
                "scale": ("FLOAT", SCALE),
                "start": ("FLOAT", START),
                "end": ("FLOAT", END),
            },
            "optional": {
                "styles": (LIST, {"tooltip": "Styles to add this one to"}),
                "lora_strength": ("FLOAT", STRENGTH),
            },
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_: Any) -> str:
        return state_of(lora_name)

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
        return ([*(styles or []), make_style(lora_name, conditioning, scale, start, end, lora_strength)],)


class PairStyleGuider:
    """Guider for SamplerCustomAdvanced: CFG plus the styles' shifts."""

    CATEGORY = CATEGORY
    FUNCTION = "guide"
    RETURN_TYPES = ("GUIDER",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced",)
    DESCRIPTION = "Style guidance with LoRAs for SamplerCustomAdvanced: CFG plus λ times what each style changes."
    SEARCH_ALIASES = (*ALIASES, "guider", "cfg guider")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        cfg = {"default": 7.5, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base model; other LoRAs on it act on every prediction"}),
                "positive": ("CONDITIONING", {"tooltip": "The plain prompt, without the style's words"}),
                "styles": (LIST, {"tooltip": "From Style LoRA for Guidance"}),
                "cfg": ("FLOAT", {**cfg, "tooltip": "CFG of the prompt; 1 for FLUX dev"}),
            },
            "optional": {
                "negative": ("CONDITIONING", {"tooltip": "Not needed at cfg 1"}),
                "cfg_end": ("FLOAT", CFG_END),
            },
        }

    def guide(
        self,
        model: Any,
        positive: list,
        styles: list[Style],
        cfg: float,
        negative: list | None = None,
        cfg_end: float = 1.0,
    ) -> tuple[StyleGuider]:
        if negative is None and not math.isclose(cfg, 1.0):
            raise ValueError(
                f"cfg is {cfg}, which needs a negative prompt; connect one (it may be empty), or set cfg to 1"
            )
        guider = StyleGuider(model, styles, cfg_end)
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
    OUTPUT_TOOLTIPS = ("The model that samples with the styles, for KSampler and the like",)
    DESCRIPTION = "Style guidance with LoRAs for KSampler: the prompts stay where they are."
    SEARCH_ALIASES = (*ALIASES, "model patch", "lora loader")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base model; other LoRAs on it act on every prediction"}),
                "styles": (LIST, {"tooltip": "From Style LoRA for Guidance"}),
            },
            "optional": {"cfg_end": ("FLOAT", CFG_END)},
        }

    def patch(self, model: Any, styles: list[Style], cfg_end: float = 1.0) -> tuple[Any]:
        return (patched(model, styles, cfg_end),)


class PairStyleGuidance:
    """One style in one node: encodes the prompt with and without the style's words, and patches the model."""

    CATEGORY = CATEGORY
    FUNCTION = "guide"
    RETURN_TYPES = ("MODEL", "CONDITIONING")
    RETURN_NAMES = ("model", "positive")
    OUTPUT_TOOLTIPS = ("To the sampler's model", "To the sampler's positive: the plain prompt")
    DESCRIPTION = "Style guidance with one LoRA in one node: model, clip, prompt, words, LoRA and λ in, model out."
    SEARCH_ALIASES = (*ALIASES, "lora loader", "load lora")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        words = "What follows the prompt for the style alone, such as “in ink style”; empty: the LoRA's trigger words"
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base model; other LoRAs on it act on every prediction"}),
                "clip": ("CLIP", {"tooltip": "Encodes the prompt, with and without the style's words"}),
                "prompt": ("STRING", {"multiline": True, "tooltip": "The plain prompt, without the style's words"}),
                "words": ("STRING", {"default": "", "tooltip": words}),
                "lora_name": (loras(), {"tooltip": LORA_TIP}),
                "scale": ("FLOAT", SCALE),
            },
            "optional": {"start": ("FLOAT", START), "end": ("FLOAT", END), "cfg_end": ("FLOAT", CFG_END)},
        }

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_: Any) -> str:
        return state_of(lora_name)

    def guide(
        self,
        model: Any,
        clip: Any,
        prompt: str,
        words: str,
        lora_name: str,
        scale: float,
        start: float = 0.2,
        end: float = 1.0,
        cfg_end: float = 1.0,
    ) -> tuple[Any, list]:
        path = folder_paths.get_full_path_or_raise("loras", lora_name)
        words = words.strip() or trigger_words(path)
        styled = encoded(clip, f"{prompt.strip()} {words}".strip())
        style = make_style(lora_name, styled, scale, start, end, 1.0)
        return patched(model, [style], cfg_end), encoded(clip, prompt)


def encoded(clip: Any, text: str) -> list:
    """ComfyUI's CONDITIONING of a text."""
    if clip is None:
        raise ValueError("clip is empty: this checkpoint has no text encoder; load one and connect it")
    conditioning: list = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return conditioning


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    "PairNetworkStyle": PairStyle,
    "PairNetworkGuider": PairStyleGuider,
    "PairNetworkPatch": PairStylePatch,
    "PairNetworkGuidance": PairStyleGuidance,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PairNetworkStyle": "Style LoRA for Guidance (Pair)",
    "PairNetworkGuider": "Style Guidance Guider (Pair LoRA)",
    "PairNetworkPatch": "Style Guidance Model (Pair LoRA)",
    "PairNetworkGuidance": "Style Guidance (Pair LoRA, one node)",
}
