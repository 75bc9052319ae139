"""The files of a batch: which there are, where each goes, and how one is converted."""

from __future__ import annotations

import argparse
import contextlib
import glob
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pair_network.checkpoint import PICKLES, atomic_file
from pair_network.errors import PairError

from . import paths
from .files import file_hash
from .header import printable
from .peft_folder import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Job:
    """One file of a batch.

    Attributes:
        source: The input.
        target: The output.
        verb: The conversion.
        arguments: The verb's options, as given.
    """

    source: Path
    target: Path
    verb: str
    arguments: tuple[str, ...]


def plan(options: argparse.Namespace, verb_arguments: list[str]) -> tuple[list[Job], list[tuple[Path, str]]]:
    """The jobs in the order of their names, and the files that are refused with the reason.

    Raises:
        PairError: Nothing is found, the verb's options are wrong, or outputs collide.
    """
    suffix = _suffix(options.batch_verb)
    own = parse_verb(options.batch_verb, verb_arguments)
    endings = (".safetensors", *(PICKLES if own.allow_pickle else ()))
    jobs, refused = [], []
    for root, path in _found(options.inputs, endings):
        if os.path.abspath(path).startswith(os.path.abspath(options.output) + os.sep):
            continue  # outputs of an earlier run
        if path.is_symlink() and not options.follow_links and not path.resolve().is_relative_to(root.resolve()):
            refused.append((path, "is a link out of the folder; pass --follow-links to read it"))
            continue
        source = path.parent if path.name == WEIGHTS and (path.parent / CONFIG).is_file() else path
        parent = source.parent.relative_to(root) if source.is_relative_to(root) and source != root else Path()
        target = options.output / parent / (paths.stem_of(source, keep_pair=True) + suffix)
        jobs.append(Job(source, target, options.batch_verb, tuple(verb_arguments)))
    if not jobs and not refused:
        raise PairError(f"{options.inputs[0]}: no {' or '.join(endings)} files are there")
    _refuse_collisions(jobs)
    return jobs, refused


def _suffix(verb: str) -> str:
    from .cli import verb_module

    if verb == "info":
        return ".json"
    _, dot, ending = verb_module(verb).SUFFIX.partition(".")
    return dot + ending


def _found(inputs: list[str], endings: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """(root, file) pairs; the root is the folder whose tree is kept."""
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.is_file() or file.is_symlink())
            found.update({file: path for file in files if file.name.lower().endswith(endings)})
        elif path.exists():
            found[path] = path.parent
        else:
            matches = [Path(match) for match in glob.glob(given, recursive=True)]
            if not matches:
                raise PairError(f"{printable(given)}: no such file or folder, and no file matches it")
            found.update({file: file.parent for file in matches if file.is_file() and file.name.endswith(endings)})
    return sorted(((root, file) for file, root in found.items()), key=lambda pair: pair[1])


def _refuse_collisions(jobs: list[Job]) -> None:
    taken: dict[str, Path] = {}
    for job in jobs:
        other = taken.setdefault(str(job.target).casefold(), job.source)
        if other != job.source:
            raise PairError(f"{other} and {job.source} would both be written to {job.target}; convert them separately")


def parse_verb(verb: str, arguments: list[str]) -> argparse.Namespace:
    """The verb's options with their defaults.

    Raises:
        PairError: An option that the verb does not have, or a value that it does not take.
    """
    from .cli import CONVERSIONS, add_conversion, verb_module
    from .options import add_reading

    parser = argparse.ArgumentParser(prog=f"batch {verb}", exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.set_defaults(verb=verb)
    if verb in CONVERSIONS:
        add_conversion(parser)
        verb_module(verb).add_arguments(parser)
    else:
        add_reading(parser)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return parser.parse_args(arguments)
    except (argparse.ArgumentError, SystemExit) as cause:
        reason = str(cause) if isinstance(cause, argparse.ArgumentError) else said.getvalue().strip().splitlines()[-1]
        raise PairError(f"batch {verb}: {reason}") from None


def run(job: Job, threads: int | None = None) -> dict[str, Any]:
    """Converts one file; never raises, as a bad file must not stop the others.

    Returns:
        The log's record: source, status, and hashes of input and outputs, or the error.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    record: dict[str, Any] = {"source": str(job.source), "verb": job.verb, "arguments": list(job.arguments)}
    start = time.perf_counter()
    try:
        written = _convert(job)
        record.update(status="done", source_sha256=content_hash(job.source))
        record["outputs"] = {str(path): content_hash(path) for path in written}
        record["bytes"] = sum(_size(path) for path in written)
    except Exception as error:  # whatever it is, it is this file's
        words = str(error) if isinstance(error, PairError) else f"{type(error).__name__}: {error}"
        words = " ".join(words.split()).removeprefix(f"{job.source}: ")
        record.update(status="failed", error=printable(words, 500))
    record["seconds"] = round(time.perf_counter() - start, 3)
    return record


def _convert(job: Job) -> list[Path]:
    from .cli import convert_one, verb_module

    options = parse_verb(job.verb, list(job.arguments))
    # A batch's own output folder: what lies there is an earlier run's.
    options.overwrite = True
    with contextlib.redirect_stdout(io.StringIO()):
        if job.verb != "info":
            return convert_one(verb_module(job.verb), job.source, job.target, options)
    report = verb_module("info").describe(job.source, options)
    with atomic_file(job.target) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    return [job.target]


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents."""
    if path.is_file():
        return file_hash(path)
    parts = [f"{file.relative_to(path)}:{file_hash(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
    return "folder:" + "|".join(parts)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
