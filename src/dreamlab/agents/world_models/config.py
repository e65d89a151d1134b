"""What World Models can be told, and what it will then spend. Imports nothing heavy.

Ha & Schmidhuber 2018, arXiv:1803.10122. Defaults are the paper's CarRacing; where the published text and the
authors' code differ, the field says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from dreamlab.core.config import at_least, positive
from dreamlab.core.protocols import Phase

if TYPE_CHECKING:
    from dreamlab.core.types import Recorded
    from dreamlab.run.config import RunConfig

SEES = "any"
EXTENDS = ("controller.generations", "actor_critic.dream_updates", "iterations")
TAKES = ("vision", "memory")
"""the parts that ``--from RUN`` takes, and does not train again unless ``stages`` names them"""
STAGES = ("vision", "memory", "controller")
DRY_RUN = {
    "collect_steps": 400,
    "vision": {"updates": 5},
    "memory": {"updates": 3},
    "controller": {
        "population": 4, "episodes": 1, "generations": 2, "horizon": 50, "evaluate_every": 2, "evaluate_episodes": 2,
    },
    "actor_critic": {"dream_updates": 3, "env_steps": 200, "window": 8},
    "iterations": 1,
}  # fmt: skip
"""what ``--dry-run`` shrinks: budgets, and no size of a network or a batch"""

ENCODE_ROWS = 1000
"""rows that one round of the encode phase is planned for"""


@dataclass(frozen=True)
class VisionConfig:
    """V: what is seen becomes z, by a convolutional variational autoencoder in the paper."""

    encoder: Literal["auto", "conv", "mlp", "plain"] = "auto"
    """conv for images; for vectors (ours) mlp, a small autoencoder, or plain, the standardised observation itself.
    auto: conv where there is an image, else plain"""
    latent: int = 32
    """size of z (D); plain has as many as the observation has numbers"""
    batch_norm: bool = False
    """batch normalisation after each convolution (not the paper's)"""
    loss: Literal["squared", "bce"] = "squared"
    """of a reconstruction, summed over the image: squared error, or binary cross-entropy of values in [0, 1]"""
    beta: float = 1.0
    """weight of the KL beside the reconstruction: 4 makes the beta-VAE of Higgins et al. 2017"""
    anneal: int = 0
    """updates over which the KL's weight rises from 0 to beta; 0: beta from the start"""
    kl_floor: float = 0.5
    """nats per latent dimension: an image whose KL sum is below kl_floor * latent pays just that, with no gradient"""
    lr: float = 1e-4
    """Adam's learning rate"""
    schedule: Literal["constant", "decay", "plateau"] = "constant"
    """of the learning rate: constant, exponential decay towards 1e-5 (the paper's Doom M), or halved when the loss
    stalls (ctallec)"""
    batch: int = 100
    """frames of an update"""
    updates: int = 100_000
    """gradient steps; the paper's 1 epoch of 10 million frames is 100 000 (the authors' code runs 10)"""

    def __post_init__(self) -> None:
        at_least("latent", self.latent, 1)
        at_least("batch", self.batch, 1)
        for name in ("updates", "kl_floor", "beta", "anneal"):
            at_least(name, getattr(self, name), 0)
        positive("lr", self.lr)


@dataclass(frozen=True)
class MemoryConfig:
    """M: the recurrent network that predicts the next z as a mixture of Gaussians."""

    hidden: int = 256
    """width of the LSTM (H)"""
    mixtures: int = 5
    """Gaussians that each dimension of z mixes (K)"""
    mixture: Literal["factorised", "joint"] = "factorised"
    """each dimension of z mixes Gaussians of its own (the authors), or the whole vector mixes K of them (ctallec)"""
    restart: bool = False
    """the episode's start is an input of its own, as in the paper's Doom"""
    windows: Literal["episodes", "windows"] = "episodes"
    """what a sequence is: an episode from its start, or a window anywhere inside one"""
    sequence: int = 999
    """transitions of a sequence; shorter episodes are padded and masked"""
    warm_up: int = 0
    """first transitions of a sequence that fill the memory and are not learnt from"""
    batch: int = 100
    """sequences of an update"""
    lr: float = 1e-3
    """learning rate"""
    schedule: Literal["constant", "decay", "plateau"] = "constant"
    """of the learning rate: constant, exponential decay towards 1e-5 (the paper's Doom), or halved when the loss
    stalls (ctallec)"""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """the authors' Adam, or ctallec's RMSprop"""
    clip: float = 1.0
    """each element of the gradient is clipped to this absolute value"""
    updates: int = 4000
    """gradient steps"""
    sigma_floor: float = 1e-3
    """smallest standard deviation of a Gaussian; below it the density of a constant dimension would explode"""
    reward: bool = False
    """predict rewards too; needed to dream of anything but survival"""
    reward_weight: float = 1.0
    """weight of the reward's squared error beside the z loss of weight 1 (ours: the paper has no reward head)"""
    continuation_weight: float = 1.0
    """weight of the continuation's cross-entropy; 1 / D beside a joint mixture, and terminal_weight 1, are ctallec's"""
    continuation: bool = False
    """predict whether the episode goes on, as in the paper's Doom"""
    terminal_weight: float = 10.0
    """weight of terminal rows in the continuation's loss: they are rare"""

    def __post_init__(self) -> None:
        for name in ("hidden", "mixtures", "sequence", "batch"):
            at_least(name, getattr(self, name), 1)
        for name in ("updates", "warm_up"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "clip", "sigma_floor", "reward_weight", "continuation_weight", "terminal_weight"):
            positive(name, getattr(self, name))
        if self.warm_up >= self.sequence:
            raise ValueError(
                f"warm_up {self.warm_up} leaves nothing to learn of sequences of {self.sequence}; make sequence longer"
            )


@dataclass(frozen=True)
class ControllerConfig:
    """C: the controller, in the paper linear on [z, h] and evolved by CMA-ES."""

    inputs: Literal["z", "zh", "zch"] = "zh"
    """what it acts on: z alone, with M's output h (CarRacing), or with its cell c too (Doom)"""
    hidden: int = 0
    """for CMA-ES: tanh units between inputs and action; 0: linear (the paper's other form has 40)"""
    bias: bool = True
    """for CMA-ES: whether the linear form has one: CarRacing's has, Doom's has not"""
    actions: Literal["auto", "thirds"] = "auto"
    """how numbers become an action: auto fits the action space; thirds, for three actions, is Doom's single tanh"""
    learner: Literal["cma-es", "actor-critic"] = "cma-es"
    """who trains it: evolution, or gradients (settings: actor_critic)"""
    population: int = 64
    """candidates of a generation (P)"""
    episodes: int = 16
    """episodes whose mean return is a candidate's fitness (R)"""
    sigma0: float = 0.1
    """CMA-ES's first step size, around zero weights"""
    generations: int = 1800
    """generations of CMA-ES"""
    train_in: Literal["env", "dream"] = "env"
    """where fitness is measured: in the real environment, or inside the dream"""
    horizon: int = 1000
    """steps after which a dream ends"""
    temperature: float = 1.0
    """of the dream: 1 samples as M predicts, more makes it less certain; the paper's Doom takes 1.15"""
    warm_up: int = 0
    """real steps that M has seen before a dream begins; 0: dreams begin at the first rows of episodes"""
    dream_rows: int = 256
    """dreams that run side by side in one round of learning"""
    shared_seeds: bool = False
    """every candidate meets the same episodes of a generation; off, as the paper: only i and i + population/2 do"""
    evaluate_every: int = 25
    """generations between evaluations of the distribution's mean; 0 for never"""
    evaluate_episodes: int = 64
    """episodes of such an evaluation (the paper: 1024)"""

    def __post_init__(self) -> None:
        at_least("population", self.population, 4)  # the library cannot do with fewer
        for name in ("episodes", "horizon", "dream_rows", "evaluate_episodes"):
            at_least(name, getattr(self, name), 1)
        for name in ("generations", "evaluate_every", "hidden", "warm_up"):
            at_least(name, getattr(self, name), 0)
        for name in ("sigma0", "temperature"):
            positive(name, getattr(self, name))


@dataclass(frozen=True)
class ActorCriticConfig:
    """The actor-critic controller (ours): learns in imagined rollouts first, then in the real environment."""

    hidden: int = 64
    """width of the actor's and the critic's hidden layer"""
    dream_updates: int = 2000
    """gradient steps on imagined rollouts"""
    batch: int = 256
    """imagined rollouts of an update"""
    horizon: int = 15
    """imagined steps of a rollout"""
    env_steps: int = 0
    """environment steps after that, in the real environment"""
    window: int = 32
    """real steps of each environment between two updates"""
    discount: float = 0.99
    """of future rewards (gamma)"""
    trace: float = 0.95
    """of the lambda-return (lambda)"""
    entropy: float = 1e-3
    """weight of the policy's entropy"""
    lr: float = 1e-3
    """Adam's learning rate, of both"""
    clip: float = 100.0
    """largest norm of a gradient"""

    def __post_init__(self) -> None:
        for name in ("hidden", "batch", "horizon", "window"):
            at_least(name, getattr(self, name), 1)
        for name in ("dream_updates", "env_steps", "entropy"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "clip"):
            positive(name, getattr(self, name))
        for name in ("discount", "trace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Config:
    """World Models: see (V), remember (M), act (C), one after the other."""

    collect_steps: int = 10_000_000
    """environment steps of data, in each iteration"""
    collect: Literal["cauchy", "brownian", "held", "random"] = "cauchy"
    """who acts in the first iteration: a new random controller each episode (the authors' CarRacing), a random walk
    (ctallec), a random action held for 1 to 10 steps (the authors' Doom), or pure chance"""
    iterations: int = 1
    """how often all is done: from the second time on the controller of the time before collects, and all parts are
    trained further on all data (the paper's iterative procedure)"""
    collect_sigma: float = 0.0
    """for CMA-ES: standard deviation of noise on the weights of the controller that collects, drawn for each episode"""
    stages: tuple[Literal["vision", "memory", "controller"], ...] | None = None
    """which parts are trained; without it all, but for those that another run has brought"""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """V, the autoencoder"""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    """M, the mixture density recurrent network"""
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    """C, the controller"""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """how C learns where its learner is actor-critic"""

    def __post_init__(self) -> None:
        at_least("collect_steps", self.collect_steps, 0)
        at_least("iterations", self.iterations, 1)
        at_least("collect_sigma", self.collect_sigma, 0)
        if self.iterations > 1 and "controller" not in (self.stages or STAGES):
            raise ValueError("a second iteration collects with the controller: let stages name it, or set iterations 1")
        own = self.actor_critic
        if self.controller.learner == "actor-critic" and 0 < own.env_steps < own.window:
            raise ValueError(f"env_steps {own.env_steps} are less than one window of {own.window} steps")
        aims = self.memory.reward or self.memory.continuation
        if dreams(self) and "controller" in (self.stages or STAGES) and not aims:
            raise ValueError(
                "a controller can only be trained inside the dream if M predicts what to strive for: "
                "set memory.reward true (the sum of rewards) or memory.continuation true (survival), "
                "or controller.train_in env, or leave the controller out of stages"
            )


def dreams(config: Config) -> bool:
    """Whether C is trained inside the dream."""
    controller = config.controller
    return config.actor_critic.dream_updates > 0 if controller.learner != "cma-es" else controller.train_in == "dream"


def side_by_side(config: ControllerConfig, slots: int) -> int:
    """Episodes of one round: the environments there are, or as many whole candidates as fit the dream's rows."""
    if config.train_in == "env":
        return slots
    return max(1, config.dream_rows // config.episodes) * config.episodes


def generation_rounds(config: ControllerConfig, slots: int) -> int:
    """Rounds (waves of episodes) of all generations, each evaluation of the mean included."""
    wave = side_by_side(config, slots)
    evaluations = config.generations // config.evaluate_every if config.evaluate_every else 0
    each = math.ceil(config.population * config.episodes / wave)
    return config.generations * each + evaluations * math.ceil(config.evaluate_episodes / wave)


def evolution(config: Config, run: RunConfig, streams: int) -> list[Phase]:
    """C by CMA-ES: a round is one wave of episodes."""
    return [Phase("controller", rounds=generation_rounds(config.controller, run.envs))]


def actor_critic(config: Config, run: RunConfig, streams: int) -> list[Phase]:
    """C by gradients: in the dream a round is an update, in the environment ``window`` steps of each, then one."""
    own = config.actor_critic
    return [
        Phase("controller", rounds=own.dream_updates),
        Phase("practice", env_steps=own.env_steps, rounds=own.env_steps // (own.window * streams)),
    ]


LEARNERS = {"cma-es": evolution, "actor-critic": actor_critic}


def stages(config: Config, loaded: Collection[str] = ()) -> tuple[str, ...]:
    """The parts that are trained."""
    return config.stages if config.stages is not None else tuple(s for s in STAGES if s not in loaded)


def budget(
    config: Config, run: RunConfig, loaded: Collection[str] = (), recorded: Recorded | None = None
) -> list[Phase]:
    """The recipe in numbers.

    Nothing is collected where recordings are given, or where neither V nor M is trained and C learns in the real
    environment.

    Args:
        loaded: the parts that another run has trained already.
        recorded: the recordings that are learned from instead of collecting.
    """
    trained = stages(config, loaded)
    dreaming = "controller" in trained and dreams(config)
    needed = bool({"vision", "memory"} & set(trained)) or dreaming
    steps = (config.collect_steps if run.steps is None else run.steps) if needed else 0
    streams = run.envs if recorded is None else 1  # recordings are one after another, and what is added to them too
    phases: list[Phase] = []
    for iteration in range(1, config.iterations + 1):
        rows = recorded.rows if recorded is not None else iteration * steps
        coded = "memory" in trained or dreaming
        one = [
            Phase("collect", env_steps=0 if recorded is not None else steps),
            Phase("vision", rounds=config.vision.updates if "vision" in trained else 0),
            Phase("encode", rounds=max(10, math.ceil(rows / ENCODE_ROWS)) if coded else 0),
            Phase("memory", rounds=config.memory.updates if "memory" in trained else 0),
            *(LEARNERS[config.controller.learner](config, run, streams) if "controller" in trained else []),
        ]
        phases += [replace(phase, iteration=iteration) for phase in one]
    return phases
