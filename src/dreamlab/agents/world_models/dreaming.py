"""A whole population dreams as one batch: the fast form of stepping the world model, held equal to it by a test.

One step of N = P * R rows (P candidates, R dreams each) is three matrix products over one buffer::

    x (N, W) = [ z | a | h | f | 1 ]   a ◀─ actions( x @ theta )        per candidate: (P, R, W) x (P, W, A)
                                   gates ◀─ x @ cell                    (N, W) x (W, 4H)
                                   z' .. ◀─ [h | f | 1] @ head          (N, H+2) x (H+2, O + heads)

f is 1 in an episode's first row (M may have it as an input). Linear controllers ride on x as they are, with c beside
it where that is an input; others act on their features gathered. Biases ride on the constant 1, results are written
back into the same buffers, and of each mixture only the Gaussian chosen is evaluated. A dream is over when M says that
the episode does not go on (con < 1/2, no chance involved) or at the horizon; what it returned then never changes again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.agents.world_models.actions import Actions
from dreamlab.agents.world_models.controller import Features, Form, Linear
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

    theta (P, n) holds the candidates' weights as their form reads them; their rows are neighbours. bf16: the matrix
    products in bfloat16, everything that adds up in fp32. alike: dream r of every candidate meets the same chance
    (common random numbers).
    """

    def __init__(
        self,
        memory: Memory,
        actions: Actions,
        features: Features,
        form: Form,
        theta: Tensor,
        episodes: int,
        bf16: bool = False,
        alike: bool = False,
    ) -> None:
        self.actions, self.memory, self.features, self.form = actions, memory, features, form
        device, dtype = memory.bias.device, torch.bfloat16 if bf16 else torch.float32
        n, d, a, h = len(theta) * episodes, memory.latent, actions.size, memory.hidden
        k, logits = memory.kind.k, memory.kind.logits
        self.candidates = len(theta)
        self.theta = theta.to(device)
        self.linear = _pack_policy(form, features, self.theta, a, dtype) if isinstance(form, Linear) else None
        self.cell = _pack_cell(memory).to(dtype)  # (W, 4H): gates input, forget, output, 2 candidate
        self.head = _pack_head(memory).to(dtype)  # (H + 2, O + E)
        self.x = torch.zeros(n, d + a + h + 2, device=device, dtype=dtype)
        self.x[:, -1] = 1
        self.z, self.a, self.h, last = self.x.split_with_sizes([d, a, h, 2], 1)
        self.first = last[:, 0]
        self.hidden_and_one = self.x[:, d + a :]
        self.raw_act = torch.empty(len(theta), episodes, a, device=device, dtype=dtype)
        self.gates = torch.empty(n, 4 * h, device=device, dtype=dtype)
        self.c = torch.zeros(n, h, device=device)
        self.tanh_c = torch.empty_like(self.c)
        self.out = torch.empty(n, self.head.shape[1], device=device, dtype=dtype)
        self.logit, self.mean, self.log_std = memory.kind.split(self.out[:, : memory.kind.size])  # views
        self.weight = torch.empty(n, k, logits, device=device)
        self.top = torch.empty(n, logits, device=device)
        self.uniform, self.normal = (torch.empty(n, d, device=device) for _ in range(2))
        self.chance = self.uniform.unflatten(0, (-1, episodes)), self.normal.unflatten(0, (-1, episodes))  # (P, R, D)
        self.alike = alike
        self.pick = torch.empty(n, 1, logits, dtype=torch.int64, device=device)

    @torch.no_grad()
    def run(
        self,
        z: Float[Tensor, "N D"],
        memory: tuple[Float[Tensor, "N H"], Float[Tensor, "N H"], Float[Tensor, " N"]] | None,
        horizon: int,
        temperature: float,
        rng: torch.Generator,
    ) -> Dreams:
        """Dream from these latents and memories (h, c, and 1 where the row is an episode's first); None is a start."""
        n = len(self.x)
        self.z.copy_(z)
        for buffer, value in zip((self.h, self.c, self.first), memory or (0.0, 0.0, 1.0), strict=True):
            buffer.copy_(torch.as_tensor(value))
        alive = torch.ones(n, dtype=torch.bool, device=z.device)
        ret = torch.zeros(n, device=z.device)
        length = torch.zeros(n, dtype=torch.int64, device=z.device)
        names = list(self.memory.extra)
        first = self.out.shape[1] - len(names)
        for t in range(horizon):
            self.step(temperature, rng)
            self.first.zero_()
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
        self.a.copy_(self.actions(self._raw_act()).flatten(0, 1))
        torch.mm(self.x, self.cell, out=self.gates)
        soft = self.gates.sigmoid_()  # tanh x = 2 sigmoid(2 x) - 1, at a fraction of its time; the 2 x is packed
        candidate = soft[:, 3 * hidden :].mul_(2).sub_(1)
        self.c.mul_(soft[:, hidden : 2 * hidden]).addcmul_(soft[:, :hidden], candidate)
        torch.mul(self.c, 2, out=self.tanh_c).sigmoid_().mul_(2).sub_(1)
        torch.mul(self.tanh_c, soft[:, 2 * hidden : 3 * hidden], out=self.h)
        torch.mm(self.hidden_and_one, self.head, out=self.out)
        self._sample(temperature, rng)

    def _raw_act(self) -> Tensor:
        """What the candidates say (P, R, A)."""
        if self.linear is None:
            feat = self.features(self.z.float(), self.h.float(), self.c)
            return self.form(self.theta, feat.unflatten(0, (self.candidates, -1)))
        on_x, on_c = self.linear
        torch.bmm(self.x.unflatten(0, (self.candidates, -1)), on_x, out=self.raw_act)
        if on_c is not None:
            self.raw_act += torch.bmm(self.c.to(on_c.dtype).unflatten(0, (self.candidates, -1)), on_c)
        return self.raw_act

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
        reached = self.uniform[:, : self.top.shape[1]].mul_(self.weight[:, -1])
        torch.sum(self.weight[:, :-1] < reached[:, None], 1, keepdim=True, out=self.pick)
        pick = self.pick.expand_as(self.mean[:, :1])
        mean, log_std = self.mean.gather(1, pick), self.log_std.gather(1, pick)  # (N, 1, D)
        std = log_std.float().clamp_(min=self.memory.min_log_std).exp_()
        self.normal.mul_(std[:, 0]).mul_(math.sqrt(temperature)).add_(mean[:, 0])
        self.z.copy_(self.normal)


