"""From the command line to a trainer: which host runs the training, and with which preset."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pair_network import starting
from pair_network.errors import PairError, nearest
from pair_network.files import with_home
from pair_network.options import glimpse
from pair_network.signals import become, received
from pair_network.starting import PROJECT

from . import finish, more_pairs, one_command
from .hosts.kohya_config import config_path, read_config
from .kohya_gui import Kinds, is_gui_config, model_type_of_gui, options_of_gui, read_gui_json, write_options
from .kohya_install import find_installation, needs_restart, usual_places
from .more_pairs import MorePairs
from .options import check_name
from .presets import choose_preset, free_gpu_memory, preset_named

ENTRY = PROJECT / "train_pair_network.py"
HOSTS = ("auto", "sd-scripts", "musubi", "embedded")
# Value of ``host`` in a config file that either sd-scripts or the embedded host can run.
ANY = "any"
CHECKOUTS = {"sd-scripts": "sd_scripts", "musubi": "musubi"}


@dataclass(frozen=True)
class Choice:
    """The options of the entry point: which trainer, with which preset, and which UIs get the LoRA."""

    host: str
    preset: str | None
    sd_scripts: str | None
    musubi: str | None
    webui: Path | None
    comfyui: Path | None
    more_pairs: int
    more_prompts: Path | None


def train(argv: Sequence[str]) -> int:
    """Trains as the command line says; returns the exit code.

    Raises:
        PairError: A mistake in the options or the files they name.
        SystemExit: The run was interrupted, after its state was saved.
    """
    argv = one_command.spelled(with_home(argv))
    given, rest = make_chooser().parse_known_args(argv)
    choice = Choice(**vars(given))
    if {"-h", "--help"} & set(rest):
        print(make_chooser().format_help())  # the host's own help follows
    uis = finish.Uis(choice.webui, choice.comfyui)
    uis.check()
    more = MorePairs(choice.more_pairs, choice.more_prompts)
    is_short = one_command.is_short(rest, choice.preset)
    if is_short and choice.host == "auto":
        choice = with_checkout(choice, one_command.kohyas_trainer(rest, bool(choice.musubi)))
    if choice.sd_scripts == "auto":
        found = find_installation(usual_places())
        choice = replace(choice, sd_scripts=str(found.checkout))
        print(f"sd-scripts: {found.checkout}, with {found.python or sys.executable}")
        if needs_restart(found):
            # After the first, given last: the Python of its own environment has its packages.
            return become([str(found.python), str(ENTRY), *argv, "--sd_scripts", str(found.checkout)])
    if is_short:
        rest = one_command.completed(rest, bool(choice.sd_scripts or choice.musubi))
    elif choice.preset:
        rest = with_preset(choice.preset, rest, bool(choice.sd_scripts or choice.musubi))
    return run_host(choice, with_gui_config(rest, choice), uis, more)


def with_checkout(choice: Choice, trainer: str | None) -> Choice:
    """The choice, with kohya's sd-scripts looked for where a short command needs it and names no checkout."""
    needed = trainer == "sd-scripts" and choice.sd_scripts is None
    return replace(choice, sd_scripts="auto") if needed else choice


def run_host(choice: Choice, rest: list[str], uis: finish.Uis, more: MorePairs) -> int:
    """Trains on the host that the options or their file name, on more pairs if wanted, and says what was made."""
    path = config_path(rest)
    values = read_config(path) if path is not None else {}
    host = choose_host(choice, values, path)
    given = one_command.Given.of(rest).completed_by(values)
    output = given.output_dir or "", given.output_name or ""
    check_name(given.output_name)
    if given.resume == "auto":
        rest = one_command.resumed(rest, *output)
    if more.count:
        rest = [*rest, *more_pairs.made(host, given, more)]
    lora, started = finish.lora_file(*output), time.time()
    try:
        return train_on(host, choice, rest) or announce(lora, started, uis)
    except (KeyboardInterrupt, Exception) as end:
        # By a signal, or by what a library made of it; a host that saves where it is stopped has a status of its own.
        if (received() or isinstance(end, KeyboardInterrupt)) and is_made(lora, started):
            print("stopped after the last step: all files are written, the report may be missing")
        raise


def train_on(host: str, choice: Choice, rest: list[str]) -> int:
    """The training itself; its exit status."""
    if host == "sd-scripts":
        from .hosts import sd_scripts

        assert choice.sd_scripts is not None
        sd_scripts.train(choice.sd_scripts, rest)
    elif host == "musubi":
        from .hosts import musubi

        assert choice.musubi is not None
        musubi.train(choice.musubi, one_command.with_dit(rest))
    else:
        from .hosts import embedded

        return embedded.train(rest)
    return 0


def is_made(lora: Path, started: float) -> bool:
    """Whether this run has written its last file; the first process of several says so."""
    return finish.is_first_process() and lora.is_file() and lora.stat().st_mtime >= started - 2


def announce(lora: Path, started: float, uis: finish.Uis) -> int:
    """Says what a training has made, and puts it into the UIs; the exit status."""
    if not is_made(lora, started):
        return 0
    print("\n".join(finish.summary(lora)))
    if not uis.commands(lora):
        print(f"copy {lora.name} to {finish.LORA_FOLDERS}")
    statuses = [
        subprocess.call(starting.command("convert", *command), env=starting.environment())
        for command in uis.commands(lora)
    ]
    return max(statuses, default=0)


