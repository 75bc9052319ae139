"""What killed runs leave behind: temporary names that tell whose they are, and their removal by the next run.

A temporary name is ``.NAME.HOST-PROCESS-xxxxxxxx.tmp``; ``.old`` is a folder put aside until the new one has its name.
It is a leftover when its process is gone; from another computer, when it has not changed for a day. A ``.lock`` is an
empty file that a run holds while it writes files of this name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import logging
import os
import platform
import re
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

OLD, LOCK = ".old", ".lock"
PATTERN = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-\w{8}\.(?P<kind>tmp|old|lock)")
DAY = 24 * 3600
MAX_NAME = 200  # bytes of the target's name in a temporary one: systems allow 255 in all
STARTED = time.time()


def host() -> str:
    """This computer, in 8 digits."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def prefix(name: str) -> str:
    """How a temporary name for ``name`` begins; eight random characters and the ending follow."""
    return f".{_short(name)}.{host()}-{os.getpid()}-"


def _short(name: str) -> str:
    return os.fsencode(name)[:MAX_NAME].decode(errors="ignore")


@functools.cache
def clean_once(folder: str) -> None:
    """Removes the leftovers of a folder; once per process and folder, because others may have many files."""
    clean(Path(folder))


def clean(folder: Path) -> list[Path]:
    """Removes the leftovers in a folder, and puts a folder back whose successor never came; says so.

    Returns:
        What was removed or put back.
    """
    try:
        found = [(path, match) for path in folder.iterdir() if (match := PATTERN.fullmatch(path.name))]
    except OSError:  # no such folder, or not ours to read: whoever writes into it will be told
        return []
    done, size = [], 0
    for path, match in found:
        with contextlib.suppress(OSError):  # another run was faster
            is_lock = match["kind"] == LOCK[1:]
            if is_held(path) if is_lock else not _is_abandoned(path, match["host"], int(match["process"])):
                continue
            original = folder / match["name"]
            if match["kind"] == "old" and not original.exists():
                if _short(match["name"] + "x") != match["name"]:  # it is the whole name
                    path.rename(original)
                    logger.warning("%s: put back; a run was killed while it was being replaced", original)
                    done.append(path)
                continue
            size += size_of(path)
            remove(path)
            done.append(path)
    if size or done:
        logger.warning("%s: removed what killed runs had left, %s bytes", folder, f"{size:,}")
    return done


def others_at(folder: Path, name: str, own: Path) -> list[str]:
    """Which runs, other than the one of the lock ``own``, hold the name: ``process 123``, ``another computer``."""
    found = []
    for path in folder.glob(f".*{LOCK}"):
        match = PATTERN.fullmatch(path.name)
        if match and match["name"] == _short(name) and path != own and is_held(path):
            found.append(f"process {match['process']}" if match["host"] == host() else "another computer")
    return found


def hold(file: IO[bytes]) -> None:
    """Locks an open file until it is closed, or its process ends in any way; OSError when another process has it."""
    if sys.platform == "win32":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether a process has locked the file; False too where the drive knows no locks."""
    try:
        with path.open("rb+") as file:
            hold(file)
    except OSError as cause:
        return cause.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return False


def remove(path: Path) -> None:
    """Removes a file, a folder with its content, or a link, whose target stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_abandoned(path: Path, of_host: str, process: int) -> bool:
    changed = path.lstat().st_mtime
    if of_host == host() and (not is_running(process) or (process == os.getpid() and changed < STARTED)):
        return True
    return time.time() - changed > DAY


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


if sys.platform == "win32":

    def is_running(process: int) -> bool:
        """Whether a process of this computer still exists."""
        query, still_active = 0x1000, 259
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(query, False, process)
        if not handle:
            return False
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == still_active

else:

    def is_running(process: int) -> bool:
        """Whether a process of this computer still exists."""
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody else's
        return True


def exchange(one: Path, other: Path) -> bool:
    """Swaps the names of two folders in one step; False where the system or the drive cannot."""
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE on Linux, RENAME_SWAP on macOS
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        system = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(system.renamex_np(first, second, swap) == 0)
        return bool(system.renameat2(here, first, here, second, swap) == 0)
    except (AttributeError, OSError, TypeError):  # no such call: Windows, an older C library
        return False
