"""M, the memory: an LSTM that predicts the next z as a mixture of Gaussians (arXiv:1803.10122, appendix A.2).

::

    t:        0              1              2
    z a:   z0 a0 ──▶ h1   z1 a1 ──▶ h2   z2 a2 ──▶ h3
    h:      0        │     h1       │     h2
    head:            ▼              ▼              h[t] has seen steps before t: C acts on [z_t, h_t],
                 z1 rew1 con1   z2 rew2 con2       and the heads on h_t predict what row t holds

Every dimension of z has its own K Gaussians (``Factorised``, the authors' code), or the whole vector has K of them
(``Joint``, ctallec's). The LSTM has one bias, as TensorFlow's, and its forget gate one more constant 1 when it runs.
An episode's start zeroes the state, and with ``restart`` is an input too (the authors' Doom).

Ours, not the paper's: a floor under sigma; reward and continuation are two optional linear heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dreamlab.agents.world_models.config import MemoryConfig
from dreamlab.core.types import Batch
from dreamlab.nn.compute import in_fp32_if_emulated

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Mixture(NamedTuple):
    """K Gaussians for every dimension of z: (..., K, D) each; a joint mixture's weights are (..., K, 1)."""

    logit: Tensor
    mean: Tensor
    log_std: Tensor


class Noise(NamedTuple):
    """What one draw from a mixture consumes: (N, D) each."""

    uniform: Tensor
    normal: Tensor


class Sequences(NamedTuple):
    """What M learns from: entry t is the step from row t to row t + 1."""

    z: Tensor
    """(B, T, D) at t, drawn"""
    act: Tensor
    """(B, T, A) at t"""
    is_first: Tensor
    """(B, T) at t"""
    after: Tensor
    """(B, T, D) z at t + 1: of the same draw, so that it is the next step's input"""
    rew: Tensor
    """(B, T) at t + 1"""
    is_terminal: Tensor
    """(B, T) at t + 1"""
    valid: Tensor
    """(B, T) bool: both rows are there, and of one episode"""


def sequences(batch: Batch, z: Tensor, act: Tensor) -> Sequences:
    """Pair every row with the next one: (B, T + 1) rows are T steps. ``act`` as M sees it (B, T + 1, A)."""
    valid = batch.mask[:, :-1] & batch.mask[:, 1:] & ~batch.is_first[:, 1:]
    return Sequences(
        z[:, :-1],
        act[:, :-1],
        batch.is_first[:, :-1],
        z[:, 1:],
        batch.rew[:, 1:],
        batch.is_terminal[:, 1:],
        valid,
    )


