"""Stable Diffusion 1.x, 2.x and XL: facts from their files, loading, the noise schedule and the text encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pair_network.errors import PairError
from pair_network.files import weights_of
from pair_network.sampling.protocols import EncoderStates, Model, TextEncoder, Tokenizer, UNet, Vae

from ...protocols import NoiseScheduler
from ..model_types import tensor_names
from .config import EmbeddedOptions
from .model_files import ModelFiles, read_settings
from .numbers import check_schedule, check_weights

logger = logging.getLogger(__name__)
TextEncoders = TextEncoder | list[TextEncoder]  # bare, or SDXL's two
Moved = TypeVar("Moved", bound=Model)

# Empty tensors by which v-prediction checkpoints of SDXL show themselves (ComfyUI and the web UIs read them too).
V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
SCHEDULE_KEYS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")


@dataclass(frozen=True)
class ModelFacts:
    """What training must know of a model's configuration.

    Attributes:
        model_type: "sd" or "sdxl", as sd-scripts' --model_type.
        is_v2: Stable Diffusion 2.x: its text encoder is 1024 wide.
        prediction_type: "epsilon" or "v_prediction".
        zero_terminal_snr: The betas are rescaled so that the last timestep is pure noise.
        schedule: DDPMScheduler arguments that define the betas.
    """

    model_type: str
    is_v2: bool
    prediction_type: str
    zero_terminal_snr: bool
    schedule: dict[str, object]


class Loadable(Protocol):
    """A model class of diffusers or transformers."""

    from_pretrained: Callable[..., Model]
    from_single_file: Callable[..., Model]


def read_model_facts(folder: Path, checkpoint: Path | None = None) -> ModelFacts:
    """Facts from the model's own configuration files, and from the marks that v-prediction checkpoints carry.

    Raises:
        PairError: The model predicts something other than noise or velocity.
    """
    scheduler = read_settings(folder / "scheduler" / "scheduler_config.json")
    check_schedule(scheduler, folder / "scheduler" / "scheduler_config.json")
    unet = read_settings(folder / "unet" / "config.json")
    marks = set(tensor_names(checkpoint)) if checkpoint is not None else set()
    prediction_type = "v_prediction" if V_MARK in marks else scheduler.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise PairError(f"{folder}: prediction_type {prediction_type!r} is not supported; epsilon and v_prediction are")
    return ModelFacts(
        model_type="sdxl" if unet.get("addition_embed_type") == "text_time" else "sd",
        is_v2=unet.get("cross_attention_dim") == 1024,
        prediction_type=prediction_type,
        zero_terminal_snr=ZERO_SNR_MARK in marks or bool(scheduler.get("rescale_betas_zero_snr", False)),
        schedule={key: scheduler[key] for key in SCHEDULE_KEYS if scheduler.get(key) is not None},
    )


def with_model_facts(args: EmbeddedOptions, facts: ModelFacts) -> EmbeddedOptions:
    """The options with model_type, v2, v_parameterization and zero_terminal_snr as the model has them.

    Raises:
        PairError: --model_type names another type, or an option does nothing for this one.
    """
    if args.model_type not in (None, facts.model_type):
        raise PairError(
            f"--model_type {args.model_type}: {args.pretrained_model_name_or_path} is of type {facts.model_type}"
        )
    if facts.model_type == "sdxl" and args.clip_skip not in (None, 2):
        raise PairError(f"--clip_skip {args.clip_skip}: SDXL always reads the layer before the last, which is 2")
    if args.v_parameterization and facts.prediction_type != "v_prediction":
        logger.warning(
            "--v_parameterization wins over the model, whose scheduler says prediction_type %r", facts.prediction_type
        )
    if args.zero_terminal_snr and not facts.zero_terminal_snr:
        logger.warning("--zero_terminal_snr wins over the model, whose scheduler says rescale_betas_zero_snr false")
    if args.v2 and not facts.is_v2:
        logger.warning("--v2 wins over the model, whose text encoder is that of SD 1.x")
    return replace(
        args,
        model_type=facts.model_type,
        v2=args.v2 or facts.is_v2,
        v_parameterization=args.v_parameterization or facts.prediction_type == "v_prediction",
        zero_terminal_snr=args.zero_terminal_snr or facts.zero_terminal_snr,
    )


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        reason = " ".join(str(cause).split())[:300]
        raise PairError(f"{folder}: cannot be loaded ({reason}); download or export the model again") from cause


def load_models(
    files: ModelFiles | Path, dtype: torch.dtype | None = None, unet_options: Mapping[str, object] | None = None
) -> tuple[TextEncoders, Vae, UNet]:
    """Text encoder (a list of two for SDXL), VAE and U-Net, frozen and on the CPU.

    Args:
        files: A model, or a diffusers folder.
        dtype: Precision of text encoders and U-Net; None: as they were saved. The VAE keeps its own.
        unet_options: What diffusers' loader is told of the U-Net besides.

    Raises:
        PairError: A part cannot be loaded, for example because its file is cut off.
    """
    files = files if isinstance(files, ModelFiles) else ModelFiles(files)
    checkpoint: dict[str, Tensor] = {}
    if files.checkpoint is not None:
        with _named_errors(files.checkpoint):
            checkpoint = load_file(files.checkpoint)
    kinds: dict[str, Loadable] = {"text_encoder": CLIPTextModel}
    if (files.folder / "text_encoder_2").is_dir():
        kinds["text_encoder_2"] = CLIPTextModelWithProjection
    encoders = [_load(files, checkpoint, part, kind, dtype) for part, kind in kinds.items()]
    vae = _load(files, checkpoint, "vae", AutoencoderKL, None)
    unet = _load(files, checkpoint, "unet", UNet2DConditionModel, dtype, **(unet_options or {}))
    return encoders if len(encoders) > 1 else encoders[0], vae, unet


def _load(
    files: ModelFiles,
    checkpoint: dict[str, Tensor],
    part: str,
    kind: Loadable,
    dtype: torch.dtype | None,
    **more: object,
) -> Any:
    folder = files.folder / part
    options: dict[str, object] = {**({} if dtype is None else {"torch_dtype": dtype}), **more}
    with _named_errors(files.checkpoint or folder):
        if not checkpoint:
            variant, _ = weights_of(folder)
            options |= {"variant": variant} if variant else {}
            model = kind.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, **options)
        elif part.startswith("text_encoder"):
            model = create_diffusers_clip_model_from_ldm(
                kind, checkpoint, subfolder=part, config=str(files.folder), local_files_only=True, **options
            )
        else:
            model = kind.from_single_file(
                dict(checkpoint), config=str(files.folder), subfolder=part, local_files_only=True, **options
            )
    check_weights(model, files.checkpoint or folder)
    return model.requires_grad_(False).eval()


def move(model: Moved, device: torch.device | str, dtype: torch.dtype) -> Moved:
    """The model on the device in the precision; diffusers warns about needless casts, so there are none."""
    return model.to(device) if model.dtype == dtype else model.to(device, dtype=dtype)


def use_xformers(unet: UNet) -> None:
    """Switches the U-Net to xformers attention; PairError when the package is missing or does not work here."""
    try:
        unet.enable_xformers_memory_efficient_attention()
    except ModuleNotFoundError as cause:
        raise PairError("--xformers needs a package that is not installed: pip install xformers") from cause
    except (ValueError, NotImplementedError, RuntimeError) as cause:
        raise PairError(f"--xformers does not work here ({cause}); use --sdpa instead") from cause


def make_noise_scheduler(facts: ModelFacts, args: EmbeddedOptions, device: torch.device) -> NoiseScheduler:
    """The model's forward process, with ``all_snr``: the signal-to-noise ratio of every timestep, (timesteps,)."""
    build: Callable[..., NoiseScheduler] = DDPMScheduler
    scheduler = build(
        **facts.schedule,
        prediction_type="v_prediction" if args.v_parameterization else "epsilon",
        rescale_betas_zero_snr=args.zero_terminal_snr,
        clip_sample=False,
    )
    alphas_cumprod = scheduler.alphas_cumprod
    scheduler.all_snr = (alphas_cumprod / (1.0 - alphas_cumprod)).to(device)
    return scheduler


