"""Pair training inside a checkout of kohya-ss musubi-tuner: its parser, caches, optimizer and loop."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from pair_network.errors import PairError
from pair_network.families import Musubi
from pair_network.files import only_writer
from pair_network.options import OneLineParser, glimpse

from ...options import add_pair_options, pair_network_module
from ...replaced import replaced
from ..after_training import say_what_to_convert
from ..contract import MUSUBI_FUNCTIONS, MUSUBI_HOOKS, check_contract
from ..kohya_checks import check_run, telling
from ..kohya_config import check_config, config_of, config_path, read_config
from ..model_types import detect_model_type, size_of
from ..versions import MUSUBI, warn_if_newer
from .families import TRAINERS, trainer_of
from .trainer import MusubiPairTraining

ATTENTIONS = ("sdpa", "flash_attn", "flash3", "sage_attn", "xformers")


def import_musubi(checkout: str, module: str) -> ModuleType:
    """A module of the checkout's package, whose folder goes to the front of the import path.

    Raises:
        PairError: The folder is no checkout of musubi-tuner, has no such trainer, or its packages are missing.
    """
    source = Path(checkout).expanduser().resolve() / "src"
    if not (source / "musubi_tuner" / "training").is_dir():
        raise PairError(
            f"--musubi {checkout}: there is no src/musubi_tuner/training; name the folder of a musubi-tuner checkout, "
            "of April 2026 or later"
        )
    if not (source / "musubi_tuner" / f"{module}.py").is_file():
        raise PairError(f"--musubi {checkout}: there is no {module}.py; this model needs a newer musubi-tuner")
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    try:
        return importlib.import_module(f"musubi_tuner.{module}")
    except ModuleNotFoundError as cause:
        raise PairError(
            f"--musubi {checkout}: musubi-tuner needs the package {cause.name!r}; run this with the Python environment "
            "in which musubi-tuner itself runs"
        ) from cause


def pair_trainer_class(host_trainer: type, own_family: Musubi, own_checkout: str) -> type:
    """The pair trainer over one of musubi-tuner's trainer classes.

    Raises:
        PairError: The class lacks a hook: the checkout is older than its extension seams.
    """
    check_contract(host_trainer, "musubi-tuner", MUSUBI_HOOKS)

    loading = "one of these files is another than its option takes, or damaged"
    latents, text = (", ".join(f"--{name}" for name in names) for names in own_family.caches)
    told = telling(
        host_trainer,
        {
            "handle_model_specific_args": ("musubi-tuner", "change this option or remove it"),
            "load_transformer": ("--dit", loading),
            "load_vae": (latents, loading),
            "process_sample_prompts": (f"--sample_prompts, {text}", loading),
        },
    )
    return _paired(told, own_family, own_checkout)


def _paired(host_trainer: type, own_family: Musubi, own_checkout: str) -> type:
    class MusubiPairTrainer(MusubiPairTraining, host_trainer):
        family, checkout = own_family, own_checkout

    return MusubiPairTrainer


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of pair training, and those of --content/--style that musubi-tuner has in its dataset file."""
    parser.__class__ = OneLineParser
    add_pair_options(parser)
    group = parser.add_argument_group("pair training on musubi-tuner")
    group.add_argument("--model_type", choices=tuple(TRAINERS), help="which family the model is of")
    group.add_argument("--resolution", help="with --content/--style: training size in pixels, SIZE or WIDTH,HEIGHT")
    group.add_argument("--train_batch_size", type=int, default=1, help="with --content/--style: pairs per step")
    group.add_argument(
        "--dataset_repeats", type=int, default=1, help="with --content/--style: uses of a pair per epoch"
    )
    return parser


def check_model(args: argparse.Namespace, family: Musubi) -> None:
    """Raises PairError where --dit shows another model than --model_type, or another size than --model_version."""
    proven = detect_model_type(args.dit)
    if proven is not None and proven != family.model_type:
        raise PairError(f"--model_type {family.model_type}: {args.dit} is a checkpoint of type {proven}")
    size = size_of(family.model_type, args.dit)
    versions = size.musubi.versions if size is not None and size.musubi is not None else ()
    if size is not None and versions and args.model_version not in versions:
        words = f"{args.dit} is a checkpoint of {size.title}; give --model_version {versions[0]}"
        raise PairError(f"--model_version {args.model_version}: {words}")


def check_options(args: argparse.Namespace, family: Musubi) -> None:
    """Refuses what pair training cannot do, before anything is loaded, and fills in what musubi-tuner insists on.

    Raises:
        PairError: An option that would break the run, with what to do instead.
    """
    args.network_module = pair_network_module(args.network_module)
    for option, what in (("dit", "name the file of the model"), ("output_dir", "name the folder for the LoRA files")):
        if not getattr(args, option):
            raise PairError(f"--{option} is missing: {what}")
    if args.dim_from_weights:
        raise PairError(
            "--dim_from_weights: musubi-tuner reads no settings from a file; give --network_dim and --network_args as "
            "they were, with --network_weights"
        )
    check_run(args)
    for option in (*family.caches[0], *family.caches[1]):
        if args.sample_prompts and not getattr(args, option):
            raise PairError(f"--{option} is missing: --sample_prompts needs it; name its .safetensors file")
    args.output_name = args.output_name or "last"
    args.optimizer_type = args.optimizer_type or "AdamW"
    if not any(getattr(args, name, False) for name in ATTENTIONS):
        args.sdpa = True


@contextlib.contextmanager
def _as_its_own(module: ModuleType, family: Musubi, trainer: type, argv: Sequence[str]) -> Iterator[list[Path]]:
    """Inside the block the script's own ``main`` parses our options too and starts our trainer.

    Yields:
        A list, which holds the LoRA's file as soon as the options are read.
    """
    setup, read = module.setup_parser_common, module.read_config_from_file
    made: list[Path] = []

    def read_checked(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
        path = config_path(argv)
        if path is not None:
            check_config(read_config(path), parser, path)
        args = read(args, parser)
        check_options(args, family)
        check_model(args, family)
        made.append(Path(args.output_dir) / f"{args.output_name}.safetensors")
        running.enter_context(only_writer(Path(args.output_dir), args.output_name))
        return args

    patches = {
        "setup_parser_common": lambda: add_options(setup()),
        "read_config_from_file": read_checked,
        family.trainer: trainer,
    }
    with (
        contextlib.ExitStack() as running,
        replaced(module, patches),
        replaced(sys, {"argv": [f"{family.module}.py", *argv]}),
    ):
        yield made


def train(checkout: str, argv: list[str]) -> None:
    """Trains with musubi-tuner's own parser, caches, optimizer and loop."""
    family = trainer_of(glimpse(argv, model_type=config_of(argv).get("model_type")).model_type)
    module = import_musubi(checkout, family.module)
    check_contract(module, "musubi-tuner", MUSUBI_FUNCTIONS)
    trainer = pair_trainer_class(getattr(module, family.trainer), family, checkout)
    warn_if_newer(MUSUBI, checkout)
    with _as_its_own(module, family, trainer, argv) as made:
        module.main()
    say_what_to_convert(family, *map(str, made))
