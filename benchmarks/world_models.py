"""How fast World Models learns, dreams and drives on this machine, beside what the machine can multiply.

python benchmarks/world_models.py [--quick] [--json FILE] [--peer CHECKOUT] [--profile]

Every case is run several times in turn, A B C A B C, so that whatever else the machine does falls on all alike;
shares and ratios are medians over those rounds. What is timed is the agent's own learning, set up as
``dreamlab train`` does it, on random rows held in memory: gathering them counts, a disk does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from measure import Case, Done, Floor, gemm_case, machine, precisions, profiles, results, table, take_turns
from peer_world_models import peer_cases
from torch import nn

from dreamlab import envs
from dreamlab.agents import world_models
from dreamlab.agents.world_models.agent import WorldModelsAgent
from dreamlab.agents.world_models.config import Config, ControllerConfig, MemoryConfig, VisionConfig
from dreamlab.agents.world_models.memory import Memory
from dreamlab.agents.world_models.vision import Vision
from dreamlab.core.errors import UserError
from dreamlab.core.types import Batch, Episodes
from dreamlab.nn.compute import Compute, prepare
from dreamlab.run.config import RunConfig
from dreamlab.run.driver import play

IMAGE = spaces.Dict({"image": spaces.Box(0, 255, (3, 64, 64), np.uint8)})
CAR = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
DOOM = spaces.Box(-1, 1, (1,), np.float32)
DREAM_FLOOR = {"fp32": 0.60, "bf16": 0.40}
"""share of the machine's GEMM rate that the population's dream is to reach"""


@dataclass(frozen=True)
class Sizes:
    """How much each case does: the paper's, or shrunk until all of it takes seconds."""

    gemm: int = 2048
    vision: int = 100
    vision_peer: int = 32
    memory: tuple[int, int] = (100, 999)
    memory_peer: tuple[int, int] = (16, 32)
    population: int = 64
    episodes: int = 16
    horizon: int = 100
    drive: int = 200
    """environment steps of a rollout"""
    repeats: int = 7
    seconds: float = 0.5
    """a case is repeated within its turn until it has taken so long"""


QUICK = Sizes(gemm=512, vision=16, vision_peer=8, memory=(4, 99), horizon=4, drive=5, repeats=2, seconds=0.0)


