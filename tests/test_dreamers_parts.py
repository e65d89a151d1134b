"""``--from RUN`` with the Dreamers: another run's weights are what a run begins with, each part whole or not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces

import dreamlab
from dreamlab import agents
from dreamlab.cli.main import main
from dreamlab.core.config import merge
from dreamlab.core.errors import UserError
from dreamlab.nn import optim
from dreamlab.nn.compute import Compute
from dreamlab.run.config import RunConfig

OBS = spaces.Dict({"image": spaces.Box(0, 255, (3, 16, 16), np.uint8)})
NAMES = ["dreamer-v1", "dreamer-v2", "dreamer-v3"]


def build(name: str, seed: int, actions: int = 3, **changes):
    module = agents.load(name)
    config = dataclasses.replace(merge(module.Config(), agents.preset(name, "smoke")["agent"]), **changes)
    return module.build(config, OBS, spaces.Discrete(actions), Compute(torch.device("cpu")), seed, RunConfig())


def held(agent) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in agent.parts.items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_begins_with_the_other_runs_weights_and_the_rest_is_its_own(name):
    source, agent = build(name, seed=1), build(name, seed=2)
    drawn = agent.windows.state_dict()
    assert agent.load_parts(source.state_dict()) == list(agent.parts)
    there, here = held(source), held(agent)
    assert all(same(there[part], here[part]) for part in here)
    assert agent.windows.state_dict() == drawn
    with torch.no_grad():  # copies: what this one learns is not the other's
        next(agent.actor.parameters()).add_(1)
    assert same(there["actor"], held(source)["actor"])


def test_the_range_of_returns_comes_along_where_all_parts_do():
    """A critic that was trained says large numbers at once, and a range that began at 0 would divide them by 1."""
    source, agent, wider = (build("dreamer-v3", seed, actions) for seed, actions in ((1, 3), (2, 3), (3, 4)))
    for _ in range(3):
        source.range(torch.linspace(-100, 100, 50))
    assert source.range.scale > 1
    agent.load_parts(source.state_dict())
    assert torch.equal(agent.range.ends, source.range.ends)
    wider.load_parts(source.state_dict())
    assert not wider.range.ends.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_another_size_stays_exactly_as_it_began(name):
    source, agent = build(name, seed=1, actions=3), build(name, seed=2, actions=4)
    before, there = held(agent), held(source)
    words = agent.load_parts(source.state_dict())
    assert "encoder" in words
    assert "actor anew, as it does not fit" in words  # it has an output for each action
    after = held(agent)
    for word in words:
        part, *anew = word.split(" ", 1)
        assert same(after[part], before[part] if anew else there[part]), word


def test_where_nothing_fits_it_says_so():
    other = build("dreamer-v3", seed=1, deter=32, units=16, depth=8, groups=2)
    with pytest.raises(UserError, match=r"none of this agent's parts in these sizes \(encoder, dynamics"):
        build("dreamer-v3", seed=2).load_parts(other.state_dict())


def test_another_agents_run_is_refused_by_its_name(tmp_path, capsys):
    smoke = ("--env", "tiny/Catch", "--preset", "smoke", "--threads", "1")
    assert main(["train", "random", "--env", "tiny/Catch", "--steps", "50", "--run", str(tmp_path / "r")]) == 0
    capsys.readouterr()
    assert main(["train", "dreamer-v3", *smoke, "--from", str(tmp_path / "r"), "--run", str(tmp_path / "a")]) == 2
    assert "is a run of random, whose parts are not those of dreamer-v3" in capsys.readouterr().err
    assert main(["train", "iris", *smoke, "--from", str(tmp_path / "r"), "--run", str(tmp_path / "b")]) == 2
    assert "this agent cannot take parts from another run: leave out --from" in capsys.readouterr().err
    assert not (tmp_path / "b" / "config.yaml").exists()


def test_a_run_goes_on_in_another_folder_with_other_settings(tmp_path, capsys):
    smoke = (
        "dreamer-v3",
        "--env",
        "tiny/Catch",
        "--preset",
        "smoke",
        "--threads",
        "1",
        "--steps",
        "90",
        "--logs",
        "console",
    )
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", *smoke, "--run", str(first)]) == 0
    trained = held(dreamlab.load(first).agent)
    onward = (*smoke, "--from", str(first), "--run", str(second), "--agent.rep-scale", "1", "--agent.lr", "1e-30")
    capsys.readouterr()
    assert main(["train", *onward]) == 0
    assert f"from {first} (step 90): encoder, dynamics, decoder" in capsys.readouterr().out
    here = held(dreamlab.load(second).agent)
    for part, weights in trained.items():
        if part == "slow_critic":  # it follows the critic at any learning rate
            continue
        for key, value in weights.items():
            torch.testing.assert_close(here[part][key], value, msg=f"{part}.{key}")
    assert main(["train", *onward]) == 0  # typed again it knows its own checkpoint
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dreamer-v1", pytest.param("dreamer-v2", marks=pytest.mark.slow), "dreamer-v3"])
def test_learning_rates_fall_to_nothing_just_when_the_run_ends(name, tmp_path, monkeypatch):
    """What is left of them is told by the updates that were planned, which are those that are made."""
    asked, steps = [], []
    left, update = optim.left, optim.LaProp.step
    agents_optim = agents.load(name).optim  # it imports lazily, and keeps what it found
    monkeypatch.setattr(agents_optim, "left", lambda *args: (asked.append(args), left(*args))[1])
    monkeypatch.setattr(optim.LaProp, "step", lambda self: (steps.append(self.param_groups[0]), update(self))[1])
    smoke = ("--env", "tiny/Catch", "--preset", "smoke", "--threads", "1", "--steps", "150", "--logs", "console")
    assert main(["train", name, *smoke, "--agent.anneal", "0.5", "--run", str(tmp_path / "r")]) == 0
    if name == "dreamer-v3":  # its optimiser counts for itself
        asked = [(i, group["updates"], group["fall"] / group["updates"]) for i, group in enumerate(steps)]
    assert asked == [(i, len(asked), 0.5) for i in range(len(asked))]
    assert len(asked) > 10
