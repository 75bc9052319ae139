"""The door to style guidance in diffusers: ``from pair_network.pipelines import Style, style_guidance``.

``StyleGuidance``, for modular pipelines, is a class of diffusers', which is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .sampling.pipelines import Style, plain_lora, style_guidance

if TYPE_CHECKING:
    from .sampling.modular import StyleGuidance

__all__ = ["Style", "StyleGuidance", "plain_lora", "style_guidance"]


def __getattr__(name: str) -> Any:
    if name != "StyleGuidance":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    try:
        from .sampling.modular import StyleGuidance
    except ImportError as missing:
        raise ImportError(
            f"StyleGuidance needs a diffusers with modular pipelines and guiders, such as 0.42.1 ({missing}); "
            "style_guidance works without them"
        ) from missing
    return StyleGuidance
