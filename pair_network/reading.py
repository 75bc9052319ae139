"""Text, JSON and TOML that users bring: whatever is in them, the answer is their content or one line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import toml

from .errors import PairError, printable
from .files import with_home

LARGEST = 16 << 20  # bytes
LARGEST_TOML = 1_000_000  # bytes
DEEPEST = 20
COPY = "save it again"
BACKSLASHES = (
    r"a backslash in double quotes begins an escape (\n, \t): write a Windows path as 'C:\pairs' in single quotes, or "
    "with slashes, C:/pairs"
)


def read_text(path: Path, option: str = "", largest: int = LARGEST) -> str:
    """The content of a UTF-8 text file, without the mark that Windows puts in front; of UTF-16 where the mark says so,
    as PowerShell's ``>`` writes it.

    Args:
        path: The file.
        option: That named it, for the message.
        largest: Bytes that it may have.

    Raises:
        PairError: Missing, not to be read, too large, or no UTF-8.
    """
    name = f"{option} {printable(path)}".strip()
    try:
        if not path.is_file():
            raise PairError(f"{name}: {'a folder; name a file' if path.is_dir() else 'no such file'}")
        if path.stat().st_size > largest:
            raise PairError(f"{name}: more than {largest:,} bytes are no settings and no captions; name another file")
        return path.read_text(encoding="utf-16" if is_utf16(path) else "utf-8-sig")
    except UnicodeError as cause:
        raise PairError(f"{name}: not UTF-8 text ({cause}); save it as UTF-8") from cause
    except OSError as cause:
        raise PairError(f"{name}: cannot be read ({cause.strerror}); check its permissions") from cause


def read_prompt_lines(path: Path, option: str) -> list[str]:
    """The lines of a text file that are neither empty nor begin with #.

    Raises:
        PairError: As ``read_text``, or no prompt in it.
    """
    lines = [line.strip() for line in read_text(path, option).splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise PairError(f"{option} {path}: the file holds no prompt")
    return prompts


def is_utf16(path: Path) -> bool:
    """Whether a text file begins with UTF-16's mark."""
    with path.open("rb") as file:
        return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_json(path: Path, option: str = "", remedy: str = COPY) -> object:
    """What a JSON file holds.

    Raises:
        PairError: As ``read_text``, or no JSON.
    """
    try:
        return json.loads(read_text(path, option))
    except PairError:
        raise
    except (ValueError, RecursionError) as cause:  # also a number of more digits than Python reads
        raise PairError(f"{option} {printable(path)}: not a JSON file ({cause}); {remedy}".strip()) from cause


def read_json_table(path: Path, option: str = "", remedy: str = COPY) -> dict[str, object]:
    """The object in a JSON file; PairError where it holds something else."""
    content = read_json(path, option, remedy)
    if not isinstance(content, dict):
        raise PairError(f"{option} {printable(path)}: holds no table of settings; {remedy}".strip())
    return content


def read_toml(path: Path) -> dict[str, object]:
    """The content of a TOML file.

    Raises:
        PairError: As ``read_text``, or not TOML, nested too deep, or with control characters in it.
    """
    text = read_text(path, largest=LARGEST_TOML)
    try:
        content: dict[str, object] = toml.loads(text)
    except Exception as cause:  # the toml package raises whatever a broken file makes of it
        hint = f"; {BACKSLASHES}" if re.search(r'"[^"\n]*\\[^"\n]*', text) else ""
        reason = f"not a TOML file ({cause or type(cause).__name__}){hint}"
        raise PairError(f"{printable(path)}: {reason}") from cause
    for value, depth in _texts(content):
        if depth > DEEPEST:
            raise PairError(f"{path}: tables or lists stand more than {DEEPEST} deep in each other; no settings do")
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            hint = BACKSLASHES if "\\" in text else "write the text on one line, without tabs"
            raise PairError(f"{path}: {value[:100]!r} holds a control character; {hint}")
    return {key: _with_home(value) for key, value in content.items()}


def _with_home(value: object) -> object:
    """The content with "~" written out where a text begins with it."""
    if isinstance(value, str):
        return with_home([value])[0]
    if isinstance(value, Mapping):
        return {key: _with_home(entry) for key, entry in value.items()}
    return [_with_home(entry) for entry in value] if isinstance(value, list) else value


def _texts(value: object) -> Iterator[tuple[str, int]]:
    """Every text in a table, its keys too, and how deep it stands; an empty text for each list."""
    entries: list[tuple[object, int]] = [(value, 0)]
    while entries:
        entry, depth = entries.pop()
        if isinstance(entry, str):
            yield entry, depth
        elif isinstance(entry, Mapping):
            entries += [(part, depth + 1) for part in (*entry.keys(), *entry.values())]
        elif isinstance(entry, list):
            yield "", depth
            entries += [(part, depth + 1) for part in entry]
