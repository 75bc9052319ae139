"""The network's settings: one frozen dataclass, parsed once from kohya's ``network_args`` strings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pair_network.errors import PairError, nearest
from pair_network.options import option, options_of

from . import stored
from .kohya_args import remedy

ORTHOGONALITY = ("frozen", "penalty", "none")
TARGETS = ("attention", "ff", "conv", "modulation", "full", "text_encoder", "t5")
DEFAULT_RANK = 16
Given = str | int | float  # hosts pass network_args as text, their own options as numbers
Raw = TypeVar("Raw")
Parsed = TypeVar("Parsed")
AT_LEAST_0, PROBABILITY, HOSTS_RATE = "number from 0", "0 to below 1", "the host's"


def _positive_int(value: Given) -> int:
    number = int(value)
    if number < 1:
        raise ValueError("must be a whole number of at least 1")
    return number


def _non_negative(value: Given) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError("must be a number of at least 0")
    return number


def _positive(value: Given) -> float:
    if _non_negative(value) == 0:
        raise ValueError("must be above 0")
    return float(value)


def _probability(value: Given) -> float:
    number = float(value)
    if not 0 <= number < 1:
        raise ValueError("must be a probability from 0 up to, but not including, 1")
    return number


def _choice(accepted: tuple[str, ...]) -> Callable[[Given], str]:
    def parse(value: Given) -> str:
        if value not in accepted:
            raise ValueError(f"must be one of {', '.join(accepted)}{nearest(str(value), accepted)}")
        return str(value)

    return parse


def _boolean(value: Given) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError("must be True or False")
    return str(value).lower() == "true"


def _targets(value: Given) -> tuple[str, ...]:
    names = [part.strip() for part in str(value).split("+")]
    return tuple(dict.fromkeys(_choice(TARGETS)(name) for name in names))


def _block_dims(value: Given) -> tuple[tuple[str, int], ...]:
    entries = []
    for entry in str(value).split(","):
        part, separator, rank = entry.partition("=")
        if not separator or not part.strip():
            raise ValueError(
                "write part-of-the-layer-path=rank, comma-separated, for example down_blocks.0=8,mid_block=32"
            )
        if int(rank) < 0:
            raise ValueError("ranks must be at least 0")
        entries.append((part.strip(), int(rank)))
    return tuple(entries)


@dataclass(frozen=True)
class PairConfig:
    """Everything needed to rebuild a coupled network for a given base model.

    The ``network_args`` are its fields with an ``option``; there stand values, defaults, meaning, and whether they may
    change when training continues from a coupled checkpoint.

    Attributes:
        rank: Rank of the style branch (``network_dim``), at least 1.
        alpha: Style alpha (``network_alpha``); the branch's scale is alpha / rank.
    """

    rank: int = DEFAULT_RANK
    alpha: float = float(DEFAULT_RANK)
    content_rank: int = option(
        DEFAULT_RANK,
        "rank of the content branch",
        _positive_int,
        key="content_dim",
        values="whole number from 1",
        default="as `network_dim`",
    )
    content_alpha: float = option(
        float(DEFAULT_RANK),
        "alpha of the content branch, whose scale is alpha / rank",
        _positive,
        values="number above 0",
        default="the style's scale",
    )
    orthogonality: str = option(
        "frozen",
        "`frozen`: both downs are rows of one orthonormal basis and never train (paper, section 4.2); `penalty`: the "
        "downs train and their overlap is penalised; `none`: the downs train freely",
        _choice(ORTHOGONALITY),
        choices=ORTHOGONALITY,
    )
    penalty_weight: float = option(
        1.0, "weight of the overlap penalty, with `penalty` only", _non_negative, values=AT_LEAST_0, may_change=True
    )
    basis_seed: int = option(0, "seed of every layer's private generator", int)
    targets: tuple[str, ...] = option(
        ("attention",),
        "kinds of layer to train",
        _targets,
        values="+".join(TARGETS) + ", or some of them joined by +",
        default="attention",
    )
    block_dims: tuple[tuple[str, int], ...] = option(
        (),
        "style rank by part of the layer's path; 0 leaves the block out; the last entry that fits wins",
        _block_dims,
        values="`down_blocks.0=8,mid_block=0`",
        default="–",
    )
    split_qkv: bool = option(
        False,
        "fused q, k, v (and MLP) layers of FLUX, SD3, Lumina and HunyuanImage get factors for each of them",
        _boolean,
        values="True, False",
        default="False",
    )
    num_pairs: int = option(
        1,
        "training pairs, one content up-factor for each; pair training counts them in the dataset",
        _positive_int,
        values="whole number from 1",
    )
    dropout: float = option(
        0.0,
        "probability that an element of the low-rank projection is zeroed while training",
        _probability,
        values=PROBABILITY,
        may_change=True,
    )
    rank_dropout: float = option(
        0.0,
        "probability that a whole rank is zeroed for a row while training",
        _probability,
        values=PROBABILITY,
        may_change=True,
    )
    module_dropout: float = option(
        0.0,
        "probability that a whole layer is skipped in a step while training",
        _probability,
        values=PROBABILITY,
        may_change=True,
    )
    content_lr: float | None = option(
        None,
        "learning rate of the content branch",
        _non_negative,
        values=AT_LEAST_0,
        default=HOSTS_RATE,
        may_change=True,
    )
    style_lr: float | None = option(
        None, "learning rate of the style branch", _non_negative, values=AT_LEAST_0, default=HOSTS_RATE, may_change=True
    )

    @property
    def trains_downs(self) -> bool:
        return self.orthogonality != "frozen"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, source: str) -> PairConfig:
        """Config written by ``to_json``.

        Raises:
            PairError: The text is not such a config; ``source`` is the file named in the message.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
            build: Callable[..., PairConfig] = cls
            return build(**{name: _from_json(name, value) for name, value in values.items()})
        except (ValueError, RecursionError) as cause:
            reason = " ".join(str(cause).split())
            shown = reason if reason.isprintable() else ascii(reason)[1:-1]
            raise PairError(
                f"{source}: the pair_network_config metadata cannot be read ({shown[:200]}); re-export the file"
            ) from cause


