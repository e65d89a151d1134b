"""An agent of another kind fits: its state is its last tokens, and every phase, the dream and resume take it."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_agent
from toy_parts import ToyAgent, ToyModel

from dreamlab import envs
from dreamlab.core.imagination import imagine, leaves, predict_all, tree_map
from dreamlab.core.protocols import Agent, WorldModelAgent
from dreamlab.core.sampling import EpisodeWindows
from dreamlab.core.types import Batch
from dreamlab.dream.env import DreamEnv
from dreamlab.dream.film import films
from dreamlab.dream.prediction import prediction_error
from dreamlab.nn.compute import Compute
from dreamlab.run.checkpoint import Checkpoints
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay
from dreamlab.run.trainer import Stopped, Trainer

COMPUTE = Compute(torch.device("cpu"))
QUICK = toy_agent.Config(collect=120, practice=120, study=4, tune=3)


class Silent:
    """A log that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def add(self, group, metrics):
        self.lines.append((group, {k: v if getattr(v, "ndim", 0) else float(v) for k, v in metrics.items()}))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def check(self, step): ...
    def write(self, step, **extra): ...
    def progress(self, *args, **kwargs): ...
    def message(self, text): ...


def start(folder, id="tiny/Catch", config=QUICK, seed=0, module=toy_agent):
    """A trainer of the toy agent (or another) in a folder, its agent and its experience."""
    env = envs.default_config(id)
    env = type(env)(**{**env.__dict__, "workers": False})
    run = RunConfig(seed=seed, envs=2, save_minutes=1000)
    obs_space, act_space = envs.spaces_of(env)
    agent = module.build(config, obs_space, act_space, COMPUTE, seed, run)
    replay = Replay(folder / "replay", run.envs)
    experience = Experience(
        replay, obs_space, act_space, COMPUTE.device, lambda: envs.make(env, run.envs, seed), slots=run.envs
    )
    return Trainer(agent, experience, Silent(), Checkpoints(folder, run.keep), run), agent, experience


