"""Driving environments with a policy: streams of rows for learning, and whole episodes for scores.

The driver holds what was last seen and not yet answered (the pending row); a row is written when its
action is chosen. On resume every worker starts its running episode again and replays its actions, so the
stream goes on as if nothing had happened.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from dreamlab.core.errors import Interrupted, NonFiniteEnvironment, RunError
from dreamlab.core.imagination import leaves
from dreamlab.core.protocols import Policy, State
from dreamlab.core.types import FLAGS, Outcome

Row = dict[str, np.ndarray]
Watch = Callable[[int, np.ndarray, np.ndarray], None]
"""called after every step with the time, rewards (n,), and which rows are still playing (n,)"""


class Driver:
    """Steps ``envs`` (NEXT_STEP autoreset) and turns what happens into rows."""

    def __init__(self, envs: VectorEnv, device: torch.device) -> None:
        self.envs, self.device, self.n = envs, device, envs.num_envs
        self.pending: Row | None = None  # obs, rew and flags not yet answered; None before the first reset
        self.state: State = ()
        self.owner = ""  # the phase whose policy's state this is
        self.chosen: tuple[np.ndarray, Row] | None = None  # action and columns that the environments failed to take
        self.episode = np.full(self.n, -1)  # seeded episode that runs in each environment
        self.acts: list[list[np.ndarray]] = [[] for _ in range(self.n)]  # its actions so far
        self.ret, self.length = np.zeros(self.n), np.zeros(self.n, np.int64)
        self.resumed: dict[str, Any] | None = None

    def step(self, policy: Policy, owner: str) -> tuple[Row, int, Outcome]:
        """Answer the pending rows. Returns the full row, the steps it took, and the episodes that it ended."""
        if self.pending is None:
            self._begin()
        assert self.pending is not None
        if owner != self.owner:
            self.state, self.owner = policy.initial(self.n), owner
        row = self.pending
        act, columns = self.chosen = self.chosen or self._choose(policy, row)
        ended = Outcome(self.ret[row["is_last"]].copy(), self.length[row["is_last"]].copy())
        self._step(act, row["is_last"])
        self.chosen = None
        return {**row, "act": act, **columns}, int((~row["is_last"]).sum()), ended

    def _choose(self, policy: Policy, row: Row) -> tuple[np.ndarray, Row]:
        """The policy's answer to the pending rows: actions, and columns beside them."""
        obs = {k: v for k, v in row.items() if k not in FLAGS and k != "rew"}
        with torch.no_grad(), few_threads(self.n):
            act, self.state, columns = policy(
                to_device(obs, self.device), torch.from_numpy(row["is_first"]).to(self.device), self.state
            )
        return act.cpu().numpy(), {k: v.cpu().numpy() for k, v in columns.items()}

    def _begin(self) -> None:
        obs, _ = self.envs.reset()
        check_finite(obs, np.zeros(self.n))
        zeros = np.zeros(self.n, bool)
        self.pending = {
            **obs,
            "rew": np.zeros(self.n, np.float32),
            "is_first": np.ones(self.n, bool),
            "is_last": zeros,
            "is_terminal": zeros.copy(),
        }
        self.episode += 1

    def _step(self, act: np.ndarray, was_last: np.ndarray) -> None:
        obs, rew, terminated, truncated, info = self.envs.step(act)
        check_finite(obs, rew)
        self.pending = {
            **obs,
            "rew": np.where(was_last, 0, rew).astype(np.float32),
            "is_first": was_last.copy(),
            "is_last": (terminated | truncated) & ~was_last,
            "is_terminal": terminated & ~was_last,
        }
        self.ret = np.where(was_last, 0, self.ret + rew)
        self.length = np.where(was_last, 0, self.length + 1)
        anew = was_last & ~np.asarray(info.get("goes_on", False))  # an episode ended for learning alone goes on
        self.episode += anew
        for i in range(self.n):
            if anew[i]:
                self.acts[i] = []
            else:
                self.acts[i].append(act[i].copy())

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs, but the environments' inside: that is their actions so far."""
        if self.pending is None:
            return self.resumed or {}
        return {
            "pending": dict(self.pending),
            "chosen": None if self.chosen is None else list(self.chosen),
            "owner": self.owner,
            "state": list(leaves(self.state)),
            "episode": self.episode.copy(),
            "acts": [np.array(a) for a in self.acts],
            "ret": self.ret.copy(),
            "length": self.length.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state now, and bring the environments to it at the next step that is asked for."""
        self.resumed = dict(state) or None
        self.pending = None

    def resume(self, policy: Policy, owner: str) -> str | None:
        """Bring the environments to where they were. Returns a word where that cannot be exact.

        The policy's state is taken up only by the phase that left it; another one starts from its own.
        """
        saved = self.resumed
        if saved is None:
            return None
        if not getattr(self.envs, "seeded", False):
            self.episode, self.resumed = saved["episode"] + 0, None
            return "this vector engine cannot go back into a running episode: fresh episodes are started"
        options = [{"episode": int(e), "actions": a} for e, a in zip(saved["episode"], saved["acts"], strict=True)]
        obs, _ = self.envs.reset(options={"resume": options})
        self.resumed = None  # not before the environments are there: what is saved after a failure is what was resumed
        self.pending = dict(saved["pending"])
        self.chosen = tuple(saved["chosen"]) if saved.get("chosen") else None  # type: ignore[assignment]
        self.owner = saved["owner"]
        if self.owner == owner:
            self.state = refill(policy.initial(self.n), iter(saved["state"]))
        self.episode, self.ret, self.length = saved["episode"] + 0, saved["ret"] + 0, saved["length"] + 0
        self.acts = [list(a) for a in saved["acts"]]
        want = {k: v for k, v in self.pending.items() if k in obs}
        if checksum(obs) != checksum(want):
            return "the environment did not replay to the same observation: it is not deterministic under a seed"
        return None


def play(
    policy: Policy,
    envs: VectorEnv,
    seeds: Sequence[int],
    device: torch.device,
    *,
    stop: Callable[[], bool] = lambda: False,
    watch: Watch | None = None,
) -> Outcome:
    """Whole episodes, one a seed, side by side; row i of every policy call belongs to seeds[i].

    Raises:
        Interrupted: ``stop()`` came true between two steps.
    """
    k, n = len(seeds), envs.num_envs
    if not 0 < k <= n:
        raise RunError(f"{k} episodes were asked for at once, but there are {n} environments")
    obs, _ = envs.reset(options={"seeds": [int(s) for s in seeds] + [None] * (n - k)})
    check_finite(obs, np.zeros(n))
    is_first = torch.ones(k, dtype=torch.bool, device=device)
    state = policy.initial(k)
    alive = np.ones(k, bool)
    ret, length = np.zeros(k), np.zeros(k, np.int64)
    infos: dict[str, np.ndarray] = {}
    idle = np.zeros((n, *envs.single_action_space.shape), envs.single_action_space.dtype)  # type: ignore[misc]
    t = 0
    while alive.any():
        if stop():
            raise Interrupted
        with torch.no_grad(), few_threads(n):
            act, state, _ = policy(to_device({key: v[:k] for key, v in obs.items()}, device), is_first, state)
        is_first = torch.zeros_like(is_first)
        idle[:k] = act.cpu().numpy()
        obs, rew, terminated, truncated, info = envs.step(idle)
        check_finite(obs, rew)
        rew = np.where(alive, rew[:k], 0)
        ret, length = ret + rew, length + alive
        if watch is not None:
            watch(t, rew, alive.copy())
        going = alive & ~(terminated | truncated)[:k]
        _keep(infos, info, np.flatnonzero(alive & ~going), k)
        alive = going
        t += 1
    return Outcome(ret, length, infos)


def _keep(infos: dict[str, np.ndarray], info: Mapping[str, Any], ended: np.ndarray, k: int) -> None:
    """Write the numbers of a vector environment's info into columns (k,), for the episodes that have just ended."""
    for name, values in info.items() if len(ended) else ():
        if (
            name.startswith("_")
            or not isinstance(values, np.ndarray)
            or values.ndim != 1
            or values.dtype.kind not in "biuf"
        ):
            continue
        there = ended[info[f"_{name}"][ended]] if f"_{name}" in info else ended
        infos.setdefault(name, np.full(k, np.nan))[there] = values[there]


@contextmanager
def few_threads(envs: int) -> Iterator[None]:
    """Act on one CPU thread: a few rows are too little work to share, and the cores belong to the environments.

    With as many threads as cores, every small operation would wait until the workers let go of a core. A single
    environment waits for its action, and leaves two cores free.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2 if envs == 1 else 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def to_device(obs: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Arrays as tensors on a device; bytes stay bytes until they are there."""
    return {k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in obs.items()}


def check_finite(obs: Mapping[str, np.ndarray], rew: np.ndarray) -> None:
    """Raises NonFiniteEnvironment, naming the key and the environment."""
    for key, value in (*obs.items(), ("reward", rew)):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = int(np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(1))[0])
            kind = f"a {key}" if key == "reward" else f"an observation {key!r}"
            raise NonFiniteEnvironment(
                f"environment {bad} gave {kind} that is not finite: {value[bad].reshape(-1)[:8]}; "
                "dreamlab envs check ID tests an environment"
            )


def refill(like: State, values: Any) -> State:
    """A nested NamedTuple like ``like`` with its tensors taken from an iterator."""
    if isinstance(like, Tensor):
        return next(values).to(like.device)
    parts = [refill(part, values) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def checksum(obs: Mapping[str, np.ndarray]) -> int:
    """A checksum over observations by key."""
    total = 0
    for key in sorted(obs):
        total = zlib.crc32(np.ascontiguousarray(obs[key]).tobytes(), zlib.crc32(key.encode(), total))
    return total
