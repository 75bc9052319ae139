"""The JSON logs of a batch: what was done, by content hash, and so which files are a batch's own results.

The log lies where the results lie: in the output folder, or, where results lie beside their inputs, in each of these
folders. So any later batch over a folder knows what is a result there, whichever folders it was given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pair_network.errors import PairError
from pair_network.files import write_text

from .jobs import Job, Record, content_hash

NAME = "convert-batch.json"
WAITING = "waiting"  # planned, not finished: an interrupted run leaves such records
Key = tuple[str, str]  # source and target: several verbs may have read one input
Log = Mapping[Key, Record]


class Logs:
    """All logs that a batch reads and writes."""

    def __init__(self, only: Path | None):
        """
        Args:
            only: The one log; None: one in every folder that gets results.
        """
        self.only = only
        self._known: dict[Path, Log] = {}
        self._outputs: dict[Path, dict[str, str]] = {}
        self._written: dict[Path, Sequence[Record]] = {}

    def file_of(self, target: Path) -> Path:
        """The log that knows of this output."""
        return self.only or Path(name_of(target)).parent / NAME

    def record_of(self, job: Job) -> Record | None:
        """What earlier runs say of the job."""
        return self._log(self.file_of(job.target)).get(key_of(job))

    def has_written(self, target: Path) -> bool:
        """Whether the output is a batch's own, and so may be replaced."""
        return name_of(target) in self._outputs_of(self.file_of(target))

    def result_of(self, path: Path) -> Path | None:
        """The earlier batch's result that an input is, or lies in; None for any other file.

        What was written to a folder of its own (-o) is none, except for the log in use: it may be the next one's input.
        """
        own = self._outputs_of(self.only) if self.only else {}
        for place in (Path(name_of(path)), *Path(name_of(path)).parents):
            source = self._outputs_of(place.parent / NAME).get(str(place), "")
            if str(place) in own or os.path.dirname(source) == str(place.parent):
                return place
        return None

    def _log(self, file: Path) -> Log:
        if file not in self._known:
            self._known[file] = read(file)
        return self._known[file]

    def _outputs_of(self, file: Path) -> Mapping[str, str]:
        """Everything that earlier runs have written, or were about to, and the input it was made from."""
        if file not in self._outputs:
            log = self._log(file).items()
            self._outputs[file] = {path: key[0] for key, record in log for path in record.get("outputs") or {}}
        return self._outputs[file]

    def write(self, records: Sequence[Record]) -> None:
        """Every record into its log; what earlier runs did with other inputs stays there."""
        grouped: dict[Path, list[Record]] = {}
        for record in records:
            grouped.setdefault(self.file_of(Path(record["target"])), []).append(record)
        for file, own in grouped.items():
            mine = {(record["source"], record["target"]) for record in own}
            kept = [record for key, record in self._log(file).items() if key not in mine and record.get("outputs")]
            if self._written.get(file) != [*own, *kept]:
                self._written[file] = [*own, *kept]
                write(file, self._written[file])


def read(file: Path) -> dict[Key, Record]:
    """Records of earlier runs; none if there is no log.

    Raises:
        PairError: The file is no log, and so must not be replaced by one.
    """
    if not file.exists():
        return {}
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(record.get("outputs") or {}, dict) for record in records):
            raise TypeError("outputs are no map")
        return {(str(record["source"]), str(record.get("target", ""))): record for record in records}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
        raise PairError(f"{file}: is no log of a batch; remove it, or name another with --log") from cause


def write(file: Path, records: Sequence[Record]) -> None:
    """Writes the log; names that are no Unicode (Linux allows any bytes) are kept as JSON escapes."""
    write_text(file, json.dumps(list(records), indent=1, ensure_ascii=False), errors="backslashreplace")


def name_of(path: Path | str) -> str:
    """A path as the log names it: absolute, so that the log means the same files from any folder."""
    return os.path.abspath(path)


def key_of(job: Job) -> Key:
    return name_of(job.source), name_of(job.target)


def waiting(job: Job) -> Record:
    """The record of a job that has not run yet; its output is the batch's from now on."""
    source, target = key_of(job)
    return {"source": source, "target": target, "status": WAITING, "outputs": {target: ""}}


def failed(job: Job, reason: str) -> Record:
    """The record of a job that could not be done."""
    source, target = key_of(job)
    return {"source": source, "target": target, "status": "failed", "error": reason}


def is_intact(record: Record | None, job: Job) -> bool:
    """Whether an earlier run did this very job, and none of its inputs nor an output has changed since."""
    if record is None or record.get("status") not in ("done", "skipped"):
        return False
    if record.get("verb") != job.verb or record.get("arguments") != list(job.arguments):
        return False
    if (record.get("others") or {}) != dict(job.others):
        return False
    hashes: Mapping[str, str] = record.get("outputs") or {}
    if name_of(job.target) not in hashes or content_hash(job.source) != record.get("source_sha256"):
        return False
    return all(Path(path).exists() and content_hash(Path(path)) == wanted for path, wanted in hashes.items())
