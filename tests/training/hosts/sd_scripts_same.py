"""One step of both hosts on the same weights, images, noise and timesteps; prints the two losses.

On sd-scripts this is a patch (PAIR_PATCH=sd_scripts_same) with MODEL_FOLDER in the environment. As a script it makes
that folder (``make sd|sdxl FOLDER TOKENIZERS``, in sd-scripts' environment) or runs the embedded host (``embedded
PROJECT …``).
"""

import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import torch

WIDTHS = (32, 64, 64, 64)


def fix_draws():
    """Noise and timesteps that depend on their shape alone, and latents without noise."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from pair_network.training.trainer import PairTraining

    def generator():
        return torch.Generator().manual_seed(5)

    draw, draw_integers, finish = torch.randn, torch.randint, PairTraining._finish_step

    def finish_step(self, loss, *rest):
        named = {name: float(value) for name, value in self._last_losses.items()}
        print("LOSSES", {**named, "sum": float(loss.detach())})
        return finish(self, loss, *rest)

    torch.randn_like = lambda like, **options: draw(like.shape, generator=generator())
    torch.randint = lambda low, high, size, **options: draw_integers(low, high, size, generator=generator())
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
    PairTraining._finish_step = finish_step


def patch(host):
    """sd-scripts' trainer loads the folder's weights into its own U-Net class."""
    import sd_scripts_tiny

    def load_target_model(self, args, weight_dtype, accelerator):
        from diffusers import AutoencoderKL
        from library import original_unet
        from safetensors.torch import load_file
        from transformers import CLIPTextModel

        folder = os.environ["MODEL_FOLDER"]
        widths = {"BLOCK_OUT_CHANNELS": WIDTHS, "TIMESTEP_INPUT_DIM": 32, "TIME_EMBED_DIM": 128}
        with mock.patch.multiple(original_unet, **widths):
            unet = original_unet.UNet2DConditionModel(sample_size=16, attention_head_dim=8, cross_attention_dim=32)
        unet.load_state_dict(load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors"))
        text_encoder = CLIPTextModel.from_pretrained(f"{folder}/text_encoder")
        return "sd_v1", text_encoder, AutoencoderKL.from_pretrained(f"{folder}/vae"), unet

    def load_sdxl(self, args, weight_dtype, accelerator):
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        folder = os.environ["MODEL_FOLDER"]
        unet = sd_scripts_tiny.sdxl_unet()
        unet.load_state_dict(original_unet_weights(f"{folder}/unet/diffusion_pytorch_model.safetensors"))
        encoders = [
            CLIPTextModel.from_pretrained(f"{folder}/text_encoder"),
            CLIPTextModelWithProjection.from_pretrained(f"{folder}/text_encoder_2"),
        ]
        self.load_stable_diffusion_format, self.logit_scale, self.ckpt_info = True, None, None
        return "sdxl_base_v1-0", encoders, AutoencoderKL.from_pretrained(f"{folder}/vae"), unet

    sd_scripts_tiny.TinySd.load_target_model = load_target_model
    sd_scripts_tiny.TinySdxl.load_target_model = load_sdxl
    if "MODEL_FOLDER" in os.environ:
        fix_draws()


def original_unet_weights(file):
    """diffusers' SDXL U-Net under the original names, which are those of sd-scripts' class."""
    from safetensors.torch import load_file

    from demo.single_file import renamed, unet_key

    labels = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    attends = [True, True, False]
    return {renamed(unet_key(key, 2, attends), labels): value for key, value in load_file(file).items()}


def make_sdxl(folder, tokenizers):
    """A diffusers folder of a tiny SDXL: the shapes of ``sd_scripts_tiny.sdxl_unet``."""
    import sd_scripts_tiny
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 256), layers_per_block=2, cross_attention_dim=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(1, 2, 4),
        addition_embed_type="text_time", addition_time_embed_dim=256, use_linear_projection=True,
        projection_class_embeddings_input_dim=32 + 6 * 256,
    )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False
    )
    StableDiffusionXLPipeline(
        vae=sd_scripts_tiny.sd_vae(scaling_factor=0.13025), text_encoder=sd_scripts_tiny.clip(layers=12),
        text_encoder_2=sd_scripts_tiny.clip(projection=True), unet=unet, scheduler=scheduler,
        tokenizer=CLIPTokenizer.from_pretrained(Path(tokenizers, "openai_clip-vit-large-patch14")),
        tokenizer_2=CLIPTokenizer.from_pretrained(Path(tokenizers, "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def make(folder, tokenizers):
    """A diffusers folder of a tiny Stable Diffusion 1.x."""
    import sd_scripts_tiny
    from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=WIDTHS, layers_per_block=2, cross_attention_dim=32, attention_head_dim=8
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False
    )
    tokenizer = CLIPTokenizer.from_pretrained(Path(tokenizers, "openai_clip-vit-large-patch14"))
    StableDiffusionPipeline(
        vae=sd_scripts_tiny.sd_vae(), text_encoder=sd_scripts_tiny.clip(), tokenizer=tokenizer, unet=unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def main():
    task, *rest = sys.argv[1:]
    if task == "make":
        model_type, folder, tokenizers = rest
        sys.path.insert(0, str(Path(__file__).parent))
        (make_sdxl if model_type == "sdxl" else make)(folder, tokenizers)
        for name in ("tokenizer", "tokenizer_2"):
            vocabulary = Path(folder, name, "vocab.json")
            if vocabulary.parent.is_dir() and not vocabulary.exists():  # one vocabulary is both tokenizers'
                shutil.copy(Path(tokenizers, "openai_clip-vit-large-patch14/vocab.json"), vocabulary)
        return
    project, *options = rest
    sys.path.insert(0, project)
    from pair_network.training.hosts import embedded
    from pair_network.training.hosts.embedded.entry import PairTrainer
    from pair_network.training.hosts.embedded.trainer import EmbeddedTrainer

    fix_draws()
    PairTrainer.sample_images = EmbeddedTrainer.sample_images  # no previews at the end
    sys.exit(embedded.train(options))


if __name__ == "__main__":
    main()
