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
    (re.compile(r"\.lora_embedding_[AB]\b.*$"), "an embedding's LoRA"),
    (re.compile(r"\.reshape_weight$|\.scalar$|\.rank_\w+$|\.rescale$"), "a LyCORIS variant"),
    # What PEFT's other tuners call their tensors begins with their name.
    (
        re.compile(
            r"(?:^|\.)(?:adamss|beft|bone|c3a|deft|delora|fourierft|frod|gralora|hira|hra|lily|miss|osf|peanut|poly|psoft"
            r"|p?vera|randlora|road|shira|supertuning|tinylora|unilora|vblora|waveft|xlora)_\w+(?:\.\w+)*$"
        ),
        "another method of PEFT",
    ),
)
FURTHER = "a LoRA with further factors"  # AdaLoRA's E, LoRA-XS' R, …: B · A alone is not its change
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
        elif layer := _layer_of(key, parsed):
            found.methods[key] = FURTHER
            found.layers.add(layer)
        else:
            found.unknown[key] = UNKNOWN
    return found


def _layer_of(key: str, parsed: Parsed) -> str | None:
    """The layer with both factors that a tensor of an unknown kind belongs to, by its name."""
    name = normal_name(key)
    while "." in name:
        name = name.rpartition(".")[0]
        if name in parsed.layers and {"down", "up"} <= parsed.layers[name].tensors.keys():
            return name
    return None


def _match(rows: Iterable[tuple[re.Pattern[str], str]], key: str) -> tuple[int, str] | None:
    """Where the end that a row knows begins, and what it is."""
    return next(((found.start(), title) for pattern, title in rows if (found := pattern.search(key))), None)


def in_words(found: Mapping[str, str]) -> str:
    """``3 norm differences, 2 tensors of LoHa, 1 unknown name (first NAME)``."""
    methods = {title for _, title in METHODS} | {FURTHER}
    parts = []
    for title, count in Counter(found.values()).items():
        plural = "s" if count > 1 else ""
        parts.append(f"{count} tensor{plural} of {title}" if title in methods else f"{count} {title}{plural}")
    return f"{', '.join(parts)} ({printable(next(iter(found)), 80)}{', …' if len(found) > 1 else ''})"
