"""Tokenizer and dynamics as one world model: observe, begin, step, predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamlab.agents.iris.dynamics import Dynamics
from dreamlab.agents.iris.tokenizer import Tokenizer
from dreamlab.core.imagination import tree_map
from dreamlab.core.inside import Attention, Tokens, View
from dreamlab.core.protocols import State
from dreamlab.core.types import Batch
from dreamlab.nn.attention_maps import attention_weights

if TYPE_CHECKING:
    from dreamlab.core.types import Obs


class Latent(NamedTuple):
    """Where a row is."""

    tokens: Tensor
    """(..., K) int64: what is seen"""
    rew: Tensor
    """(...): the sign of the reward that came with it"""
    con: Tensor
    """(...): 0 where the episode has ended, else 1"""


class Model(nn.Module):
    """The world model of tokenizer and dynamics. A dream's context begins with its start frame alone."""

    given = ("rew", "con")
    """what observed latents have from their rows: ``predict`` gives it back, and foretells it in dreams alone"""

    def __init__(self, tokenizer: Tokenizer, dynamics: Dynamics) -> None:
        super().__init__()
        self.tokenizer, self.dynamics = tokenizer, dynamics

    @torch.no_grad()
    def observe(self, batch: Batch) -> Latent:
        """Latents (B, T): the tokens of each frame by itself."""
        tokens = self.tokenizer.tokenise(batch.obs["image"].flatten(0, 1)).unflatten(0, batch.rew.shape)
        return Latent(tokens, batch.rew.sign(), (~batch.is_last).float())  # what is cut off has ended, to the authors

    def observe_after(self, before: Latent, batch: Batch) -> Latent:
        """The same: no frame's tokens depend on those before it."""
        return self.observe(batch)

    @torch.no_grad()
    def begin(self, latent: Latent) -> State:
        """The cache of the transformer after a single frame."""
        return self.dynamics.begin(latent.tokens)

    @torch.no_grad()
    def step(self, carry: State, act: Float[Tensor, "N A"], temperature: float = 1.0) -> tuple[State, Latent]:
        """Draw reward, end and the next frame's tokens, all at a temperature; the carry that came in stays valid."""
        carry, said = self.dynamics.step(tree_map(torch.clone, carry), act.argmax(-1), temperature)
        return carry, Latent(said.tokens, said.rew, (~said.end).float())

    @torch.no_grad()
    def predict(self, latent: Latent) -> Mapping[str, Tensor]:
        """``image`` decoded from the tokens, and the reward's sign and continuation that came with them."""
        return {"image": self.tokenizer.picture(latent.tokens), "rew": latent.rew, "con": latent.con}

    def inside(self, latent: Latent, obs: Obs | None = None) -> Mapping[str, View]:
        """The tokens (N, K) on their grid."""
        tokenizer = self.tokenizer
        return {"tokens": Tokens(latent.tokens, tokenizer.grid, tokenizer.codebook.num_embeddings)}

    def with_code(self, latent: Latent, code: Int[Tensor, "N K"]) -> Latent:
        """The latents with other tokens."""
        return latent._replace(tokens=code.to(latent.tokens))

    @torch.no_grad()
    def attention(self, latent: Latent, act: Float[Tensor, "N T A"]) -> Attention:
        """Where the transformer looks in a context of latents (N, T) and the actions chosen at each.

        Raises:
            UserError: the context is longer than its positions reach.
        """
        x = self.dynamics.embedded(latent.tokens, act.argmax(-1))  # (N, T * (K + 1), D)
        return Attention(attention_weights(self.dynamics.transformer, x)[1], self.dynamics.block)

    @property
    def context(self) -> int:
        """Frames that ``attention`` takes, at most."""
        return self.dynamics.blocks
