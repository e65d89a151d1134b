"""The recipe reaches a known optimum, with C trained in the real environment and with C trained only in the dream.

Catch is drawn here as two discs that glow over several pixels: four bright pixels on black, as it draws itself,
are worth fewer nats of squared error than V pays to remember where they are, and V then sees nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dreamlab import envs
from dreamlab.agents import world_models
from dreamlab.agents.world_models.config import Config, ControllerConfig, MemoryConfig, VisionConfig
from dreamlab.core.config import merge
from dreamlab.core.seeds import derive
from dreamlab.envs import tiny
from dreamlab.nn.compute import Compute
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay

CPU = Compute(torch.device("cpu"))
CONFIG = Config(
    collect_steps=8000,
    collect="random",
    vision=VisionConfig(latent=16, kl_floor=2.0, lr=1e-3, batch=64, updates=1500),
    memory=MemoryConfig(
        hidden=64, windows="windows", sequence=7, batch=64, lr=3e-3, updates=3000, reward=True, continuation=True
    ),
    controller=ControllerConfig(
        population=32, episodes=32, horizon=7, dream_rows=1024, shared_seeds=True, evaluate_every=0
    ),
)
PLACES = {
    "env": {"controller": {"train_in": "env", "generations": 200}},
    "dream": {"controller": {"train_in": "dream", "generations": 1500, "temperature": 0.5}},
}


class GlowingCatch(tiny.Catch):
    """Catch with a glow around ball and paddle."""

    def _draw(self) -> np.ndarray:
        y, x = np.mgrid[:16, :16]
        frame = np.zeros((16, 16, 3))
        for colour, row, column in ((0, self.row, self.ball), (1, self.cells - 1, self.paddle)):
            frame[..., colour] = np.exp(-((y - 2 * row - 0.5) ** 2 + (x - 2 * column - 0.5) ** 2) / 12.5)
        return (255 * frame).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", list(PLACES))
def test_the_recipe_reaches_the_optimum(place, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.MAKERS, "tiny/Catch", GlowingCatch)
    env = dataclasses.replace(envs.default_config("tiny/Catch"), workers=False)
    obs_space, act_space = envs.spaces_of(env)
    run = RunConfig(envs=64)
    agent = world_models.build(merge(CONFIG, PLACES[place]), obs_space, act_space, CPU, seed=0, run=run)
    replay = Replay(tmp_path / "replay", run.envs, 0)
    table = Experience(replay, obs_space, act_space, CPU.device, lambda: envs.make(env, run.envs, 0), slots=run.envs)
    for phase in agent.phases():
        if phase.act is not None:
            table.collect(phase.act, phase.name, phase.env_steps)
        for unit, times in phase.learn:
            for _ in range(phase.rounds * times):
                unit(table)
    policy = agent.policy(explore=False)
    waves = [[derive(7, "score", wave, i) for i in range(run.envs)] for wave in range(4)]
    score = np.mean([table.rollout(policy, seeds).ret.mean() for seeds in waves])
    table.close()
    assert score > 0.9  # the optimum is 1, random play has about -0.7
