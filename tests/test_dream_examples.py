"""The examples: an agent in one file that dreamlab knows nothing of, and a loop without the trainer."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from test_toy_agent import COMPUTE, start

from dreamlab import agents, envs
from dreamlab.core.protocols import WorldModelAgent
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.dream.env import DreamEnv
from dreamlab.dream.film import films
from dreamlab.dream.prediction import prediction_error
from dreamlab.evals.episodes import evaluate, seeds_of

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = {"collect": 64, "study": 3, "practice": 16}


@pytest.fixture
def planner(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES.parent))
    return agents.load("examples.planner")


def test_the_planner_trains_dreams_and_films(planner, tmp_path):
    trainer, agent, experience = start(tmp_path, config=planner.Config(**QUICK), module=planner)
    assert isinstance(agent, WorldModelAgent)
    trainer.train()
    batch = experience.gather(EpisodeWindows(0)(experience.index, 4, 8))
    assert math.isfinite(prediction_error(agent.model, [batch], 2, 5)["model"]["ssim"][-1])
    assert films(agent.model, batch, 2)[0].dream.shape[1:] == (3, 16, 16)
    with torch.no_grad():
        check_env(DreamEnv.single(agent.model, agent.model.observe(batch)[:, 0], spaces.Discrete(3)))


def test_the_planner_finds_the_action_that_its_model_rewards(planner):
    """A model whose reward is the number of steps to the right: every plan begins with a step to the right."""

    class Right:
        actions = 3

        def begin(self, h):
            return h

        def step(self, carry, act, temperature=1.0):
            return (h := carry + act[:, 2:]), h

        def promise(self, h):
            return torch.cat([h, torch.ones_like(h)], -1)

    assert planner.Policy(Right(), 5, 0.0).plan(torch.zeros(6, 1)).tolist() == [2] * 6


@pytest.mark.parametrize("name", ["planner", "loop"])
def test_the_examples_are_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= {"planner": 150, "loop": 45}[name]


def test_the_loop_runs(monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.import_module("loop").main(steps=101)
    assert "step 100  return" in capfd.readouterr().out


@pytest.mark.slow
def test_the_planner_learns_to_catch(planner, tmp_path):
    torch.manual_seed(0)
    trainer, agent, _ = start(tmp_path, config=planner.Config(), module=planner)
    trainer.train()
    config = envs.default_config("tiny/Catch")
    venv = envs.make(type(config)(**{**vars(config), "workers": False}), 16, 0)
    outcome, _ = evaluate(agent.policy(explore=False), venv, seeds_of(0, 64), COMPUTE.device)
    assert np.mean(outcome.ret) > 0.3  # random: about -0.8


@pytest.mark.slow
def test_the_loop_is_a_program():
    subprocess.run([sys.executable, EXAMPLES / "loop.py"], check=True, timeout=240)