class TokenizeStrategy:
    """Captions to token ids, in the form in which sd-scripts passes its strategy around."""

    def __init__(self, folder: Path):
        self.tokenizers = [self.load(folder / "tokenizer")]
        self.max_length = self.tokenizers[0].model_max_length

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """A tokenizer; PairError when it cannot be read."""
        with _named_errors(folder):
            return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def tokenize(self, text: str | Sequence[str]) -> list[Tensor]:
        """Ids of one or more captions by each tokenizer, padded and cut: (captions, length) int64 tensors."""
        captions = [text] if isinstance(text, str) else list(text)
        return [
            tokenizer(
                captions, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
            ).input_ids
            for tokenizer in self.tokenizers
        ]

    def is_cut(self, caption: str) -> bool:
        """Whether the caption is longer than the model can read."""
        return len(self.tokenizers[0](caption, truncation=False).input_ids) > self.max_length


class TextEncodingStrategy:
    """Token ids to text embeddings; ``clip_skip`` counts layers from the last, which is 1."""

    def __init__(self, clip_skip: int | None):
        self.clip_skip = clip_skip

    def encode_tokens(
        self, tokenize_strategy: TokenizeStrategy, models: Sequence[nn.Module], tokens: Sequence[Tensor]
    ) -> list[Tensor]:
        """Embeddings (captions, length, width) of ids (captions, length)."""
        text_encoder = models[0]
        ids = tokens[0].to(next(text_encoder.parameters()).device)
        if self.clip_skip is None:
            return [text_encoder(ids)[0]]
        states = text_encoder(ids, output_hidden_states=True, return_dict=True).hidden_states
        return [skipped_state(text_encoder, states, self.clip_skip)]


def skipped_state(text_encoder: nn.Module, states: Sequence[Tensor], clip_skip: int) -> Tensor:
    """The normalised state (captions, length, width) of the layer that is ``clip_skip``-th from the end.

    Args:
        text_encoder: The CLIP encoder that made the states.
        states: The embedding and every layer's output.
        clip_skip: 1 is the last layer.

    Raises:
        PairError: The encoder has fewer layers.
    """
    if clip_skip >= len(states):
        raise PairError(f"--clip_skip {clip_skip}: the text encoder has only {len(states) - 1} layers")
    # transformers 5 dropped the inner text_model
    inner: nn.Module = getattr(text_encoder, "text_model", text_encoder)
    normalised: Tensor = inner.get_submodule("final_layer_norm")(states[-clip_skip])
    return normalised


@contextmanager
def skipped_layers(text_encoder: nn.Module, clip_skip: int | None) -> Iterator[None]:
    """Inside the block the encoder's first output is the state that training with ``clip_skip`` reads.

    For pipelines, whose own ``clip_skip`` needs the inner text_model that transformers 5 dropped.
    """
    if clip_skip is None:
        yield
        return

    def ask(
        _encoder: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return args, {**kwargs, "output_hidden_states": True, "return_dict": True}

    def take(encoder: nn.Module, _args: tuple[object, ...], output: EncoderStates) -> tuple[Tensor]:
        return (skipped_state(encoder, output.hidden_states, clip_skip),)

    asked = text_encoder.register_forward_pre_hook(ask, with_kwargs=True)
    with asked, text_encoder.register_forward_hook(take):
        yield
