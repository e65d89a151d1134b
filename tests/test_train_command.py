"""``dreamlab train`` with --dry-run and --from, through the command line."""

import dataclasses
import json

import pytest
import torch

import dreamlab
from dreamlab.cli import options
from dreamlab.cli.main import main
from dreamlab.cli.train import dry_run

SMOKE = ("world-models", "--env", "tiny/Catch", "--preset", "smoke", "--threads", "1")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", *SMOKE, "--run", str(folder)]) == 0
    return folder


def test_a_dry_run_goes_through_every_stage_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = options.resolve("world-models", "tiny/Catch", "small")
    spec = dataclasses.replace(spec, run=dataclasses.replace(spec.run, threads=1))
    said = []
    assert dry_run(spec, said.append) == 0
    assert "went through every stage" in said[-1]
    assert not list(tmp_path.iterdir())


def test_parts_of_another_run_are_taken_and_not_trained_again(first, tmp_path, capsys):
    folder = tmp_path / "second"
    assert main(["train", *SMOKE, "--from", str(first), "--run", str(folder), "--seed", "5"]) == 0
    assert "vision, memory" in capsys.readouterr().out
    old, new = dreamlab.load(first), dreamlab.load(folder)
    for name, value in old.agent.parts["vision"].state_dict().items():
        assert torch.equal(value, new.agent.parts["vision"].state_dict()[name])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert not any(key.startswith(("vision/", "memory/")) for line in lines for key in line)
    # typed again, it knows that it is finished and trains nothing
    assert main(["train", *SMOKE, "--from", str(first), "--run", str(folder), "--seed", "5"]) == 0
    assert "finished" in capsys.readouterr().out


def test_what_is_loaded_acts_and_its_dream_is_an_environment(first):
    run = dreamlab.load(first)
    env = dreamlab.DreamEnv.single(run.model, run.starts(), run.act_space, horizon=5)
    obs, _ = env.reset(seed=0)
    assert obs["image"].shape == (3, 16, 16)
    for _ in range(5):
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    assert terminated or truncated
    envs = run.make_env(2)
    obs, _ = envs.reset()
    policy = run.policy()
    images = {key: torch.from_numpy(value) for key, value in obs.items()}
    act, _, _ = policy(images, torch.ones(2, dtype=torch.bool), policy.initial(2))
    assert act.shape == (2,)
    envs.close()
