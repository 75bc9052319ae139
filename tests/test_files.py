"""Files that are written whole or not at all: full disks, kills at every step, power cuts, and what is left behind."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pair_network import files, leftovers
from pair_network.errors import PairError

ROOT = Path(__file__).parents[1]
NOBODY = 2**22 + 1  # a process number that Linux and macOS never give; one that has ended may be given again
posix = pytest.mark.skipif(os.name == "nt", reason="limits and exchanged names are of POSIX systems")


def run(code, *argv, **settings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)], env=environment, capture_output=True, text=True, **settings
    )


def full_disk(*_args, **_named):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_with_path_and_size_and_leaves_the_file(tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_text("before")
    with (
        pytest.raises(PairError, match=r"x\.safetensors: the disk is full \([\d,]+ bytes free\), at least 1,234 bytes"),
        files.atomic_file(target) as temporary,
    ):
        temporary.write_bytes(bytes(1234))
        full_disk()
    assert target.read_text() == "before" and os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),  # torch.save
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("basic_ios::clear: iostream error"),  # its very last bytes
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_so_is_one_that_a_library_met(tmp_path, failure):
    (tmp_path / "x-state").mkdir()
    (tmp_path / "x-state" / "kept").touch()
    with (
        pytest.raises(PairError, match="x-state: the disk is full"),
        files.atomic_folder(tmp_path / "x-state") as folder,
    ):
        (folder / "half").write_bytes(bytes(9))
        raise failure
    assert os.listdir(tmp_path) == ["x-state"] and os.listdir(tmp_path / "x-state") == ["kept"]


def test_another_failure_stays_what_it_was(tmp_path):
    with pytest.raises(ZeroDivisionError), files.atomic_file(tmp_path / "x") as temporary:
        temporary.write_text(str(1 / 0))
    with pytest.raises(FileNotFoundError) as missing, files.atomic_file(tmp_path / "x"):
        shutil.copyfile(tmp_path / "source", tmp_path / "y")
    assert missing.value.filename.endswith("source")


@posix
def test_wherever_torchs_file_is_cut_off_it_is_one_line(tmp_path):
    """Its zip writer has other words for each of its parts: the data, the list of entries, the end."""
    code = """
import resource, signal, sys
from pathlib import Path
import torch
from pair_network.errors import PairError
from pair_network.files import atomic_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
content = {str(number): torch.zeros(number) for number in range(40)}
whole = Path(sys.argv[1])
torch.save(content, whole)
size, refused = whole.stat().st_size, 0
for limit in [*range(0, size, 997), *range(size - 900, size, 13)]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with atomic_file(whole) as temporary:
            torch.save(content, temporary)
    except PairError:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert refused > 80, refused
print("all refused")
"""
    done = run(code, tmp_path / "x")
    assert "all refused" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == ["x"]


@posix
def test_a_limit_on_the_size_of_files_is_one_line_too(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from pair_network.files import atomic_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with atomic_file(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(bytes(5000))
"""
    done = run(code, tmp_path / "x")
    assert "PairError" in done.stderr and "larger than this system allows" in done.stderr
    assert os.listdir(tmp_path) == []


def test_space_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    started = []
    words = r"the disk is full.*at least 1,000,000,000,000,000 bytes"
    with pytest.raises(PairError, match=words), files.atomic_file(tmp_path / "x", needed=10**15) as temporary:
        started.append(temporary)
    assert not started
    nothing = SimpleNamespace(total=0, free=0)  # what some network drives say
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nothing)
    with files.atomic_file(tmp_path / "x", needed=10**15):
        pass


def test_two_runs_do_not_write_to_one_name(tmp_path):
    out = tmp_path / "new" / "out"
    code = """
import sys
from pathlib import Path
from pair_network.files import only_writer
with only_writer(Path(sys.argv[1]), sys.argv[2]):
    print("writes")
"""
    with files.only_writer(out, "ink"):
        (lock,) = out.iterdir()
        dead = lock.name.replace(f"-{os.getpid()}-", f"-{NOBODY}-")
        assert leftovers.PATTERN.fullmatch(lock.name)
        refused = run(code, out, "ink")
        assert f"process {os.getpid()} is writing files of this name" in refused.stderr.splitlines()[-1]
        assert run(code, out, "paint").stdout == "writes\n" and [*out.iterdir()] == [lock]
    assert not (tmp_path / "new").exists(), "nothing was written"
    lock.parent.mkdir(parents=True)
    (out / dead).touch()  # of one that was killed
    with files.only_writer(out, "ink"):
        (out / "ink.safetensors").touch()
        leftovers.clean(out)
        assert len(os.listdir(out)) == 2
    assert os.listdir(out) == ["ink.safetensors"]


def test_where_no_lock_can_be_the_run_says_why(tmp_path):
    (tmp_path / "file").touch()
    with files.only_writer(tmp_path / "file", "ink"), files.only_writer(tmp_path, "a/b"):
        assert os.listdir(tmp_path) == ["file"]


