"""Aggregates of scores and how well they are known (Agarwal et al. 2021, arXiv:2108.13264).

``tasks`` is one array a task, ``(*batch, runs)``; numbers of runs may differ. An entry is the score of one run, or
the return of one episode where only one run was trained: ``docs/evaluation.md`` says what either interval means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Tasks = Sequence[np.ndarray]
Statistic = Callable[[Tasks], np.ndarray]

REPEATS = 2000
"""bootstrap samples of an interval"""
LEVEL = 0.95
"""share of the bootstrap's values that an interval holds"""
CHUNK = 250
"""bootstrap samples that are held at once"""


def mean(tasks: Tasks) -> np.ndarray:
    """Mean over tasks of each task's mean: (*batch,). Easily ruled by one task on which a score is very large."""
    return np.mean([task.mean(-1) for task in tasks], axis=0)


def median(tasks: Tasks) -> np.ndarray:
    """Median over tasks of each task's mean; of one task alone, the median of its entries: (*batch,)."""
    if len(tasks) == 1:
        return np.median(tasks[0], axis=-1)
    return np.median([task.mean(-1) for task in tasks], axis=0)


def iqm(tasks: Tasks) -> np.ndarray:
    """Interquartile mean: of all entries, without the ⌊n/4⌋ lowest and the ⌊n/4⌋ highest: (*batch,)."""
    pool = np.sort(np.concatenate(tasks, axis=-1), axis=-1)
    cut = pool.shape[-1] // 4
    return pool[..., cut : pool.shape[-1] - cut].mean(-1)


def optimality_gap(tasks: Tasks, target: float = 1.0) -> np.ndarray:
    """How far entries stay below ``target`` on average; what lies above it makes up for nothing: (*batch,)."""
    return mean([np.maximum(target - task, 0.0) for task in tasks])


STATISTICS: dict[str, Statistic] = {"mean": mean, "median": median, "iqm": iqm, "optimality_gap": optimality_gap}
"""by the name that results have"""


def normalised(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 at ``low`` (a random policy) and 1 at ``high`` (a human, or the highest score there is).

    Raises:
        ValueError: the two ends are the same.
    """
    if low == high:
        raise ValueError(f"a scale needs two ends, got {low} and {high}")
    return (np.asarray(scores, float) - low) / (high - low)


def interval(
    tasks: Tasks, statistic: Statistic, repeats: int = REPEATS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval, stratified: entries (runs,) are drawn again, with replacement, within each task.

    The same arguments give the same interval. (nan, nan) where no task has two entries: nothing is known then.

    Raises:
        ValueError: a task has no entry.
    """
    if not tasks or min(map(len, tasks)) < 1:
        raise ValueError("every task needs a score")
    if max(map(len, tasks)) < 2:
        return float("nan"), float("nan")
    chance, found = np.random.default_rng(seed), []
    for first in range(0, repeats, CHUNK):
        count = min(CHUNK, repeats - first)
        drawn = [np.asarray(task)[chance.integers(0, len(task), (count, len(task)))] for task in tasks]  # (count, runs)
        found.append(statistic(drawn))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
