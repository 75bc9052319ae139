"""One file of a batch: what is to be done, with which options, and how it is done and recorded."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from convert.files.hashes import file_hash
from convert.notes import notes
from convert.options import Writing
from convert.verbs import conversion_named
from pair_network.errors import PairError, printable
from pair_network.leftovers import size_of
from pair_network.options import add_options, settings_of


@dataclass(frozen=True)
class Job:
    """One file of a batch.

    Attributes:
        source: The input.
        target: The output.
        verb: The conversion.
        arguments: The verb's options, as given.
        replaces: What lies at the output may go: an earlier run wrote it, or the user said so.
        others: Content hashes of the other files that the options name, as ``--checkpoint``; by absolute path.
    """

    source: Path
    target: Path
    verb: str
    arguments: tuple[str, ...]
    replaces: bool = False
    others: Mapping[str, str] = field(default_factory=dict)


class Record(TypedDict, total=False):
    """What the log says of a job.

    Attributes:
        status: "waiting", "done", "skipped" or "failed".
        outputs: Content hash by path.
        bytes: Of all outputs.
    """

    source: str
    target: str
    verb: str
    arguments: list[str]
    others: dict[str, str]
    status: str
    error: str
    notes: list[str]
    source_sha256: str
    outputs: dict[str, str]
    bytes: int
    seconds: float


def parse_verb(verb: str, arguments: Sequence[str]) -> Writing:
    """The verb's options with their defaults.

    Raises:
        PairError: An option that the verb does not have, or a value that it does not take.
    """
    parser = argparse.ArgumentParser(prog=f"batch {verb}", exit_on_error=False, add_help=False, allow_abbrev=False)
    settings = conversion_named(verb).options
    add_options(parser, settings)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return settings_of(settings, parser.parse_args(list(arguments)))
    except (argparse.ArgumentError, SystemExit) as cause:
        reason = str(cause) if isinstance(cause, argparse.ArgumentError) else said.getvalue().strip().splitlines()[-1]
        # What stands before the folders loses its value to them.
        remedy = f"; options of {verb} stand behind the folders" if "expected" in reason else ""
        raise PairError(f"batch {verb}: {reason}{remedy}") from None


def hashes_of_others(options: Writing) -> dict[str, str]:
    """Content hashes of the files and folders that a verb's options name: a result is only valid for these."""
    return {os.path.abspath(path): content_hash(path) for path in _paths_in(options) if path.exists()}


def _paths_in(options: Writing) -> Iterator[Path]:
    for value in vars(options).values():
        yield from (path for path in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(path, Path))


def run(job: Job, threads: int | None = None) -> Record:
    """Converts one file; never raises, as a bad file must not stop the others.

    Returns:
        The log's record: source, status, and hashes of input and outputs, or the error.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    record: Record = {"source": os.path.abspath(job.source), "target": os.path.abspath(job.target)}
    record |= {"verb": job.verb, "arguments": list(job.arguments), "others": dict(job.others)}
    start = time.perf_counter()
    said: list[str] = []
    try:
        with notes(said.append):
            written = _convert(job)
        record |= {"status": "done", "source_sha256": content_hash(job.source)}
        record["outputs"] = {os.path.abspath(path): content_hash(path) for path in written}
        record["bytes"] = sum(size_of(path) for path in written)
    except Exception as error:  # whatever it is, it is this file's
        words = str(error) if isinstance(error, PairError) else f"{type(error).__name__}: {error}"
        words = " ".join(words.split()).removeprefix(f"{job.source}: ")
        record |= {"status": "failed", "error": printable(words, 500)}
        if job.target.exists():  # it did not pass --verify, or is an earlier run's: a later run replaces it
            record["outputs"] = {os.path.abspath(job.target): ""}
    if said:
        record["notes"] = [printable(text.removeprefix(f"{job.source}: "), 500) for text in said]
    record["seconds"] = round(time.perf_counter() - start, 3)
    return record


def _convert(job: Job) -> list[Path]:
    options = replace(parse_verb(job.verb, job.arguments), overwrite=job.replaces)
    with contextlib.redirect_stdout(io.StringIO()):
        return conversion_named(job.verb).convert_one(job.source, job.target, options)


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents."""
    if path.is_file():
        return file_hash(path)
    parts = [f"{file.relative_to(path)}:{file_hash(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
    return "folder:" + "|".join(parts)
