"""The language of the families' layer tables, and what a line of one means.

A table has a line for each layer: its path in the original checkpoint, below the block; the path or paths in diffusers'
model that hold the same weights, joined by "+" where the original stacks several by rows; how many rows (outputs) each
of these has, likewise; and the columns (inputs). Widths are numbers, or multiples of the hidden width h (``3h``,
``h/3``); ``|`` separates alternatives, ``*`` is any width. A fifth word, ``shift,scale``, marks layers whose rows are
(shift, scale) in the original and (scale, shift) in diffusers, in the form that has twice as many rows as columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Width:
    """A width that a layer may have: one of some numbers and multiples of h. Nothing given: any.

    Attributes:
        numbers: Plain widths.
        multiples: Factors of the hidden width.
    """

    numbers: tuple[int, ...] = ()
    multiples: tuple[Fraction, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Width:
        """``4096``, ``3h``, ``h/3``, ``6h|9h`` or ``*``."""
        if text == "*":
            return cls()
        words = text.split("|")
        multiples = tuple(Fraction(word.replace("h", "1", 1) if word[0] == "h" else word.replace("h", ""))
                          for word in words if "h" in word)  # fmt: skip
        return cls(tuple(int(word) for word in words if "h" not in word), multiples)

    def fits(self, found: int, hidden: int | None) -> bool:
        """Whether it may be ``found``, in a model with this hidden width; None: multiples of h fit anything."""
        if not self.numbers and not self.multiples:
            return True
        if self.multiples and hidden is None:
            return True
        return found in self.numbers or any(found == multiple * (hidden or 0) for multiple in self.multiples)


ANY = Width()


def total(widths: Iterable[Width]) -> Width:
    """The width of several parts together; alternatives of a part are not followed."""
    widths = list(widths)
    if len(widths) == 1:
        return widths[0]
    if any(len(width.multiples) != 1 for width in widths):
        return Width()
    return Width(multiples=(sum((width.multiples[0] for width in widths), Fraction(0)),))


@dataclass(frozen=True)
class Entry:
    """A layer under its original name, and the diffusers layers that are the same weights.

    Attributes:
        native: Dotted path in the original checkpoint, below the model.
        modules: Dotted paths in diffusers' model, whose weights stacked by rows are the original's. Most layers have
            one; the joint projections of transformers (qkv) have several.
        rows: Outputs of each of the modules.
        columns: Inputs, the same for all of them.
        swaps: The original stacks (shift, scale) where diffusers stacks (scale, shift), in the form of this layer
            that has twice as many rows as inputs.
    """

    native: str
    modules: tuple[str, ...]
    rows: tuple[Width, ...]
    columns: Width
    swaps: bool = False


@dataclass(frozen=True)
class Blocks:
    """A table's layers, once or for each of a row of numbered blocks.

    Attributes:
        table: Lines as above; empty lines and those that start with "#" are passed over.
        native: What precedes the original names, with "{}" for the block's number.
        modules: What precedes diffusers' names, likewise.
        count: Number of blocks; of a family with several sizes, the largest one's.
    """

    table: str
    native: str = ""
    modules: str = ""
    count: int = 1


def entries_of(blocks: Iterable[Blocks]) -> tuple[Entry, ...]:
    """All layers of the tables, block after block."""
    return tuple(entry for each in blocks for entry in _entries(each))


def _entries(blocks: Blocks) -> Iterator[Entry]:
    lines = [line.split() for line in blocks.table.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    layers = [
        (native, modules.split("+"), tuple(map(Width.parse, rows.split("+"))), Width.parse(columns), marks)
        for native, modules, rows, columns, *marks in lines
    ]
    for number in range(blocks.count):
        place, before = blocks.native.format(number), blocks.modules.format(number)
        for native, modules, rows, columns, marks in layers:
            whole = tuple(before + module for module in modules)
            yield Entry(place + native, whole, rows, columns, marks == ["shift,scale"])
