"""The --config_file of a run, and its check against the parser of a model's family on one of kohya's trainers.

The trainers themselves take every key of the file into their options without looking at it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pair_network.errors import PairError, nearest
from pair_network.options import glimpse
from pair_network.reading import read_toml

# Options of the entry point that a file may hold, besides the parser's own.
ENTRY_OPTIONS = ("model_type", "host")
# What a TOML value has to be, by the type of its option.
PLAIN_KINDS: dict[object, tuple[tuple[type, ...], str]] = {
    int: ((int,), "must be a whole number"),
    float: ((int, float), "must be a number"),
    str: ((str,), "must be text in quotes"),
}


def config_path(argv: Sequence[str]) -> Path | None:
    """The TOML file named by --config_file, unless it is to be written (sd-scripts' --output_config)."""
    name = glimpse(argv, config_file=None).config_file
    return toml_path(name) if name and "--output_config" not in argv else None


def toml_path(name: str) -> Path:
    """The file that --config_file means; as in sd-scripts, ".toml" may be left out."""
    path = Path(name)
    return path if path.suffix == ".toml" else path.with_name(path.name + ".toml")


def config_of(argv: Sequence[str]) -> dict[str, object]:
    """``read_config`` of the command line's file; nothing where there is none."""
    path = config_path(argv)
    return read_config(path) if path is not None else {}


def read_config(path: Path) -> dict[str, object]:
    """The file's keys and values; sections only group them.

    Raises:
        PairError: The file is missing, is no TOML, or sets a key twice.
    """
    content = read_toml(path)
    flat: dict[str, object] = {}
    for name, value in content.items():
        for key, entry in value.items() if isinstance(value, Mapping) else ((name, value),):
            if key in flat:
                raise PairError(f"{path}: {key!r} is set twice, in two sections; keep one of them")
            flat[key] = entry
    return flat


def check_config(values: Mapping[str, object], parser: argparse.ArgumentParser, path: Path) -> None:
    """Raises PairError when a key is no option of the parser, or a value not what the option takes."""
    options = {action.dest: action for action in parser._actions if action.dest != "help"}
    for key, value in values.items():
        if key not in options and key not in ENTRY_OPTIONS:
            raise PairError(f"{path}: unknown key {key!r}{nearest(key, options)}")
        if key in options:
            for problem in problems_of(value, options[key]):
                raise PairError(f"{path}: {key} = {value!r}: {problem}")


def problems_of(value: object, action: argparse.Action) -> Iterator[str]:
    """What is wrong with a TOML value for an option: at most one sentence."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            yield "must be true or false"
        return
    for item in value if action.nargs in ("*", "+") and isinstance(value, list) else [value]:
        problem = _problem_of_one(item, action)
        if problem:
            yield problem
            return


def _problem_of_one(value: object, action: argparse.Action) -> str:
    kind = action.type or str
    types, sentence = PLAIN_KINDS.get(kind, ((int, float, str), "must be a number or text in quotes"))
    if not isinstance(value, types) or isinstance(value, bool):
        return sentence
    if kind not in PLAIN_KINDS and callable(kind):
        try:
            value = kind(str(value))
        except (ValueError, argparse.ArgumentTypeError) as cause:
            return str(cause)
    if action.choices is not None and value not in action.choices:
        choices = [str(choice) for choice in action.choices]
        return f"must be one of {', '.join(choices)}{nearest(str(value), choices)}"
    return ""
