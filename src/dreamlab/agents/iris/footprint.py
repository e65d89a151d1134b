"""What IRIS will need beyond its weights, from its numbers alone. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnasium import spaces

from dreamlab.agents import Footprint
from dreamlab.agents.iris.config import Config

if TYPE_CHECKING:
    from dreamlab.run.config import RunConfig

MAPS_HELD = 7
"""feature maps of a residual block that are held for the way back"""
WIDTHS_HELD, SCORES_HELD = 19, 1
"""of a transformer's layer: numbers for each token in widths, and matrices of attention for each head"""


def footprint(config: Config, obs_space: spaces.Dict, act_space: spaces.Space, run: RunConfig) -> Footprint:
    """Peak of learning beyond process and weights (fitted to single updates on a CPU), and bytes beside a row."""
    image = obs_space.spaces.get("image")
    if image is None or image.shape is None:
        return Footprint(0, 0)
    _, height, width = image.shape
    grid = height * width // 4**config.tokenizer.downs
    held = {
        "tokenizer": config.tokenizer.batch * _maps(config, height * width),
        "dynamics": _tokens(config, grid),
        "actor_critic": _dreams(config, image.shape, grid),
    }
    most = max(numbers for part, numbers in held.items() if part == "tokenizer" or getattr(config, part).updates)
    return Footprint(memory_bytes=int(40 * (1 << 20) + 4 * most), row_bytes=2 * grid + 4, rewritten=True)


def _maps(config: Config, pixels: int) -> float:
    """Numbers held of the tokenizer for a frame."""
    t, total = config.tokenizer, 0.0
    for k in range(t.downs + 1):
        total += (2 * t.residuals + 1) * MAPS_HELD * t.channels * pixels / 4**k
    return total


def _tokens(config: Config, grid: int) -> float:
    """Numbers held of the dynamics for a batch of sequences."""
    d, length = config.dynamics, config.dynamics.blocks * (grid + 1)
    layer = WIDTHS_HELD * d.width * length + SCORES_HELD * d.heads * length**2
    return d.batch * (d.layers * layer + 2 * length * config.tokenizer.vocabulary)


def _dreams(config: Config, shape: tuple[int, ...], grid: int) -> float:
    """Numbers held while imagining, and while actor and critic learn from it."""
    d, a = config.dynamics, config.actor_critic
    pixels, steps = shape[1] * shape[2], a.burn_in + 2 * a.horizon
    cache = 2 * d.layers * d.width * d.blocks * (grid + 1)
    maps = sum(3 * c * pixels / 4**k for k, c in enumerate(a.channels))
    read = a.frames * grid
    layer = WIDTHS_HELD * a.width * read + SCORES_HELD * a.heads * read**2
    learning = {"lstm": maps + steps * shape[0] * pixels / a.horizon, "transformer": a.layers * layer}[a.kind]
    drawing = min(a.batch, 64) * 6 * config.tokenizer.channels * pixels if a.kind == "lstm" else 0
    return a.batch * (cache + a.horizon * learning) + drawing
