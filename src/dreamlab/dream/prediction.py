"""Open-loop prediction: how far a model sees ahead when it is told the actions alone.

::

    time         0 ... c-1 | c   c+1  ...  c+H-1          a window of c + H rows
    obs          context   | what is to be predicted
    act              a[c-1], a[c], ..., a[c+H-2]          the real actions, given to the dream
    horizon                  1    2   ...   H             horizon k predicts row c-1+k

The model observes the context, imagines on with the real actions, and what it predicts is compared with
what was seen. A context in the middle of an episode begins with the state that the agent stored there
(``remembered``), or with an empty one. Beside it stand two baselines that cost nothing: the last frame of the
context repeated, and the mean frame of the data. A window counts up to the end of its episode and never across it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamlab.core.errors import UserError
from dreamlab.core.imagination import imagine, tree_map
from dreamlab.core.protocols import State, WorldModel
from dreamlab.core.seeds import forked
from dreamlab.core.types import Batch
from dreamlab.dream.similarity import mse, psnr, ssim

Measure = Callable[[Tensor, Tensor], Tensor]
PICTURES: dict[str, Measure] = {"mse": mse, "psnr": psnr, "ssim": ssim}
VECTORS: dict[str, Measure] = {"mse": mse}


def prediction_error(
    model: WorldModel,
    windows: Sequence[Batch],
    context: int,
    horizon: int,
    temperature: float = 1.0,
    samples: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Open-loop error by horizon, as ``dreamlab dream --json`` writes it.

    Args:
        windows: batches of real windows (B, T >= context + horizon), each inside one episode.
        temperature: how freely the model draws.
        samples: futures drawn for each window. With 1 a drawn future is scored. With more their *mean* is,
            in pixels, latents, reward and continuation: it has the lower squared error, and its picture
            shows what is uncertain as blur. A model that draws nothing scores the same either way.
        seed: of what the model draws; torch's global generators are left as they were.

    Returns:
        ``horizon`` [1..H]; for each of ``model``, ``repeat_last`` and ``mean_frame`` the lists ``mse``,
        ``psnr`` (dB of each frame, then averaged) and ``ssim`` by horizon (vectors: ``mse`` alone);
        ``latent`` with the mean squared error of ``model`` and ``repeat_last`` where the model offers
        ``compare(latent) -> Tensor (N, D)``, the coordinates in which an imagined latent (N,) and an
        observed one may be compared; ``reward_mae`` and ``continue_accuracy`` where predicted. A horizon
        that no window reaches is None. ``remembered``, where it is not 0, is the share of the windows that begin
        with a stored state.

    Raises:
        UserError: windows too short, none with a row after its context, or nothing to compare.
    """
    if not windows or windows[0].mask.shape[1] < context + horizon:
        length = windows[0].mask.shape[1] if windows else 0
        raise UserError(f"windows of {context} + {horizon} rows are needed, got {length}: ask for a shorter horizon")
    table = _Table(horizon)
    with torch.no_grad(), forked(seed, "prediction"):
        key = _key(model, windows[0], context)
        mean = _mean_frame(windows, key, context + horizon)
        for batch in windows:
            batch = map_batch(batch, lambda x: x[:, : context + horizon])
            _score(model, batch, context, key, mean, temperature, samples, table)
    if not any(table.counts["model/mse"]):
        raise UserError(f"no episode in the data goes on for even one step after a context of {context}")
    share = float(torch.cat([remembered(model, batch) for batch in windows]).float().mean())
    return table.result() | ({"remembered": share} if share else {})


def remembered(model: WorldModel, batch: Batch) -> Tensor:
    """(B,) bool: which windows begin with a stored state, where the model offers ``remembers(batch)``."""
    remembers = getattr(model, "remembers", None)
    return torch.zeros_like(batch.is_first[:, 0]) if remembers is None else remembers(batch)


