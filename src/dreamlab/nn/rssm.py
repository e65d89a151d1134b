"""The recurrent state-space model (PlaNet, arXiv:1811.04551; DreamerV1 to V3), for any cell and any latents.

::

    act[t-1] ─┐                       embed[t] ─┐
    h[t-1] ───┼─ cell ─▶ h[t] ─┬────────────────┴─ post ─▶ z[t]      observe: what was seen decides z
    z[t-1] ───┘                └─ prior ─▶ z[t]                      imagine: the prior does

    is_first[t]: h, z and act of t-1 are zeros

Actions here are those that *led to* t: the agents shift theirs in one named function. In the scan there is only
what must be: the embedding's and the action's shares of every product, and the prior, are made for all times at
once, before and after it; so are the gradients of its weights (``scan.Lent``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.nn.blocks import (
    MLP,
    BlockLinear,
    Init,
    LayerNorm,
    Linear,
    RMSNormSiLU,
    glorot,
    grouped_product,
    rms_silu,
    rms_silu_ahead,
    rms_silu_back,
)
from dreamlab.nn.latents import Latents
from dreamlab.nn.scan import Lent


class State(NamedTuple):
    """Of N sequences, (N, ...), or over time, (N, T, ...)."""

    deter: Tensor
    """h (..., D) float32"""
    stoch: Tensor
    """z (..., W) float32, flat"""

    @property
    def feat(self) -> Float[Tensor, "*batch F"]:
        """[h, z]: what every head sees."""
        return torch.cat([self.deter, self.stoch], -1)


class Step(Protocol):
    """A cell with its weights lent for one scan."""

    def __call__(self, h: Tensor, z: Tensor, act: Tensor) -> Tensor: ...


class Cell(Protocol):
    """h[t] from h[t-1], z[t-1] and act[t-1]."""

    size: int

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def acts(self, act: Float[Tensor, "*batch A"], keep: Float[Tensor, "*batch 1"]) -> Tensor:
        """The actions' share of a step, for all times at once; ``keep`` is 0 where nothing came before."""
        ...

    def begin(self, dtype: torch.dtype) -> Step:
        """Ready for one scan in this precision."""
        ...


# ---- cells


class KerasGRU(nn.Module):
    """DreamerV1's cell: x = elu(W [z, a]), then Keras' GRU, which is ``torch.nn.GRUCell``.

    Glorot for the input's weights, orthogonal for the state's, zero biases.
    """

    def __init__(self, latent: int, act: int, size: int, hidden: int) -> None:
        super().__init__()
        self.size, self.latent = size, latent
        self.inputs = Linear(latent + act, hidden)
        self.enter = Linear(hidden, 3 * size)
        self.recur = Linear(size, 3 * size)
        nn.init.orthogonal_(self.recur.weight)  # all three gates' together: each is a third of the whole

    def acts(self, act: Float[Tensor, "*batch A"], keep: Float[Tensor, "*batch 1"]) -> Tensor:
        return _columns(self.inputs, act * keep, slice(self.latent, None))

    def begin(self, dtype: torch.dtype) -> Step:
        take, enter = Lent(self.inputs, dtype, slice(0, self.latent)), Lent(self.enter, dtype)
        recur = Lent(self.recur, dtype)

        def step(h: Tensor, z: Tensor, act: Tensor) -> Tensor:
            x = nn.functional.elu(take(z) + act)  # (N, H)
            return _gru(enter(x).float(), recur(h).float(), h)

        return step


def _gru(entered: Tensor, recurred: Tensor, h: Tensor) -> Tensor:
    """torch.nn.GRUCell: the reset applies to the state's share after its product."""
    (r, u, c), (hr, hu, hc) = entered.chunk(3, -1), recurred.chunk(3, -1)
    reset, update = torch.sigmoid(r + hr), torch.sigmoid(u + hu)
    return torch.lerp(torch.tanh(c + reset * hc), h, update)


