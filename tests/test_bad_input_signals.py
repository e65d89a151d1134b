"""Ctrl-C saves and leaves within seconds, quietly, wherever it falls; the same command then goes on.

Real processes; the signal goes to the whole group, as a terminal sends it, so workers get it too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
from test_bad_input import QUICK
from test_resume import assert_same, environment

from dreamlab.cli.main import main
from dreamlab.envs import default_config, make
from dreamlab.run.checkpoint import Checkpoints

TOY = ("toy_agent", "--env", "faulty_envs:Slow", "--agent.collect", "80", "--agent.study", "2", "--agent.tune", "1",
       "--agent.practice", "60")  # fmt: skip
WORLD_MODELS = ("world-models", "--env", "faulty_envs:Slow", "--preset", "smoke", "--agent.collect-steps", "40")
COMMON = ("--env.size", "16", "16", *QUICK, "--logs", "console", "jsonl")


def start(folder: Path, args: tuple[str, ...], slow_from: int | None) -> subprocess.Popen[str]:
    """Train; every step of an environment after its ``slow_from``-th takes a tenth of a second."""
    env = environment() | ({} if slow_from is None else {"FAULT_AT": str(slow_from)})
    argv = [sys.executable, "-m", "dreamlab", "train", args[0], *COMMON, *args[1:], "--run", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, env=env, start_new_session=True, **pipes)  # type: ignore[call-overload]


def interrupt(
    process: subprocess.Popen[str], after: str, signals: list[int], wait: float, saved: Path | None = None
) -> tuple[str, str]:
    """Signals to the group ``wait`` seconds after a line that begins with ``after``. Returns what was written.

    By then it has workers, and if ``saved`` is given a checkpoint there of step 80 or later.
    """
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line
        if line.strip().startswith(after):
            break
    parent, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while len(parent.children(recursive=True)) < 2 or (saved and max(Checkpoints(saved).steps(), default=0) < 80):
        assert process.poll() is None, seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    time.sleep(wait)
    family = [parent, *parent.children(recursive=True)]
    begin = time.monotonic()
    for number in signals:
        os.killpg(process.pid, number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 4
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert process.returncode == 130, seen + out + err
    assert "Traceback" not in out + err
    assert "resource_tracker" not in err
    return seen + out, err


@pytest.mark.parametrize(
    ("args", "slow_from", "after", "signals"),
    [
        pytest.param(TOY, 20, "expected:", [signal.SIGINT], id="collecting", marks=pytest.mark.slow),
        pytest.param(WORLD_MODELS, 21, "memory", [signal.SIGINT], id="rolling-out"),
        pytest.param((*TOY, "--eval-episodes", "40"), 70, "practice", [signal.SIGTERM], id="evaluating"),
    ],
)
def test_one_signal_saves_and_leaves(tmp_path, args, slow_from, after, signals):
    out, err = interrupt(start(tmp_path / "run", args, slow_from), after, signals, wait=0.9)
    assert err == ""
    assert "stopping after this unit and saving" in out
    assert "type the same command to go on" in out
    assert Checkpoints(tmp_path / "run").steps()
    finish(tmp_path / "run", args)
    if after in ("expected:", "memory"):
        finish(tmp_path / "whole", args)
        assert_same(tmp_path / "whole", tmp_path / "run")


def finish(folder: Path, args: tuple[str, ...]) -> None:
    """Go on in this process, without slowness."""
    assert main(["train", args[0], *COMMON, *args[1:], "--run", str(folder)]) == 0


def test_two_signals_stop_at_once(tmp_path, capfd):
    """Also while it is saving: what was saved before is whole."""
    args = (*TOY, "--save-minutes", "0.00001")
    run = tmp_path / "run"
    _, err = interrupt(start(run, args, 60), "study", [signal.SIGINT, signal.SIGINT], wait=0.1, saved=run)
    assert err in ("", "dreamlab: stopped\n"), "it may have left before the second"
    step, _, words = Checkpoints(tmp_path / "run").load()
    assert step >= 80
    assert not words
    finish(tmp_path / "run", args)
    assert "going on from step" in capfd.readouterr().out


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="no telling what a process has imported")
def test_a_signal_before_it_runs(tmp_path):
    """While everything is still being imported: the first thing that takes long is torch."""
    process = start(tmp_path / "run", TOY, None)
    while not any("torch" in map.path for map in psutil.Process(process.pid).memory_maps()):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err in ("", "dreamlab: stopped\n")


def test_an_interrupted_exec_of_text_ends_with_the_same_code(tmp_path):
    """Where it falls into the making of a dataclass, say."""
    text = """
        import sys
        from dreamlab.cli import main
        main._dispatch = lambda argv: exec("raise KeyboardInterrupt")
        sys.exit(main.main([]))
        """
    (tmp_path / "interrupted.py").write_text(textwrap.dedent(text))
    argv = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "dreamlab: stopped\n")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no telling which signals a process lets wait")
def test_workers_are_started_with_signals_waiting():
    """Else one that falls between a worker's start and its first line ends it, and the run with it."""
    venv = make(replace(default_config("tiny/Count"), workers=True), 1, 0)
    try:
        status = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read_text()
    finally:
        venv.close()
    blocked = int(re.search(r"^SigBlk:\s*(\w+)", status, re.M)[1], 16)
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM))
