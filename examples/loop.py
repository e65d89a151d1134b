"""Driving an agent without the trainer: environments, rows, learning and acting in a loop of your own.

python examples/loop.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import planner  # any agent will do: this one lies beside this file

from dreamlab import envs
from dreamlab.nn.compute import prepare
from dreamlab.run.config import RunConfig
from dreamlab.run.driver import Driver
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay


def main(steps: int = 1000) -> None:
    env, run, compute = envs.default_config("tiny/Catch"), RunConfig(envs=4), prepare("cpu", threads=1)
    obs_space, act_space = envs.spaces_of(env)
    agent = planner.build(planner.Config(), obs_space, act_space, compute, run.seed, run)
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(Path(folder), streams=run.envs)
        experience = Experience(replay, obs_space, act_space, compute.device)
        driver = Driver(envs.make(env, run.envs, run.seed), compute.device)
        returns, metrics = [], {}
        for step in range(steps):
            row, _, ended = driver.step(agent.policy(explore=True), owner="loop")  # acts on what was seen last
            replay.append(row)
            returns = [*returns, *ended.ret][-50:]
            if step >= 100:
                metrics = agent.learn(experience)
            if step % 100 == 99:
                shown = "  ".join(f"{name} {float(value):.3f}" for name, value in metrics.items())
                print(f"step {step + 1}  return {sum(returns) / len(returns):+.2f}  {shown}", flush=True)
        driver.envs.close()


if __name__ == "__main__":
    main()
