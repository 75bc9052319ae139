"""The report of ``info`` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pair_network.errors import printable


class Unknown(TypedDict):
    """Tensors under names that are not known."""

    tensors: int
    examples: list[str]


class Content(TypedDict):
    """The content branch of a coupled checkpoint."""

    pairs: int
    ranks: dict[str, int]
    branch_overlap: float
    gram_defect: float
    orthogonality: str


class Rows(TypedDict):
    """How far the style rows are from orthonormal."""

    gram_defect: float
    are_orthonormal: bool


class Use(TypedDict):
    """What a UI makes of the file."""

    matched: int
    total: int
    verdict: str
    examples: Sequence[str]


class Report(TypedDict, total=False):
    """All facts about one file, as JSON has them; of a file that cannot be read, only ``file`` and ``error``."""

    file: str
    error: str
    format: str
    title: str
    family: str
    family_is_certain: bool
    said_of_model: str
    trigger_words: str
    training_tags: list[str]
    output_name: str
    base_model: str
    history: str
    layers: int
    parameters: int
    dtypes: dict[str, int]
    ranks: dict[str, int]
    alphas: dict[str, int]
    targets: dict[str, int]
    unknown: Unknown
    beside: dict[str, int]
    content: Content
    rows: Rows
    blocks: dict[str, float]
    hashes: dict[str, str]
    uis: dict[str, Use]


def text_of(report: Report, with_blocks: bool) -> str:
    """The report for people."""
    lines = [
        printable(report["file"]),
        f"  {report['title']}, {report['family']}{_certainty(report)}",
        f"  {report['layers']} layers, {report['parameters']:,} parameters, {_counts(report['dtypes'])}",
        f"  rank {_counts(report['ranks'])}; alpha {_counts(report['alphas'])}",
        f"  targets {_counts(report['targets'])}",
    ]
    if "unknown" in report:
        found = report["unknown"]
        names = ", ".join(printable(name, 80) for name in found["examples"])
        lines.append(
            f"  {found['tensors']} tensors of unknown names or incomplete layers, left out with --skip-unknown: {names}"
        )
    if "beside" in report:
        outside = ", ".join(f"{title} ({n})" for title, n in report["beside"].items())
        lines.append(f"  beside the layers, and not judged below: {outside}")
    said = {
        "trigger words": report["trigger_words"],
        "output name": report["output_name"],
        "base model": report["base_model"],
        "history": report["history"],
    }
    lines += [f"  {name}: {printable(words)}" for name, words in said.items() if words]
    if report["training_tags"]:
        lines.append(f"  most frequent in its captions: {printable(', '.join(report['training_tags']))}")
    lines.append(f"  style rows: {_orthonormal(report['rows'])}")
    if "content" in report:
        lines += _content_lines(report["content"])
    lines += _norm_lines(report["blocks"], with_blocks)
    lines += _hash_lines(report.get("hashes", {}))
    for ui, match in report.get("uis", {}).items():
        lines.append(f"  {ui:10} {match['matched']} of {match['total']} tensors; {match['verdict']}")
    return "\n".join(lines)


def _certainty(report: Report) -> str:
    if report["family_is_certain"]:
        return ""
    said = report["said_of_model"]
    reason = f"its metadata says {said}, which is not enough" if said else "nothing in the file says more"
    return f" (a guess: {reason}; --family sets it)"


def _hash_lines(hashes: Mapping[str, str]) -> list[str]:
    if not hashes:
        return []
    shown = f"  hash in A1111 {hashes['a1111']}, " if "a1111" in hashes else "  "
    wrong = "; its sshs_model_hash is another file's" if hashes.get("stored_hash_is_right") == "False" else ""
    return [f"{shown}AutoV2 {hashes['autov2']}{wrong}"]


def _orthonormal(rows: Rows) -> str:
    words = "orthonormal" if rows["are_orthonormal"] else "not orthonormal"
    return f"{words} (|Gram − I| up to {rows['gram_defect']:.1e})"


def _counts(counts: Mapping[str, int]) -> str:
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{name} ({count})" for name, count in counts.items())


def _content_lines(content: Content) -> list[str]:
    return [
        f"  content branch: {content['pairs']} pair(s), rank {_counts(content['ranks'])}, {content['orthogonality']}",
        f"  overlap with style {content['branch_overlap']:.1e}, Gram defect of both {content['gram_defect']:.1e}",
    ]


def _norm_lines(norms: Mapping[str, float], with_blocks: bool) -> list[str]:
    if with_blocks:
        return [f"  norm {block:24} {norm:.4g}" for block, norm in norms.items()]
    largest = max(norms, key=lambda block: norms[block])
    total = sum(norm * norm for norm in norms.values()) ** 0.5
    return [f"  norm of the delta: {total:.4g}, most in {largest} (--blocks for all)"]
