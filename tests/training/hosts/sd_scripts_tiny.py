"""Few-MB models made of sd-scripts' own classes; imported in sd-scripts' environment only.

Each mixin stands in for the files on disk. Parser, dataset, caching, optimizer, loop and saving stay kohya's.
"""

import argparse
from unittest import mock

import torch
from torch import nn


def clip(hidden=32, layers=2, projection=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=77, projection_dim=hidden, bos_token_id=0, eos_token_id=2,
        pad_token_id=1,
    )  # fmt: skip
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    # kohya's sampler divides by the embeddings' mean, which a fresh layer norm makes zero.
    inner = getattr(model, "text_model", model)  # transformers 5 has one level less
    nn.init.constant_(inner.final_layer_norm.bias, 0.5)
    return model


def t5(width):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=256, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
        )
    )


def character_tokenizer():
    """One token for each printable character, so that captions stay apart; any vocabulary will do here."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=77
    )


def randomized(model, scale=0.05):
    """Layers that start at zero pass no gradient on: gives every matrix random values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=scale)
            else:  # some norms are made of uninitialised memory, to be filled by a checkpoint
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def sd_vae(**settings):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=64, latent_channels=4, layers_per_block=1, block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **settings,
    )  # fmt: skip


def flux_vae():
    from library import flux_models

    return flux_models.AutoEncoder(
        flux_models.AutoEncoderParams(
            resolution=64, in_channels=3, ch=32, out_ch=3, ch_mult=[1, 1, 1, 1], num_res_blocks=1, z_channels=16,
            scale_factor=0.36, shift_factor=0.11,
        )
    ).eval()  # fmt: skip


class Tiny:
    """For two processes on a CPU: accelerate does not wrap a frozen model there."""

    def prepare_unet_with_accelerator(self, args, accelerator, unet):
        if accelerator.num_processes > 1:
            return unet.to(accelerator.device)
        return super().prepare_unet_with_accelerator(args, accelerator, unet)


class TinySd(Tiny):
    def load_target_model(self, args, weight_dtype, accelerator):
        from library import original_unet, train_util

        torch.manual_seed(0)
        # kohya reads its U-Net's widths from module globals while constructing it.
        widths = {"BLOCK_OUT_CHANNELS": (32, 64, 64, 64), "TIMESTEP_INPUT_DIM": 32, "TIME_EMBED_DIM": 128}
        with mock.patch.multiple(original_unet, **widths):
            # an inpainting model sees latents, mask and masked latents; older checkouts know no such option
            channels = {"in_channels": 9} if getattr(args, "train_inpainting", False) else {}
            unet = original_unet.UNet2DConditionModel(
                sample_size=64, attention_head_dim=8, cross_attention_dim=32, **channels
            )
        train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
        return "sd_v1", clip(), sd_vae(), unet


def sdxl_unet():
    from library import sdxl_original_unet

    class Transformer2DModel(sdxl_original_unet.Transformer2DModel):  # kohya's networks find it by this name
        def __init__(self, *args, **named):
            super().__init__(*args, **{**named, "num_transformer_layers": 1, "cross_attention_dim": 64})

    narrow = {
        "MODEL_CHANNELS": 64, "TIME_EMBED_DIM": 256, "ADM_IN_CHANNELS": 32 + 6 * 256,
        "Transformer2DModel": Transformer2DModel,
    }  # fmt: skip
    with mock.patch.multiple(sdxl_original_unet, **narrow):
        return sdxl_original_unet.SdxlUNet2DConditionModel()


class TinySdxl(Tiny):
    def load_target_model(self, args, weight_dtype, accelerator):
        from library import train_util

        torch.manual_seed(0)
        unet = sdxl_unet()
        train_util.replace_unet_modules(unet, args.mem_eff_attn, args.xformers, args.sdpa)
        self.load_stable_diffusion_format, self.logit_scale, self.ckpt_info = True, None, None
        return "sdxl_base_v1-0", [clip(layers=12), clip(projection=True)], sd_vae(), unet


def sd3_model():
    from library import sd3_models

    model = sd3_models.MMDiT(
        input_size=None, patch_size=2, in_channels=16, depth=2, mlp_ratio=2, adm_in_channels=64,
        context_embedder_in_features=4096, context_embedder_out_features=128, pos_embed_max_size=32,
        num_patches=32 * 32, qk_norm="rms", x_block_self_attn_layers=[0],
    )  # fmt: skip
    nn.init.zeros_(model.pos_embed)
    return randomized(model)


