"""The key maps against what others say: real architectures on the meta device, and names written down by hand."""

import pytest
import torch
from torch import nn

from convert.formats.families import FAMILIES
from convert.formats.names import kohya_entries, names_of, row_share

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v")
SDXL_UNET: dict[str, object] = dict(  # noqa: C408
    cross_attention_dim=2048,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)

SMALL_9B: dict[str, object] = dict(num_attention_heads=32, attention_head_dim=128, joint_attention_dim=12288)  # noqa: C408
# Class and settings of diffusers' model where its defaults are not the published model's.
TRANSFORMERS: dict[str, tuple[str, dict[str, object]]] = {
    "sd3": (
        "SD3Transformer2DModel",
        {
            "num_layers": 38, "dual_attention_layers": tuple(range(38)), "attention_head_dim": 64,
            "num_attention_heads": 38, "in_channels": 16, "caption_projection_dim": 2432,
        },
    ),
    "flux": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "chroma": ("ChromaTransformer2DModel", {}),
    "lumina2": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
    "hunyuan_image": ("HunyuanImageTransformer2DModel", {}),
    "z_image": ("ZImageTransformer2DModel", {}),
    "qwen_image": ("QwenImageTransformer2DModel", {}),
    "flux2_dev": ("Flux2Transformer2DModel", {}),
    "flux2_klein_4b": (
        "Flux2Transformer2DModel",
        {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
    ),
    "flux2_klein_9b": ("Flux2Transformer2DModel", {"num_layers": 8, "num_single_layers": 24, **SMALL_9B}),
    "krea2": ("Krea2Transformer2DModel", {}),
    "anima": (
        "CosmosTransformer3DModel",
        {
            "in_channels": 17, "out_channels": 16, "num_attention_heads": 16, "attention_head_dim": 128,
            "num_layers": 28, "mlp_ratio": 4.0, "text_embed_dim": 1024, "adaln_lora_dim": 256,
        },
    ),
}  # fmt: skip
# Layers of diffusers' models that no file's table has: outside the blocks, and trained by nobody.
BESIDE = {
    "chroma": ("distilled_guidance_layer.layers.",),
    "hunyuan_image": ("x_embedder.", "context_embedder.", "time_guidance_embed.", "norm_out.", "proj_out"),
    "anima": ("time_embed.", "learnable_pos_embed", "crossattn_proj"),
}


def build(family):
    import diffusers

    with torch.device("meta"):
        if family == "sdxl":
            return diffusers.UNet2DConditionModel(**SDXL_UNET)
        if family in TRANSFORMERS:
            name, settings = TRANSFORMERS[family]
            return getattr(diffusers, name)(**settings)
        width = 768 if family == "sd1" else 1024
        return diffusers.UNet2DConditionModel(cross_attention_dim=width, use_linear_projection=family == "sd2")


def layers_of(model):
    return {path: m for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_layer_of_the_real_model_is_known_and_no_other(family):
    """diffusers' own model of the full architecture: exactly its linear and convolution layers are in the map."""
    real = set(layers_of(build(family)))
    known = {module for entry in FAMILIES[family].entries for module in entry.modules}
    # SD3's last context block is cut short; a LoRA may name what other depths of the family have there.
    assert {name for name in real - known if not name.startswith(BESIDE.get(family, ("-",)))} == set()
    assert {name for name in known - real if family != "sd3" or not name.startswith("transformer_blocks.37.")} == set()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_widths_are_those_of_the_real_model(family):
    """Rows and columns of every layer of the published model; the table of another width is noticed."""
    layers, hidden = layers_of(build(family)), (FAMILIES[family].hidden or (None,))[-1]
    for entry in FAMILIES[family].entries:
        for module, rows in zip(entry.modules, entry.rows, strict=True):
            if module in layers:
                shape = layers[module].weight.shape
                assert rows.fits(shape[0], hidden) and entry.columns.fits(shape[1], hidden), (module, shape)
    assert FAMILIES[family].component == "unet" or not all(
        rows.fits(shape[0], 2 * hidden)
        for entry in FAMILIES[family].entries if entry.modules[0] in layers
        for rows, shape in [(entry.rows[0], layers[entry.modules[0]].weight.shape)]
    )  # fmt: skip


@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name].component == "transformer"])
def test_joint_rows_have_the_shares_of_the_real_model(family):
    layers = layers_of(build(family))
    for entry in FAMILIES[family].entries:
        if len(entry.modules) > 1 and all(module in layers for module in entry.modules):
            rows = [layers[module].out_features for module in entry.modules]
            shares = [row_share(f"transformer.{module}") for module in entry.modules]
            assert rows == [share * min(rows) for share in shares], entry.native


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_kohya_names_are_those_of_the_trainer(family):
    """The trainer names a real U-Net's layers by its own code; both must agree on every layer."""
    from pair_network.network.targets import all_layers

    trained = {target.key: f"unet.{target.path}" for target in all_layers(None, build(family))}
    entries = kohya_entries(FAMILIES[family])
    renamed = {key: entries[key][0] for key in trained if key in entries}
    beside = {"conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2", "add_embedding_linear_1"}
    unknown = {key for key in trained if key not in entries}
    # Beside the blocks the trainer keeps diffusers' names even for SDXL; its targets never include those layers.
    assert all(key.removeprefix("lora_unet_") in beside | {"add_embedding_linear_2"} for key in unknown)
    assert all(modules == (trained[key],) for key, modules in renamed.items()) and len(renamed) > 270


