"""Tiny pipelines in float64 with random weights, and the paper's eq. 10 and 11 evaluated slowly beside them."""

import copy
import importlib.util
import string
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

_spec = importlib.util.spec_from_file_location("shared_conftest", Path(__file__).parents[1] / "conftest.py")
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


def make_controlnet(unet):
    """A ControlNet of the U-Net's shape whose zero convolutions are not zero."""
    from diffusers import ControlNetModel

    torch.manual_seed(4)
    net = ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 16)).to(
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
    from pair_network.config import parse_network_args
    from pair_network.network import PairNetwork
    from pair_network.targets import all_layers

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


ROWLESS = ("img_ids", "txt_ids")


def row_of(value, row, rows):
    """One row of every batched tensor in a model's inputs."""
    if isinstance(value, torch.Tensor):
        return value[row : row + 1] if value.dim() and value.shape[0] == rows else value
    if isinstance(value, dict):
        return {key: entry if key in ROWLESS else row_of(entry, row, rows) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(row_of(entry, row, rows) for entry in value)
    return value


class Steps:
    """What a pipeline asks of its model in every step, and the combined prediction that it then gives the scheduler."""

    def __init__(self, pipe):
        self.pipe, self.model = pipe, denoiser_of(pipe)
        self.steps = []  # (progress, the step's model inputs, prediction)
        self.calls = []
        self.inner_rows = []  # batch rows that really pass through the model

    def __enter__(self):
        def note(_, args, kwargs):
            inputs = dict(zip(("sample", "timestep"), args, strict=False)) | kwargs
            inputs["return_dict"] = False
            self.calls.append({key: copy.copy(value) for key, value in inputs.items()})

        first_layer = next(m for m in self.model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)))
        self.hooks = [
            self.model.register_forward_pre_hook(note, with_kwargs=True),
            first_layer.register_forward_pre_hook(lambda _, args: self.inner_rows.append(args[0].shape[0])),
        ]
        self.scheduler_step = self.pipe.scheduler.step
        self.pipe.scheduler.step = self._step
        return self

    def _step(self, prediction, timestep, *args, **kwargs):
        schedule = self.pipe.scheduler.timesteps.tolist()
        place = getattr(self.pipe.scheduler, "step_index", None)
        if place is None:
            schedule = list(dict.fromkeys(schedule))
            place = schedule.index(float(timestep))
        self.steps.append((place / len(schedule), self.calls, prediction.clone()))
        self.calls = []
        return self.scheduler_step(prediction, timestep, *args, **kwargs)

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
        del self.pipe.scheduler.step


@torch.no_grad()
def check_equation(steps, styles, models, embeds, cfg, rescale=0.0, tolerance=1e-8):
    """Every step's prediction against uncond + cfg (cond − uncond) + Σ λ_i (style_i − cond), row by row.

    Args:
        steps: A ``Steps`` that watched the run.
        styles: Each with scale, start and end.
        models: For each style a copy of the model with the LoRA merged into its weights.
        embeds: For each style its prompt's (embeds, pooled or None) with one row per image.
        cfg: guidance_scale; 1 for none.
        rescale: guidance_rescale, measured on the unshifted cond.

    Returns:
        Number of style terms that were evaluated.
    """
    terms = 0
    for number, (progress, calls, prediction) in enumerate(steps.steps):
        images = prediction.shape[0]
        for image in range(images) if images < 3 else [number % images]:  # of many images one in each step, in turn
            inputs, negative = _image_inputs(calls, image, prediction.shape[0], cfg)
            cond = steps.model(**inputs)[0]
            null = cond if negative is None else steps.model(**negative)[0]
            noise = null + cfg * (cond - null)
            for style, model, (text, pooled) in zip(styles, models, embeds, strict=True):
                if style.scale and style.start <= progress < style.end:
                    styled = _with_prompt(
                        inputs, text[image : image + 1], None if pooled is None else pooled[image : image + 1]
                    )
                    noise = noise + style.scale * (model(**styled)[0] - cond)
                    terms += 1
            if rescale:
                axes = list(range(1, noise.dim()))
                matched = noise * cond.std(dim=axes, keepdim=True) / noise.std(dim=axes, keepdim=True)
                noise = rescale * matched + (1 - rescale) * noise
            torch.testing.assert_close(prediction[image : image + 1], noise, rtol=0, atol=tolerance)
    return terms


def _image_inputs(calls, image, images, cfg):
    """Model inputs of one image for the prompt and, with CFG, for the negative prompt."""
    rows = calls[0].get("sample", calls[0].get("hidden_states")).shape[0]
    if cfg <= 1:
        return row_of(calls[0], image, rows), None
    if rows == images:  # two calls: the prompt's, then the negative prompt's
        return row_of(calls[0], image, rows), row_of(calls[1], image, rows)
    return row_of(calls[0], images + image, rows), row_of(calls[0], image, rows)


def _with_prompt(inputs, text, pooled):
    styled = {**inputs, "encoder_hidden_states": text}
    if "pooled_projections" in inputs:
        styled["pooled_projections"] = pooled
    if "text_embeds" in (inputs.get("added_cond_kwargs") or {}):
        styled["added_cond_kwargs"] = {**inputs["added_cond_kwargs"], "text_embeds": pooled}
    return styled


def encode(pipe, prompt, images=1):
    """(embeds, pooled or None) of prompts, by the pipeline's own encoder, ``images`` rows for each prompt."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    kind = type(pipe).__name__
    with torch.no_grad():
        if "Flux" in kind:
            return type(pipe).encode_prompt(pipe, prompts, num_images_per_prompt=images)[:2]
        if "StableDiffusion3" in kind:
            embeds, _, pooled, _ = type(pipe).encode_prompt(
                pipe, prompts, None, None, num_images_per_prompt=images, do_classifier_free_guidance=False
            )
            return embeds, pooled
        result = type(pipe).encode_prompt(
            pipe, prompts, device="cpu", num_images_per_prompt=images, do_classifier_free_guidance=False
        )
        return (result[0], result[2]) if "XL" in kind else (result[0], None)


@pytest.fixture
def tools():
    """The builders and the reference of this file, for the tests."""
    return SimpleNamespace(
        make_sd=make_sd, make_sdxl=make_sdxl, make_sd3=make_sd3, make_flux=make_flux, make_controlnet=make_controlnet,
        make_network=make_network, merged_copy=merged_copy, denoiser_of=denoiser_of, Steps=Steps,
        check_equation=check_equation, encode=encode, ready=ready,
    )  # fmt: skip


@pytest.fixture
def sd():
    return make_sd()
