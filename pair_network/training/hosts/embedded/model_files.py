"""Where a model's files are, and whether they are a Stable Diffusion 1.x, 2.x or XL that can be trained here.

A model is a diffusers folder, a checkpoint in one file, or a name on the Hugging Face hub. Either way training has a
folder with the configurations, the tokenizers and the noise schedule; a checkpoint brings the weights beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES
from pair_network.reading import read_json_table

from ..input_files import HUB_NAME, SAFE
from ..model_types import detect_model_type, remedy_for, tensor_names, type_of_names
from .config import MODEL_TYPES, EmbeddedOptions

# Part of a diffusers folder -> its class, and the file that describes it.
SD_COMPONENTS: dict[str, tuple[str | None, str]] = {
    "vae": ("AutoencoderKL", "config.json"),
    "text_encoder": ("CLIPTextModel", "config.json"),
    "unet": ("UNet2DConditionModel", "config.json"),
    "tokenizer": ("CLIPTokenizer", "tokenizer_config.json"),
    "scheduler": (None, "scheduler_config.json"),
}
SDXL_COMPONENTS = {
    **SD_COMPONENTS,
    "text_encoder_2": ("CLIPTextModelWithProjection", "config.json"),
    "tokenizer_2": ("CLIPTokenizer", "tokenizer_config.json"),
}
WITH_WEIGHTS = ("vae", "text_encoder", "text_encoder_2", "unet")
TAKEN = "a diffusers folder, a .safetensors checkpoint or a hub name of an SD 1.x, 2.x or SDXL model"
DOWNLOAD = "download the model again"


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine.

    Attributes:
        folder: Configurations, tokenizers and noise schedule; the weights too, unless there is a checkpoint.
        checkpoint: The weights in one file, under their original names.
    """

    folder: Path
    checkpoint: Path | None = None


def find_model(args: EmbeddedOptions) -> ModelFiles:
    """The files of --pretrained_model_name_or_path; of a hub name or a checkpoint's family, what is missing is fetched.

    Raises:
        PairError: No such model, one of another family, or nothing can be fetched here.
    """
    name, config = args.pretrained_model_name_or_path, args.model_config
    path = Path(name)
    refuse_pickle(path)
    if path.is_file():
        check_checkpoint(path)
        if config and not (Path(config) / "model_index.json").is_file():
            raise PairError(f"--model_config {config}: no diffusers folder (no model_index.json); name one")
        return ModelFiles(Path(config) if config else _fetched_config(path), path)
    if not path.exists() and (path.suffix in SAFE or not HUB_NAME.fullmatch(name)):
        raise PairError(f"--pretrained_model_name_or_path {name}: no such file or folder; name {TAKEN}")
    if config:
        raise PairError(f"--model_config goes with a checkpoint in one file, and {name} is none; leave it out")
    if not path.exists() and HUB_NAME.fullmatch(name):
        return ModelFiles(_fetched_model(name))
    return ModelFiles(path)


def check_model(files: ModelFiles) -> None:
    """Raises PairError unless the files are a model that can be trained here."""
    check_model_folder(files.folder, needs_weights=files.checkpoint is None)


def refuse_pickle(path: Path) -> None:
    """Raises PairError for a pickle: loading one runs whatever code it contains."""
    if path.suffix.lower() in PICKLES:
        raise PairError(
            f"{path}: a {path.suffix} file can run code when it is loaded; convert it to .safetensors first"
        )


def check_checkpoint(path: Path) -> None:
    """Raises PairError unless the header of a checkpoint in one file is Stable Diffusion's."""
    if path.suffix != ".safetensors":
        raise PairError(f"{path}: not a .safetensors file; --pretrained_model_name_or_path takes {TAKEN}")
    names = tensor_names(path)
    if any("lora_" in name for name in names):
        raise PairError(f"{path}: is a LoRA, not a model; --network_weights and --base_weights take LoRAs")
    model_type = type_of_names(names)
    if model_type not in MODEL_TYPES:
        what = f"of type {model_type}" if model_type else "of a type that is not known here"
        remedy = remedy_for(model_type, path)
        raise PairError(f"{path}: a checkpoint {what}, not SD 1.x, 2.x or SDXL; give {remedy}")


