"""Few-MB models made of musubi-tuner's own classes, and its caches for them; imported in its environment only."""

import argparse
import zlib
from functools import partial
from pathlib import Path

import torch
from sd_scripts_tiny import randomized

SIZES = (11, 7, 9)  # tokens of a caption: texts of different lengths, as real ones have


def generator(*words):
    return torch.Generator().manual_seed(zlib.crc32(" ".join(map(str, words)).encode()))


def flux2(attn_mode, split_attn, size="Klein4BParams"):
    from musubi_tuner.flux_2 import flux2_models

    params = getattr(flux2_models, size)(
        in_channels=16, context_in_dim=32, hidden_size=64, num_heads=2, depth=4, depth_single_blocks=4,
        axes_dim=[8, 8, 8, 8], mlp_ratio=3.0,
    )  # fmt: skip
    return flux2_models.Flux2(params, attn_mode, split_attn)


def qwen_image(attn_mode, split_attn):
    from musubi_tuner.qwen_image import qwen_image_model

    return qwen_image_model.QwenImageTransformer2DModel(
        num_layers=4, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        attn_mode=attn_mode, split_attn=split_attn,
    )  # fmt: skip


def z_image(attn_mode, split_attn):
    from musubi_tuner.zimage import zimage_model

    return zimage_model.ZImageTransformer2DModel(
        dim=64, n_layers=4, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32, qk_norm=True,
        axes_dims=[8, 12, 12], attn_mode=attn_mode, split_attn=split_attn,
    )  # fmt: skip


def krea2(attn_mode, split_attn):
    from musubi_tuner.krea2 import krea2_mmdit

    config = krea2_mmdit.SingleMMDiTConfig(
        features=64, tdim=64, txtdim=32, heads=4, multiplier=2, layers=4, patch=2, channels=16, kvheads=1, txtlayers=2,
        txtheads=2, txtkvheads=2,
    )  # fmt: skip
    return krea2_mmdit.SingleStreamDiT(config, attn_mode, split_attn)


def ideogram4(attn_mode, split_attn):
    from musubi_tuner.ideogram4 import ideogram4_model

    config = ideogram4_model.Ideogram4Config(
        emb_dim=64, num_layers=4, num_heads=2, intermediate_size=128, adanln_dim=16, llm_features_dim=32,
        mrope_section=(6, 5, 5),
    )  # fmt: skip
    return ideogram4_model.Ideogram4Transformer(config, attn_mode, split_attn)


MAKERS = {
    "flux2_klein_4b": flux2,
    "flux2_klein_9b": partial(flux2, size="Klein9BParams"),
    "flux2_dev": partial(flux2, size="Flux2Params"),
    "qwen_image": qwen_image,
    "z_image": z_image,
    "krea2": krea2,
    "ideogram4": ideogram4,
}


def patch(trainer, family):
    """The trainer class with a tiny model in place of the file named by --dit."""

    def load_transformer(self, accelerator, args, dit_path, attn_mode, split_attn, *rest):
        torch.manual_seed(0)
        return randomized(MAKERS[family](attn_mode, split_attn))

    trainer.load_transformer = load_transformer


def save_caches(family, architecture, dataset_config):
    """Writes what the two caching scripts would: latents that depend on the name alone, texts of several lengths."""
    from musubi_tuner.dataset import cache_io, config_utils
    from musubi_tuner.dataset.image_video_dataset import ItemInfo
    from PIL import Image

    config = config_utils.load_user_config(str(dataset_config))
    blueprint = config_utils.BlueprintGenerator(config_utils.ConfigSanitizer()).generate(
        config, argparse.Namespace(debug_dataset=False), architecture=architecture
    )
    for dataset in config_utils.generate_dataset_group_by_blueprint(blueprint.dataset_group).datasets:
        for number in range(len(dataset.datasource)):
            path, _, caption = dataset.datasource.get_image_data(number)[:3]
            with Image.open(path) as opened:
                item = ItemInfo(path, caption, opened.size, opened.size)
            item.latent_cache_path = dataset.get_latent_cache_path(item)
            item.text_encoder_output_cache_path = dataset.get_text_encoder_output_cache_path(item)
            save(cache_io, family, item, Path(path).stem, SIZES[number % len(SIZES)] + len(caption) % 3)


def save(cache_io, family, item, name, tokens):
    def latents(*shape):
        return torch.randn(*shape, generator=generator(name))

    def text(*shape):
        return torch.randn(*shape, generator=generator(item.caption))

    w, h = item.original_size[0] // 8, item.original_size[1] // 8
    if family.startswith("flux2"):  # one fixed length: its cache holds a padded text
        architecture = family.replace("flux2", "flux_2")
        cache_io.save_latent_cache_flux_2(item, latents(16, h // 2, w // 2), None, architecture)
        cache_io.save_text_encoder_output_cache_flux_2(item, text(12, 32), architecture)
    elif family == "qwen_image":
        cache_io.save_latent_cache_qwen_image(item, latents(16, 1, h, w), None)
        cache_io.save_text_encoder_output_cache_qwen_image(item, text(tokens, 32))
    elif family == "z_image":
        cache_io.save_latent_cache_z_image(item, latents(16, h, w))
        cache_io.save_text_encoder_output_cache_z_image(item, text(tokens, 32))
    elif family == "ideogram4":  # its grid has 16 pixels a side, patches of the VAE's latents
        cache_io.save_latent_cache_ideogram4(item, latents(128, h // 2, w // 2))
        cache_io.save_text_encoder_output_cache_ideogram4(item, text(tokens, 32))
    else:
        cache_io.save_latent_cache_krea2(item, latents(16, 1, h, w))
        cache_io.save_text_encoder_output_cache_krea2(item, text(tokens, 2, 32))
