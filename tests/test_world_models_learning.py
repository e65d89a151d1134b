"""The recipe reaches a known optimum, with C trained in the real environment and with C trained only in the dream.

The preset ``tiny`` by its command: ``dreamlab train world-models --env tiny/Catch``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamlab import envs
from dreamlab.agents import world_models
from dreamlab.cli.options import resolve
from dreamlab.core.config import merge
from dreamlab.core.seeds import derive
from dreamlab.nn.compute import Compute
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay

CPU = Compute(torch.device("cpu"))
PLACES = {"dream": {}, "env": {"controller": {"train_in": "env", "generations": 200}}}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", list(PLACES))
def test_the_recipe_reaches_the_optimum(place, tmp_path):
    spec = resolve("world-models", "tiny/Catch", "tiny")
    env, run = spec.env, spec.run
    obs_space, act_space = envs.spaces_of(env)
    agent = world_models.build(merge(spec.config, PLACES[place]), obs_space, act_space, CPU, seed=0, run=run)
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
