"""Optimisers of the papers, and how any optimiser's moments are kept.

Nothing here waits for the device: norms and learning rates stay there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class LaProp(torch.optim.Optimizer):
    """Adaptive gradient clipping, then LaProp (DreamerV3 of 2024; LaProp: arXiv:2002.04839, AGC: arXiv:2102.06171).

    ::

        g <- g / max(1, |g| / (clip * max(1e-3, |w|)))      of whole tensors
        v <- EMA of g^2;  u = g / (sqrt(v corrected) + 1e-20)
        m <- EMA of u;    w <- w - lr * m corrected

    The learning rate rises linearly over ``warmup`` updates; that of the first one is 0. It may fall at the end of a
    run (``falls``).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 4e-5,
        clip: float = 0.3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-20,
        warmup: int = 1000,
    ) -> None:
        super().__init__(
            list(params), {"lr": lr, "clip": clip, "beta1": beta1, "beta2": beta2, "eps": eps, "warmup": warmup}
        )
        self.falls(0, 0.0)
        for group in self.param_groups:
            for p in group["params"]:
                exact = torch.float32 if p.device.type == "mps" else torch.float64  # MPS has no other
                self.state[p] = {"step": torch.zeros((), dtype=exact, device=p.device)} | {
                    name: torch.zeros_like(p) for name in ("v", "m")
                }

    def falls(self, updates: int, share: float) -> None:
        """Let the learning rate fall as ``left`` says: on the device, where a captured graph counts on by itself."""
        for group in self.param_groups:
            group["updates"], group["fall"] = updates, share * updates

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)

    def _update(self, params: list[Tensor], group: Mapping[str, Any]) -> None:
        states = [self.state[p] for p in params]
        grads: Any = [p.grad for p in params]
        count = states[0]["step"]
        rate = group["lr"] * (count / group["warmup"]).clamp(max=1) if group["warmup"] else group["lr"]
        if group["fall"]:
            rate = rate * ((group["updates"] - count) / group["fall"]).clamp(0, 1)
        torch._foreach_add_([s["step"] for s in states], 1)
        beta1, beta2 = group["beta1"], group["beta2"]
        bias1, bias2 = 1 - beta1**count, 1 - beta2**count
        v, m = [s["v"] for s in states], [s["m"] for s in states]
        if group["clip"]:
            grads = clipped(grads, params, group["clip"])
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        scale = torch._foreach_div(v, bias2.float())
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        update = torch._foreach_div(grads, scale)
        torch._foreach_lerp_(m, update, 1 - beta1)
        torch._foreach_mul_(update, 0)
        torch._foreach_add_(update, m)
        torch._foreach_mul_(update, (-rate / bias1).float())
        torch._foreach_add_(params, update)


class Adam(torch.optim.Adam):
    """Adam as DreamerV2 has it: gradients clipped by their norm all together, and plain weight decay.

    ::

        g <- g * clip / max(clip, |g|)      of all parameters together; clip 0: as they are
        w <- (1 - decay) w                  not scaled by the learning rate
        Adam's step, as one kernel where the device has it
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, eps: float = 1e-5, clip: float = 100.0, decay: float = 0.0
    ) -> None:
        params = list(params)
        fused = all(p.device.type in ("cpu", "cuda") for p in params)
        super().__init__(params, lr=lr, eps=eps, fused=fused)
        self.clip, self.decay = clip, decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> Tensor:  # type: ignore[override]
        """One update. Returns the norm of the gradients before they are clipped."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = global_norm(params)
        if self.clip:
            torch._foreach_mul_([p.grad for p in params], self.clip / norm.clamp(min=self.clip))
        if self.decay:
            torch._foreach_mul_(params, 1 - self.decay)
        super().step()
        return norm


def left(done: int, updates: int, share: float) -> float:
    """What is left of a learning rate: all of it until the last ``share`` of the updates; over these it falls to 0."""
    return min(max((updates - done) / (share * updates), 0.0), 1.0) if share * updates else 1.0


def scale_rates(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Learning rates at a share of what they began with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group.setdefault("initial_lr", group["lr"])  # torch's schedulers call it so, too


def clipped(grads: list[Tensor], params: list[Tensor], clip: float) -> tuple[Tensor, ...]:
    """Gradients whose norms are at most ``clip`` times their parameter's, a whole tensor at a time."""
    limits = torch._foreach_norm(params)
    torch._foreach_clamp_min_(limits, 1e-3)
    torch._foreach_mul_(limits, clip)
    ratios = torch._foreach_norm(grads)
    torch._foreach_div_(ratios, limits)
    torch._foreach_clamp_min_(ratios, 1.0)
    return torch._foreach_div(grads, ratios)


def adam(params: Iterable[nn.Parameter], lr: float, eps: float) -> torch.optim.Adam:
    """Adam, as one kernel where the device has it."""
    params = list(params)
    return torch.optim.Adam(params, lr, eps=eps, fused=all(p.device.type in ("cpu", "cuda") for p in params))


def adamw(groups: Iterable[Mapping[str, Any]], lr: float) -> torch.optim.AdamW:
    """AdamW over groups with a decay of their own, as one kernel where the device has it."""
    kept = [dict(group, params=list(group["params"])) for group in groups]
    fused = all(p.device.type in ("cpu", "cuda") for group in kept for p in group["params"])
    return torch.optim.AdamW(kept, lr, fused=fused)


def global_norm(params: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all their gradients together; 0 where there is none."""
    grads = [p.grad for p in params if p.grad is not None]
    return torch.stack(torch._foreach_norm(grads)).norm() if grads else torch.zeros(())


@torch.no_grad()
def mix(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """slow <- (1 - rate) slow + rate fast; rate 1 copies."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Gradients pass through the modules inside the block, but not to their parameters."""
    params = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in params:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in params:
            p.requires_grad_(True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The moments, by the parameter's number; learning rates and such come from the config."""
    state = optimizer.state_dict()["state"]
    return {
        str(i): {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in moments.items()}
        for i, moments in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the moments in their parameter's memory layout: the fused update walks both in one order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        int(i): {k: torch.empty_like(parameters[int(i)]).copy_(v) if v.dim() else v.clone() for k, v in entry.items()}
        for i, entry in state.items()
    }
    there = {p: {k: v for k, v in kept.items() if isinstance(v, Tensor)} for p, kept in optimizer.state.items()}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for p, kept in there.items():  # torch leaves a step where it was saved from, and casts what else there is
        for name, value in kept.items():
            optimizer.state[p][name] = optimizer.state[p][name].to(value.device, value.dtype)
