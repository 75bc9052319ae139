"""The JSON log of a batch, by which a later run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pair_network.checkpoint import atomic_file
from pair_network.errors import PairError

from .jobs import Job, content_hash

NAME = "convert-batch.json"


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Records of an earlier run by source; none if there is no log.

    Raises:
        PairError: The log is not one.
    """
    if not file.is_file():
        return {}
    try:
        return {record["source"]: record for record in json.loads(file.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, KeyError) as cause:
        raise PairError(f"{file}: is no log of a batch; remove it, or run without --resume") from cause


def write(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(list(records), indent=1, ensure_ascii=False), encoding="utf-8")


def is_intact(record: Mapping[str, Any] | None, job: Job) -> bool:
    """Whether an earlier run did this very job, and neither the input nor an output has changed since."""
    if record is None or record.get("status") not in ("done", "skipped"):
        return False
    if record.get("verb") != job.verb or record.get("arguments") != list(job.arguments):
        return False
    outputs: Mapping[str, str] = record.get("outputs") or {}
    if str(job.target) not in outputs or content_hash(job.source) != record.get("source_sha256"):
        return False
    return all(Path(path).exists() and content_hash(Path(path)) == wanted for path, wanted in outputs.items())