NETWORK_ARGS = {key: name for name, key, _, _ in options_of(PairConfig)}  # key -> field
_PARSERS = {key: one.parse for _, key, _, one in options_of(PairConfig) if one.parse}
# They shape no tensor, so they may differ from those that a coupled checkpoint was trained with.
FREE_TO_CHANGE = tuple(key for _, key, _, one in options_of(PairConfig) if one.may_change)


_STORED: dict[str, Callable[[object], object]] = {
    "rank": stored.count,
    "alpha": stored.scale,
    "content_rank": stored.count,
    "content_alpha": stored.scale,
    "orthogonality": stored.one_of(ORTHOGONALITY),
    "penalty_weight": stored.ranged(_non_negative),
    "basis_seed": stored.seed,
    "targets": stored.list_of(TARGETS),
    "block_dims": stored.block_ranks,
    "split_qkv": stored.flag,
    "num_pairs": stored.count,
    "dropout": stored.ranged(_probability),
    "rank_dropout": stored.ranged(_probability),
    "module_dropout": stored.ranged(_probability),
    "content_lr": stored.ranged(_non_negative, is_optional=True),
    "style_lr": stored.ranged(_non_negative, is_optional=True),
}


def _from_json(name: str, value: object) -> object:
    if name not in _STORED:
        raise ValueError(f"{name} is no setting")
    try:
        return _STORED[name](value)
    except (ValueError, OverflowError) as cause:
        raise ValueError(f"{name} = {str(value)[:40]}: {cause}") from cause


def parse_network_args(
    network_dim: int | None, network_alpha: float | None, dropout: float | None, network_args: Mapping[str, str | None]
) -> PairConfig:
    """Config from what a kohya host passes to ``create_network``.

    Args:
        network_dim: Style rank, or None for the default (16).
        network_alpha: Style alpha, or None for alpha = rank.
        dropout: kohya's ``--network_dropout``, or None.
        network_args: The ``network_args`` as strings ("content_dim": "8"); values that are None are ignored.

    Raises:
        PairError: An unknown key (the nearest one is suggested), or a value of the wrong type or range.
    """
    given = {key: value for key, value in network_args.items() if value is not None}
    unknown = [key for key in given if key not in _PARSERS]
    if unknown and remedy(unknown[0]):
        raise PairError(f"network_args: {unknown[0]}: {remedy(unknown[0])}")
    if unknown:
        accepted = ", ".join(_PARSERS)
        raise PairError(
            f"network_args: unknown key {unknown[0]!r}{nearest(unknown[0], _PARSERS)}; accepted are: {accepted}"
        )
    values: dict[str, object] = {key: _parse_one(key, value, _PARSERS[key]) for key, value in given.items()}
    rank = _parse_one("network_dim", network_dim, _positive_int) if network_dim is not None else DEFAULT_RANK
    alpha = _parse_one("network_alpha", network_alpha, _positive) if network_alpha else float(rank)
    content_rank = values.pop("content_dim", rank)
    assert isinstance(content_rank, int)
    values.setdefault("content_alpha", alpha * content_rank / rank)
    if dropout is not None:
        values.setdefault("dropout", _parse_one("dropout", dropout, _probability))
    build: Callable[..., PairConfig] = PairConfig
    return build(rank=rank, alpha=alpha, content_rank=content_rank, **values)


def _parse_one(key: str, value: Raw, parse: Callable[[Raw], Parsed]) -> Parsed:
    try:
        return parse(value)
    except (TypeError, ValueError) as cause:
        raise PairError(f"network_args: {key}={value!r} is not usable: {cause}") from cause
