"""What a batch says when it is done: each file of a small one, causes and counts of a large one."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pair_network.errors import printable

from . import log as batch_log
from .jobs import Record
from .log import Logs

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
LISTED = 40  # files that are named one by one; of more, only those with the same cause together
EXAMPLES = 3
# What differs between two files with the same fault: names of tensors, numbers, shapes, what is quoted.
DETAILS = re.compile(r"\([^()]*\)|'[^']*'|\S*[_/\\]\S*|\S+\.\S+\.\S+|\d[\d.,e+-]*")


def summary(records: Sequence[Record], left_out: Sequence[Path], logs: Logs) -> str:
    """The text for people: what happened to how many files, where the log is, and what to do about the others."""
    names = dict(zip((id(record) for record in records), _short_names(records), strict=True))
    lines = _table(records, list(names.values())) if len(records) <= LISTED else []
    counts = Counter(record["status"] for record in records)
    noted = [record for record in records if record.get("notes")]
    parts = [f"{counts[status]} {status}" for status in (DONE, SKIPPED, FAILED)]
    parts += [f"{len(noted)} with notes"] if noted else []
    parts += [f"{len(left_out)} results of earlier batches left out"] if left_out else []
    files = {logs.file_of(Path(record["target"])) for record in records}
    where = str(files.pop()) if len(files) == 1 else f"{batch_log.NAME} in each of {len(files)} folders"
    lines.append(f"{', '.join(parts)}; log: {where}")
    failed = [record for record in records if record["status"] == FAILED]
    if len(failed) <= LISTED:
        lines += [f"failed: {printable(record['source'])}: {record['error']}" for record in failed]
    else:
        lines += _grouped("failed", [(names[id(record)], record["error"]) for record in failed])
    lines += _grouped("note", [(names[id(record)], note) for record in noted for note in record["notes"]])
    return "\n".join(lines)


def _table(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    width = max(map(len, names))
    lines = []
    for name, record in zip(names, records, strict=True):
        size = f"{record['bytes'] / 1e6:8.1f} MB" if "bytes" in record else " " * 11
        lines.append(f"{record['status']:8} {name:{width}} {size} {record.get('seconds', 0):6.1f} s")
    return lines


def _grouped(title: str, said: Sequence[tuple[str, str]]) -> list[str]:
    """One line for each cause, the commonest first: how often, the first file's words, and the names of a few."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, words in said:
        groups.setdefault(DETAILS.sub("…", words), []).append((name, words))
    lines = []
    for group in sorted(groups.values(), key=len, reverse=True):
        more = f" and {len(group) - EXAMPLES} more" if len(group) > EXAMPLES else ""
        files = ", ".join(name for name, _ in group[:EXAMPLES])
        lines.append(f"{title}: {len(group)} ×: {group[0][1]} [{files}{more}]")
    return lines


def _short_names(records: Sequence[Record]) -> list[str]:
    """The paths below the folder that they all share."""
    paths = [record["source"] for record in records]
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # several drives
        return [printable(path) for path in paths]
    return [printable(os.path.relpath(path, shared)) for path in paths]
