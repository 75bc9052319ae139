"""A setting is said once: a dataclass field with its default, values, meaning and parser beside it.

Parsers, ``--help`` and the tables of README and docs are made from these fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from .errors import PairError, nearest

METADATA = "option"
Value = TypeVar("Value")
Facts = ParamSpec("Facts")


@dataclass(frozen=True)
class Option:
    """What stands beside a field.

    Attributes:
        help: What it does, with its unit.
        parse: Text to value; ValueError or argparse.ArgumentTypeError with the reason. None: a switch, or text.
        values: The accepted values in words, for tables; empty: they follow from ``choices`` or ``parse``.
        default: The default in words where the field's own value does not say it.
        key: The setting's name where it is not the field's.
        may_change: It may differ from what a checkpoint was trained with when training continues from it.
        group: Heading in ``--help``.
        choices: The accepted values.
        nargs: As in argparse.
        metavar: As in argparse.
        is_required: The command line must have it; the field's value then only says its type.
        is_positional: It is given by its place on the command line, without a name.
        is_repeated: It may be given several times, a value each.
        short: A name of one letter beside the long one, "-o".
        one_of: Of the options that share this word exactly one must be given.
    """

    help: str
    parse: Callable[[str], object] | None = None
    _: KW_ONLY
    values: str = ""
    default: str = ""
    key: str = ""
    may_change: bool = False
    group: str = ""
    choices: Sequence[str] | None = None
    nargs: str | int | None = None
    metavar: str | None = None
    is_required: bool = False
    is_positional: bool = False
    is_repeated: bool = False
    short: str = ""
    one_of: str = ""


@dataclass(frozen=True)
class Number:
    """An option's type: a finite number from ``low`` to ``high``; with a unit a whole one, and a multiple of it."""

    low: float
    high: float | None = None
    unit: int = 0

    def __str__(self) -> str:
        kind = "a number" if not self.unit else "a whole number" if self.unit == 1 else f"a multiple of {self.unit}"
        return f"{kind} from {self.low} on" if self.high is None else f"{kind} from {self.low} to {self.high}"

    def __call__(self, text: str) -> float:
        try:
            value = int(text) if self.unit else float(text)
        except ValueError:
            value = math.nan
        is_in_range = self.low <= value < math.inf and (self.high is None or value <= self.high)
        if not is_in_range or (self.unit and value % self.unit):
            raise argparse.ArgumentTypeError(f"{text} is not {self}")
        return value


def _field_maker(make: Callable[Facts, Option]) -> Callable[Concatenate[Value, Facts], Value]:
    def made(value: Value, /, *given: Facts.args, **facts: Facts.kwargs) -> Value:
        return field(default=value, metadata={METADATA: make(*given, **facts)})

    return made


# option(VALUE, HELP, …): a field of a dataclass whose default is VALUE, with an ``Option`` made of the rest.
option = _field_maker(Option)


def one_line(text: str) -> str:
    """An option's type: words as a caption has them; a file or a shell may have put a line's end behind them."""
    return " ".join(text.split())


def options_of(settings: type) -> Iterator[tuple[str, str, object, Option]]:
    """(field, key, default, option) of every such field of a dataclass, in order."""
    for one in dataclasses.fields(settings):
        if METADATA in one.metadata:
            found: Option = one.metadata[METADATA]
            yield one.name, found.key or one.name, one.default, found


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose every complaint is a PairError, with the nearest option for an unknown one."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = next((text for text in unknown if text.startswith("-")), unknown[0]).split("=")[0]
            accepted = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise PairError(f"unknown option {name}{nearest(name, accepted)}; {self.about_unknown()}")
        return parsed

    def about_unknown(self) -> str:
        """What to do about an option that is not known."""
        return "--help lists all of them"

    def error(self, message: str) -> NoReturn:
        words = re.sub(r"^argument (--\S+?)(?:/\S+)?:", r"\1:", message)
        if words.endswith("expected one argument"):
            words += f"; a value that begins with a minus stands behind an equals sign: {words.partition(':')[0]}=-1"
        raise PairError(words)


