"""IRIS as a whole: what actor and critic learn, tokens beside rows, dreams, the recipe, and a run broken off."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_toy_agent import COMPUTE, _plain, start, weights

from dreamlab import agents
from dreamlab.agents import iris
from dreamlab.agents.iris import actor_critic, perceptual, reports
from dreamlab.agents.iris import agent as recipe
from dreamlab.agents.iris.actor_critic import Imagined, Seen
from dreamlab.agents.iris.config import ActorCriticConfig, Config, budget, trained
from dreamlab.agents.iris.dynamics import draw
from dreamlab.agents.iris.perceptual import WithoutLpips
from dreamlab.core.config import from_dict
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import leaves
from dreamlab.core.types import Recorded
from dreamlab.nn.compute import Compute
from dreamlab.nn.returns import lambda_return
from dreamlab.run.config import RunConfig
from dreamlab.run.trainer import Stopped

SMOKE = from_dict(Config, agents.preset("iris", "smoke")["agent"])
TINY = replace(
    SMOKE, epochs=4, collect_epochs=3, epoch_steps=30, tokenizer=replace(SMOKE.tokenizer, revive=2, continuous=1)
)
IMAGE = spaces.Dict(image=spaces.Box(0, 255, (3, 16, 16), np.uint8))


def built(config=TINY, act_space=spaces.Discrete(3), obs_space=IMAGE, seed=0):
    return iris.build(config, obs_space, act_space, COMPUTE, seed, RunConfig(seed=seed, envs=2))


# ---- actor and critic


def test_the_papers_actor_critic_has_its_parameters():
    for actions in (4, 18):
        part = actor_critic.Lstm((3, 64, 64), actions, ActorCriticConfig())
        assert sum(p.numel() for p in part.parameters()) == 3_215_905 + 513 * actions


def test_returns_look_one_step_ahead_or_to_the_end_or_stop_at_a_done():
    torch.manual_seed(0)
    rew, val = torch.randn(5, 20), torch.randn(5, 20)
    none = torch.zeros(5, 20, dtype=torch.bool)
    one = actor_critic.lambda_returns(rew, none, val, 0.9, 0.0)
    torch.testing.assert_close(one, rew[:, :-1] + 0.9 * val[:, 1:])
    all_of_it = actor_critic.lambda_returns(rew, none, val, 0.9, 1.0)
    brute = [sum(0.9**i * rew[:, t + i] for i in range(19 - t)) + 0.9 ** (19 - t) * val[:, 19] for t in range(19)]
    torch.testing.assert_close(all_of_it, torch.stack(brute, 1))
    end = none.clone()
    end[:, 7] = True
    ended = actor_critic.lambda_returns(rew, end, val, 0.9, 0.95)
    torch.testing.assert_close(ended[:, 7], rew[:, 7])
    changed = actor_critic.lambda_returns(rew, end, val + torch.arange(20).ge(8) * 3.0, 0.9, 0.95)
    assert torch.equal(ended[:, :8], changed[:, :8]), "nothing behind an end reaches what came before it"
    geometric = actor_critic.lambda_returns(torch.ones(1, 20), none[:1], torch.zeros(1, 20), 0.5, 1.0)[0]
    torch.testing.assert_close(geometric, torch.tensor([2 * (1 - 0.5 ** (19 - t)) for t in range(19)]))
    between = actor_critic.lambda_returns(torch.zeros(1, 20), none[:1], torch.full((1, 20), 3.0), 0.9, 0.95)[0]
    low = torch.tensor([3 * 0.9 ** (19 - t) for t in range(19)])
    assert ((between >= low - 1e-6) & (between <= 3)).all()


def test_losses_are_the_papers():
    torch.manual_seed(0)
    config = ActorCriticConfig(gamma=0.9, trace=0.8, entropy=0.01)
    said = actor_critic.Said(torch.randn(4, 6, 3, requires_grad=True), torch.randn(4, 6, requires_grad=True))
    dream = Imagined(
        Seen(torch.zeros(4, 6, 2), torch.zeros(4, 6, 0)),
        torch.randint(3, (4, 6)),
        torch.randint(-1, 2, (4, 6)).float(),
        torch.rand(4, 6) < 0.2,
    )
    found = actor_critic.losses(said, dream, config)
    val = said.val.detach()
    ret = lambda_return(dream.rew.t()[:5], (~dream.end).float().t()[:5], val.t()[:5], val[:, 5], 0.9, 0.8).t()
    dist = torch.distributions.Categorical(logits=said.logits[:, :5])
    policy = -(dist.log_prob(dream.act[:, :5]) * (ret - val[:, :5])).mean()
    torch.testing.assert_close(found["policy"], policy)
    torch.testing.assert_close(found["value"], (said.val[:, :5] - ret).square().mean())
    torch.testing.assert_close(found["entropy"], -0.01 * dist.entropy().mean())
    torch.stack(list(found.values())).sum().backward()
    assert (said.logits.grad[:, 5] == 0).all(), "the last step is only bootstrapped from"
    assert (said.val.grad[:, 5] == 0).all()
    torch.testing.assert_close(said.val.grad[:, :5], 2 * (val[:, :5] - ret) / 20)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_a_sequence_is_its_steps_and_padding_on_the_left_is_nothing(kind):
    torch.manual_seed(0)
    config = replace(TINY.actor_critic, kind=kind, width=16, frames=3)
    part = actor_critic.build((3, 16, 16), 4, 9, 3, config).eval()
    seen = Seen(torch.randint(9, (2, 7, 4)), torch.rand(2, 7, 3, 16, 16))
    first = lambda n: Seen(*(x[:, :n] for x in seen))  # noqa: E731
    later = Seen(*(x[:, 4:] for x in seen))
    memory = part.burn(first(4), torch.ones(2, 4, dtype=torch.bool))
    whole = part.unroll(later, memory)
    for k in range(3):
        said, memory = part.step(Seen(*(x[:, k] for x in later)), memory)
        torch.testing.assert_close(said.logits, whole.logits[:, k])
        torch.testing.assert_close(said.val, whole.val[:, k])
    padded = Seen(*(torch.cat([x[:, -3:], x[:, :2]], 1) for x in first(5)))
    mask = torch.tensor([[False] * 3 + [True] * 2] * 2)
    for one, two in zip(leaves(part.burn(padded, mask)), leaves(part.burn(first(2), mask[:, 3:])), strict=True):
        torch.testing.assert_close(one, two)
    for one, two in zip(
        leaves(part.burn(padded, torch.zeros_like(mask))), leaves(part.initial(2, torch.device("cpu"))), strict=True
    ):
        assert torch.equal(one, two)


def test_actor_and_critic_learn_a_dream_by_heart():
    """One frame pays for action 1, the other for action 2: known after a hundred updates."""
    torch.manual_seed(0)
    config = replace(TINY.actor_critic, hidden=32, gamma=0.0, entropy=0.0)
    part = actor_critic.Lstm((3, 16, 16), 3, config)
    optimizer = torch.optim.Adam(part.parameters(), 3e-3)
    for _ in range(100):
        which = torch.randint(2, (32, 4))
        image = which[:, :, None, None, None].float().expand(32, 4, 3, 16, 16)
        memory = part.initial(32, torch.device("cpu"))
        said = part.unroll(Seen(which, image), memory)
        act = draw(said.logits.detach().flatten(0, 1)).view(32, 4)
        dream = Imagined(Seen(which, image), act, (act == which + 1).float(), torch.zeros(32, 4, dtype=torch.bool))
        optimizer.zero_grad()
        torch.stack(list(actor_critic.losses(said, dream, config).values())).sum().backward()
        optimizer.step()
    right = (said.logits[:, :-1].argmax(-1) == which[:, :-1] + 1).float().mean()
    assert right > 0.95
    assert (said.val[:, :-1] - 1).abs().mean() < 0.2


# ---- the recipe in numbers


def test_the_papers_schedule():
    config = Config()
    phases = budget(config, RunConfig(envs=1))
    assert [(p.name, p.env_steps, p.rounds) for p in phases] == [
        ("collect", 1000, 0), ("tokenizer", 4000, 20), ("dynamics", 5000, 25), ("actor_critic", 90_000, 450),
        ("actor_critic", 0, 100),
    ]  # fmt: skip
    updates = dict.fromkeys(("tokenizer", "dynamics", "actor_critic"), 0)
    for phase in phases:
        for name, times in trained(phase, config).items():
            updates[name] += times * phase.rounds
    assert updates == {"tokenizer": 119_000, "dynamics": 115_000, "actor_critic": 110_000}


def test_more_steps_are_more_epochs_and_too_few_are_refused():
    phases = budget(Config(), RunConfig(envs=1, steps=30_000))
    assert [(p.name, p.env_steps, p.rounds) for p in phases][-2:] == [
        ("actor_critic", 20_000, 100), ("actor_critic", 0, 100),
    ]  # fmt: skip
    assert sum(p.env_steps for p in budget(TINY, RunConfig(envs=1, steps=77))) == 77
    with pytest.raises(UserError, match=r"--steps 10200 or more"):
        budget(replace(Config(), epochs=50, collect_epochs=50), RunConfig(envs=1))
    little = replace(TINY, actor_critic=replace(TINY.actor_critic, after=9))
    with pytest.raises(
        UserError, match=r"trains actor_critic; type: --steps 270 or more, or a smaller --agent.actor-cr"
    ):
        budget(little, RunConfig(envs=1))
    budget(little, RunConfig(envs=1, steps=270))
    recorded = Recorded(100, True, True, True, True)
    assert [p.env_steps for p in budget(Config(), RunConfig(), (), recorded)] == [0, 0, 0, 0]


def test_a_part_without_updates_is_left_out():
    config = replace(
        SMOKE, dynamics=replace(SMOKE.dynamics, updates=0), actor_critic=replace(SMOKE.actor_critic, updates=0)
    )
    phases = budget(config, RunConfig(envs=1))
    assert [p.name for p in phases] == ["tokenizer", "tokenizer"]
    assert all(trained(p, config) == {"tokenizer": 3} for p in phases)
    assert not built(config).acts


def test_a_transformer_as_policy_is_planned_for():
    obs, act = IMAGE, spaces.Discrete(3)
    wide = [
        replace(TINY, actor_critic=replace(TINY.actor_critic, kind="transformer", layers=n, batch=64)) for n in (2, 20)
    ]
    few, many = (iris.footprint(config, obs, act, RunConfig()).memory_bytes for config in wide)
    assert many > 2 * few


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"epochs": 2, "collect_epochs": 3}, "at most epochs"),
        ({"epsilon": 1.5}, "between 0 and 1"),
        ({"actor_critic": replace(SMOKE.actor_critic, horizon=9)}, "dynamics.blocks"),
    ],
)
def test_impossible_settings_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        replace(SMOKE, **changes)


def test_it_says_where_it_does_not_apply():
    with pytest.raises(UserError, match="dreamer-v3"):
        built(act_space=spaces.Box(-1, 1, (2,)))
    with pytest.raises(UserError, match=r"--env\.obs pixels"):
        built(obs_space=spaces.Dict(vector=spaces.Box(-1, 1, (4,))))
    with pytest.raises(UserError, match="no rewards"):
        built().learn_from(Recorded(10, True, False, True, True))


# ---- whole runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the environment that counts, by preset smoke."""
    torch.manual_seed(0)
    trainer, agent, experience = start(tmp_path_factory.mktemp("iris"), "tiny/Count", TINY, module=iris)
    with pytest.warns(UserWarning, match="sign alone"):
        trainer.train()
    return trainer, agent, experience


