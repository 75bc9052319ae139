"""Tiny models in Stable Diffusion's layout, shared by the tests."""

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples on every machine, and none refused for what a busy one needs longer than usual for.
settings.register_profile("certain", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("certain")


def make_unet(kind="sd", seed=0):
    """A U-Net of about 0.2 M parameters: SD1/2 names, or SDXL's conditioning and block layout."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    common = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "norm_num_groups": 8, "cross_attention_dim": 32}
    if kind == "sd":
        return UNet2DConditionModel(
            **common,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
        )
    return UNet2DConditionModel(
        **common,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 2, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )


def make_text_encoder(seed=0, projection=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=32, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


@pytest.fixture
def unet():
    return make_unet()


@pytest.fixture
def sdxl_unet():
    return make_unet("sdxl")


@pytest.fixture
def text_encoder():
    return make_text_encoder()


@pytest.fixture
def run_unet():
    """Function: output of a U-Net on seeded inputs of ``rows`` rows."""

    def run(model, rows=2, seed=3):
        generator = torch.Generator().manual_seed(seed)
        dtype = next(model.parameters()).dtype
        sample = torch.randn(rows, 4, 8, 8, generator=generator).to(dtype)
        text = torch.randn(rows, 6, 32, generator=generator).to(dtype)
        extra = {}
        if model.config.addition_embed_type == "text_time":
            extra["added_cond_kwargs"] = {
                "text_embeds": torch.randn(rows, 32, generator=generator).to(dtype),
                "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]] * rows).to(dtype),
            }
        return model(sample, torch.tensor([7] * rows), text, **extra).sample

    return run


@pytest.fixture
def perturb():
    """Function: gives a network's ups (and trained downs) random values, so that nothing is trivially equal."""

    def apply(network, seed=1, scale=0.1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
        return network

    return apply
