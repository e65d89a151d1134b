"""Actor and critic: what they see, what they remember, and what they learn from imagined steps.

::

    k            0          1       ...     H-1
    seen       start      frame    ...     frame      decoded from tokens; no gradient leads back to them
    memory  ──▶ m0 ──────▶ m1 ──── ... ──▶ m[H-1]     filled by real frames before the start
    act         a0         a1              a[H-1]
    rew, end    r0 d0      r1 d1           -          r[k] is what a[k] earned
    val         V0         V1              V[H-1]
    ret         G0 ◀────── G1 ◀─── ... ◀── V[H-1]     G[k] = r[k] + gamma (1 - d[k]) ((1 - l) V[k+1] + l G[k+1])

``Lstm`` is the paper's: a CNN on reconstructed frames, then an LSTM. ``Attention`` (ours) attends to the tokens of
the last frames and needs no picture at all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dreamlab.agents.iris.config import ActorCriticConfig
from dreamlab.core.errors import UserError
from dreamlab.core.protocols import State
from dreamlab.nn.returns import lambda_return
from dreamlab.nn.transformer import Transformer


class Seen(NamedTuple):
    """What there is to see of a frame; an actor-critic takes what it needs."""

    tokens: Tensor
    """(..., K) int64"""
    image: Tensor
    """(..., C, h, w) in [0, 1], or (..., 0) where nobody looks"""


class Said(NamedTuple):
    """What actor and critic say."""

    logits: Tensor
    """(..., A)"""
    val: Tensor
    """(...)"""


class ActorCritic(Protocol):
    """Both at once, with a memory that is passed in and returned."""

    looks: bool
    """whether it needs pictures"""

    def initial(self, n: int, device: torch.device) -> State:
        """The memory (N, ...) before an episode's first frame."""
        ...

    def burn(self, seen: Seen, mask: Bool[Tensor, "N B"]) -> State:
        """The memory after real frames (N, B, ...), padded on the left."""
        ...

    def step(self, seen: Seen, memory: State) -> tuple[Said, State]:
        """One frame (N, ...)."""
        ...

    def unroll(self, seen: Seen, memory: State) -> Said:
        """As ``step`` one after the other over frames (N, H, ...): what is learned from."""
        ...