class NormGRU(nn.Module):
    """DreamerV2's cell: x = elu(W [z, a]); one layer norm over all gates of W_g [x, h]; the update leans to keep."""

    def __init__(self, latent: int, act: int, size: int, hidden: int, after: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.size, self.latent, self.hidden = size, latent, hidden
        self.inputs = Linear(latent + act, hidden)
        self.after = after(hidden)
        self.gates = Linear(hidden + size, 3 * size)
        self.norm = LayerNorm(3 * size)

    def acts(self, act: Float[Tensor, "*batch A"], keep: Float[Tensor, "*batch 1"]) -> Tensor:
        return _columns(self.inputs, act * keep, slice(self.latent, None))

    def begin(self, dtype: torch.dtype) -> Step:
        take, gates = Lent(self.inputs, dtype, slice(0, self.latent)), Lent(self.gates, dtype)

        def step(h: Tensor, z: Tensor, act: Tensor) -> Tensor:
            x = self.after(take(z) + act)  # (N, H)
            p = self.norm(gates(torch.cat([x, h.to(x.dtype)], -1)).float())
            return gru_gates(p.unflatten(-1, (1, 3, self.size)), h)

        return step


class BlockGRU(nn.Module):
    """DreamerV3's cell: three inputs, one hidden layer and the gates, both block-diagonal in h.

    ::

        h ─ norm, silu ─ x0 ─┐
        z ─ norm, silu ─ x1 ─┼─ dense for all blocks ─┐
        a ─ norm, silu ─ x2 ─┘                        ├─ norm over all of D, silu ─ block-dense ─ gates
        h[g] ─────────────────── block-dense ─────────┘

    The original copies [x0, x1, x2] into every block; the share of that product is one dense matrix.
    """

    def __init__(self, latent: int, act: int, size: int, hidden: int, blocks: int, init: Init) -> None:
        super().__init__()
        self.size, self.hidden, self.blocks = size, hidden, blocks
        self.inputs = nn.ModuleList(Linear(width, hidden, init) for width in (size, latent, act))
        self.scales = nn.ParameterList(torch.ones(hidden) for _ in range(3))
        whole = size + blocks * 3 * hidden  # the input's width with every block's copy: what the weights start by
        self.state = BlockLinear(size, size, blocks, init, bias=False, fan_in=whole)
        self.shared = Linear(3 * hidden, size, lambda weight, *_: init(weight, whole, size))
        self.norm = RMSNormSiLU(size)
        self.gates = BlockLinear(size, 3 * size, blocks, init)

    def acts(self, act: Float[Tensor, "*batch A"], keep: Float[Tensor, "*batch 1"]) -> Tensor:
        """Squashed elementwise into [-1, 1]; a zero vector, not a one-hot 0, where nothing came before."""
        act = act / act.detach().abs().clamp(min=1)
        x2 = rms_silu(self.inputs[2](act * keep), self.scales[2])
        return _columns(self.shared, x2, slice(2 * self.hidden, None))

    def begin(self, dtype: torch.dtype) -> Step:
        from_h, from_z = (Lent(layer, dtype) for layer in self.inputs[:2])  # type: ignore[arg-type]
        state, gates = Lent(self.state, dtype), Lent(self.gates, dtype)
        shared = Lent(self.shared, dtype, slice(0, 2 * self.hidden))
        lents = _Cell(from_h, from_z, state, shared, gates)
        scales, scale = torch.stack(list(self.scales)[:2]), self.norm.scale
        tokens = [lent.token for lent in lents if lent.token is not None]
        token = torch.stack(tokens).sum() if tokens else None

        def step(h: Tensor, z: Tensor, act: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return _block_step(lents, h, z, act, scales, scale)[0]
            return _BlockStep.apply(lents, h, z, act, scales, scale, token)  # type: ignore[no-any-return]

        return step


class _Cell(NamedTuple):
    """What BlockGRU lends."""

    from_h: Lent
    from_z: Lent
    state: Lent
    shared: Lent
    gates: Lent


def _block_step(
    cell: _Cell, h: Tensor, z: Tensor, act: Tensor, scales: Tensor, scale: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h', and what going back needs."""
    low, z = h.to(cell.state.weight.dtype), z.to(cell.state.weight.dtype)
    entered = torch.stack([cell.from_h.product(low), cell.from_z.product(z)], -2)  # (N, 2, hidden)
    x, of_entered = rms_silu_ahead(entered, scales)
    x = x.flatten(-2)
    mixed = cell.state.product(low) + cell.shared.product(x) + act  # (N, D)
    y, of_mixed = rms_silu_ahead(mixed, scale)
    gates = grouped_product(y, cell.gates.weight, cell.gates.bias).float()  # (N, G, 3 * d)
    after, gated = _gated(gates.unflatten(-1, (3, -1)), h)
    return after, (low, z, entered, of_entered, x, mixed, of_mixed, y, scales, scale, *gated)


class _BlockStep(torch.autograd.Function):
    """A step as one node, as ``_Gates``: of some twenty, each took as long as its arithmetic."""

    @staticmethod
    def forward(
        ctx: Any, cell: _Cell, h: Tensor, z: Tensor, act: Tensor, scales: Tensor, scale: Tensor, token: Tensor | None
    ) -> Tensor:
        after, kept = _block_step(cell, h, z, act, scales, scale)
        ctx.save_for_backward(*kept)
        ctx.cell, ctx.zero = cell, token
        return after

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cell = ctx.cell
        low, z, entered, of_entered, x, mixed, of_mixed, y, scales, scale, *gated = ctx.saved_tensors
        to_gates, to_h = _ungated(grad, *gated)
        to_y = cell.gates.passed(y, to_gates.flatten(-3).to(y.dtype))
        to_mixed, to_scale = rms_silu_back(to_y, mixed, scale, of_mixed)
        to_x = cell.shared.passed(x, to_mixed)
        to_entered, to_scales = rms_silu_back(to_x.view_as(entered), entered, scales, of_entered)
        by_h, by_z = to_entered.unbind(-2)
        to_h = to_h + cell.state.passed(low, to_mixed) + cell.from_h.passed(low, by_h)
        return None, to_h, cell.from_z.passed(z, by_z), to_mixed, to_scales, to_scale, ctx.zero


def gru_gates(gates: Float[Tensor, "N G 3 d"], h: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """V2's and V3's gates, (reset, candidate, update) in each block: h' = u c + (1 - u) h, u = sigmoid(update - 1)."""
    if not torch.is_grad_enabled():
        return _gated(gates, h)[0]
    return _Gates.apply(gates, h)  # type: ignore[no-any-return]


def _gated(gates: Tensor, h: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h', and what going back needs (N, G, d)."""
    reset, candidate, update = gates.unbind(-2)
    h = h.view_as(reset)
    r, u = torch.sigmoid(reset), torch.sigmoid(update - 1)
    c = (r * candidate).mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh, of which a CPU's takes several times as long
    return torch.lerp(h, c, u).flatten(-2), (candidate, h, r, u, c)


class _Gates(torch.autograd.Function):
    """The gates as one node: a scan has many steps, and each node of a graph costs as much as its arithmetic."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, h: Tensor) -> Tensor:
        after, kept = _gated(gates, h)
        ctx.save_for_backward(*kept)
        return after

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _ungated(grad, *ctx.saved_tensors)


def _ungated(grad: Tensor, candidate: Tensor, h: Tensor, r: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the gates and of h."""
    grad = grad.view_as(h)
    to_u = grad * u
    to_c = torch.ops.aten.tanh_backward(to_u, c)
    to_reset = torch.ops.aten.sigmoid_backward(to_c * candidate, r)
    to_update = torch.ops.aten.sigmoid_backward(grad * (c - h), u)
    return torch.stack([to_reset, to_c * r, to_update], -2), (grad - to_u).flatten(-2)


def _columns(layer: Linear, x: Tensor, part: slice) -> Tensor:
    """A dense layer's share for its last input columns, bias included; the other columns' share is made in the scan."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return nn.functional.linear(x, layer.weight[:, part].to(x.dtype), bias)


# ---- the model

FEW = 1 << 20
"""weights of a cell up to which a scan on a CPU is no faster in bf16: casting so few rows takes longer than it saves"""


class Observed(NamedTuple):
    """What observing T steps of N sequences gives."""

    state: State
    """(N, T, ...) posterior states"""
    raw: Tensor
    """(N, T, R): the posterior's numbers; ``latents.stats`` makes log-probabilities or means of them"""


class RSSM(nn.Module):
    """Cell, latents, and the two networks that say what z is: the prior from h, the posterior from h and embed.

    Args:
        embed: width of what is seen.
        hidden: units of prior and posterior.
        prior_layers: hidden layers of the prior (the posterior has one).
        after: what follows a hidden dense layer (norm, activation).
        init: of these dense layers' weights.
    """

    def __init__(
        self,
        cell: Cell,
        latents: Latents,
        embed: int,
        hidden: int,
        prior_layers: int,
        after: Callable[[int], nn.Module],
        init: Init = glorot,
    ) -> None:
        super().__init__()
        self.cell, self.latents = cell, latents
        self.prior = MLP(cell.size, hidden, prior_layers, latents.raw, after, init)
        self.posterior = Linear(cell.size + embed, hidden, init)
        self.posterior_after = after(hidden)
        self.posterior_out = Linear(hidden, latents.raw, init)

    def initial(self, n: int, device: torch.device) -> State:
        """Zeros (N, ...)."""
        return State(torch.zeros(n, self.cell.size, device=device), torch.zeros(n, self.latents.width, device=device))

    def observe(
        self,
        embed: Float[Tensor, "N T E"],
        act: Float[Tensor, "N T A"],
        is_first: Bool[Tensor, "N T"],
        state: State,
        noise: Tensor | None = None,
    ) -> Observed:
        """Posterior states of T steps on from ``state`` (N, ...).

        Args:
            act: what led to each step; whatever it is where ``is_first``.
            noise: (N, T, ...) of ``latents.noise``; fresh without it.
        """
        dtype, size = self.precision(embed), self.cell.size
        embed = embed.to(dtype)
        noise = self.latents.noise(*embed.shape[:2], device=embed.device) if noise is None else noise
        keep = (~is_first).unsqueeze(-1).to(dtype)  # (N, T, 1)
        acts = self.cell.acts(act.to(dtype), keep).transpose(0, 1).unbind()  # T of (N, ...)
        seen = _columns(self.posterior, embed, slice(size, None)).transpose(0, 1).unbind()
        step, from_h = self.cell.begin(dtype), Lent(self.posterior, dtype, slice(0, size))
        out, keeps = Lent(self.posterior_out, dtype), keep.float().transpose(0, 1).unbind()
        h, z = state
        deter, stoch, raws = [], [], []
        for t, draw in enumerate(noise.transpose(0, 1).unbind()):
            h = step(h * keeps[t], z * keeps[t], acts[t])  # (N, D)
            raw = out(self.posterior_after(from_h(h) + seen[t]))  # (N, R)
            z = self.latents.draw(raw, draw)  # (N, W)
            deter.append(h)
            stoch.append(z)
            raws.append(raw)
        return Observed(State(torch.stack(deter, 1), torch.stack(stoch, 1)), torch.stack(raws, 1))

    def precision(self, embed: Tensor) -> torch.dtype:
        """What a scan multiplies in: float32 on a CPU where weights are few."""
        few = sum(p.numel() for p in self.cell.parameters()) <= FEW
        return torch.float32 if few and embed.device.type == "cpu" else embed.dtype

    def obs_step(self, embed: Tensor, act: Tensor, is_first: Tensor, state: State) -> State:
        """The posterior state one step on (N, ...), as ``observe`` finds it."""
        dtype = embed.dtype
        keep = (~is_first).unsqueeze(-1).to(dtype)  # (N, 1)
        h, z = (x * keep.to(x.dtype) for x in state)
        h = self.cell.begin(dtype)(h, z, self.cell.acts(act.to(dtype), keep))  # (N, D)
        raw = self.post(h, embed)
        noise = self.latents.noise(len(h), 1, device=h.device)[:, 0]  # as many numbers as a window of one draws
        return State(h, self.latents.draw(raw, noise))

    def post(self, h: Float[Tensor, "N D"], embed: Float[Tensor, "N E"]) -> Float[Tensor, "N R"]:
        """The posterior's numbers, of h and of what was seen there."""
        seen = torch.cat([h.to(embed.dtype), embed], -1)
        return self.posterior_out(self.posterior_after(self.posterior(seen)))

    def imagine(
        self, state: State, actor: Callable[[Tensor, int], Tensor], horizon: int, dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, "K N F"], Float[Tensor, "H N A"]]:
        """H steps on from ``state`` (N, ...) by the prior; ``actor(feat, k)`` gives the action chosen at step k.

        Returns:
            [h, z] of H + 1 states, time first, the start included; and the actions.
        """
        take = self.stepper(dtype)
        feats, acts = [state.feat], []
        for k in range(horizon):
            acts.append(actor(feats[-1], k))
            state = take(state, acts[-1])
            feats.append(state.feat)
        return torch.stack(feats), torch.stack(acts)

    def stepper(self, dtype: torch.dtype = torch.float32) -> Callable[..., State]:
        """One imagined step ``(state, act, temperature=1.0) -> state``; the cell's weights are lent for a rollout."""
        step = self.cell.begin(dtype)

        def take(state: State, act: Tensor, temperature: float = 1.0) -> State:
            keep = torch.ones_like(act[:, :1], dtype=dtype)
            h = step(state.deter, state.stoch, self.cell.acts(act.to(dtype), keep))
            noise = self.latents.noise(len(h), device=h.device)
            return State(h, self.latents.draw(self.prior(h.to(dtype)), noise, temperature))

        return take