def check_model_folder(folder: Path, needs_weights: bool = True) -> None:
    """Raises PairError unless the folder is a diffusers model of SD 1.x, 2.x or SDXL layout, with safetensors."""
    refuse_pickle(folder)
    if not (folder / "model_index.json").is_file():
        reason = "there is no such folder" if not folder.exists() else "not a diffusers model (no model_index.json)"
        raise PairError(f"{folder}: {reason}; --pretrained_model_name_or_path takes {TAKEN}")
    index = read_settings(folder / "model_index.json")
    if "transformer" in index or "text_encoder_3" in index or "unet" not in index:
        remedy = remedy_for(detect_model_type(str(folder)), folder)
        raise PairError(f"{folder}: {index.get('_class_name')} is none of SD 1.x, 2.x and SDXL; give {remedy}")
    if not _entry(index, "text_encoder", 0):
        raise PairError(f"{folder}: has no first text encoder (an SDXL refiner?); train the base model")
    for part, (class_name, config) in (SDXL_COMPONENTS if "text_encoder_2" in index else SD_COMPONENTS).items():
        if not (folder / part / config).is_file():
            raise PairError(f"{folder}: {part}/{config} is missing; download the model again")
        found = _entry(index, part, 1)
        if class_name and found not in (class_name, f"{class_name}Fast"):
            raise PairError(f"{folder}: its {part} is a {found}, not a {class_name}; use --host sd-scripts for it")
        if needs_weights and part in WITH_WEIGHTS:
            _check_weights(folder / part)
    _check_channels(folder)


def _check_channels(folder: Path) -> None:
    """Raises PairError where the U-Net reads more than latents: inpainting, depth and image-editing models do."""
    latents = _count(folder / "vae" / "config.json", "latent_channels")
    inputs = _count(folder / "unet" / "config.json", "in_channels")
    if inputs != latents:
        kind = "an inpainting model" if inputs == 2 * latents + 1 else "a model that is given more than a prompt"
        raise PairError(
            f"{folder}: its U-Net takes {inputs} channels where the latents have {latents}, so it is {kind}; train on "
            "the text-to-image model that it was made from: the LoRA fits both"
        )


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise PairError(
            f"{folder}: only pickled weights (.bin), which can run code; save the model as safetensors first"
        )
    raise PairError(f"{folder}: no .safetensors weights; download the model again")


def _entry(index: Mapping[str, object], part: str, place: int) -> object:
    """Library (0) or class (1) of a component, as model_index.json names them; None: it does not."""
    found = index.get(part)
    return found[place] if isinstance(found, list) and len(found) == 2 else None


def _count(file: Path, name: str) -> int:
    count = read_settings(file).get(name, 4)
    if type(count) is not int or not 1 <= count <= 1024:
        raise PairError(f"{file}: {name} = {printable(count, 80)} is no number of channels; {DOWNLOAD}")
    return count


def read_settings(path: Path) -> dict[str, object]:
    """The object in one of a model's JSON files; PairError when it cannot be read."""
    return read_json_table(path, remedy=DOWNLOAD)


@lru_cache
def _fetched_config(checkpoint: Path) -> Path:
    """The configurations and tokenizers (some MB) of a checkpoint's family, from the hub or its cache."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
    from huggingface_hub import snapshot_download

    repository = fetch_diffusers_config(load_single_file_checkpoint(str(checkpoint)))["pretrained_model_name_or_path"]
    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*/*.json", "*/*.txt"]))
    except (OSError, ValueError) as cause:
        raise PairError(
            f"{checkpoint}: its configuration and tokenizers are those of {repository}, which cannot be fetched here "
            f"({_short(cause)}); name a diffusers folder of the same family with --model_config"
        ) from cause


@lru_cache
def _fetched_model(name: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, use_safetensors=True))
    except (OSError, ValueError) as cause:
        raise PairError(
            f"{name}: there is no such file or folder, and it cannot be fetched from the hub ({_short(cause)})"
        ) from cause


def _short(cause: Exception) -> str:
    return " ".join(str(cause).split())[:120]
