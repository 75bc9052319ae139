"""The models and tools of a run, and the accelerator that they run on."""

from __future__ import annotations

import atexit
import importlib
import os
import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pair_network.errors import PairError
from pair_network.sampling.protocols import TextEncoder, Tokenizer, UNet, Vae

from ...protocols import Network, NoiseScheduler
from .config import EmbeddedOptions
from .dataset import DatasetGroup
from .model import TextEncoders, TextEncodingStrategy, TokenizeStrategy

DTYPES = {"no": torch.float32, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Session:
    """What one run consists of, as the trainer's hooks receive them.

    ``text_encoder`` is bare, or a list of SDXL's two, and ``text_encoders`` always a list, as sd-scripts passes them.
    ``setup.attach_network`` adds the last ones.
    """

    args: EmbeddedOptions
    accelerator: Accelerator
    dataset: DatasetGroup
    tokenize_strategy: TokenizeStrategy
    text_encoding_strategy: TextEncodingStrategy
    text_encoder: TextEncoders
    vae: Vae
    unet: UNet
    model_version: str
    weight_dtype: torch.dtype
    vae_dtype: torch.dtype
    train_unet: bool
    train_text_encoder: bool
    network: Network = field(init=False)
    optimizer: Optimizer = field(init=False)
    lr_scheduler: LRScheduler = field(init=False)
    lr_descriptions: list[str] | None = None
    optimizer_name: str = ""
    noise_scheduler: NoiseScheduler = field(init=False)

    @property
    def text_encoders(self) -> list[TextEncoder]:
        return self.text_encoder if isinstance(self.text_encoder, list) else [self.text_encoder]

    @property
    def tokenizers(self) -> list[Tokenizer]:
        return self.tokenize_strategy.tokenizers

    @property
    def bare_network(self) -> Network:
        """The network without the wrapper of a distributed run."""
        return self.accelerator.unwrap_model(self.network)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that each process sees in an epoch."""
        return batches_per_epoch(self.dataset, self.accelerator.num_processes)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return steps_per_epoch(self.dataset, self.accelerator.num_processes, self.args.gradient_accumulation_steps)


def batches_per_epoch(dataset: DatasetGroup, num_processes: int) -> int:
    """Batches that each process sees in an epoch."""
    return -(-dataset.batches_per_epoch // num_processes)


def steps_per_epoch(dataset: DatasetGroup, num_processes: int, accumulation: int) -> int:
    """Optimizer steps in an epoch; batches are not accumulated across its end."""
    return -(-batches_per_epoch(dataset, num_processes) // accumulation)


def make_accelerator(args: EmbeddedOptions) -> Accelerator:
    """The accelerator, with the trackers that the options ask for.

    Raises:
        PairError: The precision does not work on this machine, or a tracker is not installed.
    """
    log_with = args.log_with or ("tensorboard" if args.logging_dir else None)
    logging_dir = None
    if args.logging_dir:
        logging_dir = os.path.join(args.logging_dir, (args.log_prefix or "") + time.strftime("%Y%m%d%H%M%S"))
    if log_with in ("wandb", "all"):
        _require("wandb", "--log_with wandb")
    if log_with in ("tensorboard", "all"):
        _require("tensorboard", "--logging_dir")
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            mixed_precision=args.mixed_precision,
            log_with=log_with,
            project_dir=logging_dir,
        )
        group_ends_last()
        return accelerator
    except ValueError as cause:
        raise PairError(
            f"--mixed_precision {args.mixed_precision} does not work here ({cause}); use bf16 or no"
        ) from cause


def group_ends_last() -> None:
    """Keeps the group of a run's processes until the program's end, when its network is long gone.

    Else the network's wrapper is the last to let go of it, and holds Python's lock while it waits for the group's
    threads, of which one may wait for that lock to let go of a tensor: a run that is done would never end.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(lambda _: None, torch.distributed.group.WORLD)


def _require(package: str, option: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as cause:
        raise PairError(f"{option} needs a package that is not installed: pip install {package}") from cause


def init_trackers(accelerator: Accelerator, args: EmbeddedOptions) -> None:
    """Starts the trackers with the run's options."""
    if not accelerator.is_main_process or not accelerator.log_with:
        return
    config = {key: value for key, value in vars(args).items() if isinstance(value, (int, float, str, bool))}
    init_kwargs = {"wandb": {"name": args.wandb_run_name}} if args.wandb_run_name else {}
    accelerator.init_trackers(args.log_tracker_name or "network_train", config=config, init_kwargs=init_kwargs)
