"""The cells of the recurrent state-space model: h[t] from h[t-1], z[t-1] and act[t-1].

``KerasGRU`` (V1), ``NormGRU`` (V2), ``BlockGRU`` (V3). Actions' shares of every product are made for all times at once,
before the scan; in it a cell's weights are lent (``scan.Lent``), and their gradients are one product after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.nn.blocks import (
    BlockLinear,
    Init,
    LayerNorm,
    Linear,
    RMSNormSiLU,
    grouped_product,
    rms_silu,
    rms_silu_ahead,
    rms_silu_back,
)
from dreamlab.nn.scan import Lent, columns


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
        return columns(self.inputs, act * keep, slice(self.latent, None))

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
        return columns(self.inputs, act * keep, slice(self.latent, None))

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
        return columns(self.shared, x2, slice(2 * self.hidden, None))

    def begin(self, dtype: torch.dtype) -> Step:
        """Ready for one scan in this precision; with gradients each of its steps is one node."""
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
