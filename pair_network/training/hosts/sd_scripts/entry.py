"""Pair training inside a checkout of kohya-ss sd-scripts (v0.10.0 or later)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from pair_network.errors import PairError
from pair_network.files import only_writer
from pair_network.network.pair_file import PAIR_SUFFIX
from pair_network.options import OneLineParser, glimpse
from pair_network.reading import read_json_table, read_toml

from ...options import add_pair_options, check_one_part, pair_network_module
from ...pair_dataset import write_pair_dataset
from ...preview_prompts import write_default_prompts
from ...trainer import PairTraining, check_parts, trains_text_encoder
from ..after_training import say_what_to_convert
from ..contract import HOOKS, SD_SCRIPTS_HOOKS, check_contract
from ..kohya_checks import check_dataset, check_optimizer, check_resolution, check_run, telling
from ..kohya_config import check_config, config_of, config_path, read_config
from ..model_types import detect_model_type, is_on_musubi, remedy_for
from ..versions import SD_SCRIPTS, warn_if_newer
from .clip import restore_text_model
from .families import TRAINERS, SdScripts, trainer_of
from .previews import StylePreviews
from .protocols import DatasetGroup


def import_sd_scripts(checkout: str, module: str = "train_network") -> ModuleType:
    """A module of the checkout, whose folder goes to the front of the import path.

    Raises:
        PairError: The folder is no checkout of sd-scripts, has no such trainer, or its packages are missing.
    """
    folder = Path(checkout).expanduser().resolve()
    if not (folder / "train_network.py").is_file():
        raise PairError(
            f"--sd_scripts {checkout}: there is no train_network.py; name the folder of an sd-scripts checkout"
        )
    if not (folder / f"{module}.py").is_file():
        raise PairError(f"--sd_scripts {checkout}: there is no {module}.py; this model needs a newer sd-scripts")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        restore_text_model()
        return importlib.import_module(module)
    except ModuleNotFoundError as cause:
        raise PairError(
            f"--sd_scripts {checkout}: sd-scripts needs the package {cause.name!r}; run this with the Python "
            "environment in which sd-scripts itself runs"
        ) from cause


class SdScriptsTraining(PairTraining[argparse.Namespace], StylePreviews):
    """Pair training with previews, over one of sd-scripts' trainer classes."""

    def __init__(self) -> None:
        super().__init__()
        self._has_saved = False

    def assert_extra_args(self, args: argparse.Namespace, train_group: object, val_group: object) -> None:
        # The host's own options, and before its own checks: they depend on whether a text encoder trains.
        args.network_train_unet_only = args.network_train_unet_only or not trains_text_encoder(args)
        super().assert_extra_args(args, train_group, val_group)

    def attach_content(
        self, args: argparse.Namespace, train_group: DatasetGroup, val_group: DatasetGroup | None
    ) -> list[tuple[str, str]]:
        # Imported here: the module subclasses a dataset of the checkout, which must be on the path first.
        from .paired_dataset import attach_content

        return attach_content(train_group, val_group)

    def get_sai_model_spec(self, args: argparse.Namespace) -> dict[str, str]:
        """Called before every save; the model's title and so on, with the style words in place."""
        self._has_saved = True
        words = self.trigger_words(args)
        return {**super().get_sai_model_spec(args), **({"modelspec.trigger_phrase": words} if words else {})}

    def on_step_start(self, args: argparse.Namespace, *rest: object, **named: object) -> None:
        self._drop_old_pair_files(args)
        look: Callable[..., None] = super().on_step_start
        look(args, *rest, **named)

    def train(self, args: argparse.Namespace) -> None:
        super().train(args)
        self._drop_old_pair_files(args)

    def _drop_old_pair_files(self, args: argparse.Namespace) -> None:
        """sd-scripts deletes old style files by name and leaves the coupled checkpoints beside them."""
        if self._has_saved:
            remove_orphaned_pair_files(Path(args.output_dir), args.output_name or "last")
        self._has_saved = False