def weights(agent: ToyAgent) -> torch.Tensor:
    return torch.cat([p.flatten() for part in agent.parts.values() for p in part.parameters()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    trainer, agent, experience = start(tmp_path_factory.mktemp("toy"))
    trainer.train()
    return trainer, agent, experience


def test_it_also_runs_on_vectors(tmp_path):
    trainer, agent, _ = start(tmp_path, "CartPole-v1")
    before = weights(agent)
    trainer.train()
    assert not torch.equal(before, weights(agent))


def test_it_keeps_the_contract(trained):
    _, agent, _ = trained
    assert isinstance(agent, Agent)
    assert isinstance(agent, WorldModelAgent)
    budget = toy_agent.budget(QUICK, RunConfig())
    assert [(p.name, p.env_steps, p.rounds) for p in budget] == [
        (p.name, p.env_steps, p.rounds) for p in agent.phases()
    ]
    assert toy_agent.budget(QUICK, RunConfig(steps=200))[-1].env_steps == 80
    assert toy_agent.footprint(QUICK, None, None, None).row_bytes == 8


def test_it_is_counted_on_the_meta_device():
    obs, act = envs.spaces_of(envs.default_config("CartPole-v1"))
    with torch.device("meta"):
        agent = toy_agent.build(QUICK, obs, act, Compute(torch.device("meta")), 0, RunConfig())
    assert sum(p.numel() for p in agent.parts["actor"].parameters()) == 32 * 2 + 2


def test_every_phase_learned_and_every_row_has_its_token(trained):
    trainer, agent, experience = trained
    told = {(group, key) for group, metrics in trainer.log.lines for key in metrics}
    assert {("study", "changed"), ("practice", "loss"), ("tune", "gain"), ("collect", "ret")} <= told
    rows = np.arange(experience.index.stop * 2).reshape(1, -1)[:, -20:]  # of practice: the tokenizer rests by then
    batch = experience.gather(rows)
    assert torch.equal(batch.extras["token"], agent.model.encode(batch.obs))


def test_what_it_remembers_while_acting_is_what_it_observes(trained):
    """The policy's window, step by step through resets, is ``observe`` of the same rows."""
    _, agent, experience = trained
    index = experience.index
    rows = np.arange(index.start * 2, index.stop * 2).reshape(-1, 2).T[:, :60]  # both streams, time by time
    batch = experience.gather(rows)
    assert batch.is_first[:, 1:].any()
    latents = agent.model.observe(batch)
    policy = agent.policy(explore=False)
    state = policy.initial(2)
    for t in range(60):
        obs = {k: v[:, t] for k, v in batch.obs.items()}
        _, state, _ = policy(obs, batch.is_first[:, t], state)
        assert torch.equal(state.window.tokens, latents.tokens[:, t])
        window = agent.model.chose(state.window._replace(), batch.act[:, t].argmax(-1))
        state = state._replace(window=window)  # the action that was really taken


def test_what_comes_later_does_not_change_what_was_observed(trained):
    _, agent, experience = trained
    batch = experience.gather(EpisodeWindows(0)(experience.index, 4, 8))
    later = batch._replace(obs={"image": batch.obs["image"].clone()}, act=batch.act.clone())
    later.obs["image"][:, 5:], later.act[:, 5:] = 255, 1
    one, two = agent.model.observe(batch), agent.model.observe(later)
    assert torch.equal(one.tokens[:, :5], two.tokens[:, :5])
    assert torch.equal(one.acts[:, :5], two.acts[:, :5])


def test_an_imagined_window_is_the_observed_one_moved_on():
    config = toy_agent.Config(context=3, codes=4)
    model = ToyModel(config, (2,), "vector", 3)
    first = tree_map(lambda x: x.expand(5, -1), model.fresh(1, torch.device("cpu")))
    first = model.see(first, torch.arange(5) % 4)
    act = torch.nn.functional.one_hot(torch.randint(3, (5, 6)), 3).float()
    out = imagine(model, first, act)
    for k in range(6):
        assert torch.equal(out.latents.tokens[:, k + 1, :-1], out.latents.tokens[:, k, 1:])
        assert torch.equal(out.latents.acts[:, k + 1, -2], act[:, k].argmax(-1))
        assert (out.latents.acts[:, k + 1, -1] == 3).all()
    assert {k: v.shape[:2] for k, v in predict_all(model, out.latents).items()} == dict.fromkeys(
        ("vector", "rew", "con"), (5, 7)
    )


def test_it_can_be_dreamt_in_scored_and_filmed(trained):
    _, agent, experience = trained
    windows: Batch = experience.gather(EpisodeWindows(0)(experience.index, 8, 9))
    latents = agent.model.observe(windows)
    starts = tree_map(lambda x: x[:, 0], latents)
    dream = DreamEnv(agent.model, starts, experience.act_space, 3, horizon=5)
    obs, _ = dream.reset(seed=0)
    for _ in range(12):
        assert obs in dream.observation_space
        obs, *_ = dream.step(dream.action_space.sample())
    out = prediction_error(agent.model, [windows], context=3, horizon=6)
    assert {"model", "latent", "reward_mae", "continue_accuracy"} <= set(out)
    assert films(agent.model, windows, context=3)[0].dream.shape[1:] == (3, 16, 16)
    assert len(leaves(latents)) == 2


@pytest.mark.parametrize("at", [("collect", 60), ("study", 2), ("tune", 2), ("practice", 61)])
def test_interrupted_anywhere_it_ends_with_the_same_weights(trained, tmp_path, at):
    """Stopped by the user in each phase and started again as if by a new process: bit for bit the same."""
    phase, when = at
    torch.manual_seed(0)
    trainer, *_ = start(tmp_path)
    _stop_at(trainer, phase, when)
    with pytest.raises(Stopped):
        trainer.train()
    torch.manual_seed(99)  # whatever the new process drew before it restored
    again, agent, experience = start(tmp_path)
    assert again.restore() is not None
    again.train()
    assert torch.equal(weights(agent), weights(trained[1]))
    assert agent.gains == trained[1].gains
    assert experience.rollout_steps == trained[2].rollout_steps
    assert experience.index.stop == trained[2].index.stop
    rows = np.arange(experience.index.stop * 2)[None]
    for one, two in zip(leaves(_plain(experience.gather(rows))), leaves(_plain(trained[2].gather(rows))), strict=True):
        assert torch.equal(one, two)


def _plain(batch: Batch) -> tuple:
    return tuple(tuple(x[k] for k in sorted(x)) if isinstance(x, dict) else x for x in batch)


def _stop_at(trainer: Trainer, phase: str, when: int) -> None:
    """Ask to stop once a phase's count of steps or rounds reaches ``when``."""
    after = trainer._after

    def watched(running):
        count = trainer.progress.of(running)
        done = count.env_steps if running.env_steps else count.rounds
        trainer.stop = trainer.stop or (running.name == phase and done >= when)
        after(running)

    trainer._after = watched


def test_a_state_dict_brings_everything_back(trained, tmp_path):
    _, agent, experience = trained
    twin = ToyAgent(QUICK, experience.obs_space, experience.act_space, COMPUTE, 1, SimpleNamespace(steps=None))
    twin.load_state_dict(deepcopy(agent.state_dict()))  # torch's optimizers share what they load
    torch.manual_seed(5)
    agent_losses = [float(agent.learn_dynamics(experience)["loss"]) for _ in range(3)]
    torch.manual_seed(5)
    assert [float(twin.learn_dynamics(experience)["loss"]) for _ in range(3)] == agent_losses
    assert torch.equal(weights(agent), weights(twin))