class TinySd3(Tiny):
    def get_tokenize_strategy(self, args):
        from library import strategy_sd3

        with mock.patch.object(strategy_sd3, "T5TokenizerFast", FromPretrained):
            return super().get_tokenize_strategy(args)

    def load_target_model(self, args, weight_dtype, accelerator):
        from library import sd3_models

        torch.manual_seed(0)
        model = sd3_model()
        self.model_type = model.model_type
        self.is_swapping_blocks = False
        if args.fp8_base:
            model.to(torch.float8_e4m3fn)
        vae = sd3_models.SDVAE.__new__(sd3_models.SDVAE)
        nn.Module.__init__(vae)
        vae.encoder = sd3_models.VAEEncoder(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)
        vae.decoder = sd3_models.VAEDecoder(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)
        encoders = [clip(projection=True), clip(projection=True), t5(4096)]
        return model.model_type, [encoder.eval() for encoder in encoders], vae, model


class FromPretrained:
    """A tokenizer class whose files are not there."""

    @classmethod
    def from_pretrained(cls, *args, **named):
        return character_tokenizer()


def flux_model():
    from library import flux_models

    params = flux_models.FluxParams(
        in_channels=64, vec_in_dim=32, context_in_dim=32, hidden_size=64, mlp_ratio=2, num_heads=2, depth=4,
        depth_single_blocks=4, axes_dim=[8, 12, 12], theta=10000, qkv_bias=True, guidance_embed=True,
    )  # fmt: skip
    return randomized(flux_models.Flux(params))


class TinyFlux(Tiny):
    def get_tokenize_strategy(self, args):
        from library import flux_utils, strategy_flux

        with (
            mock.patch.object(strategy_flux, "T5TokenizerFast", FromPretrained),
            mock.patch.object(flux_utils, "analyze_checkpoint_state", lambda path: (False, False, (2, 2), [])),
        ):
            return super().get_tokenize_strategy(args)

    def load_target_model(self, args, weight_dtype, accelerator):
        torch.manual_seed(0)
        model = flux_model()
        if args.fp8_base:
            model.to(torch.float8_e4m3fn)
        if args.blocks_to_swap:
            self.is_swapping_blocks = True
            model.enable_block_swap(args.blocks_to_swap, accelerator.device)
        return "flux1", [clip().eval(), t5(32).eval()], flux_vae(), model


def lumina_model():
    from library import lumina_models

    return randomized(
        lumina_models.NextDiT(
            patch_size=2, in_channels=16, dim=64, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=2,
            multiple_of=16, qk_norm=True, cap_feat_dim=32, axes_dims=[4, 6, 6], axes_lens=[300, 64, 64],
        )
    )  # fmt: skip


def gemma():
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0,
    )  # fmt: skip
    return Gemma2Model(config).eval()


class TinyLumina(Tiny):
    def get_tokenize_strategy(self, args):
        from library import strategy_lumina

        with mock.patch.object(strategy_lumina, "AutoTokenizer", FromPretrained):
            return super().get_tokenize_strategy(args)

    def load_target_model(self, args, weight_dtype, accelerator):
        torch.manual_seed(0)
        return "lumina2", [gemma()], flux_vae(), lumina_model()


def hunyuan_image_model(hidden=64, heads=2):
    """HunyuanImage's transformer is written for one size: the same parts, narrow and few."""
    from library import hunyuan_image_models as models

    model = models.HYImageDiffusionTransformer.__new__(models.HYImageDiffusionTransformer)
    nn.Module.__init__(model)
    model.patch_size, model.in_channels, model.out_channels, model.unpatchify_channels = [1, 1], 16, 16, 16
    model.rope_dim_list, model.rope_theta = [16, 16], 256
    model.hidden_size, model.heads_num, model.attn_mode, model.split_attn = hidden, heads, "torch", False
    model.byt5_in = models.ByT5Mapper(in_dim=16, out_dim=32, hidden_dim=32, out_dim1=hidden, use_residual=False)
    model.img_in = models.PatchEmbed2D(model.patch_size, model.in_channels, hidden)
    model.txt_in = models.SingleTokenRefiner(32, hidden, heads, depth=1)
    model.time_in = models.TimestepEmbedder(hidden, nn.SiLU)
    model.time_r_in = model.guidance_in = None
    model.double_blocks = nn.ModuleList(models.MMDoubleStreamBlock(hidden, heads, 2, qkv_bias=True) for _ in range(2))
    model.single_blocks = nn.ModuleList(models.MMSingleStreamBlock(hidden, heads, 2) for _ in range(2))
    model.final_layer = models.FinalLayer(hidden, model.patch_size, model.out_channels, nn.SiLU)
    model.gradient_checkpointing = model.cpu_offload_checkpointing = False
    model.blocks_to_swap = model.offloader_double = model.offloader_single = None
    model.num_double_blocks = model.num_single_blocks = 2
    return randomized(model)


