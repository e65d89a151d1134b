"""The DreamerV3 agent: sizes, how it starts, what learns from what, kinds of tasks, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dreamer_v3_tiny import ACTS, OBS, TINY, Table, before, build, shaken, weights
from gymnasium import spaces

from dreamlab.agents import dreamer_v3
from dreamlab.core.errors import UserError
from dreamlab.core.protocols import Agent, WorldModelAgent
from dreamlab.core.types import Recorded
from dreamlab.nn.compute import Compute
from dreamlab.run.config import RunConfig

# ---- sizes


def image(*shape: int) -> spaces.Dict:
    return spaces.Dict({"image": spaces.Box(0, 255, shape, np.uint8)})


PROPRIO = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (24,), np.float32)})
TASKS = {
    "atari100k": (image(3, 64, 64), spaces.Discrete(18)),
    "atari": (image(1, 96, 96), spaces.Discrete(18)),
    "walker": (PROPRIO, spaces.Box(-1, 1, (6,), np.float32)),
    "crafter": (image(3, 64, 64), spaces.Discrete(17)),
}
COUNTS = {
    "1m": (688_004, 769_762, 640_867, 687_875),
    "12m": (10_498_772, 11_808_850, 9_738_019, 10_498_259),
    "25m": (23_496_244, 26_444_402, 21_782_947, 23_495_475),
    "50m": (41_659_284, 46_900_882, 38_612_003, 41_658_259),
    "100m": (93_482_068, 105_276_626, 86_622_499, 93_480_531),
    "200m": (165_967_124, 186_936_082, 153_769_507, 165_965_075),
    "400m": (372_924_052, 420_106_130, 345_473_059, 372_920_979),
}


@pytest.mark.parametrize("size", COUNTS)
def test_parameters_are_as_many_as_the_authors(size):
    for (obs, act), count in zip(TASKS.values(), COUNTS[size], strict=True):
        with torch.device("meta"):
            config = dreamer_v3.Config(size=size)
            agent = dreamer_v3.build(config, obs, act, Compute(torch.device("meta")), 0, RunConfig())
        assert sum(p.numel() for _, part in agent.learned() for p in part.parameters()) == count


def test_each_network_s_parameters_are_as_many_as_the_authors():
    with torch.device("meta"):
        agent = dreamer_v3.build(
            dreamer_v3.Config(), *TASKS["atari100k"], Compute(torch.device("meta")), 0, RunConfig()
        )
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in agent.learned()} == {
        "encoder": 220_416, "dynamics": 5_982_720, "decoder": 1_272_003, "reward": 721_407, "continuation": 656_129,
        "actor": 792_594, "critic": 853_503,
    }  # fmt: skip


def test_it_keeps_the_contract():
    agent = build()
    assert isinstance(agent, Agent)
    assert isinstance(agent, WorldModelAgent)
    plan = dreamer_v3.budget(TINY, RunConfig())
    assert [(p.name, p.env_steps, p.rounds) for p in plan] == [(p.name, p.env_steps, p.rounds) for p in agent.phases()]
    assert torch.equal(weights(build(seed=3)), weights(build(seed=3)))


# ---- at the start


@pytest.mark.parametrize("act", ACTS)
def test_it_starts_knowing_nothing(act):
    """Rewards and values exactly 0, actions as good as equally likely, the slow critic a copy."""
    agent = build(act)
    feat = torch.randn(50, TINY.deter + TINY.groups * TINY.classes)
    assert (agent.value(feat) == 0).all()
    assert (agent.bins.mean(agent.model.reward(feat)) == 0).all()
    out = agent.actor(feat)
    if act == "continuous":
        assert (out[:, 2:] + 2).sigmoid().mul(0.9).add(0.1).sub(0.8927).abs().max() < 0.01
    else:
        assert out.abs().max() < 0.1
    assert all(torch.equal(a, b) for a, b in zip(agent.critic.parameters(), agent.slow.parameters(), strict=True))


# ---- what learns from what

PATHS = {
    "image": {"encoder", "posterior", "cell", "decoder"},
    "vector": {"encoder", "posterior", "cell", "decoder"},
    "rew": {"encoder", "posterior", "cell", "reward"},
    "con": {"encoder", "posterior", "cell", "continuation"},
    "dyn": {"cell", "prior"},
    "rep": {"encoder", "posterior", "cell"},
    "policy": {"actor"},
    "value": {"critic"},
    "replay_value": {"encoder", "posterior", "cell", "critic"},
}


def reached(agent, loss) -> set[str]:
    """What has a gradient, the dynamics' networks by themselves."""
    for part in agent.parts.values():
        part.zero_grad()
    loss.mean().backward()
    found = set()
    for name, part in agent.parts.items():
        for key, p in part.named_parameters():
            if p.grad is not None and p.grad.abs().sum() > 0:
                found.add(key.split(".")[0].split("_")[0] if name == "dynamics" else name)
    return found


