"""Signals as they really come: to a whole process group, twice, during previews, and before the first step."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toml

from pair_network import leftovers, signals
from pair_network.training.hosts.embedded.interrupt import Interrupt
from pair_network.training.hosts.embedded.state import read_train_state

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without telling it")

REPORT = {"report.html", "x-record.json"}
REPOSITORY = Path(__file__).resolve().parents[4]
# train_pair_network.py, for which signals of one moment stay one however far apart a busy machine lets it hear them.
PATIENT = f"""
import runpy, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pair_network import signals
signals.GRACE = 900
runpy.run_path({str(REPOSITORY / "train_pair_network.py")!r}, run_name="__main__")
"""
RUN_PY = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("run_script", {str(REPOSITORY / "run.py")!r})
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
run.PYTHON, run.set_up = sys.executable, lambda: 0  # the Python that runs the tests, as it is
run.VERBS["train"] = [[sys.argv.pop(1)]]
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.fixture
def dataset_file(tmp_path, pairs):
    path = tmp_path / "data.toml"
    path.write_text(toml.dumps(pairs), encoding="utf-8")
    return path


@pytest.fixture
def start(model, tmp_path, dataset_file):
    """start(*launcher, options=…): a training in a process group of its own, output in out.txt; ended afterwards."""
    started = []

    def run(*launcher, options=()):
        command = [*launcher, "--pretrained_model_name_or_path", str(model), "--dataset_config", str(dataset_file)]
        command += ["--output_dir", str(tmp_path / "out"), "--output_name", "x", "--network_dim", "2", "--seed", "7"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1"}
        environment.pop("SD_SCRIPTS_DIR", None)
        log = (tmp_path / "out.txt").open("w")
        process = subprocess.Popen(
            [*command, *options], env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    for process in started:  # a test that failed must leave no training behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(process, text_file, pattern, seconds=900):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = text_file.read_text(errors="replace")
        if re.search(pattern, text):
            return
        assert process.poll() is None, text
        time.sleep(0.02)
    raise AssertionError(text)


@pytest.fixture
def ways(tmp_path):
    """How a training is started, by name."""
    script = tmp_path / "patient.py"
    script.write_text(PATIENT, encoding="utf-8")
    through_run_py = [sys.executable, "-c", RUN_PY, str(script), "train", "--host", "embedded"]
    directly = [sys.executable, str(script), "--host", "embedded"]
    return {"run.py": through_run_py, "timeout": ["timeout", "3600", *through_run_py], "script": directly}


@pytest.mark.parametrize(
    ("way", "sent"), [("run.py", "SIGTERM"), ("timeout", "SIGTERM"), ("script", "SIGINT"), ("script", "SIGHUP")]
)
def test_a_signal_to_the_whole_group_saves_once_and_gives_128_plus_n(start, tmp_path, ways, way, sent):
    sent = getattr(signal, sent)
    if signal.getsignal(sent) is signal.SIG_IGN:
        pytest.skip("the tests run under nohup, and so would the training, which then rightly ignores this signal")
    process = start(*ways[way], options=["--max_train_steps", "100000", "--cache_latents"])
    wait_for(process, tmp_path / "out.txt", r" [3-9]/100000|\d\d/100000")
    os.killpg(process.pid, sent)
    os.killpg(process.pid, sent)  # a launcher that passes on what its child has got already
    status = process.wait(timeout=900)
    text = (tmp_path / "out.txt").read_text()
    assert "Traceback" not in text and text.count("finishing this step") == 1, text
    assert re.search(r'stopped after step (\d+).*--resume "(.+)"', text), text
    step = int(re.search(r"stopped after step (\d+)", text)[1])
    stem = f"x-step{step:08d}"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names - REPORT == {f"{stem}-state", f"{stem}.safetensors", f"{stem}.pair.safetensors"}
    if way != "timeout":  # which has its own: 124
        assert status == 128 + sent, text


@pytest.mark.parametrize("sent", [signal.SIGINT])
def test_a_signal_in_the_last_previews_ends_them_and_says_that_all_is_written(start, tmp_path, ways, sent):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog --w 64 --h 64 --s 1\n" + "a cat --w 64 --h 64 --s 900\n" * 9)
    options = ["--max_train_steps", "2", "--sample_prompts", str(prompts), "--save_state_on_train_end"]
    process = start(*ways["script"], options=options)
    first = tmp_path / "out" / "sample" / "x_000002_00_0.png"
    while not first.exists():  # when it does, the others are being drawn, which takes minutes
        assert process.poll() is None, (tmp_path / "out.txt").read_text()
        time.sleep(0.02)
    os.killpg(process.pid, sent)
    assert process.wait(timeout=900) == 128 + sent
    text = (tmp_path / "out.txt").read_text()
    assert "all files are written" in text and "nothing was trained" not in text and "Traceback" not in text
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.parent.name != "x-state"}
    assert {"x.safetensors", "x.pair.safetensors", "x-state"} == names - REPORT - {"sample", first.name}


@pytest.mark.parametrize("sent", [signal.SIGTERM])
def test_a_signal_before_the_first_step_is_one_line(start, tmp_path, ways, sent):
    process = start(*ways["run.py"])
    wait_for(process, tmp_path / "out.txt", "INFO|WARNING")  # it imports what it needs, and loads the model
    os.killpg(process.pid, sent)
    assert process.wait(timeout=900) == 128 + sent
    text = (tmp_path / "out.txt").read_text()
    assert "Traceback" not in text and text.count("stopped") == 1, text


def two_of(script):
    """What really starts two processes on a machine without a GPU; ``accelerate launch --cpu`` starts one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    return [*launcher, *script[1:]]


