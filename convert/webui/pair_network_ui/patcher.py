"""What Forge's descendants name differently: how conditions are made of rows, and how the model is asked.

Forge and Forge Neo keep both in ``backend``, reForge and Forge Classic in ``ldm_patched``.
"""

from __future__ import annotations

from .detect import has_module

if has_module("backend.sampling"):
    from backend.patcher.base import ModelPatcher
    from backend.sampling.condition import compile_weighted_conditions
    from backend.sampling.sampling_function import calc_cond_uncond_batch
else:
    from ldm_patched.modules.model_patcher import ModelPatcher
    from ldm_patched.modules.samplers import calc_cond_uncond_batch
    from modules_forge.forge_sampler import cond_from_a1111_to_patched_ldm_weighted as compile_weighted_conditions

AFTER_CFG = "set_model_sampler_post_cfg_function"
if not hasattr(ModelPatcher, AFTER_CFG):
    raise ImportError(f"its ModelPatcher has no {AFTER_CFG}")

__all__ = ["calc_cond_uncond_batch", "compile_weighted_conditions"]
