"""One player's dream: a world model stepped by hand or by the agent. All of it runs in the engine's thread.

::

    start ── rows of an episode up to it, or the first picture of a reset ── model.observe ──▶ latent 0
    tick     act (a hand's, or the agent's on what is shown) ── DreamEnv.step ──▶ picture, rew, con

The agent looks over the player's shoulder, so that it can take over at any moment: its state has seen every picture
that was shown, and holds the acts that were really taken (``Watching``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from dreamlab.core.actions import one_hot
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import tree_map
from dreamlab.core.protocols import Policy, State
from dreamlab.core.seeds import forked
from dreamlab.core.types import Batch, act_size
from dreamlab.dream.env import DreamEnv
from dreamlab.studio import stretches

if TYPE_CHECKING:
    from dreamlab.studio.studio import OpenedRun

CONTEXT = 256
"""rows of an episode, the last ones before the start, that model and agent look at first"""
PIECE = 32
"""of which the model looks at so many at once: about a tenth of a second of a Dreamer's time, while others wait"""
Obs = dict[str, np.ndarray]


class Moment(NamedTuple):
    """What is to be seen at one time."""

    obs: Obs
    """as the agent sees it, without leading axes: ``image`` uint8 (C, h, w), ``vector`` float32 (n,)"""
    rew: float | None
    """None where the model predicts none"""
    con: float | None
    ended: bool


class Context(NamedTuple):
    """What was really seen before a dream goes on."""

    batch: Batch
    """(1, T): the last row is the start"""
    obs: list[Obs]
    """of the T rows"""
    acts: list[Any]
    """of the T - 1 rows before the start, as the environment takes them"""


def of_row(experience: Any, row: int) -> Context:
    """The episode of a row up to it.

    Raises:
        UserError: the row is not held, or its episode ends there.
    """
    found, at = stretches.stored(experience, row)
    first, stop = max(0, at + 1 - CONTEXT), at + 1
    if found.column("is_last", at, stop)[0]:
        raise UserError(f"the episode ends at row {row}; start from an earlier one")
    seen = {key: found.column(key, first, stop) for key in experience.obs_space.spaces}
    obs = [{key: value[t] for key, value in seen.items()} for t in range(stop - first)]
    return Context(found.batch(first, stop), obs, list(found.column("act", first, at)))


def of_reset(obs: Obs, act_space: spaces.Space, device: torch.device) -> Context:
    """The first picture of an episode."""
    flag = torch.zeros(1, 1, dtype=torch.bool, device=device)
    batch = Batch(
        obs={key: torch.from_numpy(value)[None, None].to(device) for key, value in obs.items()},
        act=torch.zeros(1, 1, act_size(act_space), device=device),
        rew=torch.zeros(1, 1, device=device),
        is_first=~flag,
        is_last=flag,
        is_terminal=flag,
        mask=~flag,
        rows=torch.zeros(1, 1, dtype=torch.int64),
        extras={},
    )
    return Context(batch, [obs], [])


def observe(model: Any, batch: Batch, seed: int) -> Iterator[State | None]:
    """The latent (1, ...) of a batch's last row, after a None for each piece before the last one."""
    rows = batch.rew.shape[1]
    piece = PIECE if hasattr(model, "observe_after") else rows
    latents: State = None
    for start in range(0, rows, piece):
        with torch.inference_mode(), forked(seed, "observe", *([start] if start else [])):
            if not start:
                latents = model.observe(_part(batch, 0, piece))
            else:  # from the row before on, whose latent is known
                latents = model.observe_after(
                    tree_map(lambda x: x[:, -1], latents), _part(batch, start - 1, start + piece)
                )
        yield tree_map(lambda x: x[:, -1], latents) if start + piece >= rows else None


