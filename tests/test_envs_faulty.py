"""What faulty environments lead to: one clear error, no process left behind, nothing on stderr."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium
import numpy as np
import psutil
import pytest

from dreamlab import envs
from dreamlab.core.errors import RunError, UserError
from dreamlab.envs.check import check


class Base(gymnasium.Env):
    """Fine for three steps; then ``fault``."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {"odd": object()}

    def step(self, act):
        self.t += 1
        if self.t > 3:
            self.fault()
        return np.zeros(3, np.float32), 0.0, False, False, {}

    def fault(self):
        pass


class Crash(Base):
    def fault(self):
        raise ValueError("boom")


class Exit(Base):
    def fault(self):
        os._exit(7)


class Segfault(Base):
    def fault(self):
        ctypes.string_at(0)


class Hang(Base):
    def fault(self):
        while True:
            pass


class Unbuilt(Base):
    def __init__(self):
        raise RuntimeError("no licence")


class NotANumber(Base):
    def step(self, act):
        return np.full(3, np.nan, np.float32), float("nan"), False, False, {}


class Unseeded(Base):
    def step(self, act):
        return np.random.default_rng().random(3, np.float32), 0.0, False, False, {}


class Stained(Base):
    """Remembers its last episode."""

    def step(self, act):
        self.t += 1
        return np.full(3, np.sin(self.t), np.float32), 0.0, False, False, {}


class OddActions(Base):
    action_space = gymnasium.spaces.Text(3)


def ours(name: str, **options) -> envs.EnvConfig:
    return dataclasses.replace(envs.default_config(f"{__name__}:{name}"), **options)


def steps(config, n=2, count=6):
    vec = envs.make(config, n, 0)
    try:
        vec.reset()
        run(vec, count)
    finally:
        vec.close()


def run(vec, count):
    for _ in range(count):
        vec.step(np.zeros(vec.num_envs, np.int64))


def workers() -> list[psutil.Process]:
    """Descendants that serve an environment: all but the fork server and the resource tracker."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if process.parent().pid != os.getpid():
            found.append(process)
    return found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Crash", ["after 4 steps", "ValueError: boom", "test_envs_faulty.py line"]),
        ("Exit", ["died", "exit code 7"]),
        ("Segfault", ["died", "SIGSEGV"]),
        ("Hang", ["no answer for 0.5 s", "timeout"]),
        ("Unbuilt", ["being built", "RuntimeError: no licence"]),
    ],
)
def test_a_fault_in_a_worker_is_one_error_and_leaves_nothing(name, words, capfd):
    begin = time.monotonic()
    with pytest.raises(RunError) as caught:
        steps(ours(name, timeout=0.5 if name == "Hang" else 60))
    for word in [f"of 2 ({__name__}:{name})", "environment ", *words]:
        assert word in str(caught.value)
    assert time.monotonic() - begin < 5
    assert workers() == []
    assert capfd.readouterr().err == ""


def test_a_fault_in_this_process_names_the_environment():
    with pytest.raises(RunError, match=r"Crash.*ValueError: boom"):
        steps(ours("Crash", workers=False))


def test_healthy_workers_are_gone_after_close():
    vec = envs.make(ours("Base"), 3, 0)
    vec.reset()
    assert len(workers()) == 3
    begin = time.monotonic()
    vec.close()
    assert workers() == []
    assert time.monotonic() - begin < 1
    vec.close()
    with pytest.raises(RunError, match="closed"):
        vec.step(np.zeros(3, np.int64))


def test_an_interrupt_between_question_and_answer_closes_all():
    vec = envs.make(ours("Hang"), 1, 0)
    vec.reset()
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.default_int_handler(signal.SIGINT, None))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(vec, 5)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert vec.closed
    assert workers() == []


SCRIPT = """
    import os, signal, sys
    import gymnasium, numpy as np
    from dreamlab import envs
    print("ran")

    class Mine(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            assert "torch" not in sys.modules
            return np.zeros(2, np.float32), {}
        def step(self, act):
            while SPIN:
                pass
            return np.ones(2, np.float32), 1.0, False, False, {}

    gymnasium.register("Mine-v0", Mine)
    vec = envs.make(envs.default_config("Mine-v0"), 2, 0)
    vec.reset()
    print(*(p.pid for p in vec._processes), flush=True)
    print("rewards", *vec.step(np.zeros(2, np.int64))[1], flush=True)
"""


def script(tmp_path: Path, spin: bool) -> subprocess.Popen:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(SCRIPT).replace("SPIN", str(spin)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(path)], **pipes, start_new_session=True)


def test_a_script_without_main_guard_works_with_its_own_class(tmp_path):
    out, err = script(tmp_path, spin=False).communicate(timeout=60)
    assert out.count("ran") == 1
    assert "rewards 1.0 1.0" in out
    assert err == ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_quietly_with_the_main_process(how, tmp_path):
    process = script(tmp_path, spin=True)
    assert process.stdout.readline() == "ran\n"
    pids = [int(p) for p in process.stdout.readline().split()]
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # as the terminal does
    else:
        process.kill()
    _, err = process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(psutil.pid_exists, pids))
    assert err.count("Traceback") == (1 if how is signal.SIGINT else 0)  # the script's own


@pytest.mark.parametrize(
    ("name", "severity", "what", "todo"),
    [
        ("Crash", "error", "ValueError: boom", "line"),
        ("Exit", "error", "exit code 7", "faulthandler"),
        ("Unbuilt", "error", "no licence", "line"),
        ("NotANumber", "error", "'vector' is not finite", "overflows"),
        ("Unseeded", "warning", "the same seed and actions gave another episode (from step 1", "np_random"),
        ("Stained", "warning", "its reset leaves traces", "fresh"),
        ("Base", "warning", "no time limit", "time_limit"),
        ("OddActions", "error", "Text", "my_pkg.my_env:make"),
    ],
)
def test_check_finds_faults_and_says_what_to_do(name, severity, what, todo):
    found = check(ours(name))
    text = [f"{f.what} {f.todo}" for f in found if f.severity == severity]
    assert any(what in t and todo in t for t in text), found


def test_check_finds_a_hang_without_hanging(monkeypatch):
    monkeypatch.setattr("dreamlab.envs.check.SECONDS", -9.5)  # the limit is ten seconds more than random play
    assert any("it hangs while" in f.what for f in check(ours("Hang", timeout=0.5)))


def test_fresh_cures_what_a_reset_leaves_behind():
    assert not any("traces" in f.what for f in check(ours("Stained", fresh=True)))


def test_check_of_sound_environments_has_nothing_to_mend():
    for name in ("CartPole-v1", "tiny/Catch", "tiny/Count", "BipedalWalker-v3"):
        assert {f.severity for f in check(name)} == {"note"}, name
    with pytest.raises(UserError, match="type CarRacing-v3"):
        check("CarRacing-v2")
