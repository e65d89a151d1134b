"""What a model or an agent may say of its inside: named views, each of one of a few kinds, as plain tensors.

A world model may offer ``inside(latent, obs=None)``: views of latents (N,), in the order in which they are best
looked at. ``obs`` (N, ...) is what was seen there, where anything was: in a dream there is nothing. The first view is
the latent's **code**: ``with_code(latent, code)`` gives the latent with another ``value`` in its place, and
``predict`` what that looks like.

An agent may offer ``judge(latents, memory=None)``: views of latents (N, T) that follow one another, and the memory
with which to go on.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Code(NamedTuple):
    """Numbers that a picture is drawn from."""

    value: Tensor
    """(N, D)"""
    std: Tensor | None = None
    """(N, D): how far the model would draw them around ``value``, where it has seen something"""


class Tokens(NamedTuple):
    """A grid of codes out of a codebook."""

    value: Tensor
    """(N, K) int64, row by row of the grid"""
    grid: tuple[int, int]
    """rows and columns"""
    vocabulary: int


class Classes(NamedTuple):
    """Categorical variables: S groups of K classes."""

    value: Tensor
    """(N, S) int64: the classes that were drawn; -1 where none was"""
    prior: Tensor
    """(N, S, K): probabilities before anything is seen"""
    post: Tensor | None = None
    """(N, S, K): once it is seen"""


class Normals(NamedTuple):
    """Gaussian variables."""

    value: Tensor
    """(N, W): as they were drawn"""
    prior: Tensor
    """(N, W, 2): means and standard deviations before anything is seen"""
    post: Tensor | None = None
    """(N, W, 2): once it is seen"""


class Mixture(NamedTuple):
    """Mixtures of Gaussians for D numbers, the same ones as the code's: what the model expected there."""

    weight: Tensor
    """(N, K, D), summing to 1 over K"""
    mean: Tensor
    std: Tensor


class Number(NamedTuple):
    """One number a latent."""

    value: Tensor
    """(N,), of ``judge`` (N, T)"""


class Choices(NamedTuple):
    """How likely each action is: a tensor (..., n) for each choice that is made at once, in the environment's order."""

    probs: tuple[Tensor, ...]


class Spread(NamedTuple):
    """A continuous action in the environment's units."""

    mean: Tensor
    """(..., A)"""
    std: Tensor | None = None
    """(..., A); None where nothing is drawn"""


class Attention(NamedTuple):
    """Where each input of a transformer looks, for a context of T frames of ``block`` inputs."""

    weight: Tensor
    """(N, layers, heads, T * block, T * block): queries, then keys; rows sum to 1 over what came before"""
    block: int
    """inputs of a frame: its tokens, then its action"""


View = Code | Tokens | Classes | Normals | Mixture | Number | Choices | Spread