class TinyHunyuanImage(Tiny):
    """Its two text encoders (7 B and byT5) are replaced by embeddings of the characters."""

    def get_tokenize_strategy(self, args):
        from library import strategy_base

        class Characters(strategy_base.TokenizeStrategy):
            vlm_tokenizer = byt5_tokenizer = character_tokenizer()

            def tokenize(self, text):
                texts = [text] if isinstance(text, str) else text
                both = self.vlm_tokenizer(
                    texts, max_length=16, padding="max_length", truncation=True, return_tensors="pt"
                )
                return [both.input_ids, both.attention_mask, both.input_ids[:, :8], both.attention_mask[:, :8]]

        return Characters()

    def get_text_encoding_strategy(self, args):
        from library import strategy_hunyuan_image

        class Embeddings(strategy_hunyuan_image.HunyuanImageTextEncodingStrategy):
            def encode_tokens(self, tokenize_strategy, models, tokens):
                table = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
                words, words_mask, bytes_, bytes_mask = tokens
                ocr_mask = torch.zeros(len(words)).bool()
                return [table[words], words_mask, table[bytes_][..., :16], bytes_mask, ocr_mask]

        return Embeddings()

    def load_target_model(self, args, weight_dtype, accelerator):
        from library import hunyuan_image_vae

        torch.manual_seed(0)
        vae = hunyuan_image_vae.HunyuanVAE2D.__new__(hunyuan_image_vae.HunyuanVAE2D)
        nn.Module.__init__(vae)
        vae.ffactor_spatial, vae.scaling_factor = 32, hunyuan_image_vae.LATENT_SCALING_FACTOR
        vae.use_spatial_tiling, vae.use_slicing = False, False
        shape = {"z_channels": 16, "num_res_blocks": 1, "ffactor_spatial": 32}
        vae.encoder = hunyuan_image_vae.Encoder(in_channels=3, block_out_channels=(32,) * 6, **shape)
        vae.decoder = hunyuan_image_vae.Decoder(out_channels=3, block_out_channels=(32,) * 6, **shape)
        self.is_swapping_blocks = False
        return "hunyuan_image_2_1", [clip().eval(), clip().eval()], vae.eval(), None

    def load_unet_lazily(self, args, weight_dtype, accelerator, text_encoders):
        return hunyuan_image_model(), text_encoders


def anima_model():
    from library import anima_models

    return randomized(
        anima_models.Anima(
            max_img_h=64, max_img_w=64, max_frames=4, in_channels=16, out_channels=16, patch_spatial=2,
            patch_temporal=1, model_channels=64, num_blocks=2, num_heads=2, mlp_ratio=2, crossattn_emb_channels=32,
            pos_emb_cls="rope3d", pos_emb_learnable=True, use_adaln_lora=True, adaln_lora_dim=16,
            rope_enable_fps_modulation=False,
        )
    )  # fmt: skip


def qwen3():
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    return Qwen3Model(config).eval()


class PlainAdapter(nn.Module):
    """In the place of Anima's LLM adapter, whose width is fixed at 1024: passes the text encoder's output on."""

    def forward(self, source_hidden_states, target_input_ids, target_attention_mask=None, source_attention_mask=None):
        return source_hidden_states.clone()


class TinyAnima(Tiny):
    def get_tokenize_strategy(self, args):
        from library import strategy_anima

        return strategy_anima.AnimaTokenizeStrategy(
            character_tokenizer(), character_tokenizer(), qwen3_max_length=32, t5_max_length=32
        )

    def load_target_model(self, args, weight_dtype, accelerator):
        from library import qwen_image_autoencoder_kl

        torch.manual_seed(0)
        self.is_swapping_blocks = False
        vae = qwen_image_autoencoder_kl.AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
        return "anima", [qwen3()], vae.eval(), None

    def load_unet_lazily(self, args, weight_dtype, accelerator, text_encoders):
        self._use_unsloth_offload_checkpointing = False
        model = anima_model()
        model.llm_adapter = PlainAdapter()
        return model, text_encoders


MIXINS = {
    "sd": TinySd,
    "sdxl": TinySdxl,
    "sd3": TinySd3,
    "flux": TinyFlux,
    "lumina": TinyLumina,
    "hunyuan_image": TinyHunyuanImage,
    "anima": TinyAnima,
}


def unet_of(model_type):
    """The tiny denoiser of a family alone, to compare layer names on."""
    makers = {
        "sd3": sd3_model, "flux": flux_model, "lumina": lumina_model, "hunyuan_image": hunyuan_image_model,
        "anima": anima_model, "sdxl": sdxl_unet,
    }  # fmt: skip
    if model_type in makers:
        return makers[model_type]()
    options = argparse.Namespace(mem_eff_attn=False, xformers=False, sdpa=False)
    return TinySd().load_target_model(options, None, None)[3]
