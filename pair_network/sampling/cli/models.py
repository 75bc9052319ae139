"""Loading a pipeline for the command line."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError, safe_open

from pair_network.errors import PairError, printable
from pair_network.files import PICKLES, weights_of
from pair_network.reading import read_json_table

from ..protocols import Pipeline
from .options import SAMPLERS, ModelOptions

CHECKPOINT_MARKS = {
    "conditioner.embedders.1.": "StableDiffusionXLPipeline",
    "joint_blocks.": "StableDiffusion3Pipeline",
    "double_blocks.": "FluxPipeline",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def diffusers() -> ModuleType:
    """The library, imported when a picture is wanted and not with the package.

    Raises:
        PairError: It is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as cause:
        raise PairError(
            f"diffusers cannot be imported ({cause}); pip install diffusers transformers accelerate"
        ) from cause


def device_of(args: ModelOptions) -> str:
    """The wanted device, or the best one there is.

    Raises:
        PairError: There is no such device.
    """
    if args.device != "auto":
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError) as cause:
            reason = " ".join(str(cause).split())
            raise PairError(f"--device {args.device}: cannot be used here ({reason[:120]}); leave it out") from cause
        return args.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_pipeline(args: ModelOptions) -> Pipeline:
    """The text-to-image pipeline of ``--model``, on the wanted device and in the wanted precision.

    Raises:
        PairError: The model cannot be loaded.
    """
    library, device = diffusers(), device_of(args)
    dtype = DTYPES.get(args.dtype, torch.float32 if device == "cpu" else torch.float16)
    library.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # torch_dtype is the one name of this argument that every supported version takes.
            warnings.simplefilter("ignore", FutureWarning)
            pipe = _load(library, args.model, dtype)
    except (OSError, ValueError, KeyError) as cause:
        reason = " ".join(str(cause).split())
        raise PairError(
            f"--model {args.model}: diffusers cannot load it ({reason[:200]}); give a diffusers folder, "
            "a hub name or a .safetensors checkpoint"
        ) from cause
    if getattr(pipe, "safety_checker", None) is not None:
        setattr(pipe, "safety_checker", None)  # noqa: B010 (some pipelines lack it); it blackens pictures that are shown side by side here
    return pipe


def _load(library: ModuleType, model: str, dtype: torch.dtype) -> Pipeline:
    path = Path(model)
    if path.suffix.lower() in PICKLES:
        raise PairError(
            f"--model {model}: pickled weights can run code when they are loaded; convert it to .safetensors"
        )
    if path.suffix == ".safetensors":
        return getattr(library, pipeline_of(path)).from_single_file(model, torch_dtype=dtype)
    if path.is_dir():
        check_libraries(path, library)
    return library.DiffusionPipeline.from_pretrained(model, torch_dtype=dtype, variant=_variant_of(path))


def check_libraries(folder: Path, library: ModuleType) -> None:
    """Raises PairError where model_index.json names code beside the model, or a package that holds no models.

    Diffusers of before 0.40 runs the one and imports the other without asking.
    """
    index = read_json_table(folder / "model_index.json")
    for part, entry in index.items():
        module = entry[0] if isinstance(entry, list) and entry else None
        is_known = module in (None, "diffusers", "transformers") or hasattr(library.pipelines, str(module))
        if not is_known or (part == "_class_name" and not isinstance(entry, str)):
            where = f"--model {printable(folder)}: its {printable(part, 80)} is code of another origin"
            raise PairError(f"{where} ({printable(module, 80)}), which is not run; give a model without it")


def _variant_of(folder: Path) -> str | None:
    """The variant that a folder's denoiser is there in, where its full weights are not."""
    parts = [folder / name for name in ("unet", "transformer")]
    return next((weights_of(part)[0] for part in parts if part.is_dir()), None)


def pipeline_of(checkpoint: Path) -> str:
    """Name of the pipeline class that a checkpoint in one file belongs to, from the names of its tensors.

    Raises:
        PairError: No such file, not a safetensors file, or a LoRA.
    """
    if not checkpoint.is_file():
        raise PairError(f"--model {checkpoint}: no such file")
    try:
        with safe_open(checkpoint, "pt") as handle:
            names = list(handle.keys())
    except SafetensorError as cause:
        raise PairError(f"--model {checkpoint}: not an intact safetensors file ({cause})") from cause
    if any("lora_" in name for name in names):
        raise PairError(f"--model {checkpoint}: is a LoRA, not a model; give it to --style")
    for mark, pipeline in CHECKPOINT_MARKS.items():
        if any(mark in name for name in names):
            return pipeline
    return "StableDiffusionPipeline"


def set_sampler(pipe: Pipeline, name: str | None) -> None:
    """Puts a scheduler of ``SAMPLERS`` in the pipeline, on the model's own noise schedule.

    Raises:
        PairError: The model is a flow model, which has a sampler of its own.
    """
    if name is None:
        return
    if is_flow(pipe):
        raise PairError(
            f"--sampler {name}: {type(pipe).__name__} is a flow model with its own sampler; leave the option out"
        )
    scheduler, settings = SAMPLERS[name]
    pipe.scheduler = getattr(diffusers(), scheduler).from_config(pipe.scheduler.config, **settings)


def default_cfg(pipe: Pipeline) -> float:
    """FLUX is distilled: with true CFG it needs twice the time and makes worse pictures."""
    return 1.0 if type(pipe).__name__.startswith("Flux") else 5.0


def is_flow(pipe: Pipeline) -> bool:
    return "FlowMatch" in type(pipe.scheduler).__name__


def place(pipe: Pipeline, args: ModelOptions) -> Pipeline:
    """Moves the pipeline to its device, or leaves it on the CPU to be moved model by model."""
    device = device_of(args)
    pipe.set_progress_bar_config(disable=True)
    if args.low_memory and device != "cpu":
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)