@pytest.mark.parametrize("act", ["discrete", "continuous"])
def test_each_loss_teaches_its_own_networks(act):
    """Every row a first one: samples of a row before it pass no gradient on."""
    agent, batch = shaken(build(act, free_nats=0.0)), Table(act).window()
    batch = batch._replace(is_first=torch.ones_like(batch.is_first))
    args = before(agent, batch)
    losses = {name: agent.losses(batch, *args)[0][name] for name in agent.losses(batch, *args)[0]}
    assert {name: reached(agent, loss) for name, loss in losses.items()} == PATHS


def test_losses_weigh_what_the_settings_say():
    """One for all but the two that the paper names, unless told."""
    told = {"obs_scale": 2.0, "reward_scale": 3.0, "continuation_scale": 4.0}
    for changes, obs, rew, con in (({}, 1.0, 1.0, 1.0), (told, 2.0, 3.0, 4.0)):
        agent, batch = build(**changes), Table().window()
        scales = agent.losses(batch, *before(agent, batch))[1]
        assert scales == dict.fromkeys(PATHS, 1.0) | {
            "image": obs, "vector": obs, "rew": rew, "con": con, "rep": 0.1, "replay_value": 0.3
        }  # fmt: skip


def test_what_images_cost_is_a_part():
    """The same networks from the same draws: only the image's loss is another, and it still teaches where it should."""
    squares, lit = build(), build(image_loss="lit")
    batch = Table().window()
    batch.obs["image"] = 255 * (batch.obs["image"] > 127).to(torch.uint8)
    both = []
    for agent in (squares, lit):
        torch.manual_seed(0)
        both.append(agent.losses(batch, *before(agent, batch))[0])
    assert [name for name in both[0] if not torch.equal(both[0][name], both[1][name])] == ["image"]
    assert (both[1]["image"] >= both[0]["image"]).all()  # -log p >= (1 - p)^2
    assert reached(lit, both[1]["image"]) == PATHS["image"]


def test_divergence_below_the_free_nats_teaches_nothing():
    z = build().model.dynamics.latents
    near, far = 0.1 * torch.randn(4, z.raw), 4 * torch.randn(4, z.raw)
    for size, some in ((near, False), (far, True)):
        post, prior = size.clone().requires_grad_(), (0 * size).requires_grad_()
        losses = dreamer_v3.kl_losses(z, z.stats(post), z.stats(prior), 1.0)
        for name, taught in (("dyn", prior), ("rep", post)):
            other = post if taught is prior else prior
            grads = torch.autograd.grad(losses[name].sum(), (taught, other), allow_unused=True)
            assert bool((grads[0] != 0).any()) == some
            assert grads[1] is None
        if not some:
            assert (losses["dyn"] == 1).all()


def test_the_rows_that_are_imagined_from_are_the_last_of_each_window():
    agent, batch = shaken(build(imagine_last=3)), Table().window()
    losses, *_ = agent.losses(batch, *before(agent, batch))
    assert {name: tuple(loss.shape) for name, loss in losses.items()} == dict.fromkeys(PATHS, (2, 6)) | {
        "policy": (4, 6), "value": (4, 6), "replay_value": (2, 2)
    }  # fmt: skip