class Lstm(nn.Module):
    """The paper's: stages of 3x3 convolution, max-pooling by 2 and ReLU; an LSTM cell; two linear heads."""

    looks = True

    def __init__(self, shape: tuple[int, int, int], actions: int, config: ActorCriticConfig) -> None:
        super().__init__()
        size = 2 ** len(config.channels)
        if shape[1] < size or shape[2] < size:
            raise UserError(
                f"frames of {shape[1]}x{shape[2]} cannot be halved {len(config.channels)} times; type fewer "
                "--agent.actor-critic.channels, or a larger --env.size"
            )
        widths = (shape[0], *config.channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(widths))
        flat = config.channels[-1] * (shape[1] // size) * (shape[2] // size)
        self.lstm = nn.LSTMCell(flat, config.hidden)
        self.actor, self.critic = nn.Linear(config.hidden, actions), nn.Linear(config.hidden, 1)
        self.hidden = config.hidden
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def initial(self, n: int, device: torch.device) -> State:
        """Zeros."""
        return torch.zeros(n, self.hidden, device=device), torch.zeros(n, self.hidden, device=device)

    def look(self, image: Float[Tensor, "N C h w"]) -> Float[Tensor, "N F"]:
        """Features of frames."""
        x = (2 * image - 1).contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            x = F.max_pool2d(convolution(x), 2).relu()
        return x.flatten(1).float()

    def remember(self, feat: Float[Tensor, "N F"], memory: State) -> State:
        """One step of the LSTM, in full precision."""
        with torch.autocast(feat.device.type, enabled=False):
            return self.lstm(feat, memory)

    def say(self, hidden: Float[Tensor, "*batch D"]) -> Said:
        """Both heads, in full precision."""
        return exactly(self.actor, self.critic, hidden)

    def burn(self, seen: Seen, mask: Bool[Tensor, "N B"]) -> State:
        """What is padded leaves the memory as it is: zeros."""
        memory = self.initial(len(mask), mask.device)
        if not mask.shape[1]:
            return memory
        feat = self.look(seen.image.flatten(0, 1)).unflatten(0, mask.shape)  # (N, B, F)
        for x, there in zip(feat.unbind(1), mask.unbind(1), strict=True):
            memory = tuple(
                torch.where(there[:, None], a, b) for a, b in zip(self.remember(x, memory), memory, strict=True)
            )
        return memory

    def step(self, seen: Seen, memory: State) -> tuple[Said, State]:
        memory = self.remember(self.look(seen.image), memory)
        return self.say(memory[0]), memory

    def unroll(self, seen: Seen, memory: State) -> Said:
        feat = self.look(seen.image.flatten(0, 1)).unflatten(0, seen.image.shape[:2])  # (N, H, F)
        hidden = []
        for x in feat.unbind(1):
            memory = self.remember(x, memory)
            hidden.append(memory[0])
        return self.say(torch.stack(hidden, 1))


def exactly(actor: nn.Module, critic: nn.Module, x: Float[Tensor, "*batch D"]) -> Said:
    """What two heads say in full precision, whatever else is computed in: values of bf16 are an eighth apart at 20."""
    with torch.autocast(x.device.type, enabled=False):
        return Said(actor(x.float()), critic(x.float()).squeeze(-1))


class Attention(nn.Module):
    """Ours: causal attention over the tokens of the last frames, read at the newest frame's last token.

    The memory is those frames' tokens, one past the vocabulary where there is none yet.
    """

    looks = False

    def __init__(self, tokens: int, vocabulary: int, actions: int, config: ActorCriticConfig) -> None:
        super().__init__()
        self.frames, self.tokens, self.nothing = config.frames, tokens, vocabulary
        self.embed = nn.Embedding(vocabulary + 1, config.width)
        self.place = nn.Embedding(config.frames * tokens, config.width)
        self.transformer = Transformer(config.layers, config.heads, config.width, 0.0)
        self.actor, self.critic = nn.Linear(config.width, actions), nn.Linear(config.width, 1)

    def initial(self, n: int, device: torch.device) -> State:
        """No frame at all."""
        return torch.full((n, self.frames - 1, self.tokens), self.nothing, device=device)

    def burn(self, seen: Seen, mask: Bool[Tensor, "N B"]) -> State:
        """The last frames' tokens; what is padded is none."""
        there = torch.where(mask[:, :, None], seen.tokens, self.nothing)
        kept = torch.cat([self.initial(len(mask), mask.device), there], 1)
        return kept[:, kept.shape[1] - self.frames + 1 :]

    def read(self, tokens: Int[Tensor, "N W K"]) -> Said:
        """What is said of windows of W frames."""
        x = self.embed(tokens.flatten(1)) + self.place.weight
        x = self.transformer(x)[:, -1]
        return exactly(self.actor, self.critic, x)

    def step(self, seen: Seen, memory: State) -> tuple[Said, State]:
        window = torch.cat([memory, seen.tokens[:, None]], 1)  # (N, W, K)
        return self.read(window), window[:, 1:]

    def unroll(self, seen: Seen, memory: State) -> Said:
        """All windows at once."""
        whole = torch.cat([memory, seen.tokens], 1)  # (N, W - 1 + H, K)
        windows = whole.unfold(1, self.frames, 1).movedim(-1, 2)  # (N, H, W, K)
        said = self.read(windows.flatten(0, 1))
        return Said(*(x.unflatten(0, windows.shape[:2]) for x in said))


def build(
    shape: tuple[int, int, int], tokens: int, vocabulary: int, actions: int, config: ActorCriticConfig
) -> Lstm | Attention:
    """The actor-critic that the settings name."""
    makers: dict[str, Callable[[], Lstm | Attention]] = {
        "lstm": lambda: Lstm(shape, actions, config),
        "transformer": lambda: Attention(tokens, vocabulary, actions, config),
    }
    return makers[config.kind]()


class Imagined(NamedTuple):
    """H steps of N dreams: constants that actor and critic learn from."""

    seen: Seen
    """(N, H, ...): the start and what followed"""
    act: Tensor
    """(N, H) int64"""
    rew: Tensor
    """(N, H) in {-1, 0, 1}: what the action earned"""
    end: Tensor
    """(N, H) bool: whether it ended the episode; nothing stops there"""


def lambda_returns(
    rew: Float[Tensor, "N H"], end: Bool[Tensor, "N H"], val: Float[Tensor, "N H"], gamma: float, trace: float
) -> Float[Tensor, "N H-1"]:
    """G[k] for k < H - 1; the last value is what they are bootstrapped from."""
    rew, con, val = rew.t(), (~end).to(val).t(), val.t()
    return lambda_return(rew[:-1], con[:-1], val[:-1], val[-1], gamma, trace).t()


def losses(said: Said, dream: Imagined, config: ActorCriticConfig) -> dict[str, Tensor]:
    """Of the policy (REINFORCE with the values as baseline), the values, and the entropy, weighted; over k < H - 1.

    Advantages are not normalised, and steps after an imagined end count like any other: as the authors have it.
    """
    ret = lambda_returns(dream.rew, dream.end, said.val.detach(), config.gamma, config.trace)
    val, log = said.val[:, :-1], said.logits[:, :-1].log_softmax(-1)
    chosen = log.gather(-1, dream.act[:, :-1, None]).squeeze(-1)
    return {
        "policy": -(chosen * (ret - val.detach())).mean(),
        "value": (val - ret).square().mean(),
        "entropy": -config.entropy * entropy(log).mean(),
    }


def entropy(log: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
    """Of a policy's log-probabilities, in nats."""
    return -(log.exp() * log).sum(-1)
