"""A short form of the fire: a few kills, signals, disks and broken inputs; and a companion that shows it can fail."""

import os
import random
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials are forked children")


def test_the_short_form_holds(tmp_path):
    import subprocess

    argv = ["--kills", "6", "--signals", "4", "--disk", "4", "--fuzz", "150", "--seed", "3", "--minutes", "6"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.fire", *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_what_does_not_hold_is_counted(tmp_path):
    from benchmarks.fire.fuzz import _one, damaged
    from benchmarks.fire.trials import Score, whole_files

    score = Score("companion")
    _one(tmp_path / "a", b"x", lambda _: 1 / 0, score)
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "x-state").mkdir()
    whole_files(tmp_path, score)
    assert len(score.failures) == 3
    changed = [damaged(b"some content", random.Random(seed)) for seed in range(50)]
    assert len(set(changed)) > 40 and b"some content" not in set(changed)