def _pack_policy(
    form: Linear, features: Features, theta: Tensor, a: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Weights on [z | a | h | f | 1] (P, W, A), zero on what is no input; and on c (P, H, A) where it is one."""
    weight, bias = form.unpack(theta)  # (P, A, F), (P, A)
    sizes = {"z": features.latent, "c": features.hidden, "h": features.hidden}
    named = [name for name in "zch" if name in features.inputs]
    on = dict(zip(named, weight.split([sizes[name] for name in named], -1), strict=True))

    def nothing(width: int) -> Tensor:
        return weight.new_zeros(*weight.shape[:2], width)

    on_x = torch.cat([on["z"], nothing(a), on.get("h", nothing(features.hidden)), nothing(1), bias[..., None]], -1)
    on_c = on["c"].transpose(1, 2).contiguous().to(dtype) if "c" in on else None
    return on_x.transpose(1, 2).contiguous().to(dtype), on_c


def _pack_cell(memory: Memory) -> Tensor:
    """(W, 4H): the LSTM's weights on [z | a | h | f | 1], gates reordered: input, forget, output, twice candidate."""
    seen = memory.input_weight[:, : memory.latent + memory.act]
    bias = (memory.bias + memory.forget)[:, None]
    first = memory.input_weight[:, memory.latent + memory.act :] if memory.restart else torch.zeros_like(bias)
    joint = torch.cat([seen, memory.hidden_weight, first, bias], 1)
    i, f, g, o = joint.detach().chunk(4)
    return torch.cat([i, f, o, 2 * g]).t().contiguous()


def _pack_head(memory: Memory) -> Tensor:
    """(H + 2, O + E) on [h | f | 1]: the mixture's head and the extra ones, with their biases."""
    heads = [memory.head.state_dict(), *(head.state_dict() for head in memory.extra.values())]
    weight = torch.cat([head["weight"] for head in heads])
    bias = torch.cat([head["bias"] for head in heads])
    return torch.cat([weight, torch.zeros_like(bias)[:, None], bias[:, None]], 1).t().contiguous()
