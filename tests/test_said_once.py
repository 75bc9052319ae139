"""Options are said once: parsers, help, tables and what may change on continuing come from one field each."""

import argparse
import dataclasses
import importlib.util
from pathlib import Path

import pytest

from pair_network.families import FAMILIES
from pair_network.network.config import FREE_TO_CHANGE, NETWORK_ARGS, PairConfig
from pair_network.options import add_options, option, options_of, table
from pair_network.training.hosts.embedded.config import EmbeddedOptions, frozen
from pair_network.training.hosts.embedded.options import setup_parser
from pair_network.training.launch import make_chooser
from pair_network.training.one_command import ALIASES
from pair_network.training.options import PairOptions, add_pair_options

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Example:
    steps: int = option(30, "sampling steps", int)
    words: str | None = option(None, "style words; 100 % of them", default="the file's")
    fast: bool = option(False, "less care", may_change=True)


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_field_makes_parser_help_and_row():
    parser = argparse.ArgumentParser(prog="x")
    add_options(parser, Example)
    assert vars(parser.parse_args(["--steps", "5", "--fast"])) == {"steps": 5, "words": None, "fast": True}
    text = parser.format_help()
    assert "sampling steps (default: 30)" in text and "100 % of them (default: the file's)" in text
    rows = table(Example, "--", with_change=True).splitlines()
    assert rows[2] == "| `--steps` | whole number | 30 | sampling steps | no |"
    assert rows[4] == "| `--fast` | switch | – | less care | yes |"


@pytest.mark.parametrize("page", ["README.md", "docs/options.md", "docs/hosts.md"])
def test_the_pages_hold_the_tables_of_the_code(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tables().PLACE.search(text)
    assert tables().with_tables(text) == text, "run: python docs/tables.py"


def test_the_page_has_every_option_of_the_command_itself():
    text = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    names = [action.option_strings[0] for action in make_chooser()._actions] + list(ALIASES)
    assert [name for name in names if f"| `{name}" not in text] == []


def test_a_stale_table_is_noticed():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("rank of the content branch", "something else")
    assert tables().with_tables(text) != text


def test_the_hosts_page_says_what_each_host_trains_and_shares():
    """Fails if a family or an option could be left out, or stand under a host that has it not."""
    models, options = tables().models_by_host().splitlines()[2:], tables().options_by_host()
    assert len(models) == len(FAMILIES)
    sdxl = next(line for line in models if line.startswith("| SDXL |"))
    assert "| `sdxl` | – | ● | CLIP |" in sdxl and "`sdxl_12gb`" in sdxl
    assert next(line for line in models if "Krea 2" in line) == "| Krea 2 | – | `krea2` | – | – | `krea2` |"
    everywhere = {name for name, *_ in options_of(PairOptions)}
    for name, key, _, _ in options_of(EmbeddedOptions):
        assert options.count(f"`{key}`") == (name not in everywhere)
    model = next(line for line in options.splitlines() if line.startswith("| model |"))
    _, _, everywhere, shared, alone, _ = model.split("|")
    assert "`sdpa`" in everywhere and "`clip_skip`" in shared and "`quantize`" in alone


def test_every_network_arg_has_meaning_and_parser():
    for _, key, _, one in options_of(PairConfig):
        assert one.help and one.parse is not None, key
    fields = {field.name for field in dataclasses.fields(PairConfig)}
    assert set(NETWORK_ARGS.values()) == fields - {"rank", "alpha"}


def test_what_may_change_on_continuing_shapes_no_tensor():
    assert not {"content_dim", "targets", "block_dims", "split_qkv", "num_pairs"} & set(FREE_TO_CHANGE)
    assert "style_lr" in FREE_TO_CHANGE


def test_the_command_line_is_the_dataclass():
    parser = setup_parser()
    add_pair_options(parser)
    options = frozen(parser.parse_args([]))
    assert options == EmbeddedOptions()
    assert {name for name, *_ in options_of(PairOptions)} < {name for name, *_ in options_of(EmbeddedOptions)}


def test_options_cannot_be_written_to():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EmbeddedOptions().seed = 3


def test_help_names_every_network_arg():
    text = setup_parser().format_help()
    assert all(f"  {key}: " in text for key in NETWORK_ARGS)
