"""Prints, as JSON, the layer names that ComfyUI's LoRA loader knows for each model, and the shapes of its weights.

    python tests/convert/comfyui_names.py COMFYUI_DIR

The models have their published sizes and no weights, so this takes neither memory nor a checkpoint. ComfyUI 0.33 has
all of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import comfyui_real

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
SD1 = {
    **UNET, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": 768,
    "use_linear_in_transformer": False, "adm_in_channels": None, "num_heads": 8,
}  # fmt: skip
SDXL = {
    **UNET, "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10, "context_dim": 2048,
    "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816, "num_head_channels": 64,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True, "patch_size": 2,
    "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = {
    **FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0,
    "axes_dim": [32] * 4, "theta": 2000, "qkv_bias": False, "patch_size": 1, "global_modulation": True,
    "mlp_silu_act": True, "ops_bias": False, "txt_ids_dims": [3], "default_ref_method": "index",
    "ref_index_scale": 10.0,
}  # fmt: skip
NEXT = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "qk_norm": True}
ANIMA = {
    "image_model": "anima", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 2048, "num_blocks": 28,
    "num_heads": 16, "crossattn_emb_channels": 1024, "concat_padding_mask": True, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "use_adaln_lora": True, "adaln_lora_dim": 256,
    "min_fps": 1, "max_fps": 30, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0, "extra_per_block_abs_pos_emb": False, "rope_enable_fps_modulation": False,
    "extra_h_extrapolation_ratio": 1.0, "extra_w_extrapolation_ratio": 1.0, "extra_t_extrapolation_ratio": 1.0,
}  # fmt: skip


def without(config, *names):
    return {name: value for name, value in config.items() if name not in names}


# The family here, ComfyUI's class of it, and what that class needs to know of the published model.
MODELS = {
    "sd1": ("SD15", SD1),
    "sdxl": ("SDXL", SDXL),
    "flux": ("Flux", FLUX),
    "chroma": ("Chroma", {**without(FLUX, "guidance_embed"), "image_model": "chroma", "in_dim": 64, "out_dim": 3072,
                          "hidden_dim": 5120, "n_layers": 5, "vec_in_dim": None}),
    "flux2_klein_4b": ("Flux2", {**FLUX2, "context_in_dim": 7680, "depth": 5, "depth_single_blocks": 20}),
    "flux2_klein_9b": ("Flux2", {**FLUX2, "context_in_dim": 12288, "hidden_size": 4096, "num_heads": 32, "depth": 8,
                                 "depth_single_blocks": 24}),
    "flux2_dev": ("Flux2", {**FLUX2, "context_in_dim": 15360, "hidden_size": 6144, "num_heads": 48, "depth": 8,
                            "depth_single_blocks": 48}),
    "sd3": ("SD3", {"in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 38, "input_size": None,
                    "adm_in_channels": 2048, "pos_embed_max_size": 192, "num_patches": 36864,
                    "context_embedder_config": {"target": "torch.nn.Linear",
                                                "params": {"in_features": 4096, "out_features": 2432}},
                    "x_block_self_attn_layers": list(range(38))}),
    "lumina2": ("Lumina2", {**NEXT, "dim": 2304, "cap_feat_dim": 2304, "n_layers": 26, "n_heads": 24, "n_kv_heads": 8,
                            "axes_dims": [32] * 3, "axes_lens": [300, 512, 512], "rope_theta": 10000.0,
                            "ffn_dim_multiplier": 4.0}),
    "z_image": ("ZImage", {**NEXT, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_refiner_layers": 2,
                           "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
                           "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True,
                           "time_scale": 1000.0}),
    "qwen_image": ("QwenImage", {"image_model": "qwen_image", "in_channels": 16, "num_layers": 60}),
    "hunyuan_image": ("HunyuanImage21", {"image_model": "hunyuan_video", "in_channels": 64, "out_channels": 64,
                                         "patch_size": [1, 1], "hidden_size": 3584, "num_heads": 28, "depth": 20,
                                         "depth_single_blocks": 40, "vec_in_dim": None, "context_in_dim": 3584,
                                         "mlp_ratio": 4.0, "axes_dim": [64, 64], "theta": 256, "qkv_bias": True,
                                         "guidance_embed": False, "byt5": True, "meanflow": False,
                                         "meanflow_sum": False, "use_cond_type_embedding": False,
                                         "vision_in_dim": None}),
    "anima": ("Anima", ANIMA),
    "krea2": ("Krea2", {"image_model": "krea2", "features": 6144, "tdim": 256, "txtdim": 2560, "heads": 48,
                        "kvheads": 12, "multiplier": 4, "layers": 28, "patch": 2, "channels": 16}),
}  # fmt: skip


# Layers of ComfyUI's text encoders, as their classes name them; only names matter to its loader.
CLIP = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
T5 = [f"layer.0.SelfAttention.{part}" for part in "qkvo"] + [f"layer.1.DenseReluDense.w{part}" for part in
                                                              ("i_0", "i_1", "o")]  # fmt: skip
LLM = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
ENCODERS = {
    "clip_l": ("text_model.encoder.layers.{}.", 12, CLIP),
    "clip_h": ("text_model.encoder.layers.{}.", 23, CLIP),  # the 24th is not used, and not there elsewhere
    "clip_g": ("text_model.encoder.layers.{}.", 32, CLIP),
    "t5xxl": ("encoder.block.{}.", 24, T5),
    "gemma2_2b": ("model.layers.{}.", 26, LLM),
    "qwen3_06b": ("model.layers.{}.", 28, LLM),
}
OF_FAMILY = {
    "sd1": ["clip_l"], "sd2": ["clip_h"], "sdxl": ["clip_l", "clip_g"], "flux": ["clip_l", "t5xxl"],
    "sd3": ["clip_l", "clip_g", "t5xxl"], "chroma": ["t5xxl"], "lumina2": ["gemma2_2b"], "anima": ["qwen3_06b"],
}  # fmt: skip


class Encoders:
    """As much of a text encoder as ComfyUI's loader asks: the names of its weights."""

    def __init__(self, names):
        self.weights = {
            f"{name}.transformer.{path.format(number)}{layer}.weight": None
            for name in names
            for path, count, layers in (ENCODERS[name],)
            for number in range(count)
            for layer in layers
        }
        for name in set(names) & {"clip_l", "clip_g"}:
            self.weights[f"{name}.transformer.text_projection.weight"] = None

    def state_dict(self):
        return self.weights


def table_of(kind, config):
    """ComfyUI's table of names for one model, and the shapes of its matrices by their names in the model."""
    import comfy.lora

    model = kind({**config, "dtype": torch.bfloat16}).get_model({}, "", device="meta")
    start = "diffusion_model."
    shapes = {
        name[len(start) : -len(".weight")]: [weight.shape[0], weight.shape[1]]
        for name, weight in model.state_dict().items()
        if name.startswith(start) and name.endswith(".weight") and weight.dim() in (2, 4)
    }
    return {"names": list(comfy.lora.model_lora_keys_unet(model, {})), "shapes": shapes}


def main() -> None:
    comfyui_real.install(Path(sys.argv[1]))
    import comfy.lora
    import comfy.supported_models as supported

    encoders = {
        family: list(comfy.lora.model_lora_keys_clip(Encoders(names), {})) for family, names in OF_FAMILY.items()
    }
    models = {family: table_of(getattr(supported, kind), config) for family, (kind, config) in MODELS.items()}
    print(json.dumps({"models": models, "encoders": encoders}))


if __name__ == "__main__":
    main()
