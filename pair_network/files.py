"""Files and folders that are written whole or not at all, and those that are never read.

What is written gets a temporary name in the target's folder, ``.NAME.HOST-PROCESS-xxxxxxxx.tmp``, goes to the disk
(fsync; ``PAIR_NETWORK_FSYNC=0`` leaves that to the system) and then takes its name. A run that is killed leaves its
temporary file behind; the next one that writes into the folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import leftovers
from .errors import PairError, printable

# Pickled weights can run code when they are loaded.
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
# diffusers' names of weights: NAME.safetensors, NAME.VARIANT.safetensors, and either in parts.
_WEIGHTS = re.compile(r"[^.]+?(-\d+-of-\d+)?(\.(?P<variant>[^.]+?))?(-\d+-of-\d+)?\.safetensors")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries say it that write by themselves: safetensors, and torch's zip files.
FULL_WORDS = (
    "No space left", "Disk quota exceeded", "File too large", "file write failed", "unexpected pos", "iostream error",
)  # fmt: skip


@contextlib.contextmanager
def atomic_file(path: Path, needed: int = 0) -> Iterator[Path]:
    """A temporary path in the target's folder that takes the target's name when the block ends well.

    Args:
        path: The target; a file there is replaced, a link too.
        needed: Bytes that will be written, where that is known.

    Raises:
        PairError: The disk is full; the target is as it was.
    """
    with atomic_files([path], needed) as temporary:
        yield temporary[0]


@contextlib.contextmanager
def atomic_files(paths: Sequence[Path], needed: int = 0) -> Iterator[list[Path]]:
    """Temporary paths for files that belong together: all take their names when the block ends well, or none does."""
    temporary: list[Path] = []
    try:
        with _explained(paths[0], needed, temporary):
            for path in paths:
                _prepare(path.parent, needed, path)
                descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=leftovers.prefix(path.name), suffix=".tmp")
                os.close(descriptor)
                temporary.append(Path(name))
            yield temporary
            for file in temporary:
                # mkstemp makes files private; a saved model gets the permissions that any new file gets.
                file.chmod(0o666 & ~_umask())
                _to_disk(file)
            for file, path in zip(temporary, paths, strict=True):
                os.replace(file, path)
            for folder in {path.parent for path in paths}:
                _to_disk(folder)
    finally:
        for file in temporary:
            file.unlink(missing_ok=True)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes a UTF-8 text file as ``atomic_file`` does; ``errors`` is what is done about what is no Unicode."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


@contextlib.contextmanager
def atomic_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """A temporary folder beside the target that takes its place when the block ends well.

    Raises:
        PairError: A file has the folder's name, or the disk is full; the target is as it was.
    """
    if path.exists() and not path.is_dir():
        raise PairError(f"{printable(path)}: is a file where a folder is to be written; name another output")
    temporary: list[Path] = []
    try:
        with _explained(path, needed, temporary):
            _prepare(path.parent, needed, path)
            temporary.append(temporary_folder(path))
            yield temporary[0]
            replace_folder(temporary[0], path)
    finally:
        for folder in temporary:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_folder(path: Path) -> Path:
    """An empty folder beside ``path``, with a name that says whose it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=leftovers.prefix(path.name), suffix=".tmp"))
    folder.chmod(0o777 & ~_umask())
    return folder


def replace_folder(new: Path, folder: Path) -> None:
    """Moves ``new``, which has a temporary name beside it, to ``folder``, whose content is gone then.

    One of the two is there under the final name at every instant where the system can exchange names (Linux, macOS);
    elsewhere a run that is killed between two renames leaves the old one aside, and the next run puts it back.
    """
    for entry in [*new.rglob("*"), new]:
        _to_disk(entry)
    if folder.exists() and not leftovers.exchange(new, folder):
        old = new.with_suffix(leftovers.OLD)
        os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            os.replace(old, folder)
            raise
        leftovers.remove(old)
    elif not folder.exists():
        os.replace(new, folder)
    _to_disk(folder.parent)
    leftovers.remove(new)  # after an exchange, what was there before: a folder, or a link to one