class Factorised:
    """Each dimension mixes K Gaussians of its own: 3KD numbers, logits, means, log-stds, each (K, D)."""

    def __init__(self, k: int, d: int) -> None:
        self.k, self.d, self.size, self.logits = k, d, 3 * k * d, d

    def split(self, raw: Float[Tensor, "*batch O"]) -> Mixture:
        """Views of the head's numbers; log-stds as they come."""
        return Mixture(*raw.unflatten(-1, (3, self.k, self.d)).unbind(-3))

    @staticmethod
    def nll(mixture: Mixture, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """-log sum_k pi_k N(z; mu_k, sigma_k) of every dimension, in nats."""
        log_density = log_densities(mixture, z)  # (..., K, D)
        return mixture.logit.logsumexp(-2) - (mixture.logit + log_density).logsumexp(-2)  # (..., D)


class Joint:
    """The vector mixes K diagonal Gaussians: K(2D + 1) numbers, logits (K), then means and log-stds (K, D)."""

    def __init__(self, k: int, d: int) -> None:
        self.k, self.d, self.size, self.logits = k, d, k * (2 * d + 1), 1

    def split(self, raw: Float[Tensor, "*batch O"]) -> Mixture:
        """Views of the head's numbers; log-stds as they come."""
        mean, log_std = raw[..., self.k :].unflatten(-1, (2, self.k, self.d)).unbind(-3)
        return Mixture(raw[..., : self.k, None], mean, log_std)

    @staticmethod
    def nll(mixture: Mixture, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch 1"]:
        """-log sum_k pi_k prod_d N(z_d; mu_kd, sigma_kd) in nats for each of the D dimensions."""
        log_density = log_densities(mixture, z).sum(-1, keepdim=True)  # (..., K, 1)
        joint = mixture.logit.logsumexp(-2) - (mixture.logit + log_density).logsumexp(-2)
        return joint / z.shape[-1]


MIXTURES: dict[str, type[Factorised] | type[Joint]] = {"factorised": Factorised, "joint": Joint}


class Memory(nn.Module):
    """LSTM and heads. Parameters only: the state (h, c) is passed in and returned."""

    forget: Tensor
    no_bias: Tensor

    def __init__(self, latent: int, act: int, config: MemoryConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.latent, self.act, self.hidden, self.restart = latent, act, hidden, config.restart
        self.kind = MIXTURES[config.mixture](config.mixtures, latent)
        self.min_log_std = math.log(config.sigma_floor)
        # gates in torch's order: input, forget, candidate, output
        self.input_weight = nn.Parameter(torch.empty(4 * hidden, latent + act + config.restart))
        self.hidden_weight = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        self.head = nn.Linear(hidden, self.kind.size)
        wanted = {"rew": config.reward, "con": config.continuation}
        self.extra = nn.ModuleDict({name: nn.Linear(hidden, 1) for name, on in wanted.items() if on})
        ones = torch.zeros(4, hidden)
        ones[1] = 1.0
        self.register_buffer("forget", ones.flatten(), persistent=False)
        self.register_buffer("no_bias", torch.zeros(4 * hidden), persistent=False)
        for weight in (self.input_weight, self.hidden_weight):
            nn.init.xavier_uniform_(weight)
        for head in (self.head, *self.extra.values()):
            nn.init.xavier_uniform_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def initial(self, n: int) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """(h, c) at the start of an episode: zeros."""
        zeros = self.bias.new_zeros(n, self.hidden)
        return zeros, zeros.clone()

    def _inputs(self, z: Tensor, act: Tensor, first: Tensor) -> Tensor:
        return torch.cat([z, act, first.unsqueeze(-1)] if self.restart else [z, act], -1)

    def cell(
        self,
        z: Float[Tensor, "N D"],
        act: Float[Tensor, "N A"],
        h: Float[Tensor, "N H"],
        c: Float[Tensor, "N H"],
        first: Float[Tensor, " N"],
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """(h, c) after (z, act): one step of the LSTM. ``first`` is 1 where z is an episode's first."""
        gates = F.linear(self._inputs(z, act, first), self.input_weight, self.bias + self.forget)  # (N, 4H)
        gates = (gates + F.linear(h, self.hidden_weight)).float()
        i, f, g, o = gates.chunk(4, -1)  # (N, H) each
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def forward(
        self, z: Float[Tensor, "B T D"], act: Float[Tensor, "B T A"], is_first: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B T H"]:
        """h after every step: entry t has seen (z, act) up to and with t, back to the last ``is_first``.

        The fused LSTM runs over whole stretches; it is cut where any row of the batch starts an episode.
        """
        weights = [self.input_weight, self.hidden_weight, self.bias + self.forget, self.no_bias]
        inputs = self._inputs(z, act, is_first.to(z))  # (B, T, D + A), and one more with restart
        starts = is_first[:, 1:].any(0).nonzero().flatten().add(1).tolist()
        state, outputs = self.initial(len(z)), []
        for begin, end in zip([0, *starts], [*starts, z.shape[1]], strict=True):
            keep = (~is_first[:, begin, None]).to(state[0])  # (B, 1)
            carried = [(s.to(inputs) * keep.to(inputs))[None] for s in state]  # (1, B, H) each
            with in_fp32_if_emulated(z.device):  # oneDNN has no bf16 LSTM for such processors
                out, h, c = torch.lstm(inputs[:, begin:end], carried, weights, True, 1, 0.0, True, False, True)
            state = (h[0], c[0])
            outputs.append(out)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)  # (B, T, H)

    @torch.no_grad()
    def states(
        self,
        z: Float[Tensor, "B T D"],
        act: Float[Tensor, "B T A"],
        is_first: Bool[Tensor, "B T"],
        start: tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T H"]]:
        """(h, c) on arriving at every t, before (z_t, act_t): what C acts on, and what a dream goes on from.

        ``start`` is (h, c) on arriving at the first one, zeros unless told.
        """
        h, c = start or self.initial(len(z))
        hs, cs = [], []
        for t in range(z.shape[1]):
            keep = (~is_first[:, t, None]).to(h)  # (B, 1)
            h, c = h * keep, c * keep
            hs.append(h)
            cs.append(c)
            h, c = self.cell(z[:, t], act[:, t], h, c, is_first[:, t].to(h))
        return torch.stack(hs, 1), torch.stack(cs, 1)

    def mixture(self, h: Float[Tensor, "*batch H"]) -> Mixture:
        """The distribution of z at the step that h leads to."""
        mixture = self.kind.split(self.head(h).float())
        return mixture._replace(log_std=mixture.log_std.clamp(min=self.min_log_std))

    def extras(self, h: Float[Tensor, "*batch H"]) -> Mapping[str, Float[Tensor, "*batch"]]:
        """``rew``: the predicted reward; ``con``: the logit of going on. Only the heads there are."""
        return {name: head(h).float().squeeze(-1) for name, head in self.extra.items()}


def log_densities(mixture: Mixture, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K D"]:
    """log N(z_d; mu_kd, sigma_kd), in nats."""
    scaled = (z.unsqueeze(-2) - mixture.mean) * (-mixture.log_std).exp()  # (..., K, D)
    return -0.5 * scaled.square() - mixture.log_std - HALF_LOG_2PI


def mixture_mean(mixture: Mixture) -> Float[Tensor, "*batch D"]:
    """E[z]."""
    return (mixture.logit.softmax(-2) * mixture.mean).sum(-2)


def mixture_entropy(mixture: Mixture) -> Float[Tensor, "*batch L"]:
    """Entropy of the choice among the K Gaussians, in nats: 0 to log K (joint: one choice for all dimensions)."""
    log_pi = mixture.logit.log_softmax(-2)
    return -(log_pi.exp() * log_pi).sum(-2)


def sample(mixture: Mixture, temperature: float, noise: Noise) -> Float[Tensor, "N D"]:
    """z ~ mixture: weights softmax(log pi / temperature), standard deviations sigma * sqrt(temperature).

    The Gaussian chosen is the first whose running sum of weights reaches the uniform draw.
    """
    weight = ((mixture.logit - mixture.logit.amax(-2, keepdim=True)) / temperature).exp()  # (N, K, D), joint (N, K, 1)
    running = weight.cumsum(-2)
    reached = noise.uniform[..., None, : weight.shape[-1]] * running[..., -1:, :]
    pick = (running[..., :-1, :] < reached).sum(-2, keepdim=True)  # in 0 .. K-1
    pick = pick.expand_as(mixture.mean[..., :1, :])  # (N, 1, D)
    mean = mixture.mean.gather(-2, pick).squeeze(-2)
    std = mixture.log_std.gather(-2, pick).squeeze(-2).exp()  # only the chosen
    return mean + std * noise.normal * math.sqrt(temperature)  # (N, D)


def fresh_noise(n: int, latent: int, rng: torch.Generator | None, device: torch.device) -> Noise:
    """Noise for one draw."""
    both = torch.empty(2, n, latent, device=device)
    return Noise(both[0].uniform_(generator=rng), both[1].normal_(generator=rng))


def memory_losses(
    nll: Float[Tensor, "B T D"],
    extras: Mapping[str, Float[Tensor, "B T"]],
    rew: Float[Tensor, "B T"],
    is_terminal: Bool[Tensor, "B T"],
    terminal_weight: float,
) -> dict[str, Float[Tensor, "B T"]]:
    """What predicting the next row costs: z (nats, mean over D), and where there are heads reward and continuation.

    rew and is_terminal are the rows predicted: those at t + 1.
    """
    losses = {"nll": nll.mean(-1)}  # (B, T); of a joint mixture there is one number
    if "rew" in extras:
        losses["rew"] = (extras["rew"] - rew).square()
    if "con" in extras:
        weight = torch.where(is_terminal, terminal_weight, 1.0)
        losses["con"] = F.binary_cross_entropy_with_logits(
            extras["con"], (~is_terminal).float(), weight, reduction="none"
        )
    return losses


def one_step(
    mixture: Mixture, before: Float[Tensor, "B T D"], after: Float[Tensor, "B T D"], valid: Bool[Tensor, "B T"]
) -> dict[str, Tensor]:
    """How well the mixture's mean foresees the next z, against predicting no change (scalars, over valid steps).

    ``error``, ``no_change``: mean squared error of each. ``sequence_accuracy``: share of (step, dimension) where
    the mean is nearer to what came than what was there before. ``entropy``: of the choice among the Gaussians.
    """
    error = (mixture_mean(mixture) - after).square()[valid]  # (V, D)
    still = (before - after).square()[valid]
    return {
        "error": error.mean(),
        "no_change": still.mean(),
        "sequence_accuracy": (error < still).float().mean(),
        "entropy": mixture_entropy(mixture)[valid].mean(),
    }
