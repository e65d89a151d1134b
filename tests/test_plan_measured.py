"""What ``plan`` expects of memory and disk is what a run takes, within a quarter, on presets of very different sizes.

Sizes of networks and batches are the presets' own; budgets are cut, for neither figure depends on updates.
"""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import dataclasses, json, os, sys
from pathlib import Path
from dreamlab.cli import options, plan
from dreamlab.cli.train import train
from dreamlab.core.config import merge
from dreamlab.run.memory import Peak

env, preset, config, env_config, run, folder = json.loads(sys.argv[1])
spec = options.resolve("world-models", env, preset)
spec = dataclasses.replace(
    spec,
    config=merge(spec.config, config),
    env=merge(spec.env, env_config),
    run=merge(spec.run, run),
    folder=Path(folder),
    logs=("jsonl",),
)
expected = plan.plan(spec)
peak = Peak(0.05).start()
train(spec, lambda line: None)
disk = sum(p.stat().st_blocks * 512 for p in Path(folder).rglob("*") if p.is_file())
print(json.dumps([expected.memory_bytes, peak.stop(), expected.disk_bytes, disk]))
"""
SHORT = {"population": 4, "episodes": 1, "generations": 2, "evaluate_every": 0}
CASES = {
    "smoke": ("tiny/Catch", "smoke", {}, {}, {"threads": 1}),
    "demo": (
        "CarRacing-v3",
        "demo",
        {"collect_steps": 1600, "vision": {"updates": 4}, "memory": {"updates": 3}, "controller": SHORT},
        {"time_limit": 40, "engine": "gymnasium"},
        {"eval_episodes": 2},
    ),
    "car-racing": (
        "CarRacing-v3",
        "car-racing",
        {"collect_steps": 2000, "vision": {"updates": 3}, "memory": {"updates": 1}, "controller": SHORT},
        {"time_limit": 100, "engine": "gymnasium"},
        {"envs": 2, "eval_episodes": 2},
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "smoke" else ()) for name in CASES]
)
def test_a_plan_is_within_a_quarter_of_what_is_measured(tmp_path, name):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([*CASES[name], str(tmp_path / "run")])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    memory, used_memory, disk, used_disk = json.loads(run.stdout.splitlines()[-1])
    said = [f"{x / 2**20:.0f}" for x in (memory, used_memory, disk, used_disk)]
    print(name, *said)  # MiB: memory and disk, expected and measured
    assert memory == pytest.approx(used_memory, rel=0.25), said
    assert disk == pytest.approx(used_disk, rel=0.25), said
