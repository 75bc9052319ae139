"""Anima: Cosmos Predict 2's transformer with Qwen 3 as its text encoder."""

from .family import Family, SdScripts, Words

_PATH = r"^blocks\.\d+\."

FAMILY = Family(
    name="anima",
    title="Anima",
    order=90,
    component="transformer",
    kohya_is_native=True,
    words=Words("anima", "anima-preview/lora", ("anima",), ("anima",)),
    kinds={
        "attention": _PATH + r"(self|cross)_attn\.(q|k|v|output)_proj$",
        "ff": _PATH + r"mlp\.layer[12]$",
        "modulation": _PATH + r"adaln_modulation_\w+\.\d$",
        "full": _PATH + r"((self|cross)_attn\.\w+_proj|mlp\.layer[12])$",
    },
    model_classes=("Anima",),
    diffusers_class="CosmosTransformer3DModel",
    pipelines=("Anima",),
    marks=("llm_adapter.blocks.0.cross_attn.q_proj.weight",),
    presets=("anima",),
    sd_scripts=SdScripts("anima", "anima_train_network", "AnimaNetworkTrainer"),
)