def test_files_that_belong_together_change_together(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("before")
    with pytest.raises(PairError), files.atomic_files(paths) as (one, other):
        one.write_text("after")
        other.write_text("after")
        full_disk()
    assert [path.read_text() for path in paths] == ["before", "before"]
    with files.atomic_files(paths) as (one, other):
        one.write_text("after")
        other.write_text("after")
    assert [path.read_text() for path in paths] == ["after", "after"] and len(os.listdir(tmp_path)) == 2


def test_a_folder_that_is_removed_while_torch_writes_into_it_is_told_by_the_targets_name(tmp_path):
    target = tmp_path / "out" / "x-state"
    with pytest.raises(FileNotFoundError) as told, files.atomic_folder(target) as part:
        shutil.rmtree(tmp_path / "out")
        torch.save({}, part / "state.pt")  # a RuntimeError
    assert told.value.filename == str(target)


def test_bytes_are_on_the_disk_before_the_name_is_and_the_name_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (done.append(os.path.realpath(f"/dev/fd/{d}")), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    with files.atomic_file(tmp_path / "x") as temporary:
        temporary.write_text("x")
    if os.name != "nt":
        assert len(done) == 3 and done[1] == "rename"
    done.clear()
    monkeypatch.setenv("PAIR_NETWORK_FSYNC", "0")
    with files.atomic_file(tmp_path / "x") as temporary:
        temporary.write_text("x")
    assert done == ["rename"]


# A state folder of two files that must belong together; os._exit after the Nth change of the file system.
REPLACED = """
import os, shutil, sys
from pathlib import Path
from pair_network import files, leftovers
count, limit = 0, int(sys.argv[2])
def counted(function):
    def call(*args, **named):
        global count
        count += 1
        if count > limit:
            os._exit(9)
        return function(*args, **named)
    return call
for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
if sys.argv[3] == "no exchange":
    leftovers.exchange = lambda *_: False
else:
    leftovers.exchange = counted(leftovers.exchange)
folder = Path(sys.argv[1])
if sys.argv[4] == "remove":
    files.remove_folder(folder)
else:
    with files.atomic_folder(folder) as new:
        for name in ("a", "b"):
            (new / name).write_text("new")
"""


@posix
@pytest.mark.parametrize("how", ["exchange", "no exchange"])
def test_a_kill_at_any_step_of_replacing_a_folder_loses_nothing(tmp_path, how):
    folder = tmp_path / "x-state"
    for limit in range(40):
        shutil.rmtree(tmp_path)
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).write_text("old")
        done = run(REPLACED, folder, limit, how, "replace")
        seen = {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else None
        if how == "exchange":
            assert seen is not None, f"nothing has the final name after {limit} steps"
        leftovers.clean(tmp_path)  # what the next run does
        seen = {path.name: path.read_text() for path in folder.iterdir()}
        assert seen in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"}), limit
        assert os.listdir(tmp_path) == ["x-state"]
        if done.returncode == 0:
            assert limit > 3 and seen["a"] == "new"
            return
        assert done.returncode == 9, done.stderr
    raise AssertionError("never ended")


@posix
def test_a_kill_while_an_old_state_is_removed_leaves_no_part_of_it_under_its_name(tmp_path):
    for limit in range(20):
        shutil.rmtree(tmp_path)
        (tmp_path / "x-state").mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / "x-state" / name).write_text("old")
        done = run(REPLACED, tmp_path / "x-state", limit, "exchange", "remove")
        if (tmp_path / "x-state").exists():
            assert len(os.listdir(tmp_path / "x-state")) == 2, limit
        leftovers.clean(tmp_path)
        assert os.listdir(tmp_path) in ([], ["x-state"])
        if done.returncode == 0:
            return
    raise AssertionError("never ended")


def test_leftovers_of_dead_processes_are_removed_and_said_and_others_are_not(tmp_path, caplog):
    ours, theirs = leftovers.prefix("x.safetensors"), ".x.safetensors.00000000-7-"
    dead = f".x.safetensors.{leftovers.host()}-{NOBODY}-"
    for name in (f"{ours}aaaaaaaa.tmp", f"{dead}aaaaaaaa.tmp", f"{theirs}aaaaaaaa.tmp", f"{theirs}old_0000.tmp"):
        (tmp_path / name).write_bytes(bytes(500))
    (tmp_path / f"{dead}bbbbbbbb.tmp").mkdir()
    (tmp_path / f"{dead}bbbbbbbb.tmp" / "model.safetensors").write_bytes(bytes(500))
    os.utime(tmp_path / f"{theirs}old_0000.tmp", (0, 0))
    foreign = [".x.tmp", ".x.swp", "x.safetensors.tmp", ".x.safetensors.12345678.tmp", "x.safetensors"]
    for name in foreign:
        (tmp_path / name).touch()
    with files.atomic_file(tmp_path / "y") as temporary:
        temporary.touch()
    kept = {f"{ours}aaaaaaaa.tmp", f"{theirs}aaaaaaaa.tmp", "y", *foreign}
    assert set(os.listdir(tmp_path)) == kept
    assert "removed what killed runs had left, 1,500 bytes" in caplog.text


def test_long_names_fit(tmp_path):
    for name in ("x" * 240 + ".safetensors", "é" * 120):
        with files.atomic_file(tmp_path / name) as temporary:
            temporary.touch()
        assert (tmp_path / name).exists()