def pair_trainer_class(host_trainer: type, family: SdScripts | None = None) -> type:
    """The pair trainer over one of sd-scripts' trainer classes.

    Raises:
        PairError: The class lacks a hook: the checkout is older than v0.10.0.
    """
    check_contract(host_trainer, "sd-scripts", {**HOOKS, **SD_SCRIPTS_HOOKS})
    own_family = family or trainer_of("sd")
    files = ", ".join(f"--{name}" for name in ("pretrained_model_name_or_path", *own_family.needs))
    loading = files, "one of these files is another than its option takes, or damaged"
    tokenizers = "the family's tokenizers", "sd-scripts fetches them once; --tokenizer_cache_dir keeps them"
    told = telling(
        host_trainer,
        {
            "assert_extra_args": ("sd-scripts", "change this option or remove it"),
            "get_tokenize_strategy": tokenizers,
            "load_target_model": loading,
            "load_unet_lazily": loading,
        },
    )
    return _paired(told, own_family)


def _paired(host_trainer: type, own_family: SdScripts) -> type:
    class SdScriptsPairTrainer(SdScriptsTraining, host_trainer):
        family = own_family

    return SdScriptsPairTrainer


def remove_orphaned_pair_files(folder: Path, name: str) -> list[Path]:
    """Removes the run's numbered coupled checkpoints whose style file is gone; returns them.

    Only files of the host's own numbering are looked at, NAME-000002 and NAME-step00000100: a coupled checkpoint that
    someone keeps on its own has another name.
    """
    removed = []
    for path in [*folder.glob(f"{name}-*{PAIR_SUFFIX}")]:
        stem = path.name.removesuffix(PAIR_SUFFIX)
        number = stem.removeprefix(f"{name}-").removeprefix("step")
        if number.isdigit() and not path.with_name(f"{stem}.safetensors").exists():
            path.unlink()
            removed.append(path)
    return removed


def choose_model_type(argv: Sequence[str], values: Mapping[str, object]) -> str:
    """--model_type from the command line or the config file, or else what the checkpoint proves.

    Raises:
        PairError: The checkpoint is of another family, or proves nothing and no type is given.
    """
    names = ("model_type", "pretrained_model_name_or_path")
    given = glimpse(argv, **{name: values.get(name) for name in names})
    model = given.pretrained_model_name_or_path
    proven = detect_model_type(model)
    if is_on_musubi(proven):
        raise PairError(f"{model}: a checkpoint of type {proven}, not of sd-scripts; give {remedy_for(proven, model)}")
    if given.model_type is None:
        if proven is None:
            raise PairError(
                f"--model_type is missing, and {model} does not show what it is; give one of {', '.join(TRAINERS)}"
            )
        return proven
    trainer = trainer_of(given.model_type).trainer  # FLUX's also trains Chroma, whichever of the two is named
    if proven is not None and trainer_of(proven).trainer != trainer:
        raise PairError(f"--model_type {given.model_type}: {model} is a checkpoint of type {proven}")
    return given.model_type


def make_parser(host: ModuleType) -> argparse.ArgumentParser:
    """The family's own parser with the options of pair training."""
    parser: argparse.ArgumentParser = host.setup_parser()
    parser.__class__ = OneLineParser
    add_pair_options(parser)
    if not any(action.dest == "model_type" for action in parser._actions):
        parser.add_argument("--model_type", choices=tuple(TRAINERS), help="which family the checkpoint is of")
    return parser


def read_options(host: ModuleType, argv: Sequence[str]) -> argparse.Namespace:
    """Command line and config file, through sd-scripts' own reading of both, after a check of the file.

    Raises:
        PairError: The file is missing or broken, or has an unknown key or an unusable value.
    """
    from library import train_util  # of the checkout

    parser = make_parser(host)
    path = config_path(argv)
    if path is not None:
        check_config(read_config(path), parser, path)
    sys.argv[1:] = list(argv)  # read_config_from_file parses sys.argv a second time
    args = parser.parse_args()
    train_util.verify_command_line_training_args(args)
    args = train_util.read_config_from_file(args, parser)
    if getattr(args, "attn_mode", None) == "sdpa":
        args.attn_mode = "torch"  # an older name that HunyuanImage's and Anima's own scripts translate too
    return args


