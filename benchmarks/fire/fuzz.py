"""Broken files by the thousand: settings, tensors, pictures and states, damaged in the ways that files are."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import inputs
from .trials import SLOWEST, Plan, Score

WORDS = [
    b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"[" * 3000, b"{" * 3000, b'"', b"\n", b"\\", b"=", b"]]",
    b"[[x]]\n", b"9" * 400, b"-1", b"1e400", b"nan", b"true", b"\xed\xa0\x80", "ＮaN".encode(), b"../", b"\x1b[2J",
    b"'''", b'"""', b".",
]  # fmt: skip
STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.startfile")
_started: list[str] = []
_is_watched: list[bool] = []  # a hook cannot be taken away


def _watch(event: str, _arguments: Any) -> None:
    if event in STARTED:
        _started.append(event)


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The content with one to six changes: bits, words, cuts, doubled and moved parts."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(data) + 1)
        length = min(generator.choice([1, 2, 4, 8, 40]), len(data) - place)
        how = generator.randrange(7)
        if how == 0 and data:
            data[place % len(data)] ^= 1 << generator.randrange(8)
        elif how == 1:
            data[place : place + length] = generator.randbytes(length)
        elif how == 2:
            del data[place : place + length]
        elif how == 3:
            data[place:place] = generator.choice(WORDS)
        elif how == 4:
            data[place:place] = data[place : place + length] * generator.choice([2, 50])
        elif how == 5:
            data[place : place + length] = generator.choice(WORDS)
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


def run(folder: Path, score: Score, plan: Plan) -> None:
    """Inputs of one of ``inputs.KINDS``, whose name the score has, read by this process."""
    if not _is_watched:
        sys.addaudithook(_watch)
        _is_watched.append(True)
    # torch warns of what it reads from a damaged state; that is the state's affair, and refused right after
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        known = list(inputs.KINDS[score.name](folder))
        for file, content, read in known:
            (folder / file).write_bytes(content)
            try:
                read(folder / file)
            except inputs.refusals() as mistake:
                score.check(file in inputs.REFUSED, f"{file}: refused as it was: {mistake}")
        for number, generator in score.numbers(plan):
            file, content, read = generator.choice(known)
            _one(folder / file, damaged(content, generator), read, score, number)


def _one(file: Path, content: bytes, read: Callable[[Path], object], score: Score, number: int = 0) -> None:
    file.write_bytes(content)
    begun = time.process_time()
    where = f"{file.name}, number {number}"
    try:
        read(file)
        score.count("read")
    except inputs.refusals() as mistake:
        score.count("refused")
        score.check(str(mistake).isprintable(), f"{where}: not one line: {str(mistake)!r}")
        score.check("weights_only=False" not in str(mistake), f"{where}: tells to run foreign code")
    except (Exception, SystemExit) as failure:
        score.check(False, f"{where}: {type(failure).__name__}: {failure}")
    took = time.process_time() - begun
    score.check(took < SLOWEST, f"{where}: took {took:.1f} s")
    score.check(not _started, f"{where}: started {_started}")
    _started.clear()
