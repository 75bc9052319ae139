"""SDXL at its full size with random weights, on a CPU in bf16: two steps, and what they take (7 minutes, 8 GB)."""

import os
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from pair_network.training.hosts.embedded.entry import PairTrainer
from pair_network.training.hosts.embedded.trainer import EmbeddedTrainer

pytestmark = pytest.mark.skipif(
    not os.environ.get("EMBEDDED_FULL_SIZE"), reason="set EMBEDDED_FULL_SIZE=1: it takes 8 GB and 7 minutes"
)
LIMIT = 24 * 2**30


def full_size(dtype):
    """SDXL's two text encoders, VAE and U-Net by their published configurations."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816, use_linear_projection=True,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, scaling_factor=0.13025,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        common = {"bos_token_id": 56, "eos_token_id": 57, "pad_token_id": 57}
        first = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **common
            )
        )
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                projection_dim=1280, **common,
            )
        )  # fmt: skip
    unet, vae, first, second = (filled(model, dtype) for model in (unet, vae, first, second))
    return [first, second], vae, unet


def filled(model, dtype):
    """The model with memory and random weights: the classes' own would take a quarter of an hour in bf16 on a CPU."""
    model = model.to(dtype).to_empty(device="cpu")
    noise = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1:
                scale = value[0].numel() ** -0.5
                for part in value.view(-1).split(len(noise)):
                    part.copy_(noise[: len(part)]).mul_(scale)
            else:
                value.fill_(0.0 if name.endswith("bias") else 1.0)
        for buffer in model.buffers():  # CLIP counts its tokens
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    return model


class FullSize(PairTrainer):
    sample_images = EmbeddedTrainer.sample_images

    def load_target_model(self, args, weight_dtype, accelerator):
        encoders, vae, unet = full_size(weight_dtype)
        for model in (*encoders, vae, unet):
            model.requires_grad_(False).eval()
        self.vae_scale_factor = vae.config.scaling_factor
        return "sdxl_base_v1-0", encoders, vae, unet


def test_sdxl_trains_two_steps_within_24_gb(options, pairs, sdxl, tmp_path):
    import resource

    started = time.monotonic()
    for side in ("content", "style"):  # one pair: a CPU without bf16 arithmetic is slow
        for name in ("dog", "fox"):
            (tmp_path / side / f"{name}.png").unlink()
    args = options(
        "--pretrained_model_name_or_path", str(sdxl), "--output_dir", str(tmp_path), "--output_name", "x",
        "--network_dim", "16", "--network_alpha", "16", "--learning_rate", "1e-4", "--max_train_steps", "2",
        "--style_start_step", "1", "--seed", "1", "--mixed_precision", "bf16", "--gradient_checkpointing",
        "--cache_latents", "--no_half_vae",
    )  # fmt: skip
    args.dataset_config = pairs
    FullSize().train(args)
    style = load_file(tmp_path / "x.safetensors")
    ups = {key: value for key, value in style.items() if "lora_up" in key}
    assert len(ups) == 560 and max(value.shape[0] for value in ups.values()) == 1280
    assert all(torch.isfinite(value).all() for value in ups.values()) and any(v.abs().max() > 0 for v in ups.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory {peak / 2**30:.1f} GiB, {time.monotonic() - started:.0f} s")
    assert peak < LIMIT
