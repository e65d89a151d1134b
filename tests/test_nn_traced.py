"""A recorded step is the step: on other numbers, with other weights, and with the same random stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamlab.agents import dreamer_v1, dreamer_v2, dreamer_v3
from dreamlab.core.imagination import leaves
from dreamlab.nn import compute
from dreamlab.nn.traced import Traced
from dreamlab.run.config import RunConfig

SEEN = {
    "image": spaces.Box(0, 255, (3, 16, 16), np.uint8),
    "vector": spaces.Box(-1, 1, (5,), np.float32),
}


def agent(module, act: spaces.Space):
    config = module.Config(deter=32, depth=4, units=16, **({"mults": (2, 2)} if module is dreamer_v3 else {}))
    return module.build(config, spaces.Dict(SEEN), act, compute.prepare("cpu", "fp32", False, 1), 0, RunConfig())


def episode(policy, n: int, steps: int) -> list[Tensor]:
    """All that a policy says in so many steps, from the same stream of numbers."""
    rng, said = np.random.default_rng(0), []
    torch.manual_seed(0)
    state = policy.initial(n)
    for t in range(steps):
        obs = {
            "image": torch.from_numpy(rng.integers(0, 256, (n, 3, 16, 16), np.uint8)),
            "vector": torch.from_numpy(rng.standard_normal((n, 5), np.float32)),
        }
        act, state, columns = policy(obs, torch.full((n,), t % 5 == 0), state)
        said += [act, *leaves(state), *columns.values()]
    return [x.clone() for x in said]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("act", [spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32)], ids=["one", "box"])
@pytest.mark.parametrize("module", [dreamer_v1, dreamer_v2, dreamer_v3], ids=["v1", "v2", "v3"])
def test_acting_played_back_is_acting_to_the_bit(module, act, n):
    trained = agent(module, act)
    plain, played = trained.policy(explore=True), trained.policy(explore=True)
    plain.look.after, played.look.after = 10**9, 0
    first = episode(plain, n, 12), episode(played, n, 12)
    assert [type(x).__name__ for x in played.look._played.values()] == ["TopLevelTracedModule"]
    assert all(map(torch.equal, *first))
    with torch.no_grad():  # learning goes on: the recording must see it
        for parameter in (*trained.model.parameters(), *trained.actor.parameters()):
            parameter.add_(0.01 * torch.randn_like(parameter))
    second = episode(plain, n, 12), episode(played, n, 12)
    assert all(map(torch.equal, *second))
    assert not all(map(torch.equal, first[0], second[0]))


class Looks(nn.Module):
    """Does what Traced forbids in a way that shows at once: it counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        return (x * self.calls,)


def test_a_step_that_says_something_else_is_called_as_it_is():
    step = Looks()
    traced = Traced(step, after=0)
    x = torch.ones(2)
    said = [traced(x)[0][0].item() for _ in range(4)]
    assert said == sorted(said)
    assert len(set(said)) == 4


def test_few_forms_are_recorded():
    traced = Traced(Scale(), after=0)
    for n in range(1, 9):
        for _ in range(2):
            torch.testing.assert_close(traced(torch.ones(n))[0], torch.full((n,), 2.0))
    assert len(traced._played) == 4


class Scale(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (2 * x,)
