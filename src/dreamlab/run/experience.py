"""Experience: the table of rows, the environments that write it, and episodes played beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from dreamlab.core.actions import one_hot
from dreamlab.core.errors import EnvironmentFailed
from dreamlab.core.protocols import Policy
from dreamlab.core.types import Batch, Outcome
from dreamlab.run.driver import Driver, play
from dreamlab.run.replay import Replay

Make = Callable[[], VectorEnv]


class Experience:
    """What learning sees (``core.protocols.Experience``) and what the trainer fills.

    Environments are started when they are first needed: those that write rows, and a second set for
    whole episodes, so that a rollout never cuts a running stream.
    """

    def __init__(
        self,
        replay: Replay,
        obs_space: spaces.Dict,
        act_space: spaces.Space,
        device: torch.device,
        make: Make | None = None,
        slots: int = 0,
        stop: Callable[[], bool] = lambda: False,
        collect: Make | None = None,
    ) -> None:
        """``make`` builds the environments for whole episodes, and ``collect``, where given, those that write rows."""
        self.replay, self.obs_space, self.act_space, self.device = replay, obs_space, act_space, device
        self.stop = stop
        self.rollout_steps = 0
        self._make, self._collect, self._slots = make, collect or make, slots
        self._driver: Driver | None = None
        self._rollouts: VectorEnv | None = None
        self._resumed: dict[str, Any] = {}
        self._failed: EnvironmentFailed | None = None  # told when the steps before it have been counted

    @property
    def index(self) -> Replay:
        return self.replay

    @property
    def slots(self) -> int:
        return self._slots

    # -- learning --------------------------------------------------------------------------------------------

    def gather(
        self, rows: np.ndarray | Tensor, obs: Collection[str] | None = None, extras: Collection[str] | None = None
    ) -> Batch:
        """Rows (B, T) by id, -1 for padding, on the device. ``obs``, ``extras``: only these keys and columns.

        Raises:
            IndexError: a row is not held (any more).
        """
        ids = np.asarray(rows)
        keys = [k for k in self.obs_space if obs is None or k in obs]
        known = {*self.obs_space, "act", "rew", "is_first", "is_last", "is_terminal"}
        columns = [k for k in self.replay.columns if k not in known and (extras is None or k in extras)]
        real = torch.from_numpy(ids >= 0).to(self.device)
        act = one_hot(self._take("act", ids), self.act_space) * real[..., None]
        return Batch(
            obs={k: self._take(k, ids) for k in keys},
            act=act,
            rew=self._take("rew", ids),
            is_first=self._take("is_first", ids),
            is_last=self._take("is_last", ids),
            is_terminal=self._take("is_terminal", ids),
            mask=real,
            rows=torch.from_numpy(ids),
            extras={k: self._take(k, ids) for k in columns},
        )

    def _take(self, name: str, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(self.replay.take(name, ids)).to(self.device)

    def annotate(self, rows: np.ndarray | Tensor, **columns: Tensor) -> None:
        """Write columns (B, T, ...) beside rows (B, T)."""
        self.replay.annotate(np.asarray(rows), **{k: v.detach().cpu().numpy() for k, v in columns.items()})

    def rollout(self, policy: Policy, seeds: Sequence[int]) -> Outcome:
        """Whole episodes outside the table, one a seed; their steps are counted.

        Raises:
            Interrupted: the user asked to stop; nothing is counted.
        """
        outcome = play(policy, self.rollout_envs(), seeds, self.device, stop=self.stop)
        self.rollout_steps += int(outcome.length.sum())
        return outcome

    def rollout_envs(self) -> VectorEnv:
        """The environments for whole episodes, started now if they are not there yet."""
        if self._rollouts is None:
            self._rollouts = _built(self._make)
        return self._rollouts

    # -- collecting ------------------------------------------------------------------------------------------

    def collect(self, policy: Policy, owner: str, steps: int) -> tuple[int, list[Outcome], str | None]:
        """At least ``steps`` environment steps into the table (fewer when asked to stop or when a save is due).

        Returns the steps taken, the episodes that ended, and a word where a resume could not be exact.

        Raises:
            EnvironmentFailed: what was collected before it can be saved and gone on from.
        """
        if self._failed is not None:
            raise self._failed
        word = None
        if self._driver is None:
            self._driver = Driver(_built(self._collect), self.device)
            self._driver.load_state_dict(self._resumed)
            self._resumed = {}
            word = self._driver.resume(policy, owner)
        taken = 0
        ended: list[Outcome] = []
        while taken < steps and not self.stop() and self.replay.room() != 0:
            try:
                row, count, outcome = self._driver.step(policy, owner)
            except EnvironmentFailed as error:
                if not taken and not ended:
                    raise
                self._failed = error
                break
            self.replay.append(row)
            taken += count
            if len(outcome.ret):
                ended.append(outcome)
        return taken, ended, word

    def close(self) -> None:
        """Stop the environments."""
        for envs in (self._driver.envs if self._driver else None, self._rollouts):
            if envs is not None:
                envs.close()
        self._driver = self._rollouts = None

    def state_dict(self) -> dict[str, Any]:
        driver = self._driver.state_dict() if self._driver else self._resumed
        return {"replay": self.replay.state_dict(), "driver": driver, "rollout_steps": self.rollout_steps}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        self.replay.load_state_dict(state["replay"], step)
        self._resumed = dict(state["driver"])
        self.rollout_steps = state["rollout_steps"]


def _built(make: Make | None) -> VectorEnv:
    if make is None:
        raise RuntimeError("this experience has no environment: it is for reading alone")
    return make()