def make_chooser() -> argparse.ArgumentParser:
    """The options of the entry point itself; everything else is the host's."""
    chooser = argparse.ArgumentParser(
        prog=ENTRY.name, description="Which trainer runs, and with which preset.", add_help=False, allow_abbrev=False
    )
    add = chooser.add_argument
    add("--host", choices=HOSTS, default="auto", help="which trainer runs the training")
    add("--preset", metavar="NAME", help="a file of presets/, or auto: by the model and the card")
    add(
        "--sd_scripts",
        metavar="DIR|auto",
        default=os.environ.get("SD_SCRIPTS_DIR") or None,
        help="checkout of kohya's sd-scripts; auto finds that of kohya_ss GUI (default: SD_SCRIPTS_DIR)",
    )
    add(
        "--musubi",
        metavar="DIR",
        default=os.environ.get("MUSUBI_DIR") or None,
        help="checkout of kohya's musubi-tuner (default: MUSUBI_DIR)",
    )
    add("--webui", type=Path, metavar="DIR", help="folder of A1111 or Forge, which gets the LoRA and the extension")
    add("--comfyui", type=Path, metavar="DIR", help="folder of ComfyUI, which gets the LoRA and the nodes")
    add("--more_pairs", type=int, default=0, metavar="N", help="make so many pairs out of the one first, where it can")
    add("--more_prompts", type=Path, metavar="FILE", help="what they show: a prompt in each line (default: our own)")
    return chooser


def with_preset(name: str, argv: Sequence[str], has_checkout: bool) -> list[str]:
    """The command line with a preset as its --config_file; says which one ``auto`` took, and why.

    Without a checkout of kohya's, ``auto`` takes what the embedded host can run, where it trains the model at all.

    Raises:
        PairError: There is no such preset, none fits, or --config_file is given too.
    """
    if config_path(argv) is not None:
        raise PairError("--preset and --config_file both name a file of options; use one of them")
    if name != "auto":
        return ["--config_file", str(preset_named(name).path), *argv]
    from .hosts.model_types import detect_model_type

    given = one_command.Given.of(argv)
    model_type = given.model_type or detect_model_type(given.model)
    hosts = ("any", "embedded") if model_type in one_command.EMBEDDED_TYPES and not has_checkout else ()
    preset, reason = choose_preset(model_type, given.model or "the model", free_gpu_memory(), hosts)
    print(f"preset {preset.name} ({preset.path}): {reason}")
    return ["--config_file", str(preset.path), *argv]


def with_gui_config(argv: Sequence[str], choice: Choice) -> list[str]:
    """The command line with a plain TOML in place of a file that kohya_ss GUI saved; tells what is left out.

    Raises:
        PairError: The file cannot be read.
    """
    name = glimpse(argv, config_file="").config_file
    path = Path(name) if name.endswith(".json") else config_path(argv)
    if path is None:
        return list(argv)
    values = read_gui_json(path) if path.suffix == ".json" else read_config(path)
    if not is_gui_config(values):
        return list(argv)
    known = host_options(choice, values)
    is_counted = any(part.partition("=")[0] == "--max_train_steps" for part in argv)
    if is_counted:  # a file's epochs would beat the steps of the command line
        values = {key: value for key, value in values.items() if key not in ("epoch", "max_train_epochs")}
    options, notes = options_of_gui(values, known)
    plain = write_options(options, path)
    print(f"{path} was saved by kohya_ss GUI; its options for this training are in {plain}")
    for note in notes:
        print(f"  {note}")
    at = list(argv).index("--config_file") if "--config_file" in argv else None
    if at is None:
        return [f"--config_file={plain}" if part.startswith("--config_file=") else part for part in argv]
    return [*argv[: at + 1], str(plain), *argv[at + 2 :]]


def host_options(choice: Choice, values: Mapping[str, object]) -> Kinds:
    """The options that the host of a GUI's file has."""
    if choice.sd_scripts and choice.host in ("auto", "sd-scripts"):
        from .hosts.model_types import detect_model_type
        from .hosts.sd_scripts.entry import import_sd_scripts, make_parser
        from .hosts.sd_scripts.families import trainer_of

        model = str(values.get("pretrained_model_name_or_path") or "")
        model_type = model_type_of_gui(values) or detect_model_type(model) or "sd"
        parser = make_parser(import_sd_scripts(choice.sd_scripts, trainer_of(model_type).module))
    else:
        from .hosts.embedded.options import setup_parser

        parser = setup_parser()
    return {action.dest: action.type if callable(action.type) else None for action in parser._actions}


def choose_host(choice: Choice, config: Mapping[str, object], source: Path | None) -> str:
    """The host to train on: what --host says, what the config file is made for, or a checkout that is named.

    Raises:
        PairError: They contradict each other, or the host needs a checkout that is not named.
    """
    made_for = str(config.get("host", ANY))
    if made_for not in (ANY, *HOSTS[1:]):
        accepted = (ANY, *HOSTS[1:])
        raise PairError(
            f"{source}: host = {made_for!r}: must be one of {', '.join(accepted)}{nearest(made_for, accepted)}"
        )
    if choice.host != "auto" and made_for not in (ANY, choice.host):
        raise PairError(f"{source} is made for {made_for}, not for --host {choice.host}; leave --host out")
    host = choice.host if choice.host != "auto" else made_for
    if host == ANY:
        host = "sd-scripts" if choice.sd_scripts else "embedded"
        if source is None and choice.musubi and not choice.sd_scripts:
            host = "musubi"
    option = CHECKOUTS.get(host)
    if option is not None and not getattr(choice, option):
        because = f"--host {host}" if choice.host != "auto" else f"{source} is made for {host}: it"
        raise PairError(f"{because} needs --{option} DIR (or {option.upper()}_DIR), the folder of your checkout")
    return host
