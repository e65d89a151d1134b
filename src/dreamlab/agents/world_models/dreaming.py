"""A whole population dreams as one batch: the fast form of stepping the world model, held equal to it by a test.

One step of N = P * R rows (P candidates, R dreams each) is three matrix products over one buffer::

    x (N, W) = [ z | a | h | 1 ]       a ◀─ actions( x @ theta )        per candidate: (P, R, W) x (P, W, A)
                                   gates ◀─ x @ cell                    (N, W) x (W, 4H)
                                   z' .. ◀─ [h | 1] @ head              (N, H+1) x (H+1, 3KD + heads)

Biases ride on the constant 1, results are written back into the same buffers, and of each mixture only the Gaussian
chosen is evaluated. A dream is over when M says that the episode does not go on (con < 1/2, no chance involved) or
at the horizon; what it returned then never changes again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.agents.world_models.actions import Actions
from dreamlab.agents.world_models.memory import Memory

LOOK_EVERY = 50
"""steps between checks whether every dream is over: each waits for the device"""


class Dreams(NamedTuple):
    """What the dreams gave: (N,) each."""

    ret: Tensor
    """sum of predicted rewards, or steps survived where M predicts none"""
    length: Tensor


class PopulationDream:
    """Static buffers and packed weights for N = P * R rows that dream side by side.

    theta (P, (D + H + 1) * A) holds the candidates' weights as ``controller.unpack`` reads them; their rows are
    neighbours. bf16: the matrix products in bfloat16, everything that adds up in fp32. alike: dream r of every
    candidate meets the same chance (common random numbers).
    """

    def __init__(
        self, memory: Memory, actions: Actions, theta: Tensor, episodes: int, bf16: bool = False, alike: bool = False
    ) -> None:
        self.actions, self.memory = actions, memory
        device, dtype = memory.bias.device, torch.bfloat16 if bf16 else torch.float32
        n, d, a, h = len(theta) * episodes, memory.latent, actions.size, memory.hidden
        k = memory.mixtures
        self.candidates = len(theta)
        self.policy = _pack_policy(theta.to(device), d, a, h).to(dtype)  # (P, W, A)
        self.cell = _pack_cell(memory).to(dtype)  # (W, 4H): gates input, forget, output, 2 candidate
        self.head = _pack_head(memory).to(dtype)  # (H + 1, 3KD + E)
        self.x = torch.zeros(n, d + a + h + 1, device=device, dtype=dtype)
        self.x[:, -1] = 1
        self.z, self.a, self.h = self.x[:, :d], self.x[:, d : d + a], self.x[:, d + a : -1]
        self.hidden_and_one = self.x[:, d + a :]
        self.raw_act = torch.empty(len(theta), episodes, a, device=device, dtype=dtype)
        self.gates = torch.empty(n, 4 * h, device=device, dtype=dtype)
        self.c = torch.zeros(n, h, device=device)
        self.tanh_c = torch.empty_like(self.c)
        self.out = torch.empty(n, self.head.shape[1], device=device, dtype=dtype)
        self.logit, self.mean, self.log_std = self.out[:, : 3 * k * d].unflatten(1, (3, k, d)).unbind(1)  # (N, K, D)
        self.weight = torch.empty(n, k, d, device=device)
        self.uniform, self.normal, self.top = (torch.empty(n, d, device=device) for _ in range(3))
        self.chance = self.uniform.unflatten(0, (-1, episodes)), self.normal.unflatten(0, (-1, episodes))  # (P, R, D)
        self.alike = alike
        self.pick = torch.empty(n, 1, d, dtype=torch.int64, device=device)

    @torch.no_grad()
    def run(self, z: Float[Tensor, "N D"], horizon: int, temperature: float, rng: torch.Generator) -> Dreams:
        """Dream from these latents with an empty memory."""
        n = len(self.x)
        self.z.copy_(z)
        self.h.zero_()
        self.c.zero_()
        alive = torch.ones(n, dtype=torch.bool, device=z.device)
        ret = torch.zeros(n, device=z.device)
        length = torch.zeros(n, dtype=torch.int64, device=z.device)
        names = list(self.memory.extra)
        first = self.out.shape[1] - len(names)
        for t in range(horizon):
            self.step(temperature, rng)
            extra = {name: self.out[:, first + i].float() for i, name in enumerate(names)}
            ret += torch.where(alive, extra["rew"], 0.0) if "rew" in extra else alive
            length += alive
            if "con" in extra:
                alive &= extra["con"] >= 0  # a logit: con >= 1/2
                if t % LOOK_EVERY == LOOK_EVERY - 1 and not bool(alive.any()):
                    break
        return Dreams(ret, length)

    def step(self, temperature: float, rng: torch.Generator) -> None:
        """Act, remember, and see the next z: everything in place."""
        hidden = self.c.shape[1]
        torch.bmm(self.x.unflatten(0, (self.candidates, -1)), self.policy, out=self.raw_act)
        self.a.copy_(self.actions(self.raw_act).flatten(0, 1))
        torch.mm(self.x, self.cell, out=self.gates)
        soft = self.gates.sigmoid_()  # tanh x = 2 sigmoid(2 x) - 1, at a fraction of its time; the 2 x is packed
        candidate = soft[:, 3 * hidden :].mul_(2).sub_(1)
        self.c.mul_(soft[:, hidden : 2 * hidden]).addcmul_(soft[:, :hidden], candidate)
        torch.mul(self.c, 2, out=self.tanh_c).sigmoid_().mul_(2).sub_(1)
        torch.mul(self.tanh_c, soft[:, 2 * hidden : 3 * hidden], out=self.h)
        torch.mm(self.hidden_and_one, self.head, out=self.out)
        self._sample(temperature, rng)

    def _sample(self, temperature: float, rng: torch.Generator) -> None:
        """``memory.sample`` in place: the first Gaussian whose running sum of weights reaches the uniform draw."""
        uniform, normal = (chance[0] if self.alike else chance for chance in self.chance)
        uniform.uniform_(generator=rng)
        normal.normal_(generator=rng)
        if self.alike:
            for chance in self.chance:
                chance[1:] = chance[0]
        self.weight.copy_(self.logit)
        torch.amax(self.weight, 1, out=self.top)
        self.weight.sub_(self.top[:, None]).div_(temperature).exp_()
        for k in range(1, self.weight.shape[1]):
            self.weight[:, k] += self.weight[:, k - 1]
        self.uniform.mul_(self.weight[:, -1])
        torch.sum(self.weight[:, :-1] < self.uniform[:, None], 1, keepdim=True, out=self.pick)
        mean, log_std = self.mean.gather(1, self.pick), self.log_std.gather(1, self.pick)  # (N, 1, D)
        std = log_std.float().clamp_(min=self.memory.min_log_std).exp_()
        self.normal.mul_(std[:, 0]).mul_(math.sqrt(temperature)).add_(mean[:, 0])
        self.z.copy_(self.normal)


def _pack_policy(theta: Tensor, d: int, a: int, h: int) -> Tensor:
    """(P, W, A): the controllers' weights on [z | a | h | 1], zero on the action just taken."""
    weight, bias = theta[:, : (d + h) * a].unflatten(1, (a, d + h)), theta[:, (d + h) * a :]  # (P, A, F), (P, A)
    nothing = weight.new_zeros(len(theta), a, a)
    return torch.cat([weight[..., :d], nothing, weight[..., d:], bias[..., None]], -1).transpose(1, 2).contiguous()


def _pack_cell(memory: Memory) -> Tensor:
    """(W, 4H): the LSTM's weights on [z | a | h | 1], gates reordered to input, forget, output, twice the candidate."""
    joint = torch.cat([memory.input_weight, memory.hidden_weight, (memory.bias + memory.forget)[:, None]], 1)
    i, f, g, o = joint.detach().chunk(4)
    return torch.cat([i, f, o, 2 * g]).t().contiguous()


def _pack_head(memory: Memory) -> Tensor:
    """(H + 1, 3KD + E): the mixture's head and the extra ones, with their biases."""
    heads = [memory.head.state_dict(), *(head.state_dict() for head in memory.extra.values())]
    weight = torch.cat([head["weight"] for head in heads])
    bias = torch.cat([head["bias"] for head in heads])
    return torch.cat([weight, bias[:, None]], 1).t().contiguous()
