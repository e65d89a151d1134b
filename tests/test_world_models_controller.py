"""C: action maps, CMA-ES as it is saved and resumed, and generations played in waves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dreamlab.agents.world_models.acting import COLLECTORS
from dreamlab.agents.world_models.actions import Bounded, CarRacing, Choice, actions_for
from dreamlab.agents.world_models.config import Config, ControllerConfig, MemoryConfig, budget, generation_rounds
from dreamlab.agents.world_models.controller import Controller, Hidden, Linear
from dreamlab.agents.world_models.evolution import Evolution, Search
from dreamlab.core.errors import Interrupted, NonFinite, UserError
from dreamlab.core.types import Outcome
from dreamlab.run.config import RunConfig

CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---- actions


def test_the_papers_controller_count():
    assert Linear(32 + 256, 3).size == 867
    assert Linear(32, 3).size == 99
    assert Linear(64 + 2 * 512, 1, bias=False).size == 1088
    assert Hidden(32, 3, 40).size == 1443


def test_car_racing_at_rest_and_at_its_ends():
    act = actions_for(CAR)
    assert isinstance(act, CarRacing)
    assert act(torch.zeros(3)).tolist() == [0, 0.5, 0]
    assert act(torch.full((3,), 1e6)).tolist() == [1, 1, 1]
    assert act(torch.full((3,), -1e6)).tolist() == [-1, 0, 0]


@pytest.mark.parametrize("space", [CAR, spaces.Box(-2, 5, (4,), np.float32), spaces.Discrete(4, start=3)])
@pytest.mark.parametrize("kind", list(COLLECTORS))
def test_whatever_is_chosen_the_environment_takes_it(space, kind):
    actions = actions_for(space)
    for scale in (0, 1, 1e6):
        for act in actions.emit(actions(scale * torch.randn(50, actions.size))).numpy():
            assert space.contains(act)
    policy = COLLECTORS[kind](4, actions, rng())
    state, first = policy.initial(20), torch.ones(20, dtype=torch.bool)
    for _ in range(60):
        act, state, _ = policy({}, first, state)
        assert all(space.contains(a) for a in act.numpy())
        first = torch.zeros(20, dtype=torch.bool)


def test_unbounded_actions_are_refused():
    with pytest.raises(UserError, match="with bounds"):
        actions_for(spaces.Box(-np.inf, np.inf, (2,), np.float32))


def test_discrete_actions_are_one_hot_for_the_networks():
    choice = Choice(spaces.Discrete(3))
    act = choice(torch.tensor([[0.1, 2.0, -1.0]]))
    assert act.tolist() == [[0, 1, 0]]
    assert choice.emit(act).tolist() == [1]


def test_a_random_walk_moves_a_little_and_white_noise_a_lot():
    def wander(kind: str) -> float:
        policy, state = COLLECTORS[kind](4, Bounded(CAR), rng()), None
        state, acts = policy.initial(200), []
        for t in range(10):
            act, state, _ = policy({}, torch.full((200,), t == 0), state)
            acts.append(act)
        return (acts[9] - acts[8]).abs().mean().item()

    assert wander("brownian") < 0.4 * wander("random")


def test_a_random_controller_lasts_one_episode():
    policy = COLLECTORS["cauchy"](4, actions_for(CAR), rng())
    state = policy.initial(2)
    _, state, _ = policy({}, torch.tensor([True, True]), state)
    before = state.theta
    _, state, _ = policy({}, torch.tensor([False, True]), state)
    assert torch.equal(state.theta[0], before[0])
    assert not torch.equal(state.theta[1], before[1])


def test_a_population_acts_as_its_candidates_do():
    theta, feat = torch.randn(5, Linear(7, 3).size), torch.randn(5, 4, 7)
    for p, raw in enumerate(Linear(7, 3)(theta, feat)):
        weight, bias = theta[p, :21].view(3, 7), theta[p, 21:]
        torch.testing.assert_close(raw, feat[p] @ weight.T + bias)


# ---- CMA-ES


def test_cma_es_finds_the_bottom_of_a_sphere_by_maximising():
    evolution = Evolution(20, 12, 0.1, seed=1)
    for _ in range(400):
        evolution.tell(-np.square(evolution.ask() - 1).sum(1))  # from 0 to 1 is from 1 to 0
        if np.square(evolution.mean - 1).sum() < 1e-8:
            break
    assert np.square(evolution.mean - 1).sum() < 1e-8


def test_more_is_better():
    evolution = Evolution(3, 8, 0.1, seed=0)
    for _ in range(20):
        evolution.tell(evolution.ask().sum(1))
    assert evolution.mean.sum() > 1


def test_only_the_ranks_count():
    one, other = Evolution(4, 8, 0.1, seed=3), Evolution(4, 8, 0.1, seed=3)
    for _ in range(10):
        fitness = -np.square(one.ask() - 0.5).sum(1)
        assert np.array_equal(one.ask(), other.ask())
        one.tell(fitness)
        other.tell(np.exp(5 * fitness) + 7)
    assert np.array_equal(one.mean, other.mean)
    assert one.sigma == other.sigma


def test_replaying_ask_and_tell_ends_in_the_same_state_bit_by_bit():
    one = Evolution(30, 8, 0.1, seed=5)
    for _ in range(25):
        one.tell(-np.abs(one.ask() - 0.3).sum(1))
    again = Evolution(30, 8, 0.1, seed=99)
    again.load_state_dict(one.state_dict())
    for _ in range(5):
        assert np.array_equal(one.ask(), again.ask())
        fitness = -np.abs(one.ask() - 0.3).sum(1)
        one.tell(fitness)
        again.tell(fitness)
    assert np.array_equal(one.mean, again.mean)
    assert one.generation == again.generation == 30


def test_numpys_global_generator_is_left_alone(capsys):
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    evolution = Evolution(5, 6, 0.1, seed=1)
    drawn = evolution.ask().copy()
    evolution.tell(np.arange(6.0))
    assert np.array_equal(before, np.random.get_state()[1])
    np.random.seed(8)
    assert np.array_equal(Evolution(5, 6, 0.1, seed=1).ask(), drawn)
    assert capsys.readouterr() == ("", "")


def test_candidates_are_not_rounded_and_start_around_zero():
    drawn = Evolution(200, 64, 0.1, seed=0).ask()
    assert drawn.std() == pytest.approx(0.1, rel=0.05)
    assert not np.array_equal(drawn, drawn.round(4))


def test_equal_fitness_is_no_accident():
    evolution = Evolution(5, 6, 0.1, seed=0)
    for _ in range(5):
        evolution.tell(np.zeros(6))
    assert np.isfinite(evolution.ask()).all()


# ---- generations in waves


class Rows:
    """An experience of which only the slots count."""

    def __init__(self, slots: int) -> None:
        self.slots = slots


class Game:
    """Plays by adding up the weights, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, np.ndarray, int]] = []
        self.broken = False

    def __call__(self, experience, theta, seeds, seed) -> Outcome:
        if self.broken:
            raise Interrupted
        self.asked.append((np.array(theta), seeds, seed))
        ret = np.repeat(theta.sum(1), len(seeds) // len(theta))
        return Outcome(ret, np.full(len(seeds), 10))


def search(game: Game, **options) -> Search:
    defaults = {"population": 6, "episodes": 4, "generations": 3, "evaluate_every": 2, "evaluate_episodes": 5}
    return Search(ControllerConfig(**{**defaults, **options}), Controller(Linear(3, 2)), game, seed=11)


def test_a_generation_is_heard_of_when_its_last_wave_is_in():
    game = Game()
    c, rows = search(game, evaluate_every=0), Rows(10)
    metrics = [c(rows) for _ in range(3)]  # 24 episodes: 10, 10, 4
    assert [len(seeds) for _, seeds, _ in game.asked] == [10, 10, 4]
    assert ["generation" in m for m in metrics] == [False, False, True]
    asked = np.concatenate([theta for theta, _, _ in game.asked])  # (24, n)
    assert np.array_equal(asked[::4], asked[3::4])  # 4 episodes for each of the 6 candidates
    assert metrics[2]["return"] == pytest.approx(asked.sum(1).mean())
    assert c.evolution.generation == 1
    torch.testing.assert_close(c.controller.theta, torch.tensor(c.evolution.mean, dtype=torch.float32))


def test_candidates_half_a_population_apart_share_their_episodes_and_generations_none():
    game = Game()
    c = search(game, evaluate_every=0)
    c(Rows(24))
    c(Rows(24))
    first, second = (seeds.reshape(6, 4) for _, seeds, _ in game.asked)
    assert np.array_equal(first[:3], first[3:])
    assert len(np.unique(first)) == 12
    assert not set(first.flat) & set(second.flat)
    shared = search(game, shared_seeds=True)
    shared(Rows(24))
    assert len(np.unique(game.asked[-1][1])) == 4


@pytest.mark.parametrize(
    ("slots", "options"), [(10, {}), (3, {}), (2, {"train_in": "dream", "dream_rows": 9}), (64, {})]
)
def test_the_budget_is_the_number_of_waves(slots, options):
    c = search(Game(), **options)
    rounds = generation_rounds(c.config, slots)
    for _ in range(rounds - 1):
        c(Rows(slots))
    assert c.evolution.generation < 3
    c(Rows(slots))
    assert c.evolution.generation == 3
    assert len(c.returns) == 0
    assert not c.evaluating


def test_the_mean_is_evaluated_after_every_second_generation():
    game = Game()
    c = search(game)
    for _ in range(2):
        c(Rows(24))
    metrics = c(Rows(24))
    theta, seeds, _ = game.asked[-1]
    assert np.array_equal(theta, c.evolution.mean[None])
    assert len(seeds) == 5
    assert metrics["mean_return"] == pytest.approx(c.evolution.mean.sum())
    assert "generation" in c(Rows(24))


def test_an_interrupted_wave_leaves_no_trace():
    plain, shaken = Game(), Game()
    a, b = search(plain), search(shaken)
    for _ in range(6):
        a(Rows(10))
        shaken.broken = True
        with pytest.raises(Interrupted):
            b(Rows(10))
        shaken.broken = False
        b(Rows(10))
    for (theta, seeds, seed), (other, others, again) in zip(plain.asked, shaken.asked, strict=True):
        assert np.array_equal(theta, other)
        assert np.array_equal(seeds, others)
        assert seed == again
    assert np.array_equal(a.evolution.mean, b.evolution.mean)


def test_a_search_goes_on_from_the_middle_of_a_generation():
    plain, before, after = Game(), Game(), Game()
    a, b, c = search(plain), search(before), search(after)
    for _ in range(10):
        a(Rows(10))
    for _ in range(4):
        b(Rows(10))
    c.load_state_dict(b.state_dict())
    for _ in range(6):
        c(Rows(10))
    for (theta, seeds, seed), (other, others, again) in zip(plain.asked[4:], after.asked, strict=True):
        assert np.array_equal(theta, other)
        assert np.array_equal(seeds, others)
        assert seed == again
    assert np.array_equal(a.evolution.mean, c.evolution.mean)
    assert a.best_evaluation == c.best_evaluation > -math.inf


def test_a_return_that_is_not_finite_is_refused():
    def play(experience, theta, seeds, seed) -> Outcome:
        return Outcome(np.full(len(seeds), np.nan), np.ones(len(seeds), np.int64))

    with pytest.raises(NonFinite, match="generation 1"):
        Search(ControllerConfig(population=4), Controller(Linear(3, 2)), play, 0)(Rows(4))


# ---- the budget


def test_the_papers_budget():
    plan = {p.name: (p.env_steps, p.rounds) for p in budget(Config(), RunConfig(envs=64))}
    assert plan["collect"] == (10_000_000, 0)
    assert plan["vision"] == (0, 100_000)
    assert plan["memory"] == (0, 4000)
    assert plan["controller"] == (0, 1800 * 16 + 72)  # 1024 episodes on 64; 64 for each evaluation


def test_what_another_run_trained_is_not_trained_again():
    plan = {p.name: (p.env_steps, p.rounds) for p in budget(Config(), RunConfig(), ("vision", "memory"))}
    assert all(plan[name] == (0, 0) for name in ("collect", "vision", "encode", "memory"))
    dream = Config(memory=MemoryConfig(reward=True), controller=ControllerConfig(train_in="dream"))
    plan = {p.name: (p.env_steps, p.rounds) for p in budget(dream, RunConfig(), ("vision", "memory"))}
    assert plan["collect"][0] > 0
    assert plan["encode"][1] > 0


def test_a_dream_without_a_goal_is_refused():
    with pytest.raises(ValueError, match=r"memory\.reward true"):
        Config(controller=ControllerConfig(train_in="dream"))
