"""The world model: a transformer over frames' tokens and actions (arXiv:2209.00588v3, section 2.2).

A sequence is T blocks of K + 1 inputs, a frame's tokens x and then the action a; every input sees those before it::

    input     x0  x1  ...  x14  x15   a  │  x0  x1  ...           K = 16, block t │ block t + 1
    predicts  x1  x2  ...  x15   -   x0' │  x1  x2  ...           x0' is the next frame's first token
                                    rew
                                    end                           what action a earned, and whether it ended the episode

Nothing predicts the very first token, and nothing is read where a frame's last token goes in.

Imagining keeps keys and values. A frame's last token and the action after it go in together, in one pass of two::

    begin     x0 .. x14                         K - 1 slots; x15 is pending
    step      [x15 a] -> rew, end, x0'   [x0'] -> x1'   ...   [x14'] -> x15', which is pending

which is K passes a step where the authors' code makes K + 1, and the same by causality. Its rule for a full context is
kept: if a step's K + 1 tokens (1 without the frame) no longer fit behind those before it, the pending one among them,
everything is forgotten but the current frame, whose tokens get the first positions. A dream of ``blocks`` steps from
one frame, the last without its frame, fits exactly.

Ours, not the paper's: the three q, k, v layers are one (the same numbers); a last step draws no token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dreamlab.agents.iris.config import DynamicsConfig
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import tree_map
from dreamlab.nn.latents import race, race_noise
from dreamlab.nn.transformer import Cache, Transformer, initialise

IGNORED = -100
"""the label of what is padded"""


class Said(NamedTuple):
    """Logits, in float32."""

    obs: Tensor
    """(B, T, K, V): of the K tokens after a block's first; the last of them are of the next frame's first token"""
    rew: Tensor
    """(B, T, 3): of the reward's sign, -1, 0, 1"""
    end: Tensor
    """(B, T, 2): of going on, and of the episode's end"""


class Memory(NamedTuple):
    """What imagining carries (N, ...). The next step writes into the cache: clone a memory to branch."""

    cache: Cache
    """of all that was seen but the pending token"""
    tokens: Tensor
    """(N, K) int64: the current frame, whose last token is pending"""


class Step(NamedTuple):
    """What one imagined step drew (N, ...)."""

    tokens: Tensor
    """(N, K) int64: the next frame; without ``frame`` the current one still"""
    rew: Tensor
    """(N,) float: -1, 0 or 1"""
    end: Tensor
    """(N,) bool"""


