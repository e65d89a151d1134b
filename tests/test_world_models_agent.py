"""The recipe on a real table of rows: every phase, resumed anywhere, with parts of another run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dreamlab import agents, envs
from dreamlab.agents import world_models
from dreamlab.agents.world_models.acting import Remembered
from dreamlab.agents.world_models.config import Config, ControllerConfig, MemoryConfig, VisionConfig
from dreamlab.agents.world_models.model import dream_rows
from dreamlab.core.config import merge
from dreamlab.core.errors import RunError, UserError
from dreamlab.core.imagination import tree_map
from dreamlab.core.protocols import Agent, Phase, WorldModelAgent
from dreamlab.core.types import Recorded
from dreamlab.nn.compute import Compute
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay

CPU = Compute(torch.device("cpu"))
RUN = RunConfig(envs=2)
CONFIG = Config(
    collect_steps=120,
    collect="random",
    vision=VisionConfig(latent=3, batch=4, updates=3),
    memory=MemoryConfig(
        hidden=8, mixtures=2, windows="windows", sequence=5, batch=3, updates=3, reward=True, continuation=True
    ),
    controller=ControllerConfig(
        population=4, episodes=2, generations=2, horizon=6, dream_rows=4, evaluate_every=2, evaluate_episodes=3
    ),
)
DREAMING = merge(CONFIG, {"controller": {"train_in": "dream"}, "memory": {"windows": "episodes"}})


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def env():
    return dataclasses.replace(envs.default_config("tiny/Catch"), workers=False)


@pytest.fixture
def experience(env, tmp_path):
    obs_space, act_space = envs.spaces_of(env)
    make = lambda: envs.make(env, 2, 0)  # noqa: E731
    table = Experience(Replay(tmp_path / "replay", 2, 0), obs_space, act_space, CPU.device, make, slots=2)
    yield table
    table.close()


def fresh(env, config: Config = CONFIG, seed: int = 0) -> world_models.WorldModelsAgent:
    return world_models.build(config, *envs.spaces_of(env), CPU, seed, RUN)


def collect(agent, experience) -> None:
    phase = agent.phases()[0]
    experience.collect(phase.act, phase.name, phase.env_steps)


def learn(phase: Phase, experience, rounds: int | None = None) -> list:
    (unit, times), *_ = phase.learn
    return [unit(experience) for _ in range((phase.rounds if rounds is None else rounds) * times)]


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one == other


def test_it_is_what_the_contract_calls_an_agent(env):
    agent = fresh(env)
    assert isinstance(agent, Agent)
    assert isinstance(agent, WorldModelAgent)
    assert agents.load("world-models") is world_models
    assert set(agent.parts) == {"vision", "memory", "controller"}


@pytest.mark.parametrize("config", [CONFIG, DREAMING], ids=["env", "dream"])
def test_a_recipe_interrupted_anywhere_ends_with_the_same_numbers(env, experience, config):
    """Each phase is cut after every unit: the state goes into a fresh agent, which goes on."""
    whole, cut = fresh(env, config), fresh(env, config)
    collect(whole, experience)
    cut.load_state_dict(whole.state_dict())
    for i in range(1, 5):
        metrics = learn(whole.phases()[i], experience)
        assert all(np.isfinite(float(v)) for m in metrics for v in m.values())
        for _ in range(whole.phases()[i].rounds):
            learn(cut.phases()[i], experience, 1)
            again = fresh(env, config, seed=1)
            again.load_state_dict(cut.state_dict())
            again.seed = again.behaviour.seed = again.behaviour.search.seed = 0  # the run's seed comes from its config
            cut = again
        assert same(whole.state_dict(), cut.state_dict()), whole.phases()[i].name
    assert whole.behaviour.search.evolution.generation == 2


def test_every_row_gets_its_codes(env, experience):
    agent = fresh(env)
    collect(agent, experience)
    learn(agent.phases()[2], experience)
    index = experience.index
    rows = np.arange(index.start * index.streams, index.stop * index.streams)
    batch = experience.gather(rows[:, None])
    mu, logvar = agent.model.vision.encode(batch.obs["image"][:, 0].float() / 255)
    torch.testing.assert_close(batch.extras["mu"][:, 0].float(), mu, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(batch.extras["logvar"][:, 0].float(), logvar, atol=2e-3, rtol=2e-3)
    assert batch.extras["mu"].dtype == torch.float16


def test_reports_measure_and_draw_without_changing_anything(env, experience):
    agent = fresh(env)
    collect(agent, experience)
    for i, wanted in ((1, {"reconstructions", "traversal", "active_units"}), (3, {"sequence_accuracy", "reward_mae"})):
        learn(agent.phases()[2], experience) if i == 3 else None
        before = agent.state_dict()
        found = agent.report(agent.phases()[i].name, experience)
        assert wanted <= set(found)
        assert same(before, agent.state_dict())
        assert all(v.dtype == torch.uint8 and v.dim() == 3 for k, v in found.items() if getattr(v, "dim", int)() == 3)
    assert agent.report("collect", experience) == {}


@pytest.mark.parametrize("config", [CONFIG, DREAMING], ids=["env", "dream"])
def test_every_phase_and_report_runs_in_bf16(env, experience, config):
    agent = world_models.build(config, *envs.spaces_of(env), dataclasses.replace(CPU, bf16=True), 0, RUN)
    collect(agent, experience)
    for phase in agent.phases()[1:]:
        for metrics in (*learn(phase, experience), agent.report(phase.name, experience)):
            assert all(torch.as_tensor(v).isfinite().all() for v in metrics.values())
    assert agent.behaviour.search.evolution.generation == 2


def test_parts_of_another_run_are_not_trained_again(env, experience):
    source, agent = fresh(env, seed=5), fresh(env)
    assert agent.load_parts(source.state_dict()) == ["vision", "memory"]
    rounds = {p.name: (p.env_steps, p.rounds) for p in agent.phases()}
    assert rounds["vision"] == rounds["memory"] == rounds["encode"] == (0, 0)
    assert rounds["controller"][1] > 0
    assert same(agent.state_dict()["vision"], source.state_dict()["vision"])
    again = fresh(env)
    again.load_state_dict(agent.state_dict())
    assert {p.name: (p.env_steps, p.rounds) for p in again.phases()} == rounds
    with pytest.raises(UserError, match="does not fit"):
        fresh(env, merge(CONFIG, {"vision": {"latent": 7}})).load_parts(source.state_dict())


def test_acting_forgets_at_a_first_row_only(env):
    agent = fresh(env)
    policy, obs = agent.policy(explore=False), {"image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}
    state = Remembered(torch.full((2, 8), 0.5), torch.full((2, 8), 0.5))
    _, cleared, _ = policy(obs, torch.tensor([True, False]), state)
    policy = agent.policy(explore=False)
    _, expected, _ = policy(
        obs, torch.tensor([False, False]), Remembered(*(s * torch.tensor([[0.0], [1]]) for s in state))
    )
    torch.testing.assert_close(cleared.h, expected.h)
    torch.testing.assert_close(cleared.c, expected.c)


def test_acting_is_the_same_again_and_follows_the_controller(env):
    agent = fresh(env)
    obs, first = {"image": torch.randint(256, (50, 3, 16, 16), dtype=torch.uint8)}, torch.ones(50, dtype=torch.bool)

    def act(policy):
        return policy(obs, first, policy.initial(50))[0]

    agent.behaviour.controller.theta.normal_()
    assert torch.equal(act(agent.policy(explore=False)), act(agent.policy(explore=False)))
    agent.behaviour.controller.theta[-1] = 100.0  # the last action's bias
    assert act(agent.policy(explore=False)).unique().tolist() == [2]


def test_each_row_of_a_wave_follows_its_own_candidate(env):
    agent = fresh(env)
    theta = torch.zeros(3, agent.behaviour.controller.theta.numel())
    theta[torch.arange(3), -3 + torch.arange(3)] = 100.0  # candidate i always takes action i
    policy = agent.behaviour._acting(theta, torch.Generator())
    obs = {"image": torch.zeros(4, 3, 16, 16, dtype=torch.uint8)}
    act, _, _ = policy(obs, torch.ones(4, dtype=torch.bool), policy.initial(4))
    assert act.tolist()[:3] == [0, 1, 2]


def test_the_model_arrives_where_acting_does(env, experience):
    """``observe`` gives the state that C acted on, up to z being at its mean."""
    agent = fresh(env)
    collect(agent, experience)
    index = experience.index
    rows = np.arange(index.start, index.start + 7)[None] * index.streams
    batch = experience.gather(rows)
    latent = agent.model.observe(batch)
    h, c = agent.model.memory.initial(1)
    for t in range(7):
        keep = (~batch.is_first[:, t, None]).float()
        h, c = h * keep, c * keep
        torch.testing.assert_close(latent.h[:, t], h)
        h, c = agent.model.memory.cell(latent.z[:, t], batch.act[:, t], h, c, batch.is_first[:, t].float())
    said = agent.model.predict(latent)
    assert said["image"].shape == (1, 7, 3, 16, 16)
    assert said["rew"].shape == said["con"].shape == (1, 7)
    start = tree_map(lambda x: x[:, 0], latent)
    carry, imagined = agent.model.step(agent.model.begin(start), batch.act[:, 0])
    assert imagined.z.shape == (1, 3)
    assert carry is imagined


def test_an_encoder_that_does_not_fit_and_unfit_images_are_refused(env):
    act, vector = spaces.Discrete(2), spaces.Dict(vector=spaces.Box(-1, 1, (4,)))
    with pytest.raises(UserError, match="sees the observation 'image', but the environment gives vector"):
        world_models.build(merge(CONFIG, {"vision": {"encoder": "conv"}}), vector, act, CPU, 0, RUN)
    with pytest.raises(UserError, match="square images"):
        world_models.build(CONFIG, spaces.Dict(image=spaces.Box(0, 255, (3, 210, 160), np.uint8)), act, CPU, 0, RUN)


def test_full_sizes_are_built_without_memory():
    car = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    image = spaces.Dict(image=spaces.Box(0, 255, (3, 64, 64), np.uint8))
    with torch.device("meta"):
        agent = world_models.build(Config(), image, car, Compute(torch.device("meta")), 0, RUN)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in agent.parts.items()}
    assert counts == {"vision": 4_348_547, "memory": 422_368, "controller": 867}
    need = world_models.footprint(Config(), image, car, RUN)
    assert need.row_bytes == 128
    assert 2 << 30 < need.memory_bytes < 4 << 30
    doom = merge(Config(), agents.preset("world-models", "doom-take-cover")["agent"])
    with torch.device("meta"):
        agent = world_models.build(doom, image, spaces.Discrete(3), Compute(torch.device("meta")), 0, RUN)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in agent.parts.items()}
    assert counts == {"vision": 4_446_915, "memory": 1_678_785, "controller": 1_088}


def test_a_later_iteration_collects_with_the_controller_and_trains_on(env, experience):
    agent = fresh(env, merge(DREAMING, {"iterations": 2, "collect_sigma": 0.1}))
    phases = agent.phases()
    assert [p.key for p in phases[5:]] == ["collect 2", "vision 2", "encode 2", "memory 2", "controller 2"]
    collect(agent, experience)
    for phase in phases[1:5]:
        learn(phase, experience)
    mean = agent.behaviour.search.evolution.mean
    experience.collect(phases[5].act, phases[5].key, phases[5].env_steps)
    assert experience.index.stop * 2 >= 240
    for phase in phases[6:]:
        learn(phase, experience)
    search = agent.behaviour.search
    assert search.iteration == 2
    assert np.array_equal(search.evolution.start, mean.astype(np.float32))
    assert search.evolution.generation == 2
    batch = experience.gather(np.arange(experience.index.stop * 2)[:, None], obs=("image",))
    mu = agent.model.vision.encode(batch.obs["image"][:, 0].float() / 255)[0]
    torch.testing.assert_close(batch.extras["mu"][:, 0].float(), mu, atol=2e-3, rtol=2e-3)  # codes of the V there is


def test_stages_say_what_is_trained(env):
    source = fresh(env, seed=5)
    source.behaviour.controller.theta.normal_()
    source.behaviour.search.begin_again()
    only = fresh(env, merge(CONFIG, {"stages": ["vision", "memory"]}))
    assert {p.name for p in only.phases() if p.rounds or p.env_steps} == {"collect", "vision", "encode", "memory"}
    assert not only.acts
    warm = fresh(env, merge(CONFIG, {"stages": ["memory"]}))
    warm.phases()  # a run that goes on asks for them before its parts are there
    with pytest.raises(UserError, match="memory needs vision"):
        warm.refuse_untrained()
    assert warm.load_parts(source.state_dict()) == ["vision", "memory", "controller"]
    assert {p.name for p in warm.phases() if p.rounds or p.env_steps} == {"collect", "encode", "memory"}
    assert warm.acts
    torch.testing.assert_close(warm.behaviour.controller.theta, source.behaviour.controller.theta)
    other = fresh(env, merge(CONFIG, {"stages": ["memory"], "memory": {"hidden": 9}}))
    with pytest.raises(UserError, match="controller does not fit"):  # its input has another width
        other.load_parts(source.state_dict())
    other = fresh(env, merge(CONFIG, {"stages": ["memory", "controller"], "memory": {"hidden": 9}}))
    words = other.load_parts(source.state_dict())
    assert words == ["vision", "memory anew, as it does not fit", "controller anew, as it does not fit"]
    never = fresh(env, merge(CONFIG, {"stages": ["vision", "memory"]})).state_dict()
    assert fresh(env, merge(CONFIG, {"stages": ["controller"]})).load_parts(never) == ["vision", "memory"]


def test_generations_that_are_added_go_to_the_last_iteration(env, experience):
    def run(agent) -> None:
        for phase in agent.phases():
            if phase.name == "controller":
                learn(phase, experience, phase.rounds - done.get(phase.key, 0))
                done[phase.key] = phase.rounds

    done: dict[str, int] = {}
    agent = fresh(env, merge(DREAMING, {"iterations": 2}))
    collect(agent, experience)
    for phase in agent.phases()[1:4]:
        learn(phase, experience)
    run(agent)
    longer = fresh(env, merge(DREAMING, {"iterations": 2, "controller": {"generations": 4}}))
    longer.load_state_dict(agent.state_dict())
    run(longer)
    assert (longer.behaviour.search.iteration, longer.behaviour.search.evolution.generation) == (2, 4)


def test_a_warm_up_longer_than_every_episode_is_refused(env, experience):
    agent = fresh(env, merge(CONFIG, {"memory": {"warm_up": 8, "sequence": 9}}))
    collect(agent, experience)
    learn(agent.phases()[2], experience)
    with pytest.raises(RunError, match="no episode is longer than the 8 steps"):
        learn(agent.phases()[3], experience, 1)


@pytest.mark.parametrize("encoder", ["plain", "mlp"])
def test_vectors_are_seen_standardised_and_given_back(encoder):
    space = spaces.Dict(vector=spaces.Box(-np.inf, np.inf, (4,)))
    config = merge(CONFIG, {"vision": {"encoder": encoder, "latent": 3}})
    agent = world_models.build(config, space, spaces.Discrete(2), CPU, 0, RUN)
    vision, rng = agent.model.vision, np.random.default_rng(0)
    data = torch.as_tensor(rng.normal([5, -2, 0, 1], [3, 0.1, 1, 0], (600, 4)), dtype=torch.float32)
    for part in data.split(200):
        vision.adapt(part)
    torch.testing.assert_close(vision.standard.mean, data.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vision.standard.var, data.var(0, unbiased=False), atol=1e-4, rtol=1e-4)
    z = vision.encode(vision.inputs({"vector": data}))[0]
    assert z.shape == (600, 4 if encoder == "plain" else 3)
    assert vision.decode(z).shape == data.shape
    if encoder == "plain":
        torch.testing.assert_close(vision.decode(z), data, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(z.std(0)[:3], torch.ones(3), atol=0.01, rtol=0.01)


def test_recordings_that_lack_what_the_recipe_needs_are_refused_with_the_reason(env):
    recorded = Recorded(rows=100, actions=True, rewards=True, ends=True, env=False)
    agent = fresh(env, DREAMING)
    agent.learn_from(recorded)
    assert all(p.env_steps == 0 for p in agent.phases())
    for config, lack, word in (
        (DREAMING, {"rewards": False}, "no rewards"),
        (DREAMING, {"ends": False}, "no ends"),
        (DREAMING, {"actions": False}, "no actions"),
        (CONFIG, {}, "no environment"),
        (merge(DREAMING, {"iterations": 2}), {}, "second iteration"),
    ):
        with pytest.raises(UserError, match=word):
            fresh(env, config).learn_from(recorded._replace(**lack))


def test_dreams_warm_up_inside_one_episode(env, experience):
    agent = fresh(env, merge(DREAMING, {"controller": {"warm_up": 3}}))
    collect(agent, experience)
    rows = dream_rows(experience, 3, np.arange(200))
    batch = experience.gather(rows, obs=())
    assert not batch.is_first[:, 1:].any()
    assert not batch.is_last.any()
    assert len(np.unique(rows[:, 0])) > 50
    for phase in agent.phases()[1:]:
        learn(phase, experience)
    assert agent.behaviour.search.evolution.generation == 2


def test_footprint_of_the_paper(env):
    car = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
    image = spaces.Dict(image=spaces.Box(0, 255, (3, 64, 64), np.uint8))
    need = world_models.footprint(Config(), image, car, RUN)
    assert 2 << 30 < need.memory_bytes < 4 << 30


@pytest.mark.parametrize("name", ["car-racing", "demo", "smoke"])
def test_presets_fit_the_config(name):
    preset = agents.preset("world-models", name)
    config = merge(Config(), preset["agent"])
    plan = world_models.budget(config, merge(RunConfig(), preset["run"]))
    assert [p.name for p in plan] == ["collect", "vision", "encode", "memory", "controller"]
    assert merge(envs.default_config(preset["env"]["id"]), preset["env"]).id == preset["env"]["id"]


def test_help_needs_no_torch():
    code = "import sys, dreamlab.agents.world_models as w; w.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0
