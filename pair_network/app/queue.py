"""Trainings one after the other, remembered on disk: the page may be closed and started again while they run.

Each training is a process of its own, which outlives the page; queue.json says what is waiting, running and done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from pair_network import starting
from pair_network.errors import PairError
from pair_network.files import write_text
from pair_network.training.report.record import Record, read_record

FILE, LOCK = "queue.json", "app.lock"
WAITING, RUNNING, DONE, STOPPED, FAILED = "waiting", "running", "done", "stopped", "failed"
NEW_GROUP = 0x00000200  # Windows: Ctrl-Break reaches the training and not the page
# Not SIGINT, which a page that a shell started in the background, and so its trainings, ignores.
STOP = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
LOG_LINES = 12
STEP = 2.0  # seconds between two looks at the processes


@dataclass(frozen=True)
class Run:
    """A training of the queue.

    Attributes:
        name: Of its files and its folder, unique in the queue.
        options: Of the ``train`` verb, without --resume.
        folder: Its output folder.
        state: "waiting", "running", "done", "stopped" or "failed".
        process, born: Its process and when that started; 0: none.
        resumes: It goes on from its newest state.
    """

    name: str
    options: tuple[str, ...]
    folder: str
    state: str = WAITING
    process: int = 0
    born: float = 0.0
    resumes: bool = False

    @property
    def log(self) -> Path:
        return Path(self.folder) / "log.txt"

    @property
    def record(self) -> Record | None:
        return read_record(Path(self.folder) / f"{self.name}-record.json")

    @property
    def lora(self) -> Path:
        return Path(self.folder) / f"{self.name}.safetensors"

    def is_alive(self) -> bool:
        """Whether its process still runs, and is no other that got its number."""
        try:
            process = psutil.Process(self.process) if self.process else None
            return process is not None and abs(process.create_time() - self.born) < 1 and process.status() != "zombie"
        except psutil.Error:
            return False

    def last_words(self) -> str:
        """The end of its log; of a progress bar the last state."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line.rsplit("\r", 1)[-1].strip() for line in text.replace("\r\n", "\n").splitlines()]
        return "\n".join([line for line in lines if line][-LOG_LINES:])


class Queue:
    """The runs of a folder, one of them training at a time.

    Args:
        folder: Where the queue and the outputs are.

    Raises:
        PairError: Another page uses the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._claim()
        self._runs = self._read()

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order in which they were added."""
        with self._lock:
            return list(self._runs)

    def run(self, name: str) -> Run:
        """The run of a name.

        Raises:
            PairError: There is none.
        """
        found = next((run for run in self.runs if run.name == name), None)
        if found is None:
            raise PairError(f"{name!r}: no training of this name; choose one from the list")
        return found

    def add(self, name: str, options: Sequence[str]) -> Run:
        """Puts a training at the end of the queue; the name is numbered where it is taken."""
        with self._lock:
            taken, free, number = {run.name for run in self._runs}, name, 1
            while free in taken or (self.folder / free).exists():
                number += 1
                free = f"{name}-{number}"
            folder = self.folder / free
            given = [*options, "--output_dir", str(folder), "--output_name", free]
            run = Run(free, tuple(given), str(folder))
            self._runs.append(run)
            self._write()
            return run

    def stop(self, name: str) -> None:
        """Lets a training save its state and end; takes a waiting one out of the line."""
        with self._lock:
            run = self.run(name)
            if run.state == WAITING:
                self._put(replace(run, state=STOPPED))
            elif run.is_alive():
                os.kill(run.process, STOP)

    def resume(self, name: str) -> None:
        """Puts a training that was stopped or failed in the line again; it goes on from its last state.

        Raises:
            PairError: It is waiting, running or done.
        """
        with self._lock:
            run = self.run(name)
            if run.state not in (STOPPED, FAILED):
                raise PairError(f"{name}: is {run.state}; only a stopped training can be resumed")
            self._put(replace(run, state=WAITING, resumes=True))

    def tick(self) -> None:
        """Looks at the running training, and starts the next one when there is none."""
        with self._lock:
            for run in self._runs:
                child = self._children.get(run.name)
                # A child that ends between two looks is a zombie without a status yet: one look says both.
                runs_on = run.is_alive() if child is None else child.poll() is None
                if run.state == RUNNING and not runs_on:
                    self._put(replace(run, state=self._ending(run, child), process=0, born=0.0))
            if not any(run.state == RUNNING for run in self._runs):
                waiting = next((run for run in self._runs if run.state == WAITING), None)
                if waiting is not None:
                    self._put(self._start(waiting))

    def work(self, until: threading.Event) -> None:
        """Ticks until told to end; the trainings go on."""
        while not until.wait(STEP):
            self.tick()

    def close(self) -> None:
        """Leaves the folder to another page."""
        (self.folder / LOCK).unlink(missing_ok=True)

    def _start(self, run: Run) -> Run:
        Path(run.folder).mkdir(parents=True, exist_ok=True)
        command = starting.command("pair_network", "train", *run.options, *(["--resume", "auto"] * run.resumes))
        is_windows = os.name == "nt"
        with run.log.open("ab") as log:
            child = subprocess.Popen(
                command, cwd=self.folder, env={**starting.environment(), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                creationflags=NEW_GROUP if is_windows else 0, start_new_session=not is_windows,
            )  # fmt: skip
        self._children[run.name] = child
        return replace(run, state=RUNNING, process=child.pid, born=psutil.Process(child.pid).create_time())

    def _ending(self, run: Run, child: subprocess.Popen[bytes] | None) -> str:
        """How a training ended that runs no more: by its status, or, of an earlier page's, by its record."""
        record = run.record
        if child is None:
            return DONE if record is not None and record.state == "done" and run.lora.is_file() else STOPPED
        if child.returncode == 0:
            return DONE
        return STOPPED if child.returncode in (130, 143, -signal.SIGINT, -signal.SIGTERM) else FAILED

    def _put(self, run: Run) -> None:
        self._runs = [run if other.name == run.name else other for other in self._runs]
        self._write()

    def _write(self) -> None:
        write_text(self.folder / FILE, json.dumps([asdict(run) for run in self._runs], indent=1))

    def _read(self) -> list[Run]:
        file = self.folder / FILE
        if not file.is_file():
            return []
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            return [Run(**{**entry, "options": tuple(entry["options"])}) for entry in entries]
        except (OSError, ValueError, TypeError, KeyError) as cause:
            raise PairError(f"{file}: damaged ({cause}); move it away to begin with an empty queue") from cause

    def _claim(self) -> None:
        lock = self.folder / LOCK
        if holder_of(lock) not in (None, os.getpid()):
            raise PairError(f"{self.folder}: another page works here; close it, or give --folder another one")
        lock.write_text(f"{os.getpid()} {psutil.Process().create_time()}", encoding="utf-8")


def holder_of(lock: Path) -> int | None:
    """The process that a lock names, if it still runs."""
    try:
        number, born = lock.read_text(encoding="utf-8").split()
        return int(number) if abs(psutil.Process(int(number)).create_time() - float(born)) < 1 else None
    except (OSError, ValueError, psutil.Error):
        return None


def age(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
