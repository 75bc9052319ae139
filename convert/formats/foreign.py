"""Tensors of a LoRA file that are no factor of a plain LoRA: what they are, and which layers they change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pair_network.errors import printable

from .parse import Parsed, normal_name

EMBEDDING = "bundle_emb."  # OneTrainer's textual inversions beside the layers; A1111 reads them from there
# A textual inversion in a file of its own.
INVERSION = re.compile(r"^(emb_params|clip_[lgh]|t5xxl|string_to_param\b.*|<.+>)$")
UNKNOWN, FULL_WEIGHT, INCOMPLETE = "unknown name", "full weight", "incomplete layer's tensor"
# Of whole layers: their factors mean something else than up @ down.
METHODS = (
    (re.compile(r"\.hada_\w+$"), "LoHa"),
    (re.compile(r"\.lokr_\w+$"), "LoKr"),
    (re.compile(r"\.dora_scale$|\.lora_magnitude_vector\b.*$"), "DoRA"),
    (re.compile(r"\.b?oft_\w+(\.weight)?$|\.boft\w*$"), "OFT"),
    (re.compile(r"\.[abc][12]\.weight$|\.glora\w*\b.*$"), "GLoRA"),
    (re.compile(r"\.on_input$|\.ia3_\w+$"), "IA3"),
    (re.compile(r"\.lora_embedding_[AB]\b.*$"), "LoRA of an embedding"),
    (re.compile(r"\.reshape_weight$|\.scalar$|\.rank_\w+$"), "LyCORIS variant"),
)
# Beside the factors: differences of other weights, which leave the layer's own delta as it is.
ADDITIONS = (
    (re.compile(r"\.(w_norm|b_norm)$"), "norm difference"),
    (re.compile(r"\.diff(_b)?$"), "full difference"),
    (re.compile(r"\.lora_(B|up|A|down)(\.[^.]+)?\.bias$"), "LoRA bias"),
    (re.compile(r"\.(set_weight|bias)$|\.modules_to_save\b.*$"), FULL_WEIGHT),
)


@dataclass
class Foreign:
    """A file's tensors that are no factors, key -> what it is.

    Attributes:
        embeddings: Bundled textual inversions.
        additions: Differences and weights beside the factors.
        methods: Parts of layers of other methods than LoRA.
        unknown: All others.
        layers: Names of the layers that ``methods`` change.
    """

    embeddings: dict[str, str] = field(default_factory=dict)
    additions: dict[str, str] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    layers: set[str] = field(default_factory=set)

    @property
    def all(self) -> dict[str, str]:
        return {**self.embeddings, **self.additions, **self.methods, **self.unknown}


def foreign_of(parsed: Parsed) -> Foreign:
    """The strangers of a parsed file, by what their names say."""
    found = Foreign()
    for key in parsed.unexpected:
        method = _match(METHODS, key)
        addition = _match(ADDITIONS, key)
        if key.startswith(EMBEDDING):
            found.embeddings[key] = "bundled embedding"
        elif method:
            found.methods[key] = method[1]
            found.layers.add(normal_name(key[: method[0]]))
        elif addition:
            found.additions[key] = addition[1]
        else:
            found.unknown[key] = UNKNOWN
    return found


def _match(rows: Iterable[tuple[re.Pattern[str], str]], key: str) -> tuple[int, str] | None:
    """Where the end that a row knows begins, and what it is."""
    return next(((found.start(), title) for pattern, title in rows if (found := pattern.search(key))), None)


def in_words(found: Mapping[str, str]) -> str:
    """``3 norm differences, 1 unknown name (first NAME)``."""
    counts = Counter(found.values())
    parts = [f"{count} {title}{'s' if count > 1 else ''}" for title, count in counts.items()]
    return f"{', '.join(parts)} ({printable(next(iter(found)), 80)}{', …' if len(found) > 1 else ''})"
