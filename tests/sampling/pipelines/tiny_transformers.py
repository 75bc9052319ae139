"""Tiny pipelines of FLUX.2, Qwen-Image and Z-Image with random weights in float64."""

import importlib.util
from pathlib import Path

import torch

_spec = importlib.util.spec_from_file_location("tiny_pipelines", Path(__file__).with_name("tiny_pipelines.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

WIDTH = 16  # of the text encoders


def make_tokenizer():
    """A byte-level tokenizer without merges, whose chat template is the user's messages in angle brackets."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    # FLUX.2 dev's system message would leave no room for the prompt.
    tokenizer.chat_template = (
        "{% for one in messages if one.role != 'system' %}<{% if one.content is string %}{{ one.content }}{% else %}"
        "{{ one.content[0].text }}{% endif %}>{% endfor %}"
    )
    return tokenizer


def make_qwen3(tokenizer, kind="Qwen3ForCausalLM"):
    import transformers

    torch.manual_seed(1)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def make_z_image():
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[256, 32, 32],
    )  # fmt: skip
    with torch.no_grad():  # its pad tokens are made empty, for files to fill
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            token.copy_(torch.randn(token.shape))
    return tiny.ready(
        ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=tiny.make_vae(shift_factor=0.1),
            text_encoder=make_qwen3(tokenizer, "Qwen3Model"), tokenizer=tokenizer, transformer=transformer,
        )
    )  # fmt: skip


def make_qwen_image():
    import diffusers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    text = {
        "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_theta": 1e6,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return tiny.ready(
        diffusers.QwenImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=encoder, tokenizer=tokenizer,
            transformer=transformer,
        )
    )  # fmt: skip


def _flux2_parts(guidance_embeds):
    import diffusers

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(8,),
        layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    return {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "vae": vae, "text_encoder": make_qwen3(tokenizer),
        "tokenizer": tokenizer, "transformer": transformer,
    }  # fmt: skip


def make_flux2_klein(is_distilled=False):
    from diffusers import Flux2KleinPipeline

    return tiny.ready(Flux2KleinPipeline(**_flux2_parts(False), is_distilled=is_distilled))


def make_flux2():
    """FLUX.2 dev, with a small Qwen3 in Mistral's place."""
    from diffusers import Flux2Pipeline

    return tiny.ready(Flux2Pipeline(**_flux2_parts(True)))