def add_options(parser: argparse.ArgumentParser, settings: type, without: type | None = None) -> None:
    """The dataclass's options on a command line, under their groups' headings; those of ``without`` are left out."""
    adders: dict[str, Callable[..., argparse.Action]] = {"": parser.add_argument}
    for name, key, default, one in _kept(settings, without):
        heading = one.one_of or one.group
        if heading not in adders:
            group = (
                parser.add_mutually_exclusive_group(required=True) if one.one_of else parser.add_argument_group(heading)
            )
            adders[heading] = group.add_argument
        names = [name] if one.is_positional else [*filter(None, [one.short]), f"--{key}"]
        adders[heading](*names, **_argparse_facts(name, default, one))


def _argparse_facts(name: str, default: object, one: Option) -> dict[str, object]:
    """The keyword arguments of ``add_argument``."""
    shown = f"{one.help} (default: {text})" if (text := default_text(default, one)) else one.help
    facts: dict[str, object] = {"help": shown.replace("%", "%%")}
    if not one.is_positional:
        facts |= {"dest": name, "required": one.is_required}
    if default is False:
        return facts | {"action": "store_true"}
    if one.is_repeated:
        facts |= {"action": "append", "default": []}
    elif not one.is_positional:
        facts["default"] = default
    given = {"type": one.parse, "choices": one.choices, "nargs": one.nargs, "metavar": one.metavar}
    return facts | {name: value for name, value in given.items() if value is not None}


def settings_of(settings: type[Value], given: argparse.Namespace) -> Value:
    """A command line that has been read, as the dataclass that made its parser; nothing writes to it afterwards."""
    known = _fields(settings)
    return settings(**{name: value for name, value in vars(given).items() if name in known})


def read(prog: str, description: str | None, settings: type[Value], argv: Sequence[str]) -> Value:
    """The command line of a program as its options.

    Raises:
        PairError: An option or value that it does not take.
        SystemExit: ``--help``.
    """
    parser = OneLineParser(prog=prog, description=description, allow_abbrev=False)
    add_options(parser, settings)
    return settings_of(settings, parser.parse_args(list(argv)))


def glimpse(argv: Sequence[str], **options: object) -> argparse.Namespace:
    """What a command line says of a few options before their parser is known; all are text.

    Args:
        argv: The command line; everything else in it is passed over.
        options: What each is where the command line does not say it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_known_args(list(argv))[0]


def _fields(settings: type) -> set[str]:
    return {one.name for one in dataclasses.fields(settings)}


def _kept(settings: type, without: type | None) -> Iterator[tuple[str, str, object, Option]]:
    left_out = {name for name, *_ in options_of(without)} if without else set()
    yield from (each for each in options_of(settings) if each[0] not in left_out)


def default_text(default: object, one: Option) -> str:
    """The default in words; "" where the setting is off or absent unless it is given."""
    if one.default or default is None or default is False or one.is_required or one.is_positional:
        return one.default
    if isinstance(default, (tuple, list)):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def values_text(default: object, one: Option) -> str:
    """The accepted values in words, for a table."""
    if one.values:
        return one.values
    if one.choices is not None:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    if default is False:
        return "switch"
    if isinstance(one.parse, Number):
        return str(one.parse).removeprefix("a ")
    words: dict[object, str] = {int: "whole number", float: "number", Path: "path"}
    return words.get(one.parse, "text")


def table(settings: type, prefix: str = "", with_change: bool = False, without: type | None = None) -> str:
    """A Markdown table of the options; ``with_change`` adds whether each may change on continuing."""
    heads = ["option", "values", "default", "what it is", *(["may change on continuing"] if with_change else [])]
    lines = [heads, ["---"] * len(heads)]
    for _, key, default, one in _kept(settings, without):
        shown = one.metavar or key.upper() if one.is_positional else f"{prefix}{key}"
        row = [f"`{shown}`", values_text(default, one), default_text(default, one) or "–", one.help]
        lines.append([*row, "yes" if one.may_change else "no"] if with_change else row)
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
