"""Stable Diffusion 1.5 at its full size with random weights, in place of the tiny model (PAIR_PATCH)."""

import torch


def patch(host):
    host.NetworkTrainer.load_target_model = load_target_model


def load_target_model(self, args, weight_dtype, accelerator):
    from diffusers import AutoencoderKL
    from library import original_unet, train_util
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = original_unet.UNet2DConditionModel(sample_size=64, attention_head_dim=8, cross_attention_dim=768)
    train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )
    vae = AutoencoderKL(
        sample_size=512, latent_channels=4, layers_per_block=2, block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return "sd_v1", text_encoder, vae, unet