def _score(
    model: WorldModel,
    batch: Batch,
    context: int,
    key: str,
    mean: Tensor,
    temperature: float,
    samples: int,
    table: _Table,
) -> None:
    valid = reached(batch, context)  # (B, H)
    horizon = valid.shape[1]
    real = _unit(batch.obs[key])  # (B, c+H, ...)
    start = tree_map(lambda x: x[:, context - 1], model.observe(map_batch(batch, lambda x: x[:, :context])))
    act = batch.act[:, context - 1 : context - 1 + horizon]  # (B, H, A)
    many = tree_map(lambda x: x.repeat_interleave(samples, 0), start)
    dream = imagine(model, many, act.repeat_interleave(samples, 0), horizon, temperature)
    measures = PICTURES if key == "image" else VECTORS
    last = real[:, context - 1]
    compare = getattr(model, "compare", None)
    whole = model.observe(batch) if compare else None
    for k in range(1, horizon + 1):
        row, ok = context - 1 + k, valid[:, k - 1]
        latent = tree_map(lambda x, k=k: x[:, k], dream.latents)
        seen = {name: x.unflatten(0, (-1, samples)).mean(1) for name, x in model.predict(latent).items()}
        rivals = {"model": seen[key], "repeat_last": last, "mean_frame": mean.expand_as(last)}
        for who, guess in rivals.items():
            for name, measure in measures.items():
                table.add(f"{who}/{name}", k, measure(guess.float(), real[:, row]), ok)
        if compare is not None:
            truth = compare(_at(whole, row))
            table.add("latent/model", k, mse(compare(latent).unflatten(0, (-1, samples)).mean(1), truth), ok)
            table.add("latent/repeat_last", k, mse(compare(_at(whole, context - 1)), truth), ok)
        if "rew" in seen:
            table.add("reward_mae", k, (seen["rew"] - batch.rew[:, row]).abs(), ok)
        if "con" in seen:
            table.add("continue_accuracy", k, ((seen["con"] > 0.5) == ~batch.is_terminal[:, row]).float(), ok)


def reached(batch: Batch, context: int) -> Tensor:
    """(B, T - context) bool: which rows after a context belong to the same episode as its last row."""
    whole = batch.mask[:, context - 1 : context]
    going_on = batch.mask[:, context:] & ~batch.is_first[:, context:]
    return whole & (going_on.long().cumprod(1) > 0)


def map_batch(batch: Batch, fn: Callable[[Tensor], Tensor]) -> Batch:
    """A batch with ``fn`` of each of its tensors."""
    parts: dict[str, Any] = {
        name: fn(x) if isinstance(x, Tensor) else {k: fn(v) for k, v in x.items()}
        for name, x in batch._asdict().items()
    }
    return Batch(**parts)


def _key(model: WorldModel, batch: Batch, context: int) -> str:
    latent = model.observe(map_batch(batch, lambda x: x[:1, :context]))
    seen = model.predict(_at(latent, context - 1))
    keys = [k for k in ("image", "vector") if k in seen and k in batch.obs]
    if not keys:
        raise UserError(f"nothing to compare: the model predicts {sorted(seen)}, the data has {sorted(batch.obs)}")
    return keys[0]


def _mean_frame(windows: Sequence[Batch], key: str, length: int) -> Tensor:
    """The mean observation over all rows that are not padding."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in windows:
        rows = _unit(batch.obs[key][:, :length][batch.mask[:, :length]])
        total = total.to(rows.device) + rows.double().sum(0)
        count += len(rows)
    return (total / max(count, 1)).float()


def _at(latents: State, t: int) -> State:
    return tree_map(lambda x: x[:, t], latents)


def _unit(x: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]; floats as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


class _Table:
    """Means by horizon over the windows that reach it."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * horizon)
        self.counts: dict[str, list[int]] = defaultdict(lambda: [0] * horizon)

    def add(self, name: str, k: int, values: Tensor, ok: Tensor) -> None:
        self.sums[name][k - 1] += float(values[ok].double().sum())
        self.counts[name][k - 1] += int(ok.sum())

    def result(self) -> dict[str, Any]:
        out: dict[str, Any] = {"horizon": list(range(1, self.horizon + 1))}
        for name, sums in self.sums.items():
            means = [s / n if n else None for s, n in zip(sums, self.counts[name], strict=True)]
            group, _, measure = name.rpartition("/")
            (out.setdefault(group, {}) if group else out)[measure] = means
        return out
