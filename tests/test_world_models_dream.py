"""The population's fast dream is the plain stepping of the world model, on the same noise."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from dreamlab.agents.world_models.actions import actions_for
from dreamlab.agents.world_models.config import ControllerConfig, MemoryConfig
from dreamlab.agents.world_models.controller import Features, Form, form_of
from dreamlab.agents.world_models.dreaming import PopulationDream
from dreamlab.agents.world_models.memory import Memory, fresh_noise
from dreamlab.agents.world_models.model import Latent, Model
from dreamlab.agents.world_models.vision import Vision

CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
HORIZON, P, R = 12, 3, 4


class Case(NamedTuple):
    """A random world and P controllers that dream in it."""

    model: Model
    features: Features
    form: Form
    theta: Tensor
    z: Tensor

    def dream(self, bf16: bool = False, alike: bool = False) -> PopulationDream:
        model = self.model
        return PopulationDream(
            model.memory, model.actions, self.features, self.form, self.theta, R, bf16=bf16, alike=alike
        )


def world(space: spaces.Space, con: float = 0.0, controller: dict[str, Any] | None = None, **options: Any) -> Case:
    """A random model, P controllers, and P * R first latents; ``con`` biases the continuation."""
    torch.manual_seed(0)
    config = ControllerConfig(**(controller or {}))
    actions = actions_for(space, config.actions)
    memory = Memory(5, actions.size, MemoryConfig(hidden=16, mixtures=3, **options))
    with torch.no_grad():
        for head in memory.extra.values():
            head.weight.mul_(6)
        if "con" in memory.extra:
            memory.extra["con"].bias.fill_(con)
    features = Features(config.inputs, 5, 16)
    form = form_of(config, features.size, actions.size)
    model = Model(Vision((3, 8, 8), 5), memory, actions)
    return Case(model, features, form, torch.randn(P, form.size), torch.randn(P * R, 5))


def plainly(case: Case, temperature: float, seed: int):
    """Candidate by candidate through ``model.step`` and ``model.predict``, stopping each row by itself."""
    model, z, rng = case.model, case.z, torch.Generator().manual_seed(seed)
    noise = [fresh_noise(P * R, 5, rng, z.device) for _ in range(HORIZON)]
    ret, length = torch.zeros(P * R), torch.zeros(P * R, dtype=torch.int64)
    for row in range(P * R):
        one = z[row : row + 1]
        carry = model.begin(Latent(one, *model.memory.initial(1), one, torch.ones(1)))
        for t in range(HORIZON):
            feat = case.features(carry.z, carry.h, carry.c)
            act = model.actions(case.form(case.theta[row // R, None], feat[None])[0])
            own = type(noise[t])(*(x[row : row + 1] for x in noise[t]))
            with mock.patch.object(type(model.actions), "seen", lambda self, act, extras: act):  # it is M's already
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
    case = world(space, **heads)
    got = case.dream().run(case.z, None, HORIZON, temperature, torch.Generator().manual_seed(4))
    ret, length = plainly(case, temperature, 4)
    torch.testing.assert_close(got.length, length)
    torch.testing.assert_close(got.ret, ret, atol=1e-4, rtol=1e-4)
    if heads.get("continuation"):
        assert length.unique().numel() > 1  # dreams of several lengths were compared


@pytest.mark.parametrize(
    ("controller", "options"),
    [
        ({"inputs": "z"}, {}),
        ({"inputs": "zch", "bias": False}, {"restart": True}),
        ({"inputs": "zch", "hidden": 6}, {}),
        ({"hidden": 6}, {"mixture": "joint"}),
        ({"actions": "thirds"}, {"restart": True, "mixture": "joint"}),
    ],
)
def test_every_variant_dreams_fast_as_it_does_plainly(controller, options):
    case = world(spaces.Discrete(3), controller=controller, reward=True, continuation=True, **options)
    got = case.dream().run(case.z, None, HORIZON, 1.2, torch.Generator().manual_seed(4))
    ret, length = plainly(case, 1.2, 4)
    torch.testing.assert_close(got.length, length)
    torch.testing.assert_close(got.ret, ret, atol=1e-4, rtol=1e-4)


def test_a_dream_goes_on_from_the_memory_it_is_given():
    """The first rows' dreams after k steps are dreams from the memory there."""
    case = world(CAR, reward=True, restart=True)
    whole = case.dream()
    rng = torch.Generator().manual_seed(4)
    first = whole.run(case.z, None, 5, 1.0, rng)
    rest = case.dream().run(whole.z.clone(), (whole.h.clone(), whole.c.clone(), torch.zeros(P * R)), 7, 1.0, rng)
    both = case.dream().run(case.z, None, 12, 1.0, torch.Generator().manual_seed(4))
    torch.testing.assert_close(first.ret + rest.ret, both.ret)


def test_what_is_over_never_changes_again():
    case = world(CAR, reward=True, continuation=True)
    dream = case.dream()
    short, long = (dream.run(case.z, None, h, 1.0, torch.Generator().manual_seed(4)) for h in (HORIZON, 4 * HORIZON))
    over = short.length < HORIZON
    assert over.any()
    assert torch.equal(short.ret[over], long.ret[over])
    assert torch.equal(short.length[over], long.length[over])


def test_survival_counts_steps_the_fatal_one_too():
    case = world(CAR, continuation=True)
    dream = case.dream()
    got = dream.run(case.z, None, HORIZON, 1.0, torch.Generator().manual_seed(4))
    assert torch.equal(got.ret, got.length.float())
    dead = world(CAR, con=-1e6, continuation=True)
    got = dead.dream().run(dead.z, None, HORIZON, 1.0, torch.Generator())
    assert torch.equal(got.length, torch.ones(P * R, dtype=torch.int64))


def test_without_a_continuation_every_dream_reaches_the_horizon():
    case = world(CAR, reward=True)
    got = case.dream().run(case.z, None, 7, 1.0, torch.Generator())
    assert torch.equal(got.length, torch.full((P * R,), 7))


def test_a_second_dream_in_the_same_buffers_is_the_first_again():
    case = world(CAR, reward=True, continuation=True)
    dream = case.dream()
    first = dream.run(case.z, None, HORIZON, 1.0, torch.Generator().manual_seed(1))
    again = dream.run(case.z, None, HORIZON, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(first.ret, again.ret)


def test_alike_dreams_differ_by_the_controller_alone():
    case = world(CAR, reward=True)
    case = case._replace(theta=case.theta[:1].expand(P, -1), z=case.z[:R].repeat(P, 1))
    for alike in (True, False):
        dream = case.dream(alike=alike)
        ret = dream.run(case.z, None, HORIZON, 1.0, torch.Generator().manual_seed(1)).ret.view(P, R)
        assert torch.allclose(ret[0], ret[1]) == alike
        assert not torch.allclose(ret[:, 0], ret[:, 1])


def test_torchs_global_generator_is_left_alone():
    case = world(CAR, reward=True)
    before = torch.get_rng_state()
    case.dream().run(case.z, None, 5, 1.0, torch.Generator())
    assert torch.equal(before, torch.get_rng_state())


def test_bf16_dreams_stay_near_for_a_step():
    case = world(CAR, reward=True)
    exact, rough = (case.dream(bf16) for bf16 in (False, True))
    one = exact.run(case.z, None, 1, 1.0, torch.Generator().manual_seed(1)).ret
    other = rough.run(case.z, None, 1, 1.0, torch.Generator().manual_seed(1)).ret
    torch.testing.assert_close(other, one, atol=0.1, rtol=0.1)
