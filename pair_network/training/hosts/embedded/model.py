"""Stable Diffusion 1.x and 2.x from a diffusers folder: checks, loading, the noise schedule and the text encoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pair_network.errors import PairError

from .config import EmbeddedOptions

logger = logging.getLogger(__name__)

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
COMPONENTS = {
    "vae": ("AutoencoderKL", "config.json"),
    "text_encoder": ("CLIPTextModel", "config.json"),
    "unet": ("UNet2DConditionModel", "config.json"),
    "tokenizer": ("CLIPTokenizer", "tokenizer_config.json"),
    "scheduler": (None, "scheduler_config.json"),
}
SCHEDULE_KEYS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")


def refuse_pickle(path: Path) -> None:
    """Raises PairError for a pickle: loading one runs whatever code it contains."""
    if path.suffix.lower() in PICKLES:
        raise PairError(
            f"{path}: a {path.suffix} file can run code when it is loaded; convert it to .safetensors first"
        )


def check_model_folder(folder: Path) -> None:
    """Raises PairError unless the folder is a diffusers model of SD 1.x or 2.x layout with safetensors weights."""
    remedy = "--pretrained_model_name_or_path takes a diffusers folder of an SD 1.x or 2.x model"
    refuse_pickle(folder)
    if folder.is_file():
        raise PairError(f"{folder}: this is a file; {remedy}, or use --host sd-scripts for single-file models")
    if not (folder / "model_index.json").is_file():
        reason = "there is no such folder" if not folder.exists() else "not a diffusers model (no model_index.json)"
        raise PairError(f"{folder}: {reason}; {remedy}")
    index = read_json(folder / "model_index.json")
    if "text_encoder_2" in index or "transformer" in index:
        raise PairError(f"{folder}: {index.get('_class_name')} is no SD 1.x or 2.x model; use --host sd-scripts for it")
    for part, (class_name, config) in COMPONENTS.items():
        if not (folder / part / config).is_file():
            raise PairError(f"{folder}: {part}/{config} is missing; {remedy}")
        found = (index.get(part) or [None, None])[1]
        if class_name and found not in (class_name, f"{class_name}Fast"):
            raise PairError(f"{folder}: its {part} is a {found}, not a {class_name}; {remedy}")
        if class_name in ("AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel"):
            _check_weights(folder / part)


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise PairError(
            f"{folder}: only pickled weights (.bin), which can run code; save the model as safetensors first"
        )
    raise PairError(f"{folder}: no .safetensors weights; download the model again")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; PairError when it cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as cause:
        raise PairError(f"{path}: cannot be read ({cause}); download the model again") from cause


@dataclass(frozen=True)
class ModelFacts:
    """What training must know of a model's configuration.

    Attributes:
        is_v2: Stable Diffusion 2.x: its text encoder is 1024 wide.
        prediction_type: "epsilon" or "v_prediction".
        zero_terminal_snr: The betas are rescaled so that the last timestep is pure noise.
        schedule: DDPMScheduler arguments that define the betas.
    """

    is_v2: bool
    prediction_type: str
    zero_terminal_snr: bool
    schedule: dict[str, Any]


def read_model_facts(folder: Path) -> ModelFacts:
    """Facts from the model's own configuration files.

    Raises:
        PairError: The model predicts something other than noise or velocity.
    """
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if prediction_type not in ("epsilon", "v_prediction"):
        raise PairError(f"{folder}: prediction_type {prediction_type!r} is not supported; epsilon and v_prediction are")
    return ModelFacts(
        is_v2=read_json(folder / "unet" / "config.json").get("cross_attention_dim") == 1024,
        prediction_type=prediction_type,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        schedule={key: scheduler[key] for key in SCHEDULE_KEYS if scheduler.get(key) is not None},
    )


def with_model_facts(args: EmbeddedOptions, facts: ModelFacts) -> EmbeddedOptions:
    """The options with v2, v_parameterization and zero_terminal_snr as the model has them, unless they ask for more."""
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
        v2=args.v2 or facts.is_v2,
        v_parameterization=args.v_parameterization or facts.prediction_type == "v_prediction",
        zero_terminal_snr=args.zero_terminal_snr or facts.zero_terminal_snr,
    )


@contextmanager
def _named_errors(folder: Path):
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        reason = " ".join(str(cause).split())[:300]
        raise PairError(f"{folder}: cannot be loaded ({reason}); download or export the model again") from cause


def load_models(folder: Path) -> tuple[Any, Any, Any]:
    """Text encoder, VAE and U-Net of a diffusers folder, on the CPU, in the precision they were saved in.

    Raises:
        PairError: A part cannot be loaded, for example because its file is cut off.
    """
    loaded = []
    for part, kind in (("text_encoder", CLIPTextModel), ("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
        with _named_errors(folder / part):
            model = kind.from_pretrained(str(folder / part), use_safetensors=True, local_files_only=True)
        loaded.append(model.requires_grad_(False).eval())
    return loaded[0], loaded[1], loaded[2]


def move(model: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """The model on the device in the precision; diffusers warns about needless casts, so there are none."""
    return model.to(device) if model.dtype == dtype else model.to(device, dtype=dtype)


def use_xformers(unet: Any) -> None:
    """Switches the U-Net to xformers attention; PairError when the package is missing or does not work here."""
    try:
        unet.enable_xformers_memory_efficient_attention()
    except ModuleNotFoundError as cause:
        raise PairError("--xformers needs a package that is not installed: pip install xformers") from cause
    except (ValueError, NotImplementedError, RuntimeError) as cause:
        raise PairError(f"--xformers does not work here ({cause}); use --sdpa instead") from cause


def make_noise_scheduler(facts: ModelFacts, args: EmbeddedOptions, device: torch.device) -> Any:
    """The model's forward process, with ``all_snr``: the signal-to-noise ratio of every timestep, (timesteps,)."""
    scheduler: Any = DDPMScheduler(
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
        with _named_errors(folder / "tokenizer"):
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        self.max_length = self.tokenizer.model_max_length

    def tokenize(self, text: str | Sequence[str]) -> list[Tensor]:
        """Ids of one or more captions, padded and cut to the model's length: one (captions, length) int64 tensor."""
        captions = [text] if isinstance(text, str) else list(text)
        ids = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        ).input_ids
        return [ids]

    def is_cut(self, caption: str) -> bool:
        """Whether the caption is longer than the model can read."""
        return len(self.tokenizer(caption, truncation=False).input_ids) > self.max_length


