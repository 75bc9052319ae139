"""Every preset of the sd-scripts host against the parser of its family: keys, types, choices, and a reason for each."""

import argparse
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from pair_network import PairError
from pair_network.families import FAMILIES
from pair_network.network.config import parse_network_args
from pair_network.training.hosts.kohya_config import check_config, read_config
from pair_network.training.hosts.musubi.families import TRAINERS as MUSUBI_TRAINERS
from pair_network.training.hosts.sd_scripts.families import TRAINERS

ROOT = Path(__file__).parents[2]
OPTIONS = ROOT / "tests/training/hosts/sd_scripts_options.json"
MUSUBI_OPTIONS = ROOT / "tests/training/hosts/musubi_options.json"
ALL = sorted(path for path in (ROOT / "presets").glob("*.toml") if path.name != "embedded.toml")
MUSUBI = [path for path in ALL if read_config(path)["host"] == "musubi"]
PRESETS = [path for path in ALL if path not in MUSUBI]
SD15 = ROOT / "presets/sd15.toml"
TYPES = {"int": int, "float": float, "str": str, "int_or_float": float, "_int_or_float": float}


def committed_parser(model_type):
    """A parser with the options that kohya's own parser of the family has, from the committed list."""
    if model_type in MUSUBI_TRAINERS:
        return parser_of(MUSUBI_OPTIONS, model_type)
    return parser_of(OPTIONS, next(n for n, each in TRAINERS.items() if each.trainer == TRAINERS[model_type].trainer))


def parser_of(file, family):
    lists = json.loads(file.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser()
    for name, (kind, *facts) in {**lists["all"], **lists[family]}.items():
        nargs, choices = (*facts, None, None)[:2]
        if kind == "bool":
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=TYPES.get(kind, str), nargs=nargs, choices=choices)
    return parser


def test_every_family_and_memory_size_has_a_preset():
    assert {path.stem for path in PRESETS} >= {
        "sd15", "sd15_vpred_zsnr", "sd2", "sdxl_8gb", "sdxl_12gb", "sdxl_24gb", "sdxl_illustrious_pony",
        "sdxl_vpred_noobai", "sd3", "flux_12gb", "flux_16gb", "flux_24gb", "lumina", "anima", "hunyuan_image",
    }  # fmt: skip
    for family in FAMILIES.values():
        assert {path.stem for path in ALL} >= set(family.presets)
        for name in family.presets:
            model_type = (family.sd_scripts or family.musubi).model_type
            assert read_config(ROOT / f"presets/{name}.toml")["model_type"] == model_type
    assert {name for family in FAMILIES.values() for name in family.presets} == {path.stem for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_keys_types_and_choices_fit_the_committed_options(path):
    values = read_config(path)
    check_config(values, committed_parser(values["model_type"]), path)
    given = dict(entry.split("=", 1) for entry in values["network_args"])
    assert parse_network_args(values["network_dim"], values["network_alpha"], None, given).rank == values["network_dim"]
    assert values["style_start_step"] < values["max_train_steps"]


EITHER = [path for path in [*ALL, ROOT / "presets/embedded.toml"] if read_config(path)["host"] in ("any", "embedded")]


@pytest.mark.parametrize("path", EITHER, ids=lambda path: path.stem)
def test_what_either_host_can_run_is_read_by_the_embedded_one(path):
    from pair_network.training.hosts.embedded.config import frozen
    from pair_network.training.hosts.embedded.config_file import read_config_file
    from pair_network.training.hosts.embedded.model import ModelFacts, with_model_facts
    from pair_network.training.hosts.embedded.numbers import check_options
    from pair_network.training.hosts.embedded.options import setup_parser
    from pair_network.training.options import add_pair_options

    parser = setup_parser()
    add_pair_options(parser)
    argv = ["--config_file", str(path)]
    args = read_config_file(parser.parse_args(argv), parser, argv)
    assert args.output_name == read_config(path)["output_name"]
    check_options(vars(args))
    facts = ModelFacts(args.model_type or "sd", bool(args.v2), "epsilon", False, {})
    assert with_model_facts(frozen(args), facts).model_type == facts.model_type


def test_the_committed_options_reject_a_slip(tmp_path):
    path = tmp_path / "slip.toml"
    path.write_text(SD15.read_text(encoding="utf-8").replace("learning_rate =", "learning_rat ="), encoding="utf-8")
    with pytest.raises(PairError, match=r"unknown key .learning_rat. \(did you mean"):
        check_config(read_config(path), committed_parser("sd"), path)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_value_says_what_it_is(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "Not run on real weights here" in "\n".join(lines[:4])
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(r"\w+ =", line):
            comment = line.partition("  # ")[2] or before.removeprefix("# ")
            assert len(comment) > 3, f"{path.name}: {line}"


@pytest.mark.sd_scripts
def test_presets_and_the_committed_options_fit_the_real_parsers():
    """The committed list may be older than the checkout, but must not name an option otherwise than it does."""
    if not all(os.environ.get(name) for name in ("SD_SCRIPTS_DIR", "SD_SCRIPTS_PYTHON")):
        pytest.skip("needs a checkout of sd-scripts: set SD_SCRIPTS_DIR and SD_SCRIPTS_PYTHON")

    def run(task, *rest):
        command = [
            os.environ["SD_SCRIPTS_PYTHON"],
            OPTIONS.with_suffix(".py"),
            os.environ["SD_SCRIPTS_DIR"],
        ]
        done = subprocess.run([*command, ".", task, *map(str, rest)], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    verdicts = re.findall(r"CHECKED (\S+) (.*)", run("check", *PRESETS))
    assert len(verdicts) == len(PRESETS)
    assert {verdict for _, verdict in verdicts} <= {"ok", "no such family here"}, verdicts
    real = json.loads(run("dump"))
    committed = json.loads(OPTIONS.read_text(encoding="utf-8"))
    for family in set(real) - {"all"}:
        ours, theirs = ({**lists["all"], **lists[family]} for lists in (committed, real))
        assert {name: fact for name, fact in ours.items() if theirs.get(name, fact) != fact} == {}
