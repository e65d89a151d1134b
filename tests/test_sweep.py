"""Sweeps: which runs a file means, and that whatever stops them, the same command ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dreamlab.cli import ls, sweep
from dreamlab.cli.main import main
from dreamlab.cli.session import is_training
from dreamlab.core.errors import UserError

EXAMPLE = Path(__file__).parent.parent / "examples" / "sweeps" / "dreamer_v3_ablations.yaml"


def written(folder: Path, **data: object) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_a_grid_is_every_combination_and_each_run_overrides_it(tmp_path: Path):
    file = written(
        tmp_path,
        set={"steps": 600, "env.time_limit": 9},
        grid={"agent": ["random", "dreamer-v3"], "env": ["tiny/Catch"], "seed": [0, 1]},
        runs={"base": {}, "long": {"steps": 900, "env.time-limit": 12}},
    )
    found = dict(sweep.read(file, tmp_path))
    assert len(found) == 8
    spec = found["long-dreamer-v3-tiny-Catch-s1"]
    assert (spec.agent, spec.run.seed, spec.run.steps, spec.env.time_limit) == ("dreamer-v3", 1, 900, 12)
    assert found["base-random-tiny-Catch-s0"].run.steps == 600


def test_all_that_is_wrong_is_told_before_anything_starts(tmp_path: Path):
    file = written(tmp_path, agent="dreamer-v3", env="tiny/Catch", runs={
        "a": {"agent.free_nat": 0}, "b": {"agent.unimix": 2}, "c": {"stepps": 1}, "d": {"agent": "dreamer"}, "e": {},
    })  # fmt: skip
    with pytest.raises(UserError) as told:
        sweep.read(file, tmp_path)
    text = str(told.value)
    for words in ("Did you mean 'free_nats'?", "b: agent: unimix must be", "Did you mean 'steps'?", "unknown agent"):
        assert words in text
    assert ": e:" not in text
    for wrong in ({"grids": {}}, {"grid": {"seed": 1}}, {"runs": {"a": 1}}, {"runs": {"x/y": {}, "x-y": {}}}):
        with pytest.raises(UserError):
            sweep.read(written(tmp_path, agent="random", env="tiny/Catch", **wrong), tmp_path)


def test_the_ablations_change_one_thing_each(capsys: pytest.CaptureFixture[str]):
    found = {name: spec.config for name, spec in sweep.read(EXAMPLE, Path("runs")) if spec.run.seed == 0}
    base = found.pop("base-s0")
    changed = {
        name: {key for key, value in vars(config).items() if value != getattr(base, key)}
        for name, config in found.items()
    }
    assert changed == {
        "no-free-bits-s0": {"free_nats"},
        "no-return-normalisation-s0": {"normalise"},
        "no-kl-balance-s0": {"dyn_scale", "rep_scale"},
        "no-unimix-s0": {"unimix"},
        "no-replay-value-s0": {"replay_value_scale"},
    }
    assert main(["sweep", str(EXAMPLE), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["base-s0", "dreamer-v3", "on", "tiny/Catch", "8,000", "1,875"]
    assert lines[-1].split() == ["18", "runs", "144,000"]


def states(out: Path) -> dict[str, str]:
    return {path.name: ls.look(path, out)["state"] for path in sorted(out.iterdir()) if (path / "config.yaml").exists()}


def waited(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="a killed parent takes its runs along on Linux alone")
def test_a_killed_sweep_goes_on_and_a_failing_run_harms_no_other(tmp_path: Path):
    def file(steps: int) -> Path:
        few = {"envs": 1, "env.workers": False, "eval_episodes": 2, "log_every": 20, "steps": 100}
        runs = {"short": {}, "bad": {"env": "faulty_envs:Crash"}, "long": {"steps": steps}}
        return written(tmp_path, agent="random", env="tiny/Catch", set=few, runs=runs)

    out = tmp_path / "out"
    command = [sys.executable, "-m", "dreamlab", "sweep", str(file(1_000_000)), "--out", str(out)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "FAULT_AT": "30", "PYTHONPATH": paths}
    long = out / "long"
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as first:
        waited(lambda: (long / "metrics.jsonl").exists() and (long / "metrics.jsonl").stat().st_size > 0)
        first.send_signal(signal.SIGKILL)
    waited(lambda: not is_training(long))  # it was asked to save and stop
    assert states(out) == {"bad": "failed", "long": "stopped", "short": "finished"}
    step = ls.look(long, out)["step"]
    file(step + 1000)
    second = subprocess.run([*command, "--jobs", "2"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 1, second.stderr
    assert "short: was finished" in second.stdout
    assert "long: going on" in second.stdout
    assert "bad: failed: environment 'faulty_envs:Crash' crashed" in second.stdout
    assert states(out) == {"bad": "failed", "long": "finished", "short": "finished"}


def test_ctrl_c_lets_every_run_save_and_leaves_none_behind(tmp_path: Path):
    file = written(
        tmp_path,
        agent="random",
        env="tiny/Catch",
        set={"envs": 1, "env.workers": False, "steps": 1_000_000, "log_every": 20},
        runs={"a": {}, "b": {"seed": 1}, "c": {"seed": 2}},
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dreamlab", "sweep", str(file), "--out", str(out), "--jobs", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        waited(lambda: all((out / name / "metrics.jsonl").exists() for name in "ab"))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "a: stopped" in said
    assert "stopped: 0 of 3 runs are finished; type the same command to go on" in said
    assert states(out) == {"a": "stopped", "b": "stopped"}
    assert all(any((out / name / "checkpoints").iterdir()) for name in "ab")
