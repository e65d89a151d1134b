"""Killed at random instants and started again, a run ends as if nothing had happened: bit for bit.

The same command is run in processes of its own, with worker-process environments; SIGKILL falls between
two checkpoints, in the middle of writing one, of an episode, of a CMA-ES generation, wherever it falls.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dreamlab.cli.main import main

TESTS = Path(__file__).parent
WALL = ("per_second", "memory", "disk", "seconds")  # of the machine, not of the run


def command(folder, *args):
    return [sys.executable, "-m", "dreamlab", "train", *args, "--run", str(folder), "--save-minutes", "0.003"]


def environment():
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(folder, *args):
    return subprocess.Popen(
        command(folder, *args), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(folder, *args):
    process = start(folder, *args)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


def checkpoints(folder):
    return sorted(p.name for p in folder.glob("checkpoints/*"))


def kill_at_random(folder, args, kills, rng, how=signal.SIGKILL):
    """Start the run again and again, ending it some time after it has come further. Returns how often it was ended."""
    done = 0
    for _ in range(kills):
        before = checkpoints(folder)
        process = start(folder, *args)
        want_progress = rng.random() < 0.8
        while process.poll() is None and want_progress and checkpoints(folder) == before:
            time.sleep(0.01)
        time.sleep(rng.random() * (0.5 if want_progress else 3))
        if process.poll() is not None:
            assert process.returncode == 0, process.stdout.read()
            break
        process.send_signal(how)
        process.wait(timeout=20)
        done += 1
    return done


def facts(folder):
    """Everything a run ends with that must not depend on interruptions."""
    newest = max((folder / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    tensors = {}
    for path in newest.glob("*.safetensors"):
        tensors |= load_file(path) if "bf16" not in path.name else {}
    state = json.loads((newest / "state.json").read_text())
    run = state["parts"]["run"]
    rows = {}
    spec = run["experience"]["replay"]
    for name, column in spec["columns"].items():
        data = np.fromfile(folder / "replay" / f"{name}.bin", np.dtype(column["dtype"]))
        width = int(np.prod(column["shape"])) * spec["streams"]
        rows[name] = data[: spec["stop"] * width] if not spec["shown"] else data
    agent = {k: v for k, v in state["parts"].items() if k.startswith("agent-")}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not any(w in k for w in WALL)} for line in lines]
    return {"step": newest.name, "tensors": tensors, "agent": agent, "progress": run["progress"], "rows": rows}, metrics


def assert_same(a, b):
    (one, lines), (other, more) = facts(a), facts(b)
    assert one["step"] == other["step"]
    assert one["progress"] == other["progress"]
    assert one["agent"] == other["agent"]
    assert one["tensors"].keys() == other["tensors"].keys()
    for name in one["tensors"]:
        assert np.array_equal(one["tensors"][name], other["tensors"][name]), name
    assert one["rows"].keys() == other["rows"].keys()
    for name in one["rows"]:
        assert np.array_equal(one["rows"][name], other["rows"][name]), name
    assert len(lines) == len(more)
    for x, y in zip(lines, more, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert x[key] == pytest.approx(y[key], rel=1e-5, abs=1e-7), (x["step"], key)


TOY = ("toy_agent", "--env", "tiny/Catch", "--log-every", "20")


def survives(tmp_path, args, kills, seed):
    finish(tmp_path / "whole", *args)
    killed = kill_at_random(tmp_path / "killed", args, kills, random.Random(seed))
    finish(tmp_path / "killed", *args)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    print(args[0], *args[-2:], "survived", killed, "kills")
    return killed


def test_the_toy_agent_survives_kills(tmp_path):
    assert survives(tmp_path, TOY, 2, 0) >= 1


WORLD_MODELS = (
    *("world-models", "--env", "tiny/Catch", "--preset", "smoke", "--threads", "1", "--log-every", "10"),
    *("--agent.vision.updates", "60", "--agent.memory.updates", "60", "--agent.controller.generations", "6"),
)
PLACES = {"env": (), "dream": ("--agent.controller.train-in", "dream")}


@pytest.mark.parametrize("place", [pytest.param("env", marks=pytest.mark.slow), "dream"])
def test_world_models_survives_kills(tmp_path, place):
    assert survives(tmp_path, (*WORLD_MODELS, *PLACES[place]), 1, 0) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("place", list(PLACES))
def test_world_models_survives_many_kills(tmp_path, place):
    longer = ("--agent.collect-steps", "900", "--agent.memory.batch", "32", "--agent.vision.batch", "64")
    assert survives(tmp_path, (*WORLD_MODELS, *PLACES[place], *longer), 25, 2) >= 5  # it ends before 25


@pytest.mark.slow
def test_a_bounded_replay_saves_when_it_must_and_finishes(tmp_path):
    args = (*TOY, "--capacity", "120", "--agent.practice", "1500")
    process = subprocess.Popen(
        [*command(tmp_path / "run", *args)[:-1], "1000"], env=environment(), stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out


@pytest.mark.slow
def test_the_toy_agent_survives_many_kills_with_a_bounded_replay(tmp_path):
    args = (*TOY, "--capacity", "120", "--agent.practice", "1500")
    assert survives(tmp_path, args, 25, 1) >= 10


def test_an_extended_run_goes_on_and_another_setting_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    typed = ["train", *TOY, "--run", str(tmp_path / "run"), "--steps"]
    assert main([*typed, "340"]) == 0
    done = facts(tmp_path / "run")[0]["progress"]["practice"]["env_steps"]
    capsys.readouterr()
    assert main([*typed, "400"]) == 0
    assert "going on" in capsys.readouterr().out
    assert facts(tmp_path / "run")[0]["progress"]["practice"]["env_steps"] == done + 60
    assert main([*typed, "400", "--agent.width", "16"]) == 2
    assert "config.width: 32 there, 16 now" in capsys.readouterr().err
