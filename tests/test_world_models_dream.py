"""The population's fast dream is the plain stepping of the world model, on the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from dreamlab.agents.world_models.actions import actions_for
from dreamlab.agents.world_models.config import MemoryConfig
from dreamlab.agents.world_models.controller import linear, size
from dreamlab.agents.world_models.dreaming import PopulationDream
from dreamlab.agents.world_models.memory import Memory, fresh_noise
from dreamlab.agents.world_models.model import Latent, Model
from dreamlab.agents.world_models.vision import Vision

CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
HORIZON, P, R = 12, 3, 4


def world(space: spaces.Space, con: float = 0.0, **heads: bool) -> tuple[Model, Tensor, Tensor]:
    """A random model, P controllers, and P * R first latents; ``con`` biases the continuation."""
    torch.manual_seed(0)
    memory = Memory(5, actions_for(space).size, MemoryConfig(hidden=16, mixtures=3, **heads))
    with torch.no_grad():
        for head in memory.extra.values():
            head.weight.mul_(6)
        if "con" in memory.extra:
            memory.extra["con"].bias.fill_(con)
    theta = torch.randn(P, size(5 + 16, memory.input_weight.shape[1] - 5))
    return Model(Vision((3, 8, 8), 5), memory), theta, torch.randn(P * R, 5)


def plainly(model: Model, theta: Tensor, z: Tensor, space: spaces.Space, temperature: float, seed: int):
    """Candidate by candidate through ``model.step`` and ``model.predict``, stopping each row by itself."""
    actions, rng = actions_for(space), torch.Generator().manual_seed(seed)
    noise = [fresh_noise(P * R, 5, rng, z.device) for _ in range(HORIZON)]
    ret, length = torch.zeros(P * R), torch.zeros(P * R, dtype=torch.int64)
    for row in range(P * R):
        carry = model.begin(Latent(z[row : row + 1], *model.memory.initial(1), z[row : row + 1]))
        for t in range(HORIZON):
            feat = torch.cat([carry.z, carry.h], -1)
            act = actions(linear(theta[row // R, None], feat[None], actions.size)[0])
            own = type(noise[t])(*(x[row : row + 1] for x in noise[t]))
            carry, latent = model.step(carry, act, temperature, own)
            said = model.predict(latent)
            ret[row] += said["rew"][0] if "rew" in said else 1
            length[row] += 1
            if "con" in said and said["con"][0] < 0.5:
                break
    return ret, length


@pytest.mark.parametrize("space", [CAR, spaces.Discrete(3)], ids=["car", "discrete"])
@pytest.mark.parametrize("heads", [{"reward": True, "continuation": True}, {"continuation": True}, {"reward": True}])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_the_fast_dream_is_the_plain_one(space, heads, temperature):
    model, theta, z = world(space, **heads)
    dream = PopulationDream(model.memory, actions_for(space), theta, R)
    got = dream.run(z, HORIZON, temperature, torch.Generator().manual_seed(4))
    ret, length = plainly(model, theta, z, space, temperature, 4)
    torch.testing.assert_close(got.length, length)
    torch.testing.assert_close(got.ret, ret, atol=1e-4, rtol=1e-4)
    if heads.get("continuation"):
        assert length.unique().numel() > 1  # dreams of several lengths were compared


def test_what_is_over_never_changes_again():
    model, theta, z = world(CAR, reward=True, continuation=True)
    dream = PopulationDream(model.memory, actions_for(CAR), theta, R)
    short, long = (dream.run(z, h, 1.0, torch.Generator().manual_seed(4)) for h in (HORIZON, 4 * HORIZON))
    over = short.length < HORIZON
    assert over.any()
    assert torch.equal(short.ret[over], long.ret[over])
    assert torch.equal(short.length[over], long.length[over])


def test_survival_counts_steps_the_fatal_one_too():
    model, theta, z = world(CAR, continuation=True)
    dream = PopulationDream(model.memory, actions_for(CAR), theta, R)
    got = dream.run(z, HORIZON, 1.0, torch.Generator().manual_seed(4))
    assert torch.equal(got.ret, got.length.float())
    dead = world(CAR, con=-1e6, continuation=True)[0]
    got = PopulationDream(dead.memory, actions_for(CAR), theta, R).run(z, HORIZON, 1.0, torch.Generator())
    assert torch.equal(got.length, torch.ones(P * R, dtype=torch.int64))


def test_without_a_continuation_every_dream_reaches_the_horizon():
    model, theta, z = world(CAR, reward=True)
    got = PopulationDream(model.memory, actions_for(CAR), theta, R).run(z, 7, 1.0, torch.Generator())
    assert torch.equal(got.length, torch.full((P * R,), 7))


def test_a_second_dream_in_the_same_buffers_is_the_first_again():
    model, theta, z = world(CAR, reward=True, continuation=True)
    dream = PopulationDream(model.memory, actions_for(CAR), theta, R)
    first = dream.run(z, HORIZON, 1.0, torch.Generator().manual_seed(1))
    again = dream.run(z, HORIZON, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(first.ret, again.ret)


def test_alike_dreams_differ_by_the_controller_alone():
    model, theta, z = world(CAR, reward=True)
    theta, z = theta[:1].expand(P, -1), z[:R].repeat(P, 1)
    for alike in (True, False):
        dream = PopulationDream(model.memory, actions_for(CAR), theta, R, alike=alike)
        ret = dream.run(z, HORIZON, 1.0, torch.Generator().manual_seed(1)).ret.view(P, R)
        assert torch.allclose(ret[0], ret[1]) == alike
        assert not torch.allclose(ret[:, 0], ret[:, 1])


def test_torchs_global_generator_is_left_alone():
    model, theta, z = world(CAR, reward=True)
    before = torch.get_rng_state()
    PopulationDream(model.memory, actions_for(CAR), theta, R).run(z, 5, 1.0, torch.Generator())
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_dreams_stay_near_for_a_step():
    model, theta, z = world(CAR, reward=True)
    exact, rough = (PopulationDream(model.memory, actions_for(CAR), theta, R, bf16) for bf16 in (False, True))
    one = exact.run(z, 1, 1.0, torch.Generator().manual_seed(1)).ret
    other = rough.run(z, 1, 1.0, torch.Generator().manual_seed(1)).ret
    torch.testing.assert_close(other, one, atol=0.1, rtol=0.1)