@pytest.mark.parametrize("family", list(FAMILIES))
def test_writing_and_reading_names_are_inverse(family):
    names, written = names_of(FAMILIES[family]), kohya_entries(FAMILIES[family])
    assert all(names[key].modules == modules for key, (modules, _) in written.items())
    assert len({modules for modules, _ in written.values()}) == len(written)


@pytest.mark.parametrize(
    "family, key, modules",
    [
        ("sd1", "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0",
         ("unet.down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",)),
        ("sd1", "lora_unet_input_blocks_2_1_transformer_blocks_0_attn2_to_out_0",
         ("unet.down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",)),
        ("sd2", "lora_te_text_model_encoder_layers_22_mlp_fc1", ("text_encoder.text_model.encoder.layers.22.mlp.fc1",)),
        ("sdxl", "lora_unet_output_blocks_2_2_conv", ("unet.up_blocks.0.upsamplers.0.conv",)),
        ("sdxl", "lora_unet_input_blocks_3_0_op", ("unet.down_blocks.0.downsamplers.0.conv",)),
        ("sdxl", "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj",
         ("unet.mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",)),
        ("sdxl", "lora_te2_text_model_encoder_layers_31_self_attn_q_proj",
         ("text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj",)),
        ("flux", "lora_unet_single_blocks_37_linear1",
         tuple(f"transformer.single_transformer_blocks.37.{m}" for m in (*ATTENTION, "proj_mlp"))),
        ("flux", "lora_unet_double_blocks_18_txt_mlp_2", ("transformer.transformer_blocks.18.ff_context.net.2",)),
        ("flux", "lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0",
         ("text_encoder_2.encoder.block.3.layer.1.DenseReluDense.wi_0",)),
        ("sd3", "lora_unet_joint_blocks_5_context_block_attn_qkv",
         tuple(f"transformer.transformer_blocks.5.attn.add_{p}_proj" for p in "qkv")),
        ("sd3", "lora_unet_joint_blocks_5_x_block_attn2_proj", ("transformer.transformer_blocks.5.attn2.to_out.0",)),
        ("flux", "double_blocks.7.processor.qkv_lora2",
         tuple(f"transformer.transformer_blocks.7.attn.add_{p}_proj" for p in "qkv")),
        ("sd1", "text_encoder.text_model.encoder.layers.3.self_attn.to_out",
         ("text_encoder.text_model.encoder.layers.3.self_attn.out_proj",)),
    ],
)  # fmt: skip
def test_names_written_down_by_hand(family, key, modules):
    assert names_of(FAMILIES[family])[key].modules == modules
