"""The door to style guidance in diffusers: ``from pair_network.pipelines import Style, style_guidance``."""

from .sampling.pipelines import Style, plain_lora, style_guidance

__all__ = ["Style", "plain_lora", "style_guidance"]
