"""Runs in sd-scripts' own environment: trains a tiny SD1.5 made of its own classes on kohya's NetworkTrainer.

Arguments: the checkout, the project's folder, then sd-scripts' own options.
"""

import sys
from unittest import mock

import torch


def tiny_text_encoder(hidden=32):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )
    )  # fmt: skip


def tiny_unet(context=32):
    """kohya reads its U-Net's widths from module globals while constructing it."""
    from library import original_unet

    widths = {"BLOCK_OUT_CHANNELS": (32, 64, 64, 64), "TIMESTEP_INPUT_DIM": 32, "TIME_EMBED_DIM": 128}
    with mock.patch.multiple(original_unet, **widths):
        return original_unet.UNet2DConditionModel(sample_size=64, attention_head_dim=8, cross_attention_dim=context)


def tiny_vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=64, latent_channels=4, layers_per_block=1, block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


class TinyModel:
    """Stands in for the checkpoint on disk; everything else is kohya's."""

    def load_target_model(self, args, weight_dtype, accelerator):
        from library import train_util

        torch.manual_seed(0)
        unet = tiny_unet()
        train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
        return "sd_v1", tiny_text_encoder(), tiny_vae(), unet


def main():
    checkout, project, *options = sys.argv[1:]
    sys.path.insert(0, project)
    from pair_network.hosts import sd_scripts

    host = sd_scripts.import_sd_scripts(checkout)
    host.NetworkTrainer = type("TinyTrainer", (TinyModel, host.NetworkTrainer), {})
    sd_scripts.train(checkout, options)


if __name__ == "__main__":
    main()