class Rows:
    """Random experience in memory (``core.protocols.Experience``): whole episodes of equal length, one a stream."""

    slots = 0

    def __init__(
        self, episodes: int, length: int, act: spaces.Box, device: torch.device, images: bool = False, latent: int = 0
    ) -> None:
        rng, n = np.random.default_rng(0), episodes * length
        self.device, self.streams, self.start, self.stop = device, episodes, 0, length
        self.image = rng.integers(0, 256, (n, 3, 64, 64), np.uint8) if images else None
        self.act = rng.uniform(act.low, act.high, (n, *act.shape)).astype(np.float32)
        self.rew = rng.standard_normal(n, np.float32)
        time_of = np.arange(n) // episodes
        self.is_first, self.is_last = time_of == 0, time_of == length - 1
        self.codes = {
            "mu": rng.standard_normal((n, latent), np.float32).astype(np.float16),
            "logvar": np.full((n, latent), -2, np.float16),
        }

    @property
    def index(self) -> Rows:
        return self

    def episodes(self) -> Episodes:
        streams = np.arange(self.streams)
        return Episodes(streams, 0 * streams, 0 * streams + self.stop, streams >= 0)

    def gather(self, rows: Any, obs: Collection[str] | None = None) -> Batch:
        ids = np.asarray(rows)
        assert (ids >= 0).all(), "no padding here: episodes are as long as what is asked for"
        return Batch(
            obs={} if self.image is None else {"image": self._take(self.image, ids)},
            act=self._take(self.act, ids),
            rew=self._take(self.rew, ids),
            is_first=self._take(self.is_first, ids),
            is_last=self._take(self.is_last, ids),
            is_terminal=self._take(self.is_last, ids),
            mask=torch.ones(ids.shape, dtype=torch.bool, device=self.device),
            rows=torch.from_numpy(ids),
            extras={name: self._take(column, ids) for name, column in self.codes.items()},
        )

    def _take(self, column: np.ndarray, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(column[ids]).to(self.device)

    def annotate(self, rows: Any, **columns: torch.Tensor) -> None:
        raise NotImplementedError

    def rollout(self, policy: Any, seeds: Sequence[int]) -> Any:
        raise NotImplementedError


# ---- arithmetic


@torch.no_grad()
def vision_gflop(vision: Vision, batch: int) -> float:
    """Of one update: forward three times over, but the first layer's input needs no gradient."""
    macs: list[int] = []

    def count(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output  # where the kernel is laid
        macs.append(layer.weight.numel() * places[0, 0].numel())  # a dense layer: at one place

    layers = [m for m in vision.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    vision.decode(vision.encode(torch.zeros(1, 3, 64, 64, device=vision.dense.weight.device))[0])
    for hook in hooks:
        hook.remove()
    macs.append(vision.decoder[0].weight.numel())  # called as a matrix product, at one place
    return 2e-9 * batch * (3 * sum(macs) - macs[0])


def memory_gflop(memory: nn.Module, inputs: nn.Parameter, transitions: int) -> float:
    """Of one update of an LSTM and its heads: forward three times over, but the inputs need no gradient."""
    weights = sum(p.numel() for p in memory.parameters() if p.dim() == 2)
    return 2e-9 * transitions * (3 * weights - inputs.numel())


def dream_gflop(agent: WorldModelsAgent, rows: int) -> float:
    """Of one step of all rows: M's and C's weights, each once a row."""
    weights = sum(p.numel() for p in agent.model.memory.parameters() if p.dim() == 2)
    return 2e-9 * rows * (weights + agent.behaviour.form.size)


# ---- cases


def build(config: Config, act: spaces.Box, compute: Compute) -> WorldModelsAgent:
    return world_models.build(config, IMAGE, act, compute, 0, RunConfig())


def once(learn: Callable[[Any], Any], rows: Rows, count: int) -> Done:
    """One update, and how many rows it learned from."""
    learn(rows)
    return Done(1, count)


def learning_cases(sizes: Sizes, compute: Compute, precision: str) -> Iterator[Case]:
    """V and M at the paper's sizes, and at those of the peer with the same heads as it has."""
    frames = Rows(8, 250, CAR, compute.device, images=True)
    for name, batch in (("vision", sizes.vision), ("vision_small", sizes.vision_peer)):
        agent = build(Config(vision=VisionConfig(batch=batch)), CAR, compute)
        run = partial(once, agent.learn_vision, frames, batch)
        floor = Floor("peer_vision", "fp32", 1.0) if name == "vision_small" else None
        gflop = vision_gflop(agent.model.vision, batch)
        yield Case(name, precision, f"V, batch {batch}", "updates", "frames", run, gflop, floor)
    peer = MemoryConfig(windows="windows", reward=True, continuation=True)
    paper = MemoryConfig()
    for name, (batch, length), config in (("memory", sizes.memory, paper), ("memory_small", sizes.memory_peer, peer)):
        rows = Rows(max(batch, 50), length + 1, CAR, compute.device, latent=32)
        config = MemoryConfig(**{**asdict(config), "batch": batch, "sequence": length})
        agent = build(Config(memory=config), CAR, compute)
        run = partial(once, agent.learn_memory, rows, batch * length)
        floor = Floor("peer_memory", "fp32", 1.0) if name == "memory_small" else None
        gflop = memory_gflop(agent.model.memory, agent.model.memory.input_weight, batch * length)
        yield Case(name, precision, f"M, {batch} x {length}", "updates", "transitions", run, gflop, floor)


def dream_cases(sizes: Sizes, compute: Compute, precision: str) -> Iterator[Case]:
    """The population's dream at the Doom sizes, as CMA-ES asks for it, and plain products of its shapes."""
    n, horizon = sizes.population * sizes.episodes, sizes.horizon
    controller = ControllerConfig(
        population=sizes.population, episodes=sizes.episodes, train_in="dream", horizon=horizon, dream_rows=n
    )
    memory = MemoryConfig(hidden=512, continuation=True)
    agent = build(Config(vision=VisionConfig(latent=64), memory=memory, controller=controller), DOOM, compute)
    never_over(agent.model.memory)
    rows = Rows(100, 2, DOOM, compute.device, latent=64)
    theta = np.random.default_rng(0).standard_normal((sizes.population, agent.behaviour.controller.theta.numel())) * 0.1
    seeds = np.arange(n)

    def run() -> Done:
        outcome = agent.behaviour.search.play(rows, theta, seeds, 0)
        assert (outcome.length == horizon).all(), "a dream ended early: what was counted was not done"
        return Done(horizon, n * horizon)

    m = agent.model.memory
    shapes = [(n, m.latent + 1 + m.hidden, 4 * m.hidden), (n, m.hidden, m.head.out_features + 1)]
    yield gemm_case("gemm_dream", shapes, compute, precision)
    floor = Floor("gemm", precision, DREAM_FLOOR[precision])
    about = f"dream, {sizes.population} x {sizes.episodes}"
    yield Case("dream", precision, about, "batch steps", "row steps", run, dream_gflop(agent, n), floor)


def never_over(memory: Memory) -> None:
    """An untrained M ends dreams at random: this one is sure that all go on."""
    nn.init.constant_(memory.extra["con"].bias, 1e4)  # type: ignore[arg-type]


@contextmanager
def road(sizes: Sizes) -> Iterator[Any]:
    """Two CarRacing environments, each in a worker process."""
    config = envs.default_config("CarRacing-v3")
    made = envs.make(type(config)(**{**vars(config), "time_limit": sizes.drive}), 2, 0)
    try:
        yield made
    finally:
        made.close()


def environment_case(made: Any, sizes: Sizes) -> Case:
    """The environment alone: the same tracks, random actions drawn beforehand, nobody looks."""
    rng, steps = np.random.default_rng(0), sizes.drive
    acts = rng.uniform(CAR.low, CAR.high, (steps, made.num_envs, 3)).astype(np.float32)

    def run() -> Done:
        made.reset(options={"seeds": list(range(made.num_envs))})
        for act in acts:
            made.step(act)
        return Done(made.num_envs, made.num_envs * steps)

    return Case("environment", "", f"CarRacing alone, {steps} steps", "rollouts", "steps", run)


def rollout_case(made: Any, sizes: Sizes, compute: Compute, precision: str) -> Case:
    """V, M and C drive, as in a wave of the controller's phase."""
    policy = build(Config(), CAR, compute).policy(explore=False)

    def run() -> Done:
        outcome = play(policy, made, range(made.num_envs), compute.device)
        return Done(made.num_envs, float(outcome.length.sum()))

    return Case("rollout", precision, f"CarRacing all in, {sizes.drive} steps", "rollouts", "steps", run)


def cases(sizes: Sizes, computes: dict[str, Compute], made: Any, peer: Path | None) -> list[Case]:
    """All cases in the order in which they take turns."""
    found = []
    for precision, compute in computes.items():
        found.append(gemm_case("gemm", [(sizes.gemm,) * 3], compute, precision))
        found += learning_cases(sizes, compute, precision)
        found += dream_cases(sizes, compute, precision)
        found.append(rollout_case(made, sizes, compute, precision))
    found.append(environment_case(made, sizes))
    if peer is not None:
        device = next(iter(computes.values())).device
        arithmetic = next(case.gflop for case in found if case.name == "vision_small") or 0.0
        found += peer_cases(peer, device, sizes.vision_peer, sizes.memory_peer, arithmetic)
    return found


# ---- the program


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--precision", default="both", choices=["fp32", "bf16", "both"])
    parser.add_argument("--compile", action="store_true", help="torch.compile what `dreamlab train --compile` does")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 takes all cores")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds (7; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="everything shrunk to seconds: does it run?")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there; - writes them alone to the output")
    parser.add_argument("--peer", type=Path, metavar="CHECKOUT", help="of github.com/ctallec/world-models, to compare")
    parser.add_argument("--profile", action="store_true", help="then print each case's costliest operations")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the numbers. A floor that is missed is said, and is no failure."""
    chosen = options(argv)
    sizes = QUICK if chosen.quick else Sizes()
    alone = chosen.json == "-"
    say = partial(print, file=sys.stderr if alone else sys.stdout, flush=True)
    wanted = precisions(chosen.precision, chosen.device, say)
    try:
        computes = {p: prepare(chosen.device, p, chosen.compile, chosen.threads) for p in wanted}
        compute = computes[wanted[0]]
        with road(sizes) as made:
            todo = cases(sizes, computes, made, chosen.peer)
            samples = take_turns(todo, chosen.repeats or sizes.repeats, sizes.seconds, compute.device, say)
    except UserError as error:
        print(f"world_models.py: {error}", file=sys.stderr)
        return 2
    found = {"machine": machine(compute), "quick": chosen.quick, "cases": results(todo, samples)}
    if chosen.quick:
        say("sizes are shrunk: these numbers say only that everything runs")
    say(" · ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for line in table(found["cases"]):
        say(line)
    if chosen.profile:
        for line in profiles(todo, compute.device):
            say(line)
    if chosen.json:
        text = json.dumps(found, indent=2)
        print(text) if alone else Path(chosen.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
