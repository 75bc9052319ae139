"""Which branches each row of a batch goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

Index = slice | Tensor


@dataclass(frozen=True)
class Row:
    """The route of one batch row; the default is the base model.

    Attributes:
        pair: Pair whose content branch is on, or None when it is off.
        style: Strength of the style branch; 0 turns it off.
        shielded: The content branch is on under a stop-gradient (sg[.] of the paper's eq. 5).
    """

    pair: int | None = None
    style: float = 0.0
    shielded: bool = False

    @property
    def is_active(self) -> bool:
        return self.pair is not None or self.style != 0


BASE_ROW = Row()


def content_rows(pairs: Sequence[int | None]) -> list[Row]:
    """Rows that train the content branch (eq. 4), one for each pair index; None: a pair without one, the base row."""
    return [Row(pair=pair) for pair in pairs]


def style_rows(pairs: Sequence[int | None]) -> list[Row]:
    """Rows that train the style branch on top of the shielded content branch (eq. 5 and 6); pair None: style alone."""
    return [Row(pair=pair, style=1.0, shielded=pair is not None) for pair in pairs]


class RowPlan:
    """A route, repeated and laid out as index tensors for one device; built once and shared by all layers.

    Everything is decided from Python numbers, so that no layer waits for the device. Indices other than ``active``
    count the active rows alone.

    Attributes:
        used: The active rows: those with any branch on.
        active: Where they are in the batch: a slice where they lie together, else (``is_scattered``) an index tensor.
        style_index: Those with the style branch on.
        free, shielded: Those whose content branch does and does not train.
        pairs: The pair of each, or one number when they agree.
        pair_groups: (pair, rows) of those that train the content branch.
    """

    def __init__(self, rows: Sequence[Row], multiplier: float, device: torch.device):
        self.num_rows, self.multiplier, self.device = len(rows), multiplier, device
        numbers = [i for i, row in enumerate(rows) if row.is_active]
        self.used = tuple(rows[i] for i in numbers)
        self.active = self._index(numbers)
        self.style_index = self._where([row.style != 0 for row in self.used])
        self.shielded = self._where([row.shielded for row in self.used])
        self.free = self._where([not row.shielded for row in self.used])
        pairs = [row.pair or 0 for row in self.used]
        self.pairs: int | Tensor = pairs[0] if len(set(pairs)) == 1 else torch.tensor(pairs, device=device)
        trained = sorted({row.pair for row in self.used if row.pair is not None and not row.shielded})
        self.pair_groups = [
            (pair, self._where([row.pair == pair and not row.shielded for row in self.used])) for pair in trained
        ]
        self._weights: dict[tuple[int, int, float, float, torch.dtype], Tensor] = {}

    @property
    def num_active(self) -> int:
        return len(self.used)

    @property
    def is_partial(self) -> bool:
        """Whether other rows pass through the base layer alone."""
        return self.num_active < self.num_rows

    @property
    def is_scattered(self) -> bool:
        return not isinstance(self.active, slice)

    @property
    def has_content(self) -> bool:
        return any(row.pair is not None for row in self.used)

    @property
    def has_style(self) -> bool:
        return any(row.style != 0 for row in self.used)

    @property
    def has_shielded(self) -> bool:
        return any(row.shielded for row in self.used)

    @property
    def has_free(self) -> bool:
        return any(not row.shielded for row in self.used)

    @property
    def uniform_strength(self) -> float | None:
        """The strength of the style branch where all active rows use it alone and alike, else None."""
        strengths = {row.style for row in self.used}
        return None if self.has_content or len(strengths) != 1 else self.multiplier * strengths.pop()

    def _where(self, chosen: Sequence[bool]) -> Index:
        return self._index([i for i, is_chosen in enumerate(chosen) if is_chosen])

    def _index(self, rows: list[int]) -> Index:
        if not rows:
            return slice(0, 0)
        if rows == list(range(rows[0], rows[-1] + 1)):
            return slice(rows[0], rows[-1] + 1)
        return torch.tensor(rows, device=self.device)

    def weights(
        self, content_rank: int, style_rank: int, content_scale: float, style_scale: float, dtype: torch.dtype
    ) -> Tensor:
        """Factor of every rank in every active row, ``(active, 1, ranks)``: branch on or off × alpha / rank.

        ``ranks`` counts the used branches only, content before style.
        """
        key = (content_rank, style_rank, content_scale, style_scale, dtype)
        if key not in self._weights:
            columns = []
            if self.has_content:
                on = [self.multiplier * (row.pair is not None) for row in self.used]
                content = torch.tensor(on, dtype=dtype, device=self.device) * content_scale
                columns.append(content[:, None].expand(-1, content_rank))
            if self.has_style:
                on = [self.multiplier * row.style for row in self.used]
                style = torch.tensor(on, dtype=dtype, device=self.device) * style_scale
                columns.append(style[:, None].expand(-1, style_rank))
            self._weights[key] = torch.cat(columns, dim=1).unsqueeze(1)
        return self._weights[key]


@dataclass
class Routing:
    """The route that all layers of one network share, and its run-time strength.

    Attributes:
        multiplier: Strength of the whole network; 0 leaves the base model untouched.
        rows: The batch's route, or None: every row goes through the style branch, as in any LoRA.
    """

    multiplier: float = 1.0
    rows: tuple[Row, ...] | None = None
    _plans: dict[tuple[int, torch.device], RowPlan] = field(default_factory=dict, repr=False)

    def set(self, rows: Sequence[Row] | None) -> None:
        self.rows = None if rows is None else tuple(rows)
        self._plans.clear()

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = float(multiplier)
        self._plans.clear()

    def plan(self, batch: int, device: torch.device) -> RowPlan:
        """The plan for a layer whose input has ``batch`` rows: the route, each row repeated to fit.

        Text encoders see a caption's chunks as rows of their own, in the captions' order.

        Raises:
            RuntimeError: The batch is not a multiple of the route.
        """
        key = (batch, device)
        if key not in self._plans:
            rows = self.rows if self.rows is not None else (Row(style=1.0),) * batch
            if not rows or batch % len(rows):
                raise RuntimeError(f"a layer sees {batch} rows, but the route was set for {len(rows)}")
            repeated = [row for row in rows for _ in range(batch // len(rows))]
            self._plans[key] = RowPlan(repeated, self.multiplier, device)
        return self._plans[key]

    @contextmanager
    def use(self, rows: Sequence[Row] | None, multiplier: float | None = None) -> Iterator[None]:
        """Sets the route (and the multiplier, when given) inside the block, and restores what was there."""
        before, strength = self.rows, self.multiplier
        try:
            self.set(rows)
            if multiplier is not None:
                self.set_multiplier(multiplier)
            yield
        finally:
            self.set(before)
            self.set_multiplier(strength)
