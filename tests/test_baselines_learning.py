"""The baselines learn: each test is a preset by its command, minutes on one core (pytest -m slow)."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tianshou")

from test_dreamers_learning import trained

from dreamlab.cli.evaluate import evaluate
from dreamlab.cli.main import main

ASKED = {
    ("ppo", "CartPole-v1"): 475,
    ("dqn", "CartPole-v1"): 475,
    ("sac", "CartPole-v1"): 400,
    ("sac", "Pendulum-v1"): -200,
    ("ppo", "LunarLander-v3"): 200,
}
"""mean returns of 100 episodes"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("agent", "env"), list(ASKED))
def test_it_solves(agent: str, env: str, tmp_path: Path):
    assert main(["train", agent, "--env", env, "--run", str(tmp_path)]) == 0
    assert evaluate(tmp_path, episodes=100)["mean"] >= ASKED[agent, env]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_was_learned_in_a_dream_serves_outside(tmp_path: Path):
    """Random play has a mean of -0.75, the optimum is 1."""
    dreamer, run = tmp_path / "dreamer", tmp_path / "run"
    argv = ["train", "world-models", "--env", "tiny/Catch", "--agent.stages", "vision", "memory"]
    assert main([*argv, "--run", str(dreamer)]) == 0
    dreamt = trained(run, "ppo", "--env", f"dream:{dreamer}", "--steps", "16000", "--env.temperature", "0.5")
    assert dreamt > -0.5
    assert evaluate(run, env="tiny/Catch", episodes=256)["mean"] > -0.5