def test_two_processes_save_on_a_signal_and_either_number_goes_on(start, tmp_path, ways):
    log, out = tmp_path / "out.txt", tmp_path / "out"
    options = ["--cache_latents", "--style_start_step", "1", "--save_state", "--max_train_steps"]
    process = start(*two_of(ways["script"]), options=[*options, "100000"])
    wait_for(process, log, r" [3-9]/100000|\d\d/100000")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=900) != 0
    text = log.read_text()
    assert text.count("finishing this step") == 1 and text.count("stopped after step") == 1, text
    step, state = re.search(r'stopped after step (\d+).*--resume "(.+)"', text).groups()
    assert {"random_states_0.pkl", "random_states_1.pkl"} < {path.name for path in Path(state).iterdir()}
    for launcher, more in ((ways["script"], 2), (two_of(ways["script"]), 4)):  # from two to one, and from one to two
        process = start(*launcher, options=[*options, str(int(step) + more), "--resume", state])
        assert process.wait(timeout=900) == 0, log.read_text()
        assert "num_processes was" in log.read_text() and "Traceback" not in log.read_text()
        state = str(out / "x-state")
        assert read_train_state(Path(state)).current_step == int(step) + more
    assert not [path for path in out.rglob("*") if leftovers.PATTERN.fullmatch(path.name)]


def test_what_fails_in_one_process_ends_both_at_once(start, tmp_path, ways):
    """Nobody waits for half an hour at a meeting point that the other one never reaches."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x-state").touch()  # a file where the first process is to write a folder
    process = start(*two_of(ways["script"]), options=["--cache_latents", "--max_train_steps", "1", "--save_state"])
    assert process.wait(timeout=900) != 0
    text = (tmp_path / "out.txt").read_text()
    errors = [line for line in text.splitlines() if line.startswith("error")]
    assert any("x-state: is a file where a folder" in line for line in errors), text
    assert [line.startswith("error (process 1): process 0 of this run") for line in sorted(errors)].count(True) == 1


class OneProcess:
    is_local_main_process = True
    num_processes = 1


def test_a_second_signal_is_the_same_one_unless_it_comes_later(monkeypatch, capfd):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Interrupt(OneProcess()) as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested() and interrupt.exit_code == 143
        now[0] += signals.GRACE + 0.1
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), signal.SIGINT)
        assert left.value.code == 130
    assert capfd.readouterr().err.count("finishing") == 1


def test_a_signal_while_the_other_processes_are_asked_is_kept_for_the_next_step():
    class TwoProcesses(OneProcess):
        num_processes, device = 2, "cpu"

        def gather(self, own):
            if not interrupt.signum:
                os.kill(os.getpid(), signal.SIGTERM)
            return own

    with Interrupt(TwoProcesses()) as interrupt:
        assert not interrupt.requested()  # all processes decide by the same numbers
        assert interrupt.requested() and interrupt.exit_code == 143


def test_handlers_are_put_back_and_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        held = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        with Interrupt(OneProcess()) as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested()
        assert {signum: signal.getsignal(signum) for signum in held} == held
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_library_makes_of_a_signal_is_still_the_signal(tmp_path):
    """diffusers calls a model damaged whose loading a signal broke off."""
    code = """
import os, signal, sys
from pair_network.errors import PairError, reported
from pair_network.signals import run_main

def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        raise {} from None

sys.exit(run_main(lambda: reported(main, "")))
"""
    for failure in ("PairError('the model is damaged')", "OSError('unable to load')", "KeyError('x')"):
        command = [sys.executable, "-c", code.format(failure)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
        assert (done.returncode, done.stderr) == (143, "stopped; what was saved before is whole\n")


AFTER = """
import atexit, os, signal, sys
from pair_network.signals import run_main

def told():
    os.kill(os.getpid(), signal.SIGTERM)

class Removed:
    def __del__(self):
        told()

def main():
    {}

sys.exit(run_main(main))
"""


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        # a launcher that passes on what its child has got already
        ("try: told()\n    finally: told(); print('cleaned up', file=sys.stderr)", 143, "cleaned up\nstopped; "),
        ("atexit.register(told); return 0", 0, ""),  # while Python closes down
        ("Removed(); import time; time.sleep(20)", 143, "stopped; "),  # Python itself passes over what is raised there
    ],
)
def test_a_signal_at_an_odd_moment_breaks_off_no_cleaning_up_and_is_never_lost(body, status, said):
    done = subprocess.run([sys.executable, "-c", AFTER.format(body)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == status, done.stderr
    assert done.stderr == (said and f"{said}what was saved before is whole\n")


def test_a_program_becomes_another_one_and_gets_its_signals_itself(tmp_path):
    """A parent that waits would end its child on the first signal, before the child has saved anything."""
    body = "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); "
    body += "print(os.getpid(), flush=True); time.sleep(60)"
    code = "import sys; from pair_network.signals import become, end_cleanly; end_cleanly(); "
    code += f"become([sys.executable, '-c', {body!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert int(process.stdout.readline()) == process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=900) == 7
