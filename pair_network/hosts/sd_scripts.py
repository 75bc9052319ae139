"""Pair training inside a checkout of kohya-ss sd-scripts (v0.10.0 or later)."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from ..errors import PairError
from ..options import add_pair_options, write_pair_dataset
from ..trainer import PairTraining
from .contract import check_contract


def import_sd_scripts(checkout: str) -> Any:
    """The checkout's ``train_network`` module; the checkout's folder goes to the front of the import path.

    Raises:
        PairError: The folder is no checkout of sd-scripts, or its packages are missing.
    """
    folder = Path(checkout).expanduser().resolve()
    if not (folder / "train_network.py").is_file():
        raise PairError(f"--sd_scripts {checkout}: there is no train_network.py; name the folder of an sd-scripts checkout")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("train_network")
    except ModuleNotFoundError as cause:
        raise PairError(
            f"--sd_scripts {checkout}: sd-scripts needs the package {cause.name!r}; run this with the Python environment "
            "in which sd-scripts itself runs"
        ) from cause


def pair_trainer_class(host_trainer: type) -> type:
    """The pair trainer over one of sd-scripts' trainer classes.

    Raises:
        PairError: The class lacks a hook: the checkout is older than v0.10.0.
    """
    check_contract(host_trainer, "sd-scripts")

    class SdScriptsPairTrainer(PairTraining, host_trainer):  # type: ignore[misc, valid-type]
        def attach_twins(self, args: argparse.Namespace, train_group: Any, val_group: Any) -> list[tuple[str, str]]:
            # Imported here: the module subclasses a dataset of the checkout, which must be on the path first.
            from .sd_scripts_twins import attach_twins

            return attach_twins(train_group, val_group)

    return SdScriptsPairTrainer


def train(checkout: str, argv: list[str]) -> None:
    """Trains with sd-scripts' own parser, dataset, optimizer and loop."""
    host = import_sd_scripts(checkout)
    trainer_class = pair_trainer_class(host.NetworkTrainer)
    from library import train_util  # of the checkout

    parser = host.setup_parser()
    add_pair_options(parser)
    sys.argv[1:] = argv  # read_config_from_file parses sys.argv a second time
    args = parser.parse_args()
    train_util.verify_command_line_training_args(args)
    args = train_util.read_config_from_file(args, parser)
    args.network_module = args.network_module or "pair_network"
    dataset = write_pair_dataset(args)
    if dataset is not None:
        args.dataset_config = str(dataset)
    trainer_class().train(args)
