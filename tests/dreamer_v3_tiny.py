"""A DreamerV3 of a few hundred weights, and a table of rows in memory for it to learn from."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces

from dreamlab.agents import dreamer_v3
from dreamlab.core.actions import one_hot
from dreamlab.core.types import Batch
from dreamlab.nn.compute import Compute
from dreamlab.nn.rssm import State
from dreamlab.run.config import RunConfig

TINY = dreamer_v3.Config(
    deter=32, units=16, classes=4, groups=3, depth=4, mults=(2, 2), batch=2, length=6, horizon=4, warmup=1, lr=1e-3
)
OBS = spaces.Dict(
    {"image": spaces.Box(0, 255, (3, 8, 8), np.uint8), "vector": spaces.Box(-np.inf, np.inf, (5,), np.float32)}
)
ACTS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3),
    "continuous": spaces.Box(np.array([-2, 0], np.float32), np.array([2, 6], np.float32)),
    "several": spaces.MultiDiscrete([3, 2]),
}


def build(act="discrete", obs=OBS, config=TINY, seed=0, bf16=False, **changes) -> dreamer_v3.DreamerV3:
    compute = Compute(torch.device("cpu"), bf16)
    return dreamer_v3.build(replace(config, **changes), obs, ACTS[act], compute, seed, RunConfig())


def shaken(agent: dreamer_v3.DreamerV3, seed: int = 1) -> dreamer_v3.DreamerV3:
    """With no weight at zero or one, and a slow critic that lags."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in agent.parts.values():
            for p in part.parameters():
                p.add_(0.15 * torch.randn(p.shape, generator=rng))
        for name in ("reward", "critic", "slow_critic"):  # as trained ones are: numbers near 0, not millions
            agent.parts[name].out.bias -= 0.3 * (torch.arange(255) - 127).abs()
    return agent


def weights(agent: dreamer_v3.DreamerV3) -> torch.Tensor:
    """All of them in a row."""
    return torch.cat([p.detach().flatten() for part in agent.parts.values() for p in part.parameters()])


class Table:
    """``core.protocols.Experience`` without environments: random rows, episodes of 3 to 8 rows one after another."""

    def __init__(self, act: str = "discrete", times: int = 40, streams: int = 2, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.space, self.streams, self.start, self.stop = ACTS[act], streams, 0, times
        n = times * streams
        self.space.seed(seed)
        first, last, terminal = (np.zeros((times, streams), bool) for _ in range(3))
        for stream in range(streams):
            t = 0
            while t < times:
                first[t, stream] = True
                t += int(rng.integers(3, 9))
                if t <= times:
                    last[t - 1, stream], terminal[t - 1, stream] = True, t % 2
        self.columns = {
            "image": torch.from_numpy(rng.integers(256, size=(n, 3, 8, 8), dtype=np.uint8)),
            "vector": torch.from_numpy(3 * rng.normal(size=(n, 5))).float(),
            "act": torch.from_numpy(np.stack([self.space.sample() for _ in range(n)])),
            "rew": torch.from_numpy(2 * rng.normal(size=n)).float() * ~torch.from_numpy(first).flatten(),
            "is_first": torch.from_numpy(first).flatten(),
            "is_last": torch.from_numpy(last).flatten(),
            "is_terminal": torch.from_numpy(terminal).flatten(),
        }

    @property
    def index(self):
        return self

    def gather(self, rows, obs=None, extras=None) -> Batch:
        ids = torch.as_tensor(rows)
        assert int(ids.min()) >= self.start * self.streams
        take = {k: v[ids] for k, v in self.columns.items()}
        seen = {k: take.pop(k) for k in ("image", "vector")}
        return Batch(
            {k: v for k, v in seen.items() if obs is None or k in obs},
            one_hot(take.pop("act"), self.space),
            *(take.pop(k) for k in ("rew", "is_first", "is_last", "is_terminal")),
            ids >= 0,
            ids,
            {k: v for k, v in take.items() if extras is None or k in extras},
        )

    def annotate(self, rows, **columns) -> None:
        ids = torch.as_tensor(rows).flatten()
        assert ((ids < 0) | (ids >= self.start * self.streams)).all()
        for name, value in columns.items():
            value = value.detach().flatten(0, 1)
            if name not in self.columns:
                self.columns[name] = torch.zeros(self.stop * self.streams, *value.shape[1:], dtype=value.dtype)
            self.columns[name][ids[ids >= 0]] = value[ids >= 0]

    def window(self, start: int = 0, length: int = 6, batch: int = 2) -> Batch:
        """Row ``start`` of the first streams and those after it."""
        return self.gather(np.arange(start, start + length) * self.streams + np.arange(batch)[:, None])

    def copy(self) -> Table:
        return deepcopy(self)


def before(agent: dreamer_v3.DreamerV3, batch: Batch, seed: int = 2) -> tuple[torch.Tensor, State]:
    """Some actions that led to a batch's rows, and some state that came before it."""
    rng = torch.Generator().manual_seed(seed)
    z, n = agent.model.dynamics.latents, len(batch.rew)
    chosen = torch.randint(z.classes, (n, z.groups), generator=rng)
    stoch = torch.nn.functional.one_hot(chosen, z.classes).flatten(-2).float()
    deter = torch.rand(n, agent.model.dynamics.cell.size, generator=rng) * 2 - 1
    act = agent.model.actions.seen(batch.act)
    return torch.roll(act, 1, 1), State(deter, stoch)
