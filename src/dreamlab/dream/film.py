"""The frames of a film that shows a dream beside reality; drawing and labelling them is the caller's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dreamlab.core.errors import UserError
from dreamlab.core.imagination import imagine, predict_all, tree_map
from dreamlab.core.protocols import WorldModel
from dreamlab.core.seeds import forked
from dreamlab.core.types import Batch
from dreamlab.dream.env import pixels
from dreamlab.dream.prediction import map_batch, reached, remembered


class Film(NamedTuple):
    """One window of an episode, T = context + H frames of uint8 (C, h, w), fewer where the episode ends before."""

    real: np.ndarray
    """(T, C, h, w) what was seen"""
    reconstruction: np.ndarray
    """(T, C, h, w) what the model makes of each frame when it sees it"""
    dream: np.ndarray
    """(T, C, h, w) the reconstruction during the context, then the open-loop dream under the same actions"""
    difference: np.ndarray
    """(T, C, h, w) |real - dream|: black where they agree"""
    context: int
    """frames that the model saw"""
    remembered: bool
    """whether it saw them with a stored state in mind; else with an empty one, as at an episode's first row"""


def films(model: WorldModel, batch: Batch, context: int, temperature: float = 1.0, seed: int = 0) -> list[Film]:
    """Real | reconstruction | open-loop dream | difference for each window (B, T) of a batch.

    Raises:
        UserError: the model predicts no images, or the data has none.
    """
    horizon = batch.mask.shape[1] - context
    if horizon < 1:
        raise UserError(f"windows of {batch.mask.shape[1]} rows leave nothing to dream after a context of {context}")
    with torch.no_grad(), forked(seed, "film"):
        start = tree_map(lambda x: x[:, context - 1], model.observe(map_batch(batch, lambda x: x[:, :context])))
        imagined = imagine(model, start, batch.act[:, context - 1 : -1], horizon, temperature)
        dreamt = predict_all(model, tree_map(lambda x: x[:, 1:], imagined.latents))
        seen = predict_all(model, model.observe(batch))
    if "image" not in dreamt or "image" not in batch.obs:
        raise UserError("only a model that predicts images, from data that holds them, can be filmed")
    real = batch.obs["image"].cpu().numpy()  # (B, T, C, h, w)
    reconstruction = pixels(seen["image"])
    dream = np.concatenate([reconstruction[:, :context], pixels(dreamt["image"])], 1)
    difference = np.abs(real.astype(np.int16) - dream).astype(np.uint8)
    known = remembered(model, batch).tolist()
    lengths = context + reached(batch, context).sum(1).cpu().numpy()
    return [
        Film(real[i, :n], reconstruction[i, :n], dream[i, :n], difference[i, :n], context, known[i])
        for i, n in enumerate(lengths)
        if n > context
    ]
