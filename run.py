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

# Every verb's commands, after the virtual environment's Python. Further arguments go to the last one.
VERBS = {
    "setup": [],
    "demo": [["-m", "demo"]],
    "test": [["-m", "pytest"]],
    "train": [[str(ROOT / "train_pair_network.py")]],
    "check": [["-m", "pair_network", "check"]],
    "generate": [["-m", "pair_network", "generate"]],
    "restyle": [["-m", "pair_network", "restyle"]],
    "pairs": [["-m", "pair_network", "pairs"]],
    "convert": [["-m", "convert"]],
    "package": [["-m", "convert", "package"]],
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
    for command in commands:
        # Paths that a user names are relative to where they are; the project's own commands run in its folder.
        status = status or call([str(PYTHON), *command], ROOT if verb in ("demo", "test", "lint") else None)
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


def call(command: list[str], folder: Path | None = None) -> int:
    """Exit status of a command. Ctrl-C and SIGTERM reach it too, so that a training can save before it ends."""
    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": search_path})
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
