"""A counting environment through vector stepping, autoreset, driver, replay, samplers and imagination.

Every row of ``tiny/Count`` says which episode it is of, how many steps that has had, and which action came
last, so a row, an action or a reward out of place by one shows at once.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dreamlab import envs
from dreamlab.agents.random import Uniform
from dreamlab.agents.world_models.actions import actions_for
from dreamlab.core.actions import one_hot
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import imagine
from dreamlab.core.sampling import EpisodeWindows, Frames, StreamWindows, WholeEpisodes
from dreamlab.core.seeds import derive
from dreamlab.core.types import act_size
from dreamlab.envs.tiny import Count
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay

CPU, N, SEED = torch.device("cpu"), 3, 11


class Seen(NamedTuple):
    mark: torch.Tensor
    calls: torch.Tensor


class CountingPolicy:
    """Acts by what it sees, writes what it saw into a column, and counts calls since is_first in its state."""

    idles = False  # rows of a rollout stand still when their episode is over

    def __init__(self, space):
        self.space = space

    def initial(self, n):
        return Seen(torch.zeros(n), torch.zeros(n))

    def __call__(self, obs, is_first, state):
        mark, count = obs["vector"][:, 0], obs["vector"][:, 1]
        calls = torch.where(is_first, 0, state.calls + 1)
        calls = torch.where(obs["vector"][:, 1] == state.calls, state.calls, calls) if self.idles else calls
        assert torch.equal(calls, count), "the policy's state is not in step with its rows"
        assert ((state.mark == mark) | is_first).all()
        act = (mark + 3 * count) % 4
        if isinstance(self.space, spaces.MultiDiscrete):
            act = torch.stack([act, count % 3], -1)
        elif isinstance(self.space, spaces.Box):
            act = torch.stack([act / 4, -act / 4], -1)
        return (act if isinstance(self.space, spaces.Box) else act.long()), Seen(mark, calls), {"told": count.clone()}


CASES = [("tiny/Count", True), ("tiny/Count", False), ("tiny/CountContinuous", False), ("tiny/CountMulti", True)]


@pytest.fixture(params=CASES)
def experience(request, tmp_path):
    id, workers = request.param
    config = envs.default_config(id)
    config = type(config)(**{**vars(config), "workers": workers, "obs": "auto"})
    obs_space, act_space = envs.spaces_of(config)
    table = Experience(Replay(tmp_path, N), obs_space, act_space, CPU, lambda: envs.make(config, N, SEED), N)
    policy = CountingPolicy(act_space)
    taken, ended, _ = table.collect(policy, "count", 400)
    yield table, policy, taken, ended
    table.close()


def check_rows(batch, table):
    """Every pair of neighbouring rows obeys the time diagram."""
    mark, count, last = (batch.obs["vector"][..., i] for i in range(3))
    real, pair = batch.mask, batch.mask[:, 1:] & batch.mask[:, :-1]
    first, final = batch.is_first, batch.is_last
    assert torch.equal(batch.is_first[real], (count == 0)[real])
    assert torch.equal(batch.rew[real], count[real])
    length = 3 + torch.div(mark, 2, rounding_mode="floor") % 10
    assert torch.equal(final[real], (count == length)[real])
    assert torch.equal(batch.is_terminal[real], (final & (mark % 2 == 0))[real])
    assert torch.equal(batch.extras["told"][real], count[real])
    assert (batch.obs["image"][..., 1, 5, 5][real] == count[real]).all()
    inside = pair & ~first[:, 1:]
    assert torch.equal(mark[:, 1:][inside], mark[:, :-1][inside])
    assert torch.equal(count[:, 1:][inside], count[:, :-1][inside] + 1)
    chosen = first_entry(batch.act, table.act_space)
    assert torch.equal(last[:, 1:][inside], chosen[:, :-1][inside])  # act[t] led to row t + 1
    assert (last[first & real] == -1).all()
    assert torch.equal(first[:, 1:][pair], final[:, :-1][pair])  # NEXT_STEP: a reset row follows every last row
    assert batch.act.shape[-1] == act_size(table.act_space)
    if isinstance(table.act_space, spaces.MultiDiscrete):
        assert torch.equal(batch.obs["vector"][:, 1:, 3][inside], batch.act[:, :-1, 4:].argmax(-1).float()[inside])
        assert (batch.act[real].sum(-1) == 2).all()
    for values in (batch.rew, batch.act, batch.obs["vector"]):
        assert (values[~real] == 0).all()


def test_every_sampled_window_obeys_the_time_diagram(experience):
    table, *_ = experience
    for rows in (
        Frames(0)(table.index, 64),
        StreamWindows(0)(table.index, 32, 20),
        EpisodeWindows(0)(table.index, 64, 5),
        WholeEpisodes(0)(table.index, 32, 13),
        WholeEpisodes(0)(table.index, 32, 6, "left"),
    ):
        check_rows(table.gather(rows), table)


def test_steps_and_episodes_are_counted_once(experience):
    table, _, taken, ended = experience
    everything = np.arange(table.index.stop * N).reshape(-1, N).T.copy()  # (N, T)
    batch = table.gather(everything)
    check_rows(batch, table)
    assert taken == int((~batch.is_last).sum())
    returns = sorted(float(r) for outcome in ended for r in outcome.ret)
    last = batch.obs["vector"][..., 1][batch.is_last]  # an episode of n steps returns 1 + 2 + ... + n
    assert returns == sorted((last * (last + 1) / 2).tolist())
    assert all(
        r == length * (length + 1) / 2
        for outcome in ended
        for r, length in zip(outcome.ret, outcome.length, strict=True)
    )


def test_each_episode_has_the_seed_that_its_place_gives_it(experience):
    table, *_ = experience
    episodes = table.index.episodes()
    for stream in range(N):
        mine = np.flatnonzero(episodes.stream == stream)
        for number, e in enumerate(mine):
            row = table.gather(np.array([[episodes.start[e] * N + stream]]))
            assert row.obs["vector"][0, 0, 0] == Count.mark(derive(SEED, "episode", stream, number))


def test_a_rollout_plays_whole_episodes_of_the_seeds_asked_for_beside_the_stream(experience):
    table, policy, *_ = experience
    held = table.index.stop
    seeds = [5, 77]
    policy.idles = True
    outcome = table.rollout(policy, seeds)
    policy.idles = False
    lengths = [Count.steps(Count.mark(s)) for s in seeds]
    assert outcome.length.tolist() == lengths
    assert outcome.ret.tolist() == [n * (n + 1) / 2 for n in lengths]
    assert table.rollout_steps == sum(lengths)
    assert table.index.stop == held
    table.collect(policy, "count", 50)  # the stream goes on where it was: the policy's own asserts hold
    check_rows(table.gather(StreamWindows(1)(table.index, 64, 10)), table)


def test_one_hot_is_each_choices_own_side_by_side():
    counts = [3, 1, 4]
    space = spaces.MultiDiscrete(counts)
    acts = torch.cartesian_prod(*(torch.arange(n) for n in counts)).reshape(3, 4, 3)
    want = torch.cat([torch.nn.functional.one_hot(acts[..., i], n) for i, n in enumerate(counts)], -1).float()
    assert torch.equal(one_hot(acts, space), want)
    assert act_size(space) == want.shape[-1] == 8
    choices, numbers = torch.tensor([2, 0]), torch.tensor([[0.5, -1.0]])
    assert one_hot(choices, spaces.Discrete(3)).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(one_hot(numbers, spaces.Box(-1, 1, (2,))), numbers)


def test_uniform_play_meets_every_choice_and_world_models_refuses_several_at_once():
    space = spaces.MultiDiscrete([2, 3])
    act, *_ = Uniform(space)({}, torch.zeros(200, dtype=torch.bool), ())
    assert {tuple(a) for a in act.tolist()} == {(i, j) for i in range(2) for j in range(3)}
    with pytest.raises(UserError, match="acts in Discrete spaces and in flat Boxes"):
        actions_for(space)


def first_entry(act, space):
    """An action's first entry, from what networks see of it."""
    return act[..., 0] if isinstance(space, spaces.Box) else act[..., :4].argmax(-1).float()


class Clock:
    """A world model of the counting environment: its latent is (count, last action)."""

    def __init__(self, space):
        self.space = space

    def observe(self, batch):
        return Tick(batch.obs["vector"][..., 1], batch.obs["vector"][..., 2])

    def begin(self, latent):
        return latent

    def step(self, carry, act, temperature=1.0):
        nxt = Tick(carry.count + 1, first_entry(act, self.space))
        return nxt, nxt

    def predict(self, latent):
        return {"rew": latent.count}


class Tick(NamedTuple):
    count: torch.Tensor
    last: torch.Tensor


def test_imagining_with_the_rows_actions_reproduces_the_rows(experience):
    """imagine(...)[k] is compared with row t + k: actions t .. t+k-1 lead there."""
    table, *_ = experience
    batch = table.gather(EpisodeWindows(3)(table.index, 200, 4))
    whole = batch.mask.all(1)
    clock = Clock(table.act_space)
    start = Tick(*(x[:, 0] for x in clock.observe(batch)))
    dream = imagine(clock, start, batch.act[:, :-1], 3)
    truth = clock.observe(batch)
    for imagined, real in zip(dream.latents, truth, strict=True):
        assert torch.equal(imagined[whole], real[whole])