def test_continuation_s_target_is_the_discount_and_has_a_loss_of_its_own():
    gamma = 1 - 1 / 333
    best = torch.tensor([math.log(gamma / (1 - gamma))])
    goes_on, ends = torch.tensor([False]), torch.tensor([True])
    assert float(dreamer_v3.continuation_loss(best[:, None], goes_on, gamma)) == pytest.approx(0.02044, abs=1e-5)
    assert float(dreamer_v3.continuation_loss(torch.tensor([[-50.0]]), ends, gamma)) == pytest.approx(0, abs=1e-6)
    model = build().model
    assert float(model.reading.con(best[:, None])) == pytest.approx(1, abs=1e-5)  # told as a probability


def test_the_range_of_returns_by_its_closed_form():
    scale = dreamer_v3.ReturnRange(torch.device("cpu"))
    assert scale(torch.rand(50)) == 1
    scale = dreamer_v3.ReturnRange(torch.device("cpu"))
    ret = torch.cat([torch.full((60,), 40.0), torch.full((40,), -60.0)])
    for n in range(1, 6):
        assert float(scale(ret)) == pytest.approx(max(1, 100 * (1 - 0.99**n)), rel=1e-5)


# ---- kinds of tasks


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("keys", [("image",), ("vector",), ("image", "vector")])
def test_it_learns_from_any_observations_and_any_actions(act, keys):
    agent, table = build(act, spaces.Dict({k: OBS[k] for k in keys})), Table(act)
    old = weights(agent)
    for _ in range(3):
        metrics = agent.learn(table)
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in metrics.values())
    moved = (weights(agent) - old) != 0
    assert moved.float().mean() > 0.9
    assert {"loss/image" in metrics, "loss/vector" in metrics} == {k in keys for k in OBS}


MODEL = ("image", "vector", "rew", "con")


@pytest.mark.parametrize("bf16", [False, True])
def test_a_batch_that_is_always_the_same_is_learned(bf16):
    torch.manual_seed(0)
    agent, batch = build(lr=1e-2, bf16=bf16), Table().window()
    args = before(agent, batch)
    told = [agent.update(batch, *args)[1] for _ in range(30)]
    for name, share in (("image", 0.9), ("vector", 0.5), ("rew", 0.5), ("con", 0.5)):  # images are noise
        assert told[-1][f"loss/{name}"] < share * told[0][f"loss/{name}"]


def test_in_bf16_it_computes_nearly_the_same():
    batch, found = Table().window(), []
    for bf16 in (False, True):
        agent = shaken(build(bf16=bf16))
        torch.manual_seed(0)
        losses, _, states, _ = agent.losses(batch, *before(agent, batch))
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert states.deter.dtype == torch.float32
        found.append({k: float(loss.detach().mean()) for k, loss in losses.items()})
    for name in (*MODEL, "dyn", "value", "replay_value"):
        assert found[1][name] == pytest.approx(found[0][name], rel=0.1), name


# ---- what it refuses


@pytest.mark.parametrize(("actions", "rewards", "lack"), [(True, False, "rewards"), (False, True, "actions")])
def test_recordings_that_lack_what_it_needs_are_refused(actions, rewards, lack):
    with pytest.raises(UserError, match=f"these recordings have no {lack}") as error:
        build().learn_from(Recorded(100, actions, rewards, True, True))
    assert "dreamlab train world-models" in str(error.value)


def test_whole_recordings_are_learned_from_as_often_as_steps_of_its_own():
    agent = build(ratio=12.0)
    agent.learn_from(Recorded(100, True, True, True, False))
    (phase,) = agent.phases()
    assert (phase.act, phase.env_steps, phase.rounds) == (None, 0, TINY.steps)
    agent.learn(Table())


def test_images_that_do_not_fit_are_refused_with_what_to_type():
    with pytest.raises(UserError, match=r"60x60 cannot be halved 4 times.*--env\.size 64 64"):
        build(obs=image(3, 60, 60), mults=(2, 2, 2, 2))
    two = spaces.Dict({"image": OBS["image"], "other": spaces.Box(0, 255, (1, 16, 16), np.uint8)})
    with pytest.raises(UserError, match="images of one size"):
        build(obs=two)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"deter": 36}, "multiple of 8"), ({"classes": 256}, "at most 255"), ({"length": 1}, "at least 2"),
     ({"imagine_last": 7}, "more than a window's 6"), ({"mults": (2, 3)}, "multiple of 8"), ({"lr": 0.0}, "positive")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        build(**changes)
