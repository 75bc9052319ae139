"""network_args of kohya's own network modules and of LyCORIS, and what says the same here.

None of them is taken and then ignored: each is refused with the setting to use instead.
"""

from __future__ import annotations

import re

_BLOCKS = "block_dims=PART=RANK,… sets the rank of all layers whose path holds PART, and 0 leaves them out"
_KINDS = f"targets names kinds of layer (attention+ff, full …), and {_BLOCKS}"
_RATES = "content_lr and style_lr set the rates of the two branches; there is none for single layers"
_ONE_ALPHA = "one alpha holds for all layers (network_alpha), as scale = alpha / rank"

# Patterns of whole keys -> what to do; the first that fits wins.
REMEDIES: dict[str, str] = {
    r"conv_dim|conv_alpha": "convolutions are a target: targets=attention+conv, with the rank of the other layers",
    r"loraplus_(unet_|text_encoder_)?lr_ratio": "LoRA+ raises the rate of the ups over the downs', but with frozen "
    "downs the ups are all that trains: raise learning_rate, or style_lr",
    r"network_reg_dims|in_dims|emb_dims|(img|txt|context|x)_(attn|mlp|mod)_dim|single(_mod)?_dim"
    r"|(self|cross)_attn_dim|mlp_dim|mod_dim|refiner_dim|embedder_dims|llm_adapter_dim|attn_dim|ffn_dim": _BLOCKS,
    r"network_reg_lrs|(down|mid|up)_lr_weight|block_lr_zero_threshold": _RATES,
    r"block_alphas|conv_block_(dims|alphas)": _ONE_ALPHA,
    r"train_blocks|train_(double_|single_)?block_indices|exclude_patterns|include_patterns"
    r"|train_llm_adapter|train_norm|enable_all_linear|enable_conv": _KINDS,
    r"train_t5xxl": "T5 is a target: targets=attention+t5",
    r"ggpo_(beta|sigma)": "GGPO perturbs the downs, which are frozen here; dropout and rank_dropout regularise",
    r"use_dora|dora": "DoRA scales whole weights, and so ties the branches; pair training has plain LoRA layers",
    r"algo|preset|factor|use_tucker|use_scalar|decompose_both|dora_wd|bypass_mode|train_on_input|unit": "this is a "
    "setting of LyCORIS; pair training has plain LoRA layers only",
    r"verbose": "the log level is the host's",
}


def remedy(key: str) -> str:
    """What to write instead of another network module's argument, or "" for a key that none of them has."""
    return next((advice for pattern, advice in REMEDIES.items() if re.fullmatch(pattern, key)), "")
