"""Style guidance as a guider of diffusers' modular pipelines.

    StyleGuidance(Style("watercolor.safetensors", "in watercolor style"), guidance_scale=7).add_to(pipe)
    image = pipe(prompt="a dog on a beach", output="images")[0]

A guider says which predictions it needs, in ``prepare_inputs``, and combines them, in ``forward``: eq. 10 is one. What
it is not told are the prompts and the text encoders: ``StylePromptStep`` hands them over.
"""

from .guider import StyleGuidance

__all__ = ["StyleGuidance"]
