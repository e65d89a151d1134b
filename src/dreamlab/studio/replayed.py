"""An evaluated episode had again: a score keeps its protocol and its seeds, so the same seed is played once more.

As many episodes are played side by side as when the score was taken, for a policy that draws draws for them
together; where those were more than ``SIDE_BY_SIDE`` the one is played alone. It is played in small pieces, and only
as long as somebody asks for it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dreamlab import envs
from dreamlab.core.errors import RunError, UserError
from dreamlab.core.seeds import forked
from dreamlab.core.types import FLAGS
from dreamlab.evals.episodes import seeds_of
from dreamlab.run.driver import to_device
from dreamlab.studio.stretches import Held

if TYPE_CHECKING:
    from dreamlab.studio.studio import OpenedRun

SIDE_BY_SIDE = 16
PIECE = 0.03
"""seconds of a piece"""
BYTES = 96 << 20
"""of frames that one episode may fill; a longer one is cut there, and said to be"""
SCORES = 20
"""evaluations that are listed, the newest ones"""


def scores(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run that can be read, newest checkpoint first: with ``file``, and ``why`` not again."""
    found = []
    for path in (folder / "evaluations").glob("*.json"):
        try:
            score = json.loads(path.read_text())
            found.append({"file": path.name, **_told(score), "why": _why_not(score)})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written, or not a score
    found.sort(key=lambda s: (s["checkpoint"] or 0, s["file"]), reverse=True)
    return found[:SCORES]


def _told(score: Mapping[str, Any]) -> dict[str, Any]:
    protocol = score["protocol"]
    returns, lengths = [float(r) for r in score["returns"]], [int(n) for n in score["lengths"]]
    checkpoint = protocol.get("checkpoint")
    return {
        "checkpoint": None if checkpoint is None else int(checkpoint),
        "seed": int(protocol["seed"]),
        "mean": float(score["mean"]),
        "policy": str(protocol["policy"]),
        "date": str(protocol.get("date", "")),
        "episodes": len(returns),
        "returns": returns[:200],
        "lengths": lengths[:200],
    }


def _why_not(score: Mapping[str, Any]) -> str | None:
    if not str(score["protocol"]["seeds"]).startswith("one an episode"):
        return "the engine chose its seeds by itself, so these episodes cannot be had again"
    if not str(score["protocol"]["policy"]).startswith("evaluation"):
        return "the agent explored, so these episodes cannot be had again"
    return None


class Again:
    """One episode of a score being played again. Everything but ``__init__`` is for the thread in which models step.

    Raises:
        UserError: there is no such score or episode, or it cannot be had again.
    """

    def __init__(self, opened: OpenedRun, file: str, index: int) -> None:
        score = next((s for s in scores(opened.folder) if s["file"] == file), None)
        if score is None:
            raise UserError(f"there is no evaluation {file!r} in this run")
        if score["why"]:
            raise UserError(score["why"])
        if not 0 <= index < len(score["returns"]):
            raise UserError(f"episode {index} was asked for, but {file} has {len(score['returns'])}, from 0 on")
        self.opened, self.index, self.key = opened, index, f"{file}:{index}"
        self.expected: float = score["returns"][index]
        protocol = json.loads((opened.folder / "evaluations" / file).read_text())["protocol"]
        count = min(int(protocol.get("envs", 1)), int(protocol["episodes"]))
        self.count = count if 0 < count <= SIDE_BY_SIDE else 1
        first = index // self.count * self.count
        self.seeds = seeds_of(score["seed"], int(protocol["episodes"]))[first : first + self.count]
        self.here = index - first
        self.limit = protocol["env"].get("time_limit")
        self.way = str(protocol["policy"]).rpartition(" by ")[2] if " by " in protocol["policy"] else None
        self.checkpoint = score["checkpoint"]
        self.columns: dict[str, list[np.ndarray]] = {}
        self.ret, self.steps, self.done, self.cut = 0.0, 0, False, False
        self.asked = math.inf  # when somebody last asked for it
        self._envs: Any = None

    def on(self) -> None:
        """Play on for a moment."""
        if self._envs is None:
            self._begin()
            return
        until = time.perf_counter() + PIECE
        while not self.done and time.perf_counter() < until:
            self._step()
        if self.done:
            self.close()

    def close(self) -> None:
        """Let the environments go."""
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def held(self) -> Held:
        """The episode, once it is done."""
        columns = {name: np.stack(values) for name, values in self.columns.items()}
        return Held(self.key, columns, self.opened.act_space, self._device)

    def _begin(self) -> None:
        spec = self.opened.spec
        config = dataclasses.replace(envs.evaluation(spec.env), time_limit=self.limit, workers=False)
        self._envs = envs.make(config, self.count, spec.run.seed)
        agent: Any = self.opened.agent
        before = getattr(agent, "evaluation", None)
        try:
            if self.way is not None and before is not None:
                agent.evaluation = self.way
            self.policy = self.opened.policy(False)
        finally:
            if before is not None:
                agent.evaluation = before
        n = len(self.seeds)
        idle = [None] * (self.count - n)  # the last wave may not be full
        self._obs, _ = self._envs.reset(options={"seeds": [*map(int, self.seeds), *idle]})
        self._state = self.policy.initial(n)
        self._device = getattr(getattr(self.opened, "compute", None), "device", torch.device("cpu"))
        self._first = torch.ones(n, dtype=torch.bool, device=self._device)
        self._idle = np.zeros((self.count, *self._envs.single_action_space.shape), self._envs.single_action_space.dtype)
        self._rew, self._flags = 0.0, {"is_first": True, "is_last": False, "is_terminal": False}
        with forked(self.seeds[0], "evaluate"):
            self._drawn = torch.get_rng_state()

    def _step(self) -> None:
        n = len(self.seeds)
        with self._stream(), torch.no_grad():
            obs = to_device({k: v[:n] for k, v in self._obs.items()}, self._device)
            act, self._state, _ = self.policy(obs, self._first, self._state)
        self._idle[:n] = act.cpu().numpy()
        self._write(self._idle[self.here])
        self._first = torch.zeros_like(self._first)
        self._obs, rew, terminated, truncated, _ = self._envs.step(self._idle)
        i = self.here
        self.ret, self.steps, self._rew = self.ret + float(rew[i]), self.steps + 1, float(rew[i])
        size = sum(v[i].nbytes for v in self._obs.values())
        self.cut = not (terminated[i] or truncated[i]) and self.steps * size > BYTES
        self._flags = {
            "is_first": False,
            "is_last": bool(terminated[i] or truncated[i] or self.cut),
            "is_terminal": bool(terminated[i]),
        }
        if self._flags["is_last"]:
            self._write(np.zeros_like(self._idle[i]))
            self.done = True

    def _write(self, act: np.ndarray) -> None:
        row = {k: v[self.here].copy() for k, v in self._obs.items()} | {
            "act": np.array(act),
            "rew": np.float32(self._rew),
            **{name: np.bool_(self._flags[name]) for name in FLAGS},
        }
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)  # type: ignore[arg-type]

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """torch's generator as this episode left it; given back after the block."""
        with torch.random.fork_rng([]):
            torch.set_rng_state(self._drawn)
            yield
            self._drawn = torch.get_rng_state()


def refuse_recordings(opened: OpenedRun) -> None:
    """Raises RunError where there is no environment."""
    if opened.spec.env.id == "recordings":
        raise RunError("this run learned from recordings: there is no environment to play in")
