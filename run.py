"""Sets up the project in .venv and runs a part of it: python run.py demo. Needs nothing but Python 3.10 or later."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "requirements.txt"
STAMP = VENV / "installed-requirements.sha256"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

# Runs a package of ours. "-m" would search the current folder first, and a torch.py that lies there is not ours to run.
START = (
    f"import sys; sys.path[0] = {str(ROOT)!r}; import runpy; runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
)

# Every verb's commands, after the virtual environment's Python. Further arguments go to the last one.
VERBS = {
    "setup": [],
    "demo": [["-m", "demo"]],
    "test": [["-m", "pytest"]],
    "train": [[str(ROOT / "train_pair_network.py")]],
    "check": [["-c", START, "pair_network", "check"]],
    "generate": [["-c", START, "pair_network", "generate"]],
    "restyle": [["-c", START, "pair_network", "restyle"]],
    "pairs": [["-c", START, "pair_network", "pairs"]],
    "app": [["-c", START, "pair_network", "app"]],
    "convert": [["-c", START, "convert"]],
    "package": [["-c", START, "convert", "package"]],
    "lint": [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"], ["-m", "mypy"]],
}
USAGE = f"usage: python run.py {{{','.join(VERBS)}}} [arguments]"


def main(argv: list[str]) -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 (this is where an old Python must be told)
        print("error: Python 3.10 or later is needed, this is " + sys.version.split()[0], file=sys.stderr)
        return 2
    if not argv or argv[0] not in VERBS:
        print(USAGE, file=sys.stdout if argv and argv[0] in ("-h", "--help") else sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    verb, *further = argv
    status = set_up()
    commands = [list(command) for command in VERBS[verb]]
    if commands:
        commands[-1] += further
    # Paths that a user names are relative to where they are; the project's own commands run in its folder.
    folder = ROOT if verb in ("demo", "test", "lint") else None
    for command in commands[:-1]:
        status = status or call([str(PYTHON), *command], folder)
    if status == 0 and commands:
        status = become([str(PYTHON), *commands[-1]], folder)
    return status


def set_up() -> int:
    """Makes .venv with the pinned requirements; does nothing when they are installed already."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted and PYTHON.is_file():
        return 0
    print("setting up .venv (once; downloads PyTorch and the other requirements)", flush=True)
    if not PYTHON.is_file():
        shutil.rmtree(VENV, ignore_errors=True)
        if call([sys.executable, "-m", "venv", str(VENV)]):
            print("error: python -m venv failed; on Debian and Ubuntu: apt install python3-venv", file=sys.stderr)
            return 1
    install = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r", str(REQUIREMENTS)]
    if call(install):
        print(
            "error: pip could not install requirements.txt, its message stands above; run this again", file=sys.stderr
        )
        return 1
    STAMP.write_text(wanted)
    return 0


def environment() -> dict[str, str]:
    """The child's variables. An empty entry of PYTHONPATH would mean the current folder."""
    search_path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))}


def become(command: list[str], folder: Path | None = None) -> int:
    """Runs a command in the place of this program: it gets every signal itself, and its status is this one's."""
    if os.name == "nt":  # where the caller would go on at once
        return call(command, folder)
    sys.stdout.flush()
    if folder is not None:
        os.chdir(folder)
    os.execve(command[0], command, environment())


def call(command: list[str], folder: Path | None = None) -> int:
    """Exit status of a command; 128 + n when signal n ended it, as shells count."""
    process = subprocess.Popen(command, cwd=folder, env=environment())
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                status = process.wait()
                return 128 - status if status < 0 else status
            except KeyboardInterrupt:  # a terminal tells the command too
                continue
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
