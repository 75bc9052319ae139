"""What a batch is to do: the inputs in folders and globs, where each result goes, and what is left out or refused."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert import paths
from convert.files.links import leads_out
from convert.formats.checkpoints import base_model
from convert.formats.families import COMPONENTS
from convert.formats.official_folder import official_files
from convert.formats.peft_folder import CONFIG, WEIGHTS
from convert.options import Reading, Writing
from convert.verbs import conversion_named
from pair_network.errors import PairError, printable
from pair_network.files import PICKLES

from . import jobs
from .jobs import Job
from .log import Logs
from .options import Options

MODEL_INDEX = "model_index.json"  # in the folder of a diffusers model


@dataclass(frozen=True)
class Plan:
    """The files of a batch.

    Attributes:
        jobs: What is to be done, in the order of the names.
        refused: What is not, with the reason.
        left_out: Results of earlier batches, which are no inputs.
    """

    jobs: list[Job]
    refused: list[tuple[Job, str]]
    left_out: list[Path]


def plan(options: Options, logs: Logs) -> Plan:
    """What a batch is to do; nothing is written.

    Args:
        options: The batch's own options, with the verb's as given.
        logs: What earlier runs wrote: no inputs, and free to be replaced.

    Raises:
        PairError: Nothing is found, the verb's options are wrong, or outputs collide with each other or with inputs.
    """
    conversion, own = conversion_named(options.batch_verb), _own_options(options.batch_verb, options.rest)
    base, suffix = _base(conversion.base, own), conversion.suffix(own)
    endings = (".safetensors", *(PICKLES if isinstance(own, Reading) and own.allow_pickle else ()))
    listed: dict[Path, Job] = {}
    links: set[Path] = set()
    results: set[Path] = set()
    for root, path in _found(options.inputs, endings):
        source = _input_of(path, root, options.batch_verb)
        if base is not None and _is_in_folder(path, root, base):
            continue
        if (result := _result(source, path, root, options.output, logs)) is not None:
            results.add(result)
            continue
        target = _target_of(source, root, options.output, suffix)
        replaces = own.overwrite or logs.has_written(target)
        listed[source] = Job(source, target, options.batch_verb, tuple(options.rest), replaces)
        if not options.follow_links and path.is_symlink() and leads_out(path, root):
            links.add(source)
    if not listed:
        raise PairError(f"{printable(options.inputs[0])}: {_nothing(endings, results)}")
    _refuse_collisions([job for job in listed.values() if job.source not in links])
    refused = {source: reason for source, job in listed.items() if (reason := _refusal(job, source in links))}
    # The hash of a checkpoint takes its time, and a look at what would be done needs none.
    others = jobs.hashes_of_others(own) if options.resume or not options.dry_run else {}
    return Plan(
        [replace(job, others=others) for source, job in listed.items() if source not in refused],
        [(listed[source], reason) for source, reason in refused.items()],
        sorted(results),
    )


def _own_options(verb: str, arguments: Sequence[str]) -> Writing:
    own = jobs.parse_verb(verb, arguments)
    if getattr(own, "webui", None) is not None:
        raise PairError("--webui: not in a batch; give -o DIR/models/Lora, and run webui --into DIR/extensions once")
    return own


def _base(option: str, own: Writing) -> Path | None:
    """The checkpoint that all jobs share, of the verbs that have one.

    Raises:
        PairError: It is no checkpoint, which would otherwise be said once for every file.
    """
    if not option:
        return None
    base: Path = getattr(own, option)
    if not base.exists():
        raise PairError(f"--{option} {base}: no such file or folder")
    base_model(base)
    return base


def _input_of(file: Path, root: Path, verb: str) -> Path:
    """The file, or the folder below ``root`` that it is a part of: a PEFT adapter, an official release, a model."""
    if verb == "extract":
        folders = (folder for folder in file.parents if folder.is_relative_to(root))
        return next((folder for folder in folders if (folder / MODEL_INDEX).is_file()), file)
    for folder in (file.parent, file.parent.parent):
        if folder.is_relative_to(root) and file in (official_files(folder) or ()):
            return folder
    if file.name != WEIGHTS or not (file.parent / CONFIG).is_file():
        return file
    above = file.parent.parent
    is_part = file.parent.name in COMPONENTS and above.is_relative_to(root) and not (above / CONFIG).is_file()
    return above if is_part else file.parent


def _is_in_folder(path: Path, root: Path, folder: Path) -> bool:
    """Whether a file is, or lies in, what itself lies within the folder that is searched."""
    file, searched, place = (Path(os.path.abspath(each)) for each in (path, root, folder))
    return place != searched and place.is_relative_to(searched) and file.is_relative_to(place)


def _result(source: Path, path: Path, root: Path, output: Path | None, logs: Logs) -> Path | None:
    """The earlier result that a file is or is a part of, or None."""
    return logs.result_of(source) or (source if output and _is_in_folder(path, root, output) else None)


def _target_of(source: Path, root: Path, output: Path | None, suffix: str) -> Path:
    """Below the output folder in the tree of the inputs; without one, beside the input as the verb alone has it."""
    if output is not None:
        parent = source.parent.relative_to(root) if source.is_relative_to(root) and source != root else Path()
        _, dot, ending = suffix.partition(".")
        return output / parent / (paths.stem_of(source, keep_pair=True) + dot + ending)
    # A training leaves NAME.pair.safetensors beside NAME.safetensors; both are to have a result.
    source = source if source.name else source.resolve()
    plain = source.with_name(paths.stem_of(source) + ".safetensors")
    return source.with_name(paths.stem_of(source, keep_pair=plain != source and plain.exists()) + suffix)


def _refusal(job: Job, is_link: bool) -> str | None:
    """Why a job is not done, or None."""
    if is_link:
        return "is a link out of the folder; pass --follow-links to read it"
    if job.target.exists() and not job.replaces:
        return f"{job.target} is there already and no batch with this log wrote it; pass --overwrite, or another -o"
    return None


def _nothing(endings: tuple[str, ...], results: Collection[Path]) -> str:
    """Why there is nothing to do."""
    if results:
        return "only results of earlier batches are there; the verb without batch converts them"
    return f"no {' or '.join(endings)} files are there"


def _found(inputs: Sequence[str], endings: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """(root, file) pairs; the root is the folder whose tree is kept."""
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found.update(dict.fromkeys(_named(path.rglob("*"), endings, links=True), path))
        elif path.exists():
            found[path] = path.parent
        else:
            matches = [Path(match) for match in glob.glob(given, recursive=True)]
            if not matches:
                raise PairError(f"{printable(given)}: no such file or folder, and no file matches it")
            found.update({file: file.parent for file in _named(matches, endings)})
    return sorted(((root, file) for file, root in found.items()), key=lambda pair: pair[1])


def _named(files: Iterable[Path], endings: tuple[str, ...], links: bool = False) -> Iterator[Path]:
    for file in files:
        if file.name.lower().endswith(endings) and (file.is_file() or (links and file.is_symlink())):
            yield file


def _refuse_collisions(listed: Collection[Job]) -> None:
    inputs = {os.path.realpath(job.source) for job in listed}
    for job in listed:
        if os.path.realpath(job.target) in inputs:
            raise PairError(f"{job.target}: is an input of this batch; name another folder with -o")
    paths.refuse_collisions(((job.source, job.target) for job in listed), "convert them separately")
