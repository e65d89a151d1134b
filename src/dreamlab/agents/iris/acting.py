"""Acting in the environment: see the frame as the model would draw it, remember, choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from dreamlab.agents.iris.dynamics import draw
from dreamlab.core.imagination import pick
from dreamlab.core.protocols import State

if TYPE_CHECKING:
    from dreamlab.agents.iris.agent import Iris
    from dreamlab.core.types import Obs


class Remembered(NamedTuple):
    """What a policy carries (N, ...)."""

    memory: State
    """of the actor-critic"""
    frames: Tensor
    """(N, B, C, h, w) uint8: the last frames, newest last"""
    held: Tensor
    """(N,) int64: how many of them there are"""
    version: Tensor
    """(N,) int64: updates of tokenizer and actor-critic when the memory was made"""


class Acting:
    """A policy (``core.protocols.Policy``), in batches of any size.

    Args:
        temperature: of the actions drawn; 0 takes the likeliest.
        epsilon: probability of a uniform action instead.
        remember: frames from which the memory is made anew when the networks have learned in the middle of an
            episode (the authors' epochs); 0: it is kept as it is.
    """

    def __init__(self, agent: Iris, temperature: float, epsilon: float, remember: int) -> None:
        self.agent, self.temperature, self.epsilon, self.remember = agent, temperature, epsilon, remember

    def initial(self, n: int) -> Remembered:
        """Nothing seen yet."""
        agent = self.agent
        device = agent.compute.device
        frames = torch.zeros(n, self.remember, *agent.model.tokenizer.shape, dtype=torch.uint8, device=device)
        count = torch.zeros(n, dtype=torch.int64, device=device)
        return Remembered(agent.actor_critic.initial(n, device), frames, count, count.clone())

    @torch.no_grad()
    def __call__(
        self, obs: Obs, is_first: Bool[Tensor, " N"], state: Remembered
    ) -> tuple[Tensor, Remembered, Mapping[str, Tensor]]:
        agent, image = self.agent, obs["image"]
        n, now = len(image), agent.versions["tokenizer"] + agent.versions["actor_critic"]
        state = pick(is_first, self.initial(n), state)
        with agent.compute.autocast():
            memory = state.memory
            if self.remember and bool(((state.version != now) & (state.held > 0)).any()):
                memory = self._again(state)
            seen = agent.see(agent.model.tokenizer.tokenise(image))
            said, memory = agent.actor_critic.step(seen, memory)
        act = draw(said.logits, self.temperature)
        if self.epsilon:
            chance = torch.randint(agent.actions, (n,), device=act.device)
            act = torch.where(torch.rand(n, device=act.device) < self.epsilon, chance, act)
        frames, held = state.frames, state.held
        if self.remember:
            frames = torch.cat([frames[:, 1:], image[:, None]], 1)
            held = (held + 1).clamp(max=self.remember)
        return act, Remembered(memory, frames, held, torch.full_like(state.version, now)), {}

    def _again(self, state: Remembered) -> State:
        """The memory that today's networks have of the last frames."""
        mask = torch.arange(self.remember, device=state.held.device) >= self.remember - state.held[:, None]  # (N, B)
        tokens = self.agent.model.tokenizer.tokenise(state.frames.flatten(0, 1)).unflatten(0, mask.shape)
        return self.agent.actor_critic.burn(self.agent.see(tokens), mask)