def _part(batch: Batch, start: int, stop: int) -> Batch:
    """Rows of a batch, from ``start`` to before ``stop``."""
    cut = lambda x: {k: v[:, start:stop] for k, v in x.items()} if isinstance(x, Mapping) else x[:, start:stop]  # noqa: E731
    parts: Any = (cut(part) for part in batch)
    return Batch(*parts)


class Dream:
    """A dream under way. ``now`` is what is shown."""

    def __init__(self, opened: OpenedRun, context: Context, start: State, temperature: float, seed: int) -> None:
        """``start``: the latent (1, ...) at the context's end."""
        self.act_space, self.context, self.start = opened.act_space, context, start
        limit = np.iinfo(np.int64).max
        self.env = DreamEnv(opened.model, start, self.act_space, 1, horizon=limit, temperature=temperature, seed=seed)
        with torch.inference_mode():
            obs, _ = self.env.reset(seed=seed)
        self.now = Moment({k: v[0] for k, v in obs.items()}, None, None, False)
        self.steps = 0
        self.watching: Watching | None = None
        if getattr(opened.agent, "acts", True):
            self.watching = Watching(opened.policy(), self.act_space, self.env.device, context)

    @property
    def says(self) -> list[str]:
        """What the model predicts beside what is seen: any of ``rew``, ``con``."""
        return list(self.env.said)

    def decide(self) -> np.ndarray:
        """What the agent would do now, which is then taken for done: ``step`` follows with it."""
        assert self.watching is not None
        return self.watching.choose(self.now.obs)

    def step(self, act: np.ndarray, own: bool = False) -> Moment:
        """One step; ``own`` says that ``decide`` chose it."""
        if self.watching is not None and not own:
            self.watching.note(self.now.obs, act)
        with torch.inference_mode():
            obs, _, terminated, _, _ = self.env.step(np.asarray(act)[None])
        said = {key: float(value[0]) for key, value in self.env.said.items()}
        self.steps += 1
        self.now = Moment({k: v[0] for k, v in obs.items()}, said.get("rew"), said.get("con"), bool(terminated[0]))
        return self.now


class Watching:
    """The agent beside a player: what it has not looked at yet waits in line, until there is time or it takes over."""

    def __init__(self, policy: Policy, act_space: spaces.Space, device: torch.device, context: Context) -> None:
        self.policy, self.act_space, self.device = policy, act_space, device
        self.state = policy.initial(1)
        self.first = True  # nothing seen yet
        self.waiting: deque[tuple[Obs, np.ndarray]] = deque(zip(context.obs[:-1], context.acts, strict=True))

    @property
    def behind(self) -> int:
        """Pictures that it has not looked at yet."""
        return len(self.waiting)

    def note(self, obs: Obs, act: np.ndarray) -> None:
        """``obs`` was shown, and ``act`` was done by somebody else."""
        self.waiting.append((obs, np.asarray(act)))

    def catch_up(self, most: int) -> None:
        """Look at so many of what waits."""
        for _ in range(min(most, len(self.waiting))):
            obs, act = self.waiting.popleft()
            seen, is_first = self._see(obs)
            with torch.inference_mode():
                if hasattr(self.policy, "follow"):
                    taken = one_hot(torch.from_numpy(np.asarray(act)[None]), self.act_space).to(self.device)
                    self.state = self.policy.follow(seen, is_first, self.state, taken)
                else:  # its state holds no acts
                    _, self.state, _ = self.policy(seen, is_first, self.state)

    def choose(self, obs: Obs) -> np.ndarray:
        """What it does at ``obs``, after it has looked at all that waits."""
        self.catch_up(len(self.waiting))
        seen, is_first = self._see(obs)
        with torch.inference_mode():
            act, self.state, _ = self.policy(seen, is_first, self.state)
        return act[0].cpu().numpy()

    def _see(self, obs: Obs) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        is_first = torch.tensor([self.first], device=self.device)
        self.first = False
        return {k: torch.from_numpy(v[None]).to(self.device) for k, v in obs.items()}, is_first
