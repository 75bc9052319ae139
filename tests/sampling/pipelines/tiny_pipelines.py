"""Tiny pipelines of every family with random weights in float64, and style networks on them."""

import copy
import importlib.util
import string
from pathlib import Path

import torch

_spec = importlib.util.spec_from_file_location("shared_conftest", Path(__file__).parents[2] / "conftest.py")
shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shared)


def make_tokenizer():
    """A CLIP tokenizer that spells every word letter by letter."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits, ",", "*"]
    vocab = {"<|startoftext|>": 0}
    for entry in [*letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>"]:
        vocab[entry] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def make_text_encoder(tokenizer, seed=0, projection=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    eos = tokenizer.eos_token_id
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=32, bos_token_id=0, eos_token_id=eos, pad_token_id=eos,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def make_t5(tokenizer):
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(9)
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def make_vae(seed=5, channels=4, **changes):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=channels, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **changes,
    ).eval()  # fmt: skip


def ready(pipe, dtype=torch.float64):
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def make_sd(scheduler=None, **unet_changes):
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = make_tokenizer()
    unet = shared.make_unet("sd")
    if unet_changes:
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config({**unet.config, **unet_changes})
    return ready(
        StableDiffusionPipeline(
            vae=make_vae(), text_encoder=make_text_encoder(tokenizer), tokenizer=tokenizer, unet=unet,
            scheduler=scheduler or DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )
    )  # fmt: skip


def make_embedded(scheduler=None):
    """The embedded model, with its trained weights."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(Path(__file__).parents[3] / "demo" / "model")
    pipe.scheduler = scheduler or pipe.scheduler
    return ready(pipe)


def make_sdxl(scheduler=None):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**shared.make_unet("sdxl").config, "cross_attention_dim": 64})
    return ready(
        StableDiffusionXLPipeline(
            vae=make_vae(), text_encoder=make_text_encoder(tokenizer), tokenizer=tokenizer, tokenizer_2=tokenizer,
            text_encoder_2=make_text_encoder(tokenizer, seed=1, projection=True), unet=unet,
            scheduler=scheduler or EulerDiscreteScheduler(), add_watermarker=False,
        )
    )  # fmt: skip


def make_sd3(scheduler=None):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=16, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64, out_channels=16,
        dual_attention_layers=(0,),
    )  # fmt: skip
    return ready(
        StableDiffusion3Pipeline(
            vae=make_vae(channels=16, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
            tokenizer=tokenizer, tokenizer_2=tokenizer, tokenizer_3=None,
            text_encoder=make_text_encoder(tokenizer, projection=True),
            text_encoder_2=make_text_encoder(tokenizer, seed=1, projection=True), text_encoder_3=None,
            transformer=transformer, scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )  # fmt: skip


def make_flux(scheduler=None, guidance_embeds=False):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return ready(
        FluxPipeline(
            vae=make_vae(shift_factor=0.1), tokenizer=tokenizer, tokenizer_2=tokenizer,
            text_encoder=make_text_encoder(tokenizer), text_encoder_2=make_t5(tokenizer), transformer=transformer,
            scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        )
    )  # fmt: skip


def make_controlnet(unet, widths=(8, 16)):
    """A ControlNet of the U-Net's shape whose zero convolutions are not zero; each width after the first halves."""
    from diffusers import ControlNetModel

    torch.manual_seed(4)
    net = ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=widths).to(
        torch.float64
    )
    with torch.no_grad():
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding):
            for parameter in block.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def make_network(model, seed, rank=3, part=".to_"):
    """A style network on the layers with ``part`` in their path, with random ups, in the model's precision."""
    from pair_network.network.config import parse_network_args
    from pair_network.network.pair_network import PairNetwork
    from pair_network.network.targets import all_layers

    config = parse_network_args(rank, 2.0, None, {})
    targets = [target for target in all_layers(None, model) if part in target.path]
    network = PairNetwork(config, targets, {target.key: (rank, rank) for target in targets})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.to(next(model.parameters()).dtype)


def merged_copy(model, network, multiplier=1.0):
    """The model with the style LoRA in its weights: W + multiplier · alpha/rank · up @ down."""
    paths = {id(module): name for name, module in model.named_modules()}
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for layer in network.coupled_layers():
            down, up = layer.downs()[1], layer.ups()[1]
            delta = (layer.style_scale * up @ down.flatten(1)).reshape(layer.base.weight.shape)
            merged.get_submodule(paths[id(layer.base)]).weight.add_(multiplier * delta)
    return merged