def test_its_phases_are_its_budget_and_all_are_done(run):
    trainer, agent, _ = run
    assert agent.versions == {"tokenizer": 4 * 3, "dynamics": 3 * 3, "actor_critic": 2 * 2}
    told = {key for group, metrics in trainer.log.lines for key in metrics if group == "train"}
    assert {
        "tokenizer/loss", "tokenizer/codebook_usage", "dynamics/loss/obs", "dynamics/token_accuracy",
        "actor_critic/policy_entropy", "actor_critic/loss/value", "codebook", "reconstructions",
        "open_loop", "value_mae", "ret",
    } <= told  # fmt: skip


def test_rows_are_paired_with_what_came_of_them(run):
    """Rewards of this environment count its steps, so a row out of place shows."""
    _, agent, experience = run
    rows = agent.segments["dynamics"](experience.index, 64, 7)
    batch = experience.gather(rows)
    made = recipe.steps(batch, batch.obs["vector"][:, :-1, 1:2])  # the count in place of tokens
    assert made.mask.any(1).all()
    assert (made.rew == made.tokens[..., 0] + 1)[made.mask].all()
    came = batch.obs["vector"][:, 1:, 2]  # the action that led to the next row
    assert (made.act == came)[made.mask].all()
    mark, count = batch.obs["vector"][:, 1:, 0], batch.obs["vector"][:, 1:, 1]
    assert (made.end == (count >= 3 + mark // 2 % 10))[made.mask].all(), "cut off is over too, as the authors have it"
    assert (made.end.cumsum(1)[:, :-1] * made.mask[:, 1:]).sum() == 0, "nothing counts behind an end"


def test_tokens_are_written_once_for_each_tokenizer(run, monkeypatch):
    _, agent, experience = run
    rows = agent.segments["actor_critic"](experience.index, 16, 5, pad="left")
    calls, plain = [], agent._tokenised
    monkeypatch.setattr(agent, "_tokenised", lambda e, r: calls.append(len(r)) or plain(e, r))
    monkeypatch.setitem(agent.versions, "tokenizer", 10**6)
    tokens = agent.tokens(experience, rows)
    assert sum(calls) == len(np.unique(rows[rows >= 0]))
    again = agent.tokens(experience, rows)
    assert sum(calls) == len(np.unique(rows[rows >= 0])), "none a second time"
    want = agent.model.observe(experience.gather(np.where(rows >= 0, rows, rows.max()))).tokens
    for found in (tokens, again):
        assert torch.equal(found[rows >= 0], want[rows >= 0])
        assert (found[rows < 0] == 0).all()


def test_the_fast_dream_is_the_one_of_the_protocol(run):
    """Same seed, same draws in the same order: act, reward, end, tokens."""
    _, agent, _ = run
    tokens = torch.randint(SMOKE.tokenizer.vocabulary, (5, agent.model.tokenizer.tokens))
    memory = agent.actor_critic.initial(5, torch.device("cpu"))
    torch.manual_seed(3)
    with torch.no_grad():
        dream = agent.imagine(tokens, memory)
        torch.manual_seed(3)
        latent = iris_latent(tokens)
        carry = agent.model.begin(latent)
        for k in range(agent.config.actor_critic.horizon - 1):
            assert torch.equal(dream.seen.tokens[:, k], latent.tokens)
            said, memory = agent.actor_critic.step(agent.see(latent.tokens), memory)
            act = draw(said.logits)
            carry, latent = agent.model.step(carry, torch.nn.functional.one_hot(act, 4).float())
            assert torch.equal(dream.act[:, k], act)
            assert torch.equal(dream.rew[:, k], latent.rew)
            assert torch.equal(dream.end[:, k], latent.con == 0)
    assert dream.seen.image.shape == (5, agent.config.actor_critic.horizon, 3, 16, 16)


def test_compiled_it_dreams_by_the_short_ways_and_comes_to_the_same(monkeypatch):
    """``--compile`` on a CPU: layers over the cache as one, norms in two passes."""
    called = set()

    def compiled(self, fn):
        return (lambda *given: called.add(fn.__name__) or fn(*given)) if self.compile else fn

    monkeypatch.setattr(Compute, "compiled", compiled)
    tokens = torch.randint(SMOKE.tokenizer.vocabulary, (5, built().model.tokenizer.tokens))
    dreams = []
    for compute in (COMPUTE, replace(COMPUTE, compile=True)):
        agent = iris.build(TINY, IMAGE, spaces.Discrete(3), compute, 0, RunConfig(seed=0, envs=2))
        called.clear()
        torch.manual_seed(3)
        with torch.no_grad():
            dreams.append(agent.imagine(tokens, agent.actor_critic.initial(5, torch.device("cpu"))))
    assert called >= {"one_more", "two_more", "line", "swish", "swish_over"}
    assert torch.equal(dreams[0].seen.tokens, dreams[1].seen.tokens)
    assert torch.equal(dreams[0].act, dreams[1].act)
    torch.testing.assert_close(dreams[0].seen.image, dreams[1].seen.image, rtol=1e-4, atol=1e-4)


def iris_latent(tokens):
    from dreamlab.agents.iris.model import Latent

    return Latent(tokens, torch.zeros(len(tokens)), torch.ones(len(tokens)))


def test_a_carry_can_be_gone_on_from_twice(run):
    _, agent, _ = run
    carry = agent.model.begin(iris_latent(torch.zeros(2, agent.model.tokenizer.tokens, dtype=torch.int64)))
    act = torch.eye(4)[[0, 1]]
    torch.manual_seed(0)
    one = agent.model.step(carry, act)[1]
    agent.model.step(carry, act.flip(0))
    torch.manual_seed(0)
    two = agent.model.step(carry, act)[1]
    assert torch.equal(one.tokens, two.tokens)


def test_the_policy_remembers_an_episode_and_makes_its_memory_anew_after_learning(run, monkeypatch):
    _, agent, experience = run
    episodes = experience.index.episodes()
    e = int(np.argmax(episodes.stop - episodes.start))
    rows = np.arange(episodes.start[e], episodes.stop[e])[None] * experience.index.streams + episodes.stream[e]
    batch = experience.gather(rows)
    policy, state = agent.policy(explore=True), None
    state = policy.initial(1)
    for t in range(5):
        act, state, _ = policy({"image": batch.obs["image"][:, t]}, batch.is_first[:, t], state)
        assert experience.act_space.contains(act.numpy()[0])
    seen = agent.see(agent.model.observe(batch).tokens)
    whole = agent.actor_critic.initial(1, torch.device("cpu"))
    for t in range(5):
        _, whole = agent.actor_critic.step(Seen(*(x[:, t] for x in seen)), whole)
    torch.testing.assert_close(state.memory, whole)
    again = policy({"image": batch.obs["image"][:, 5]}, batch.is_first[:, 5], state)[1]
    monkeypatch.setitem(agent.versions, "actor_critic", 10**6)
    anew = policy({"image": batch.obs["image"][:, 5]}, batch.is_first[:, 5], state)[1]
    kept = agent.config.actor_critic.burn_in  # frames before this one
    short = agent.actor_critic.burn(Seen(*(x[:, 5 - kept : 5] for x in seen)), torch.ones(1, kept, dtype=torch.bool))
    _, short = agent.actor_critic.step(Seen(*(x[:, 5] for x in seen)), short)
    torch.testing.assert_close(anew.memory, short)
    assert not torch.equal(anew.memory[0], again.memory[0])
    fresh = policy({"image": batch.obs["image"][:, 5]}, torch.tensor([True]), state)[1]
    assert fresh.held == 1


def test_a_score_says_how_actions_were_drawn_and_what_reconstructions_cost(run):
    _, agent, _ = run
    obs, first = {"image": torch.zeros(400, 3, 16, 16, dtype=torch.uint8)}, torch.ones(400, dtype=torch.bool)
    assert agent.protocol == {"reconstruction_loss": WithoutLpips().name, "temperature": 0.5}
    drawn = agent.policy(explore=False)
    assert len(drawn(obs, first, drawn.initial(400))[0].unique()) > 1
    agent.evaluation = "mode"
    try:
        assert "temperature" not in agent.protocol
        likeliest = agent.policy(explore=False)
        assert len(likeliest(obs, first, likeliest.initial(400))[0].unique()) == 1
    finally:
        agent.evaluation = "sample"


def test_what_moves_is_measured_by_itself():
    frames = torch.full((9, 1, 8, 8), 0.2)
    background = frames.clone()
    for n in range(9):
        frames[n, 0, n % 8, 3] = 1.0
    assert reports.moving_kept(frames, frames) == 1
    torch.testing.assert_close(reports.moving_kept(frames, background), torch.tensor(0.0))
    torch.testing.assert_close(reports.moving_kept(frames, (frames + background) / 2), torch.tensor(0.5))
    torch.testing.assert_close(reports.moving_kept(frames, frames + 0.1 * (frames < 0.5)), torch.tensor(1.0))


def test_a_run_keeps_to_the_recipe_that_it_began_with(run, monkeypatch):
    """Weights that are here today and were not then change nothing; that they lack stops learning alone."""
    _, agent, experience = run
    monkeypatch.setattr(perceptual, "missing", list)
    twin = built(replace(TINY, tokenizer=replace(TINY.tokenizer, perceptual="auto")), spaces.Discrete(4))
    assert twin.protocol["reconstruction_loss"] == "L1 + LPIPS"
    twin.load_state_dict(deepcopy(agent.state_dict()))
    assert twin.protocol["reconstruction_loss"] == WithoutLpips().name
    twin.load_state_dict({**deepcopy(agent.state_dict()), "perceptual": "lpips"})
    monkeypatch.setattr(perceptual, "missing", lambda: ["VGG16's weights are not there"])
    assert twin.protocol["reconstruction_loss"] == "L1 + LPIPS"
    for learns in (twin.refuse_untrained, lambda: twin.learn_tokenizer(experience)):
        with pytest.raises(UserError, match="VGG16"):
            learns()


def test_in_bf16_all_learn_and_logits_and_values_are_exact(run):
    _, agent, experience = run
    half = iris.build(
        agent.config, experience.obs_space, experience.act_space, Compute(torch.device("cpu"), bf16=True), 0, agent.run
    )
    half.load_state_dict(deepcopy(agent.state_dict()))
    for name in ("learn_tokenizer", "learn_dynamics"):  # the actor-critic's dream draws other tokens
        found, want = (getattr(one, name)(experience) for one in (half, agent))
        loss = next(key for key in found if key.endswith("/loss"))
        torch.testing.assert_close(found[loss], want[loss], rtol=0.05, atol=0.02)
    assert all(torch.isfinite(value).all() for value in half.learn_actor_critic(experience).values())
    with half.compute.autocast():
        tokens = torch.zeros(1, 2, half.model.tokenizer.tokens, dtype=torch.int64)
        said = half.model.dynamics(tokens, tokens[..., 0])
        val = half.actor_critic.say(torch.rand(3, half.config.actor_critic.hidden)).val
    assert all(x.dtype == torch.float32 for x in (*said, val))


def test_a_collapsed_codebook_is_told(run, monkeypatch):
    _, agent, experience = run
    with torch.no_grad():
        kept = agent.model.tokenizer.codebook.weight.clone()
        agent.model.tokenizer.codebook.weight[1:] = 1e3
    monkeypatch.setattr(recipe, "COLLAPSED", 0.1)
    with pytest.warns(UserWarning, match="collapsed"):
        agent.report("tokenizer", experience)
    with torch.no_grad():
        agent.model.tokenizer.codebook.weight.copy_(kept)


def test_a_state_dict_brings_everything_back(run):
    _, agent, experience = run
    twin = iris.build(agent.config, experience.obs_space, experience.act_space, COMPUTE, 7, agent.run)
    twin.load_state_dict(deepcopy(agent.state_dict()))
    found = []
    for one in (agent, twin):
        torch.manual_seed(5)
        found.append([
            float(v)
            for learn in (one.learn_tokenizer, one.learn_dynamics, one.learn_actor_critic)
            for v in learn(experience).values()
        ])  # fmt: skip
    assert found[0] == found[1]
    for a, b in zip(weights(agent), weights(twin), strict=True):
        assert torch.equal(a, b)


def stop_after(trainer, agent, part, updates):
    """Ask to stop in the middle of an epoch, once a part has so many updates."""
    after = trainer._after

    def watched(running):
        trainer.stop = trainer.stop or agent.versions[part] >= updates
        after(running)

    trainer._after = watched


@pytest.mark.parametrize("at", [pytest.param(("tokenizer", 4), marks=pytest.mark.slow), ("actor_critic", 1)])
def test_interrupted_anywhere_it_ends_with_the_same_weights(tmp_path, at):
    """Stopped by the user and started again as if by a new process: weights, moments and rows bit for bit."""
    torch.manual_seed(0)
    whole, one, table = start(tmp_path / "a", config=TINY, module=iris)
    whole.restore()
    whole.train()
    torch.manual_seed(0)
    trainer, first, _ = start(tmp_path / "b", config=TINY, module=iris)
    trainer.restore()
    stop_after(trainer, first, *at)
    with pytest.raises(Stopped):
        trainer.train()
    torch.manual_seed(99)
    again, two, experience = start(tmp_path / "b", config=TINY, module=iris)
    assert again.restore() is not None
    again.train()
    assert torch.equal(weights(one), weights(two))
    rows = np.arange(experience.index.stop * 2)[None]
    for a, b in zip(leaves(_plain(experience.gather(rows))), leaves(_plain(table.gather(rows))), strict=True):
        assert torch.equal(a, b)
