"""Playing whole episodes and keeping all that happened: what ``dreamlab collect`` writes.

Rows wait on the disk until their episode ends, as its length comes first in a dataset's file: memory holds one row of
each environment and, of an episode that is read back, ``readers.PIECE`` rows, however long the episodes are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from dreamlab.core.protocols import Policy
from dreamlab.run.driver import check_finite, few_threads, to_device
from dreamlab.run.readers import PIECE
from dreamlab.run.recording import Row


class Episode:
    """Rows of an episode in a nameless file, which is gone when it is closed: appended one by one, read in pieces."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by whoever records)
        self._row: np.dtype | None = None
        self.rows, self.ret = 0, 0.0

    def append(self, row: Row) -> None:
        """Add a row: its columns without the axis of time."""
        if self._row is None:
            self._row = np.dtype([(name, value.dtype, value.shape) for name, value in row.items()])
        self._file.write(np.array(tuple(row.values()), self._row).tobytes())
        self.rows, self.ret = self.rows + 1, self.ret + float(row["rew"])

    def pieces(self) -> Iterator[Row]:
        """All rows from the first on: columns (n, ...), ``PIECE`` rows at a time."""
        assert self._row is not None
        self._file.seek(0)
        while data := self._file.read(PIECE * self._row.itemsize):
            piece = np.frombuffer(data, self._row)
            yield {name: piece[name].copy() for name in self._row.names or ()}  # a view would hold the whole piece

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def record(
    policy: Policy,
    envs: VectorEnv,
    seeds: Sequence[int],
    device: torch.device,
    folder: Path,
    seen: Callable[[bool], None] = lambda playing: None,
) -> Iterator[tuple[int, Episode]]:
    """One whole episode a seed, side by side; row i of every policy call belongs to seeds[i].

    Args:
        policy: who acts.
        envs: in which environments, at least one a seed.
        seeds: of the episodes.
        device: where the policy acts.
        folder: where there is room for rows until their episode ends.
        seen: called whenever there is something new to be seen, and told whether the first episode is still on.

    Yields:
        As each ends, its number among the seeds and its rows as in ``core.types``, T + 1 of them; they are gone when
        the next is asked for.

    Raises:
        EnvironmentFailed: an environment crashed, or gave what is no number.
    """
    k, n = len(seeds), envs.num_envs
    obs, _ = envs.reset(options={"seeds": [int(s) for s in seeds] + [None] * (n - k)})
    rew, last, terminal = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
    check_finite(obs, rew)
    state, is_first = policy.initial(k), torch.ones(k, dtype=torch.bool, device=device)
    act = np.zeros((n, *(envs.single_action_space.shape or ())), envs.single_action_space.dtype)
    playing = np.ones(k, bool)
    with ExitStack() as closing:
        episodes = [Episode(folder) for _ in seeds]
        for episode in episodes:
            closing.callback(episode.close)
        while playing.any():
            seen(bool(playing[0]))
            going = playing & ~last[:k]
            if going.any():
                with torch.no_grad(), few_threads(n):
                    at = to_device({key: v[:k] for key, v in obs.items()}, device)
                    chosen, state, _ = policy(at, is_first, state)
                act[:k] = chosen.cpu().numpy()
            for i in np.flatnonzero(playing):
                row = {
                    "act": act[i] if going[i] else np.zeros_like(act[i]),  # never taken after the end
                    "rew": np.asarray(rew[i], np.float32),
                    "is_first": np.asarray(not episodes[i].rows),
                    "is_last": np.asarray(last[i]),
                    "is_terminal": np.asarray(terminal[i]),
                }
                episodes[i].append({**{key: value[i] for key, value in obs.items()}, **row})
            for i in np.flatnonzero(playing & ~going):
                yield int(i), episodes[i]
                episodes[i].close()
            playing, is_first = going, torch.zeros_like(is_first)
            if playing.any():
                obs, rew, terminated, truncated, _ = envs.step(act)
                check_finite(obs, rew)
                last, terminal = terminated | truncated, terminated