def check_options(args: argparse.Namespace, family: SdScripts) -> None:
    """Refuses what pair training or sd-scripts cannot do, before anything is loaded.

    Raises:
        PairError: An option that would break the run, with what to do instead.
    """
    from library import train_util  # of the checkout

    args.network_module = pair_network_module(args.network_module)
    if args.save_model_as != "safetensors":
        raise PairError(f"--save_model_as {args.save_model_as}: only safetensors is written; remove the option")
    if getattr(args, "deepspeed", False):
        raise PairError(
            "--deepspeed: its partitioned optimizer cannot keep the content branches of absent pairs in place; "
            "use accelerate's plain multi-GPU launch"
        )
    if not args.output_dir:
        raise PairError("--output_dir is missing: name the folder for the LoRA files")
    for name in ("train_data_dir", "in_json", "reg_data_dir", "conditioning_data_dir", "dataset_class"):
        if getattr(args, name):
            raise PairError(
                f"--{name} names images without their other halves: give --content and --style, or a --dataset_config "
                "whose subsets have content_dir"
            )
    if args.resolution is not None:
        check_resolution(args.resolution)
    check_run(args, ("pretrained_model_name_or_path", *family.needs), family.takes_folders)
    check_one_part(args.network_train_unet_only, args.network_train_text_encoder_only)
    check_parts(args.network_train_unet_only, args)
    check_optimizer(args, train_util.get_optimizer, train_util.get_scheduler_fix)
    if args.dataset_config:
        check_dataset_file(Path(args.dataset_config), bool(args.masked_loss))


def check_dataset_file(path: Path, has_masks: bool) -> None:
    """Raises PairError for a dataset file that sd-scripts cannot read, or whose folders are not there."""
    from library.config_util import ConfigSanitizer  # of the checkout

    values = read_json_table(path, "--dataset_config") if path.suffix == ".json" else read_toml(path)
    check_dataset(values, ConfigSanitizer(True, True, has_masks, True).sanitize_user_config, path)
    for folder in find_values(values, "image_dir"):
        if not Path(folder).is_dir():
            raise PairError(f"{path}: image_dir = {folder!r}: no such folder")


def find_values(table: object, key: str) -> Iterator[str]:
    """Every value of a key in nested tables and lists."""
    if isinstance(table, Mapping):
        yield from (str(value) for name, value in table.items() if name == key)
        table = list(table.values())
    for entry in table if isinstance(table, list) else []:
        yield from find_values(entry, key)


def allow_any_shape(args: argparse.Namespace) -> None:
    """Turns buckets on for --content/--style: without them sd-scripts refuses images that do not fit the resolution.

    Raises:
        PairError: --resolution is missing or unusable.
    """
    args.enable_bucket = True
    args.min_bucket_reso = min(args.min_bucket_reso, *check_resolution(args.resolution))


def train(checkout: str, argv: list[str]) -> None:
    """Trains with sd-scripts' own parser, dataset, optimizer and loop."""
    family = trainer_of(choose_model_type(argv, config_of(argv)))
    host = import_sd_scripts(checkout, family.module)
    trainer_class = pair_trainer_class(getattr(host, family.trainer), family)
    warn_if_newer(SD_SCRIPTS, checkout)
    args = read_options(host, argv)
    check_options(args, family)
    with only_writer(Path(args.output_dir), args.output_name or "last"):
        dataset = write_pair_dataset(args)
        if dataset is not None:
            args.dataset_config = str(dataset)
            prompts = write_default_prompts(args)
            args.sample_prompts = args.sample_prompts if prompts is None else str(prompts)
            allow_any_shape(args)
        trainer = trainer_class()
        trainer.train(args)
    if trainer.pair_network is None:
        raise PairError("nothing was trained: sd-scripts found no images; its messages above say where it looked")
    say_what_to_convert(family, str(Path(args.output_dir) / f"{args.output_name or 'last'}.safetensors"))
