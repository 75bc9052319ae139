"""Style guidance (paper, eq. 10 and 11) inside diffusers' own, unchanged pipelines.

    with style_guidance(pipe, [Style("watercolor.safetensors", "in watercolor style", scale=3.0)]):
        image = pipe("a dog on a beach").images[0]

Nothing here imports diffusers: a pipeline is known by its ``encode_prompt``, its ``unet`` or ``transformer`` and its
scheduler.
"""

from .context import plain_lora, style_guidance
from .style import Style

__all__ = ["Style", "plain_lora", "style_guidance"]
