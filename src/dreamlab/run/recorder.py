"""Playing whole episodes and keeping all that happened: what ``dreamlab collect`` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from dreamlab.core.protocols import Policy
from dreamlab.run.driver import check_finite, one_thread, to_device
from dreamlab.run.recording import Row


def record(
    policy: Policy,
    envs: VectorEnv,
    seeds: Sequence[int],
    device: torch.device,
    seen: Callable[[bool], None] = lambda playing: None,
) -> list[Row]:
    """One whole episode a seed, side by side; row i of every policy call belongs to seeds[i].

    ``seen`` is called whenever there is something new to be seen, and told whether the first episode is still on.

    Returns:
        For each seed its rows as in ``core.types``: (T + 1, ...) each.

    Raises:
        EnvironmentFailed: an environment crashed, or gave what is no number.
    """
    k, n = len(seeds), envs.num_envs
    rows: list[list[Row]] = [[] for _ in seeds]
    obs, _ = envs.reset(options={"seeds": [int(s) for s in seeds] + [None] * (n - k)})
    rew, last, terminal = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
    check_finite(obs, rew)
    state, is_first = policy.initial(k), torch.ones(k, dtype=torch.bool, device=device)
    act = np.zeros((n, *(envs.single_action_space.shape or ())), envs.single_action_space.dtype)
    playing = np.ones(k, bool)
    while True:
        seen(bool(playing[0]))
        going = playing & ~last[:k]
        if going.any():
            with torch.no_grad(), one_thread():
                chosen, state, _ = policy(to_device({key: v[:k] for key, v in obs.items()}, device), is_first, state)
            act[:k] = chosen.cpu().numpy()
        for i in np.flatnonzero(playing):
            rows[i].append(
                {
                    **{key: value[i].copy() for key, value in obs.items()},
                    "act": act[i].copy() if going[i] else np.zeros_like(act[i]),  # never taken after the end
                    "rew": np.asarray(rew[i], np.float32),
                    "is_first": np.asarray(not rows[i]),
                    "is_last": last[i],
                    "is_terminal": terminal[i],
                }
            )
        playing, is_first = going, torch.zeros_like(is_first)
        if not playing.any():
            return [{name: np.stack([row[name] for row in episode]) for name in episode[0]} for episode in rows]
        obs, rew, terminated, truncated, _ = envs.step(act)
        check_finite(obs, rew)
        last, terminal = terminated | truncated, terminated