class Dynamics(nn.Module):
    """Predicts the next frame's tokens, and what an action earns and ends.

    Args:
        tokens: of a frame (K).
        vocabulary: tokens there are (V).
        actions: there are (A).
    """

    def __init__(self, tokens: int, vocabulary: int, actions: int, config: DynamicsConfig) -> None:
        super().__init__()
        self.tokens, self.blocks = tokens, config.blocks
        self.block = tokens + 1
        self.positions = config.blocks * self.block
        width = config.width
        self.embed_position = nn.Embedding(self.positions, width)
        self.embed_act = nn.Embedding(actions, width)
        self.embed_obs = nn.Embedding(vocabulary, width)
        self.transformer = Transformer(config.layers, config.heads, width, config.dropout)
        self.obs, self.rew, self.end = Head(width, vocabulary), Head(width, 3), Head(width, 2)
        self.apply(initialise)

    # -- learning --------------------------------------------------------------------------------------------

    def forward(
        self, tokens: Int[Tensor, "B T K"], act: Int[Tensor, "B T"], steps: Sequence[int] | None = None
    ) -> Said:
        """Everything that is predicted from T blocks, at most ``blocks``.

        Args:
            steps: that each sequence has, if some end before T; what is predicted behind means nothing.

        Raises:
            UserError: more blocks than there are positions for.
        """
        lengths = None if steps is None else [n * self.block for n in steps]
        x = self.transformer(self.embedded(tokens, act), lengths)
        x = x.unflatten(1, (-1, self.block))  # (B, T, K+1, D)
        after = x[:, :, -1]  # (B, T, D): where actions went in
        inside = torch.cat([x[:, :, : self.tokens - 1], after.unsqueeze(2)], 2)  # (B, T, K, D)
        return Said(self.obs(inside), self.rew(after), self.end(after))

    def embedded(self, tokens: Int[Tensor, "B T K"], act: Int[Tensor, "B T"]) -> Float[Tensor, "B L D"]:
        """What the transformer reads, L = T * (K + 1), with its positions.

        Raises:
            UserError: more blocks than there are positions for.
        """
        t = tokens.shape[1]
        if t > self.blocks:
            raise UserError(
                f"a sequence of {t} steps, but dynamics.blocks is {self.blocks}: positions reach no further; give "
                f"shorter sequences, or train with dynamics.blocks {t}"
            )
        x = torch.cat([self.embed_obs(tokens), self.embed_act(act).unsqueeze(2)], 2).flatten(1, 2)  # (B, T*(K+1), D)
        return x + self.embed_position.weight[: t * self.block]

    def losses(
        self,
        tokens: Int[Tensor, "B T K"],
        act: Int[Tensor, "B T"],
        rew: Float[Tensor, "B T"],
        end: Bool[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of three mean cross-entropies, in nats, and each of them with the share of tokens guessed right.

        Args:
            rew: what action t earned; its sign is learned.
            end: whether action t ended the episode.
            mask: steps that are there; sequences are padded on the right, where nothing counts.
        """
        steps = mask.sum(1).tolist() if mask.device.type == "cpu" else None  # a GPU would wait for it
        said = self(tokens, act, steps)
        first, *labels = labels_of(tokens, rew, end, mask)
        first = F.pad(first, (0, 1), value=IGNORED)  # (B, T*K): of the frame behind nothing is known
        logits = said.obs.flatten(1, 2)
        losses = {
            "obs": mean_cross_entropy(logits, first),
            "rew": mean_cross_entropy(said.rew, labels[0]),
            "end": mean_cross_entropy(said.end, labels[1]),
        }
        with torch.no_grad():
            counted = first != IGNORED
            right = ((logits.argmax(-1) == first) & counted).sum() / counted.sum().clamp(min=1)
        metrics = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), metrics | {"token_accuracy": right}

    # -- imagining -------------------------------------------------------------------------------------------

    def begin(self, tokens: Int[Tensor, "N K"]) -> Memory:
        """The memory of one frame alone. Call it, and step, without gradients and in eval mode."""
        cache = self.transformer.cache(len(tokens), self.positions)
        return Memory(self._read(tokens, cache), tokens)

    def step(
        self,
        memory: Memory,
        act: Int[Tensor, " N"],
        temperature: float = 1.0,
        frame: bool = True,
        at: int | None = None,
    ) -> tuple[Memory, Step]:
        """One imagined step: reward, end, then the next frame's tokens are drawn, from torch's global generator.

        Args:
            temperature: what logits are divided by; 0 takes the likeliest.
            frame: without, reward and end alone are drawn: a dream's last step, after which this memory is spent.
            at: slots of the cache that are filled, if they are known to be as many in all rows: K - 1 at first,
                K + 1 more with every step. Unless given the memory is asked, which makes a GPU wait.
        """
        memory, where = self._with_room(memory, frame, at)
        return self.advance(memory, act, temperature, frame, where)

    def advance(
        self,
        memory: Memory,
        act: Int[Tensor, " N"],
        temperature: float = 1.0,
        frame: bool = True,
        at: int | Int[Tensor, " N"] | None = None,
    ) -> tuple[Memory, Step]:
        """``step`` where the caller knows that there is room for it.

        By default (``at`` a tensor, the memory's own) it never waits for the device and does the same operations
        whatever it is given: on a GPU it can be captured as a graph.
        """
        at = memory.cache.size if at is None else at
        pending = torch.stack([self.embed_obs(memory.tokens[:, -1]), self.embed_act(act)], 1)  # (N, 2, D)
        x, cache = self._extend(pending, memory.cache, at)
        return self._draw(x[:, -1], memory._replace(cache=cache), temperature, frame, at + 2)

    def plain_step(
        self, memory: Memory, act: Int[Tensor, " N"], temperature: float = 1.0, frame: bool = True
    ) -> tuple[Memory, Step]:
        """``step`` as it reads in the paper: one token at a time, each row at its own place. Draws the same."""
        memory, _ = self._with_room(memory, frame, None)
        _, cache = self._extend(self.embed_obs(memory.tokens[:, -1:]), memory.cache, memory.cache.size)
        x, cache = self._extend(self.embed_act(act[:, None]), cache, cache.size)
        return self._draw(x[:, -1], memory._replace(cache=cache), temperature, frame, cache.size)

    def _draw(
        self, x: Tensor, memory: Memory, temperature: float, frame: bool, at: int | Tensor
    ) -> tuple[Memory, Step]:
        """From the output (N, D) where the action went in: reward and end, then token after token."""
        rew = draw(self.rew(x), temperature).to(torch.float32) - 1  # (N,)
        end = draw(self.end(x), temperature) == 1
        if not frame:
            return memory, Step(memory.tokens, rew, end)
        cache, drawn = memory.cache, [draw(self.obs(x), temperature)]
        for k in range(self.tokens - 1):
            x, cache = self._extend(self.embed_obs(drawn[-1][:, None]), cache, at + k)
            drawn.append(draw(self.obs(x[:, 0]), temperature))
        tokens = torch.stack(drawn, 1)  # (N, K)
        return Memory(cache, tokens), Step(tokens, rew, end)

    def _extend(self, x: Float[Tensor, "N T D"], cache: Cache, at: int | Tensor) -> tuple[Tensor, Cache]:
        """Embedded tokens at positions from ``at`` on."""
        t = x.shape[1]
        if isinstance(at, int):
            position = self.embed_position.weight[at : at + t]
        else:
            position = self.embed_position(at[:, None] + torch.arange(t, device=x.device))
        return self.transformer.extend(x + position, cache, at)

    def _read(self, tokens: Tensor, cache: Cache) -> Cache:
        """A cache of the frame alone, but for its last token."""
        if self.tokens == 1:
            return cache._replace(size=torch.zeros_like(cache.size))
        return self._extend(self.embed_obs(tokens[:, :-1]), cache, 0)[1]

    def _with_room(self, memory: Memory, frame: bool, at: int | None) -> tuple[Memory, int | Tensor]:
        """A memory with room for a step, and how many of its slots are filled: a number where all rows have as many."""
        size, room = memory.cache.size, self.positions - (self.block if frame else 1)
        if at is None and size.device.type == "cpu" and bool((size == size[0]).all()):
            at = int(size[0])
        if at is None:
            full = size + 1 > room  # (N,)
            memory = self._forget(memory, full) if bool(full.any()) else memory
            return memory, memory.cache.size
        if at + 1 > room:
            memory, at = memory._replace(cache=self._read(memory.tokens, memory.cache)), self.tokens - 1
        return memory, at

    def _forget(self, memory: Memory, full: Bool[Tensor, " N"]) -> Memory:
        """These rows remember their current frame alone."""
        rows = full.nonzero()[:, 0]
        part = tree_map(lambda x: x[rows], memory.cache)  # a copy
        fresh = self._read(memory.tokens[rows], part)
        for whole, new in zip(memory.cache[0] + memory.cache[1], fresh[0] + fresh[1], strict=True):
            whole[rows] = new
        size = memory.cache.size.masked_fill(full, self.tokens - 1)
        return memory._replace(cache=memory.cache._replace(size=size))


class Head(nn.Sequential):
    """What reads the transformer's output: logits in full precision, whatever else is computed in."""

    def __init__(self, width: int, outs: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outs))

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch C"]:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def decay_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW: weight decay for the weights of linear layers; none for all else."""
    linear = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    params = list(module.parameters())
    return [
        {"params": [p for p in params if id(p) in linear], "weight_decay": decay},
        {"params": [p for p in params if id(p) not in linear], "weight_decay": 0.0},
    ]


def labels_of(
    tokens: Int[Tensor, "B T K"], rew: Float[Tensor, "B T"], end: Bool[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """All tokens but the first (L = T*K - 1), sign(rew) + 1, and end; ``IGNORED`` where padded."""
    obs = tokens.masked_fill(~mask[..., None], IGNORED).flatten(1)[:, 1:]
    return obs, (rew.sign().long() + 1).masked_fill(~mask, IGNORED), end.long().masked_fill(~mask, IGNORED)


def mean_cross_entropy(logits: Float[Tensor, "B L C"], labels: Int[Tensor, "B L"]) -> Tensor:
    """In nats, over the labels that count; 0 where none does."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def draw(logits: Float[Tensor, "N C"], temperature: float = 1.0) -> Int[Tensor, " N"]:
    """Classes by softmax(logits / temperature), without waiting for the device; temperature 0 takes the likeliest."""
    logits = logits.float()
    if not temperature:
        return logits.argmax(-1)
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature  # the likeliest stays 0 at any temperature
    return race(scaled.softmax(-1), race_noise(*logits.shape, device=logits.device))
