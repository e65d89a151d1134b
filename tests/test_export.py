"""Exported policies: the program does what the policy does, also where there is no dreamlab."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.cli import options, session
from dreamlab.core.errors import UserError
from dreamlab.nn.compute import Compute
from dreamlab.nn.latents import race, race_noise
from dreamlab.publish import exported

FAMILIES = {
    "world-models": {},
    "world-models actor-critic": {"controller": {"learner": "actor-critic"}},
    "dreamer-v1": {},
    "dreamer-v2": {},
    "dreamer-v3": {},
    "iris": {},
    "iris transformer": {"actor_critic": {"kind": "transformer"}},
}
SLOW = ("world-models actor-critic", "iris")  # the latter's decoder and LSTM are many nodes to trace


@pytest.fixture(autouse=True)
def _untraced(monkeypatch: pytest.MonkeyPatch):
    """pytest listens to every logger, which makes torch write down each step of its tracing."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


def pure(family: str) -> exported.Pure:
    """A fresh agent's policy on the tiny game."""
    spec = options.resolve(family.split()[0], "tiny/Catch", "smoke")
    spec = dataclasses.replace(spec, config=options.configs.merge(spec.config, FAMILIES[family]))
    spec, obs_space, act_space, module = session.settle(spec)
    agent = session.make_agent(spec, module, obs_space, act_space, Compute(torch.device("cpu")))
    return exported.Pure(agent.policy(explore=False), {"image": (obs_space["image"].shape, torch.uint8)})


def frames(shape: tuple[int, ...], count: int) -> list[tuple[dict[str, torch.Tensor], bool]]:
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.integers(0, 256, (count, 1, *shape), np.uint8))
    return [({"image": seen[t]}, t % 6 == 0) for t in range(count)]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAMILIES]
)
def test_program_and_policy_do_the_same_to_the_bit(family: str):
    policy = pure(family)
    made = exported.program(policy)
    found, steps = exported.parity(made.module(), policy, frames(policy.observations["image"][0], 18), seed=0)
    assert (found.steps, found.same, found.act, found.state) == (18, 18, 0.0, 0.0)
    assert len({torch.cat([part.flatten().float() for part in step.state]).numpy().tobytes() for step in steps}) > 10


def test_uniforms_of_a_half_leave_nothing_to_chance():
    p = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    with exported.Draws(torch.full((700,), 0.5)):
        assert torch.equal(race(p, race_noise(50, 4, device=p.device)), p.argmax(-1))
        assert torch.equal(torch.randn(50), torch.zeros(50))
        assert torch.equal(torch.empty(50).normal_(3.0, 2.0), torch.full((50,), 3.0))
        assert torch.equal(torch.randint(4, (50,)), torch.full((50,), 2))
        with pytest.raises(UserError, match="multinomial"):
            torch.multinomial(p, 1)


def test_uniforms_become_what_was_asked_for():
    uniforms = torch.rand(400_000, generator=torch.Generator().manual_seed(0))
    with exported.Draws(uniforms):
        normal, noise = torch.randn(100_000), race_noise(100_000, 3, device=uniforms.device)
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    p = torch.tensor([0.2, 0.3, 0.5])
    assert torch.allclose(race(p, noise).bincount() / 100_000, p, atol=0.01)


BLOCKED = "import runpy, sys; sys.modules['dreamlab'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"


def test_the_script_runs_without_dreamlab(tmp_path: Path):
    policy = pure("dreamer-v2")
    made = exported.program(policy)
    _, steps = exported.parity(made.module(), policy, frames(policy.observations["image"][0], 9), seed=1)
    exported.write(tmp_path, made, policy, steps, {})
    script = tmp_path / exported.SCRIPT
    assert "dreamlab" not in script.read_text().replace("not dreamlab", "")
    done = subprocess.run([sys.executable, "-c", BLOCKED, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "9 of 9 actions are the same", done.stderr
