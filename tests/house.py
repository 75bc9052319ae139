"""The house rules in numbers: ``python tests/house.py`` prints them, tests/test_house.py holds their limits.

Counted over pair_network/ and convert/, without what is installed into the UIs (webui/, comfyui/), whose hosts have no
types.
"""

from __future__ import annotations

import ast
import dataclasses
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("convert/webui", "convert/comfyui")


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the rules measure.

    Attributes:
        lines: Lines of all files.
        any_per_thousand: Uses of ``Any`` as a type, per thousand lines.
        ignores: ``type: ignore`` comments.
        functions: (lines, place) of every function, longest first.
        files: (lines, path) of every file, longest first.
        writes: Places that write to a namespace of options (``args.x = …``) outside the adapters of foreign hosts.
    """

    lines: int
    any_per_thousand: float
    ignores: int
    functions: tuple[tuple[int, str], ...]
    files: tuple[tuple[int, str], ...]
    writes: tuple[str, ...]


def sources() -> list[Path]:
    found = [*(ROOT / "pair_network").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]
    return sorted(path for path in found if not path.relative_to(ROOT).as_posix().startswith(FOREIGN))


def count_any(tree: ast.AST) -> int:
    """``Any`` in annotations, aliases and generics; its import does not count."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def writes_to_options(tree: ast.AST) -> list[int]:
    """Lines that assign to an attribute of ``args`` or ``options``."""
    lines = []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and isinstance(target, ast.Attribute):
                holder = target.value
                if isinstance(holder, ast.Name) and holder.id in ("args", "options"):
                    lines.append(node.lineno)
    return lines


def is_foreign_host(path: str) -> bool:
    """sd-scripts and musubi-tuner own their namespaces, which their adapters write to."""
    return path.startswith(("pair_network/training/hosts/sd_scripts/", "pair_network/training/hosts/musubi/"))


def figures() -> Figures:
    lines = uses = ignores = 0
    functions, files, writes = [], [], []
    for path in sources():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        tree = ast.parse(text)
        count = len(text.splitlines())
        lines, uses, ignores = lines + count, uses + count_any(tree), ignores + text.count("# type: ignore")
        files.append((count, name))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions.append(((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}:{node.name}"))
        if not is_foreign_host(name):
            writes += [f"{name}:{line}" for line in writes_to_options(tree)]
    return Figures(
        lines, 1000 * uses / lines, ignores, tuple(sorted(functions, reverse=True)), tuple(sorted(files, reverse=True)),
        tuple(writes),
    )  # fmt: skip


def main() -> None:
    found = figures()
    sizes = [size for size, _ in found.functions]
    print(f"{found.lines} lines in {len(found.files)} files, {len(sizes)} functions")
    print(f"Any: {found.any_per_thousand:.1f} per thousand lines; type: ignore: {found.ignores}")
    print(f"function length: median {statistics.median(sizes):.0f}, longest {found.functions[0]}")
    print(f"longest file: {found.files[0]}")
    print(f"writes to a namespace of options: {len(found.writes)} {', '.join(found.writes)}")


if __name__ == "__main__":
    main()
