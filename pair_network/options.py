"""A setting is said once: a dataclass field with its default, values, meaning and parser beside it.

Parsers, ``--help`` and the tables of README and docs are made from these fields.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from .errors import PairError, nearest

METADATA = "option"
Value = TypeVar("Value")


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
    """

    help: str
    parse: Callable[[str], object] | None = None
    values: str = ""
    default: str = ""
    key: str = ""
    may_change: bool = False
    group: str = ""
    choices: Sequence[str] | None = None
    nargs: str | None = None
    metavar: str | None = None


def option(
    value: Value,
    help: str,
    parse: Callable[[str], object] | None = None,
    *,
    values: str = "",
    default: str = "",
    key: str = "",
    may_change: bool = False,
    group: str = "",
    choices: Sequence[str] | None = None,
    nargs: str | None = None,
    metavar: str | None = None,
) -> Value:
    """A field of a dataclass whose default is ``value``, with an ``Option`` made of the rest."""
    fact = Option(help, parse, values, default, key, may_change, group, choices, nargs, metavar)
    return field(default=value, metadata={METADATA: fact})


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
        raise PairError(re.sub(r"^argument (--\S+?)(?:/\S+)?:", r"\1:", message))


def add_options(parser: argparse.ArgumentParser, settings: type, without: type | None = None) -> None:
    """The dataclass's options on a command line, under their groups' headings; those of ``without`` are left out."""
    adders: dict[str, Callable[..., argparse.Action]] = {"": parser.add_argument}
    for key, default, one in _kept(settings, without):
        if one.group not in adders:
            adders[one.group] = parser.add_argument_group(one.group).add_argument
        add = adders[one.group]
        shown = f"{one.help} (default: {text}" if (text := default_text(default, one)) else one.help
        help_text = (f"{shown})" if text else shown).replace("%", "%%")
        if default is False:
            add(f"--{key}", action="store_true", help=help_text)
            continue
        facts = {"choices": one.choices, "nargs": one.nargs, "metavar": one.metavar}
        given = {name: value for name, value in facts.items() if value is not None}
        add(f"--{key}", type=one.parse, default=default, help=help_text, **given)


def _kept(settings: type, without: type | None) -> Iterator[tuple[str, object, Option]]:
    left_out = {name for name, *_ in options_of(without)} if without else set()
    yield from ((key, default, one) for name, key, default, one in options_of(settings) if name not in left_out)


def default_text(default: object, one: Option) -> str:
    """The default in words; "" where the setting is off or absent unless it is given."""
    if one.default or default is None or default is False:
        return one.default
    return f"{default:g}" if isinstance(default, float) else str(default)


def values_text(default: object, one: Option) -> str:
    """The accepted values in words, for a table."""
    if one.values:
        return one.values
    if one.choices is not None:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    if default is False:
        return "switch"
    return "whole number" if one.parse is int else "number" if one.parse is float else "text"


def table(settings: type, prefix: str = "", with_change: bool = False, without: type | None = None) -> str:
    """A Markdown table of the options; ``with_change`` adds whether each may change on continuing."""
    heads = ["option", "values", "default", "what it is", *(["may change on continuing"] if with_change else [])]
    lines = [heads, ["---"] * len(heads)]
    for key, default, one in _kept(settings, without):
        row = [f"`{prefix}{key}`", values_text(default, one), default_text(default, one) or "–", one.help]
        lines.append([*row, "yes" if one.may_change else "no"] if with_change else row)
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