class TextEncodingStrategy:
    """Token ids to text embeddings; ``clip_skip`` counts layers from the last, which is 1."""

    def __init__(self, clip_skip: int | None):
        self.clip_skip = clip_skip

    def encode_tokens(
        self, tokenize_strategy: TokenizeStrategy, models: Sequence[nn.Module], tokens: Sequence[Tensor]
    ) -> list[Tensor]:
        """Embeddings (captions, length, width) of ids (captions, length)."""
        text_encoder: Any = models[0]
        ids = tokens[0].to(text_encoder.device)
        if self.clip_skip is None:
            return [text_encoder(ids)[0]]
        states = text_encoder(ids, output_hidden_states=True, return_dict=True).hidden_states
        return [skipped_state(text_encoder, states, self.clip_skip)]


def skipped_state(text_encoder: Any, states: Sequence[Tensor], clip_skip: int) -> Tensor:
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
    inner = getattr(text_encoder, "text_model", text_encoder)
    return inner.final_layer_norm(states[-clip_skip])


@contextmanager
def skipped_layers(text_encoder: Any, clip_skip: int | None) -> Iterator[None]:
    """Inside the block the encoder's first output is the state that training with ``clip_skip`` reads.

    For pipelines, whose own ``clip_skip`` needs the inner text_model that transformers 5 dropped.
    """
    if clip_skip is None:
        yield
        return

    def ask(_encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_hidden_states": True, "return_dict": True}

    def take(encoder: Any, _args: tuple[Any, ...], output: Any) -> tuple[Tensor]:
        return (skipped_state(encoder, output.hidden_states, clip_skip),)

    handles = [
        text_encoder.register_forward_pre_hook(ask, with_kwargs=True), text_encoder.register_forward_hook(take)
    ]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
