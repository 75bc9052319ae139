"""The hooks of the embedded host's trainer: those of sd-scripts' NetworkTrainer, with the same arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pair_network.errors import PairError
from pair_network.sampling.protocols import TextEncoder, Tokenizer, UNet, Vae

from ...protocols import Batch, NoiseScheduler, StepInputs
from .caching import cache_captions, captions_change
from .config import EmbeddedOptions
from .dataset import DatasetGroup
from .disk_cache import captions_on_disk
from .loss import draw_noise, draw_timesteps, min_snr_weight, row_loss
from .metadata import model_version, sai_model_spec
from .model import (
    TextEncoders,
    TextEncodingStrategy,
    TokenizeStrategy,
    load_models,
    make_noise_scheduler,
    move,
    read_model_facts,
    use_xformers,
)
from .model_files import find_model
from .numbers import check_latents
from .optimizers import rate_logs, reduce_gradients
from .quantize import quantization
from .sdxl import SdxlTextEncodingStrategy, SdxlTokenizeStrategy, unet_inputs


class TrainerHooks:
    """What a training on Stable Diffusion 1.x, 2.x or XL does at each of its stages.

    Override a hook, and call it positionally, as on sd-scripts.
    """

    def __init__(self) -> None:
        self.vae_scale_factor = 0.18215
        self.resolution = (512, 512)

    def assert_extra_args(
        self, args: EmbeddedOptions, train_dataset_group: DatasetGroup, val_dataset_group: DatasetGroup | None
    ) -> None:
        """Checks before any model is loaded."""

    def attach_content(
        self, args: EmbeddedOptions, train_dataset_group: DatasetGroup, val_dataset_group: DatasetGroup | None
    ) -> list[tuple[str, str]]:
        """(content caption, style caption) of every pair; the content images are in the batches already.

        Raises:
            PairError: A subset names no content images.
        """
        for subset in train_dataset_group.subsets_without_content:
            raise PairError(
                f"{subset.image_dir}: no content images for these style images; add "
                'custom_attributes = { content_dir = "…" } to their subset'
            )
        return train_dataset_group.pair_captions()

    def load_target_model(
        self, args: EmbeddedOptions, weight_dtype: torch.dtype, accelerator: Accelerator
    ) -> tuple[str, TextEncoders, Vae, UNet]:
        """(family, text encoder or both of SDXL, VAE, U-Net), frozen and on the CPU."""
        precision = None if weight_dtype == torch.float32 else weight_dtype
        text_encoder, vae, unet = load_models(find_model(args), precision, quantization(args))
        if args.xformers:
            use_xformers(unet)
        self.vae_scale_factor = vae.config.scaling_factor
        return model_version(args), text_encoder, vae, unet

    def get_tokenize_strategy(self, args: EmbeddedOptions) -> TokenizeStrategy:
        folder = find_model(args).folder
        return SdxlTokenizeStrategy(folder) if args.model_type == "sdxl" else TokenizeStrategy(folder)

    def get_text_encoding_strategy(self, args: EmbeddedOptions) -> TextEncodingStrategy:
        return SdxlTextEncodingStrategy() if args.model_type == "sdxl" else TextEncodingStrategy(args.clip_skip)

    def is_train_text_encoder(self, args: EmbeddedOptions) -> bool:
        return not args.network_train_unet_only

    def cache_text_encoder_outputs_if_needed(
        self,
        args: EmbeddedOptions,
        accelerator: Accelerator,
        unet: nn.Module,
        vae: Vae,
        text_encoders: Sequence[TextEncoder],
        dataset: DatasetGroup,
        weight_dtype: torch.dtype,
    ) -> None:
        """Moves the text encoders to the device; caches all embeddings unless they change from step to step.

        After that the encoders wait on the CPU: previews alone need them again.
        """
        for text_encoder in text_encoders:
            move(text_encoder, accelerator.device, weight_dtype)
        if captions_change(args, dataset, self.is_train_text_encoder(args)):
            return
        strategy, tokenizer = self.get_text_encoding_strategy(args), dataset.tokenize_strategy
        assert tokenizer is not None

        def encode(ids: list[Tensor]) -> list[Tensor]:
            with accelerator.autocast():
                return strategy.encode_tokens(tokenizer, text_encoders, ids)

        cache_captions(dataset, encode, disk=captions_on_disk(args, weight_dtype))
        for text_encoder in text_encoders:
            text_encoder.to("cpu")

    def post_process_network(
        self,
        args: EmbeddedOptions,
        accelerator: Accelerator,
        network: nn.Module,
        text_encoders: Sequence[nn.Module],
        unet: nn.Module,
    ) -> None:
        """Sees the network before it is applied."""

    def get_noise_scheduler(self, args: EmbeddedOptions, device: torch.device) -> NoiseScheduler:
        files = find_model(args)
        return make_noise_scheduler(read_model_facts(files.folder, files.checkpoint), args, device)

    def prepare_unet_with_accelerator(self, args: EmbeddedOptions, accelerator: Accelerator, unet: UNet) -> UNet:
        """The U-Net on its device; it is frozen, so there is nothing for accelerate to wrap."""
        return unet.to(accelerator.device)

    def all_reduce_network(self, accelerator: Accelerator, network: nn.Module) -> None:
        """Replaces every gradient by its mean over the processes, in one reduction."""
        reduce_gradients(accelerator, network)

    def sample_images(
        self,
        accelerator: Accelerator,
        args: EmbeddedOptions,
        epoch: int | None,
        global_step: int,
        device: torch.device,
        vae: Vae,
        tokenizers: Sequence[Tokenizer],
        text_encoder: TextEncoders,
        unet: UNet,
    ) -> None:
        """Writes previews when they are due; this host has none of its own."""

    def update_metadata(self, metadata: dict[str, object], args: EmbeddedOptions) -> None:
        """Adds to the ``ss_*`` metadata."""

    def get_sai_model_spec(self, args: EmbeddedOptions) -> dict[str, str]:
        return sai_model_spec(args, self.resolution)

    def on_step_start(
        self,
        args: EmbeddedOptions,
        accelerator: Accelerator,
        network: nn.Module,
        text_encoders: Sequence[nn.Module],
        unet: nn.Module,
        batch: Batch,
        weight_dtype: torch.dtype,
        is_train: bool = True,
    ) -> None:
        """Sees every batch before it is processed."""

    def encode_images_to_latents(self, args: EmbeddedOptions, vae: Vae, images: Tensor) -> Tensor:
        return vae.encode(images).latent_dist.sample()

    def call_unet(
        self,
        args: EmbeddedOptions,
        accelerator: Accelerator,
        unet: nn.Module,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_conds: list[Tensor],
        batch: Batch,
        weight_dtype: torch.dtype,
    ) -> Tensor:
        """The U-Net's prediction, of the latents' shape (rows, channels, h, w)."""
        noisy_latents = noisy_latents.to(weight_dtype)
        if args.model_type == "sdxl":
            return unet(noisy_latents, timesteps, **unet_inputs(text_conds, batch, weight_dtype)).sample
        return unet(noisy_latents, timesteps, text_conds[0].to(weight_dtype)).sample

    def get_noise_pred_and_target(
        self,
        args: EmbeddedOptions,
        accelerator: Accelerator,
        noise_scheduler: NoiseScheduler,
        latents: Tensor,
        batch: Batch,
        text_encoder_conds: list[Tensor],
        unet: nn.Module,
        network: nn.Module,
        weight_dtype: torch.dtype,
        train_unet: bool,
        is_train: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(prediction, target, timesteps, no weights): noise and timestep are drawn for every row by itself."""
        noise = draw_noise(args, latents)
        timesteps = draw_timesteps(args, noise_scheduler.config.num_train_timesteps, latents.shape[0], latents.device)
        noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
        with torch.set_grad_enabled(is_train), accelerator.autocast():
            noise_pred = self.call_unet(
                args, accelerator, unet, noisy_latents, timesteps, text_encoder_conds, batch, weight_dtype
            )
        target = noise_scheduler.get_velocity(latents, noise, timesteps) if args.v_parameterization else noise
        return noise_pred, target, timesteps, None

    def post_process_loss(
        self, loss: Tensor, args: EmbeddedOptions, timesteps: Tensor, noise_scheduler: NoiseScheduler
    ) -> Tensor:
        """Row losses (rows,) with the weighting that the options ask for."""
        if args.min_snr_gamma:
            weight = min_snr_weight(timesteps, noise_scheduler.all_snr, args.min_snr_gamma, args.v_parameterization)
            loss = loss * weight
        return loss

    def process_batch(self, *given: object, **named: object) -> Tensor:
        """The batch's loss, a scalar: the mean over its rows of loss × loss weight."""
        step = StepInputs[EmbeddedOptions].of(given, named)
        args, accelerator, scheduler = step.args, step.accelerator, step.noise_scheduler
        latents = self._latents(step.batch, step.vae, step.vae_dtype, accelerator, args) * self.vae_scale_factor
        noise_pred, target, timesteps, weighting = self.get_noise_pred_and_target(
            args, accelerator, scheduler, latents, step.batch, self._conds(step), step.unet, step.network,
            step.weight_dtype, step.train_unet, step.is_train,
        )  # fmt: skip
        loss = row_loss(args, noise_pred, target, timesteps, scheduler)
        if weighting is not None:
            loss = loss * weighting
        loss = loss * step.batch["loss_weights"].to(loss.device)
        return self.post_process_loss(loss, args, timesteps, scheduler).mean()

    def _conds(self, step: StepInputs[EmbeddedOptions]) -> list[Tensor]:
        """The text embeddings of every row, cached or encoded now, on the device."""
        conds = step.batch.get("text_encoder_outputs_list")
        if conds is None or step.train_text_encoder:
            strategy, tokenizer = step.text_encoding_strategy, step.tokenize_strategy
            assert isinstance(strategy, TextEncodingStrategy) and isinstance(tokenizer, TokenizeStrategy)
            trains = step.is_train and step.train_text_encoder
            with torch.set_grad_enabled(trains), step.accelerator.autocast():
                conds = strategy.encode_tokens(tokenizer, step.text_encoders, step.batch["input_ids_list"])
        return [cond.to(step.accelerator.device) for cond in conds]

    @torch.no_grad()
    def _latents(
        self, batch: Batch, vae: Vae, vae_dtype: torch.dtype, accelerator: Accelerator, args: EmbeddedOptions
    ) -> Tensor:
        cached, pixels = batch.get("latents"), batch.get("images")
        if cached is not None:
            return cached.to(accelerator.device)
        assert pixels is not None  # a batch has latents or images
        images = pixels.to(accelerator.device, dtype=vae_dtype)
        chunks = [self.encode_images_to_latents(args, vae, chunk) for chunk in images.split(args.vae_batch_size)]
        return check_latents(torch.cat(chunks).float(), batch["captions"])

    def generate_step_logs(
        self,
        args: EmbeddedOptions,
        current_loss: float,
        avr_loss: float,
        lr_scheduler: LRScheduler,
        lr_descriptions: list[str] | None,
        optimizer: Optimizer | None = None,
        keys_scaled: float | None = None,
        mean_norm: float | None = None,
        maximum_norm: float | None = None,
    ) -> dict[str, float]:
        """What the trackers record after a step."""
        logs = {"loss/current": current_loss, "loss/average": avr_loss}
        if keys_scaled is not None:
            norms = {"max_norm/max_key_norm": maximum_norm, "norm/avg_key_norm": mean_norm}
            logs |= {"max_norm/keys_scaled": keys_scaled, **{k: v for k, v in norms.items() if v is not None}}
        return logs | rate_logs(lr_scheduler, lr_descriptions, optimizer)

    def step_logging(self, accelerator: Accelerator, logs: Mapping[str, float], global_step: int, epoch: int) -> None:
        accelerator.log({**logs, "epoch": epoch}, step=global_step)

    def progress_postfix(self, logs: Mapping[str, float]) -> Mapping[str, object]:
        """What the progress bar shows after the step count."""
        return dict(logs)
