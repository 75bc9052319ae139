"""Code blocks of README and docs, and the commands in them as they are typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("python", "pair-network", "accelerate", "pip", "git", "cd", "source", "C:")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: Its file's name.
        line: Where it begins, from 1.
        language: Behind the fence; "" for an indented block.
        text: Without fence and indentation.
    """

    page: str
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Fenced blocks at any indentation, and blocks indented by four spaces after an empty line."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = re.match(r"( *)```(\w*)$", lines[at])
        if fence:
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            body = [line.removeprefix(fence[1]) for line in lines[at + 1 : end]]
            yield Block(page.name, at + 1, fence[2], "\n".join(body))
            at = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("    ")), len(lines))
            yield Block(page.name, at + 1, "", "\n".join(line[4:] for line in lines[at:end]))
            at = end
        else:
            at += 1


def commands(block: Block) -> Iterator[str]:
    """The block's commands, each on one line, without comments."""
    if block.language not in ("", "bash", "powershell"):
        return
    text = re.sub(r"\s*[\\`]\n\s*", " ", block.text)
    for line in text.splitlines():
        command = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if command.startswith(PROGRAMS):
            yield command


def words(command: str) -> list[str]:
    return shlex.split(command)


def all_commands() -> list[tuple[str, str]]:
    """(page:line, command) of every page."""
    return [(f"{block.page}:{block.line}", command) for page in PAGES for block in blocks(page)
            for command in commands(block)]  # fmt: skip