def remove_folder(folder: Path) -> None:
    """Removes a folder and its content: it loses its name first, so that no part of it is ever taken for the whole."""
    if not folder.exists():
        return
    doomed = temporary_folder(folder)
    os.replace(folder, doomed / folder.name)
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def only_writer(folder: Path, name: str) -> Iterator[None]:
    """Inside the block no other run writes files of this name into the folder: theirs would be mixed with ours.

    The processes of one distributed run count as one.

    Raises:
        PairError: Another run does it already.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    own = folder / f"{leftovers.prefix(name)}{secrets.token_hex(4)}{leftovers.LOCK}"
    held = contextlib.ExitStack()
    try:
        with contextlib.suppress(OSError):  # a folder or name that cannot be: who writes there first will say so
            folder.mkdir(parents=True, exist_ok=True)
            leftovers.hold(held.enter_context(own.open("xb")))
        others = leftovers.others_at(folder, name, own)
        if others:
            words = f"{others[0]} is writing files of this name; let it end, or give another --output_name"
            raise PairError(f"{printable(folder / name)}: {words}")
        yield
    finally:
        held.close()
        with contextlib.suppress(OSError):  # the folder may be gone, or hold other files
            own.unlink()
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def check_space(path: Path, needed: int) -> None:
    """Raises PairError when the disk of ``path``, or of the nearest folder above it, has fewer bytes left."""
    folder = next((place for place in (path, *path.absolute().parents) if place.is_dir()), Path())
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < needed:  # some network drives say nothing
        raise PairError(_full(path, needed, usage.free))


def _prepare(folder: Path, needed: int, target: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    leftovers.clean_once(os.path.abspath(folder))
    if needed:
        check_space(target, needed)


@contextlib.contextmanager
def _explained(path: Path, needed: int, temporary: Sequence[Path]) -> Iterator[None]:
    """Errors of the block by the target's name: a full disk with what would be needed, a removed folder as missing."""
    try:
        yield
    except PairError:
        raise
    except Exception as cause:  # of the libraries that write into the block's files
        number = getattr(cause, "errno", None)
        if number in FULL or any(words in str(cause) for words in FULL_WORDS):
            written = sum(map(leftovers.size_of, temporary))
            free = shutil.disk_usage(path.parent).free
            raise PairError(_full(path, max(needed, written), free, number == errno.EFBIG)) from cause
        if not isinstance(cause, OSError) and temporary and not temporary[-1].exists():
            # torch has words of its own for a folder that was removed while it wrote
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from cause
        if isinstance(cause, OSError) and Path(str(cause.filename)).name.startswith(leftovers.prefix(path.name)):
            raise type(cause)(number, cause.strerror, str(path)) from cause
        raise


def _full(path: Path, needed: int, free: int, is_limit: bool = False) -> str:
    problem = "the file is larger than this system allows" if is_limit else f"the disk is full ({free:,} bytes free)"
    return f"{printable(path)}: {problem}, at least {needed:,} bytes are needed; free space or name another folder"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _to_disk(path: Path) -> None:
    """Returns when the file's bytes, or the folder's names, would outlive a power cut."""
    if os.environ.get("PAIR_NETWORK_FSYNC") == "0" or path.is_symlink() or (os.name == "nt" and path.is_dir()):
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as cause:
        if cause.errno in FULL or cause.errno == errno.EIO:
            raise
        # some network and FUSE drives cannot, which is no error of ours
    finally:
        os.close(descriptor)


def with_home(argv: Sequence[str]) -> list[str]:
    """A command line with "~" written out where a value begins with it: a shell leaves it in quotes and after "="."""
    found = []
    for part in argv:
        name, equals, value = part.partition("=") if part.startswith("--") else ("", "", part)
        is_home = value == "~" or value.startswith(("~/", "~\\"))
        found.append(f"{name}{equals}{os.path.expanduser(value)}" if is_home else part)
    return found


def weights_of(folder: Path) -> tuple[str | None, list[Path]]:
    """The weights that a component of a diffusers folder is loaded from.

    Returns:
        diffusers' variant (``fp16``), None for the full weights, and the .safetensors files of it: the full ones where
        they are there, else fp16, else any other. No file: the folder has no such weights.
    """
    found: dict[str | None, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        name = _WEIGHTS.fullmatch(file.name)
        found.setdefault(name.group("variant") if name else None, []).append(file)
    for variant in (None, "fp16", *found):
        if variant in found:
            return variant, found[variant]
    return None, []
