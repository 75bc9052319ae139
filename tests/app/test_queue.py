"""The queue of trainings: one at a time, remembered on disk, adopted by the next page."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

psutil = pytest.importorskip("psutil")

from pair_network import PairError  # noqa: E402
from pair_network.app import queue as queue_module  # noqa: E402
from pair_network.app.queue import DONE, FAILED, RUNNING, STOPPED, WAITING, Queue, Run  # noqa: E402

SLEEP = "import time, sys; print('working', flush=True); time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A queue whose trainings sleep: options are seconds and exit status."""

    def start(self, run):
        os.makedirs(run.folder, exist_ok=True)
        with run.log.open("ab") as log:
            child = subprocess.Popen([sys.executable, "-c", SLEEP, *run.options[:2]], stdout=log, stderr=log,
                                     start_new_session=True)  # fmt: skip
        self._children[run.name] = child
        return replace(run, state=RUNNING, process=child.pid, born=psutil.Process(child.pid).create_time())

    monkeypatch.setattr(Queue, "_start", start)
    found = Queue(tmp_path)
    yield found
    for child in found._children.values():
        child.kill()


def until(queue, name, state, seconds=600):
    end = time.monotonic() + seconds
    while queue.run(name).state != state and time.monotonic() < end:
        queue.tick()
        time.sleep(0.05)
    assert queue.run(name).state == state


def test_trainings_run_one_after_the_other_and_their_ends_are_told_apart(queue):
    first, second = queue.add("ink", ["0.2", "0"]), queue.add("ink", ["0", "3"])
    assert (first.name, second.name) == ("ink", "ink-2")
    queue.tick()
    assert [run.state for run in queue.runs] == [RUNNING, WAITING]
    until(queue, "ink", DONE)
    until(queue, "ink-2", FAILED)
    assert queue.run("ink-2").last_words() == "working"


def test_a_stopped_training_is_resumed_and_a_waiting_one_leaves_the_line(queue):
    queue.add("a", ["9999", "0"])
    queue.add("b", ["0", "0"])
    queue.tick()
    queue.stop("b")
    assert queue.run("b").state == STOPPED
    queue.stop("a")
    until(queue, "a", STOPPED)
    queue.resume("a")
    assert queue.run("a").state == WAITING and queue.run("a").resumes
    with pytest.raises(PairError, match="a: is waiting; only a stopped training can be resumed"):
        queue.resume("a")


def test_another_page_goes_on_where_this_one_was_closed(queue, tmp_path):
    queue.add("a", ["9999", "0"])
    queue.add("b", ["0", "0"])
    queue.tick()
    later = Queue(tmp_path)  # of this process, which holds the lock itself
    later.tick()
    assert [run.state for run in later.runs] == [RUNNING, WAITING]
    queue._children["a"].kill()
    queue._children["a"].wait()
    later.tick()
    assert later.run("a").state == STOPPED  # its record does not say that it was done


def test_a_training_that_ends_between_two_looks_at_it_has_not_failed(queue, monkeypatch):
    """A zombie whose status has not been taken yet: it is gone, and its handle says nothing."""
    queue.add("a", ["0", "0"])
    queue.tick()
    monkeypatch.setattr(Run, "is_alive", lambda run: False)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "poll", lambda child: None)
        queue.tick()
    assert queue.run("a").state == RUNNING
    until(queue, "a", DONE)


def test_a_process_with_the_number_of_an_old_one_is_not_the_training():
    assert not Run("x", (), "f", RUNNING, os.getpid(), born=1.0).is_alive()
    assert Run("x", (), "f", RUNNING, os.getpid(), born=psutil.Process().create_time()).is_alive()


def test_two_pages_on_one_folder_and_a_damaged_queue_are_refused(tmp_path):
    parent = psutil.Process(os.getppid())
    (tmp_path / queue_module.LOCK).write_text(f"{parent.pid} {parent.create_time()}", encoding="utf-8")
    with pytest.raises(PairError, match="another page works here; close it, or give --folder another one"):
        Queue(tmp_path)
    (tmp_path / queue_module.LOCK).write_text(f"{parent.pid} 1.0", encoding="utf-8")  # of a process that has gone
    (tmp_path / queue_module.FILE).write_text(json.dumps([{"x": 1}]), encoding="utf-8")
    with pytest.raises(PairError, match=r"queue.json: damaged .*; move it away"):
        Queue(tmp_path)
