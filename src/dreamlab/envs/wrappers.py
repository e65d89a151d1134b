"""From any Gymnasium environment to the one form agents see: one job each, who sees what.

The order in which ``dreamlab.envs`` puts them on: Fresh, Repeat, PlainAction, UnitAction, TimeLimit,
(rendered pixels), AsDict, Pixels, SeededReset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Env, ObservationWrapper, Wrapper, spaces
from gymnasium.spaces.utils import flatten, flatten_space

from dreamlab.core.errors import RunError, UserError
from dreamlab.core.pictures import picture
from dreamlab.core.seeds import derive
from dreamlab.core.types import is_image


class Fresh(Wrapper):
    """The agent sees a newly built environment at every reset.

    Some simulators keep traces of earlier episodes (Box2D's contact order does), so that the same seed and
    actions give another episode later on. Built anew, an episode depends on its seed alone.
    """

    def __init__(self, build: Callable[[], Env]) -> None:
        super().__init__(build())
        self._build, self._used = build, False

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        if self._used:
            self.env.close()
            self.env = self._build()
        self._used = True
        return self.env.reset(**kwargs)


class Repeat(Wrapper):
    """The environment sees each action ``times`` times, or until the episode ends; rewards are summed."""

    def __init__(self, env: Env, times: int) -> None:
        super().__init__(env)
        self._times = times

    def step(self, act: Any) -> tuple[Any, float, bool, bool, dict]:
        total = 0.0
        for _ in range(self._times):
            obs, rew, terminated, truncated, info = self.env.step(act)
            total += float(rew)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


class PlainAction(Wrapper):
    """The agent sees Discrete(n) or a flat MultiDiscrete from 0, or a flat float32 Box; the environment its own form.

    Several choices at once are one MultiDiscrete, whether the environment takes a MultiDiscrete, a MultiBinary, or a
    Dict or Tuple of choices (in the order of sorted keys). Numbers are kept within the environment's bounds.

    Raises:
        UserError: actions of another kind.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._inner = inner = env.action_space
        counts = _counts(inner)
        if counts:
            self.action_space = spaces.Discrete(counts[0]) if len(counts) == 1 else spaces.MultiDiscrete(counts)
        elif isinstance(inner, spaces.Box) and inner.dtype.kind == "f":
            low, high = inner.low.reshape(-1).astype(np.float32), inner.high.reshape(-1).astype(np.float32)
            self.action_space = spaces.Box(low, high, dtype=np.float32)
        else:
            raise UserError(
                f"the actions of this environment are {inner}; agents here choose one of n (Discrete), several "
                "at once (MultiDiscrete), or a vector of floats (Box): wrap it in a function of your own that offers "
                "one of these, and type my_pkg.my_env:make"
            )

    def step(self, act: Any) -> tuple[Any, Any, bool, bool, dict]:
        if not isinstance(self.action_space, spaces.Box):
            return self.env.step(_composed(self._inner, np.atleast_1d(act)))
        low, high, shape = self._inner.low, self._inner.high, self._inner.shape  # type: ignore[attr-defined]
        act = np.asarray(act, np.float64).reshape(shape)
        return self.env.step(np.clip(act, low, high).astype(self._inner.dtype))


def _counts(space: spaces.Space) -> list[int] | None:
    """How many ways each choice of an action has, in order; None where not all of it are choices."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.reshape(-1)]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return None
    counts = [_counts(part) for _, part in _children(space)]
    return None if None in counts else [n for part in counts for n in part or ()]


def _composed(space: spaces.Space, act: np.ndarray) -> Any:
    """Choices int64 (K,) from 0 in the environment's own form."""
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(int(act[0]) + int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return (act.reshape(space.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return act.reshape(space.shape).astype(space.dtype)
    parts, at = {}, 0
    for key, part in _children(space):
        width = len(_counts(part) or ())
        parts[key] = _composed(part, act[at : at + width])
        at += width
    return parts if isinstance(space, spaces.Dict) else tuple(parts.values())


def _children(space: spaces.Space) -> list[tuple[Any, spaces.Space]]:
    """The parts of a Dict, by sorted key, or of a Tuple."""
    if isinstance(space, spaces.Dict):
        return sorted(space.spaces.items())
    return list(enumerate(space.spaces))  # type: ignore[attr-defined]


class UnitAction(gymnasium.ActionWrapper):
    """The agent sees actions in [-1, 1]; the environment its own bounds, by an affine map."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        inner = env.action_space
        if isinstance(inner, spaces.Box):
            if not (np.isfinite(inner.low).all() and np.isfinite(inner.high).all()):
                raise UserError(f"actions without bounds ({inner}) cannot be scaled from -1 to 1; type: actions native")
            self._low, self._high = inner.low.astype(np.float64), inner.high.astype(np.float64)
            self.action_space = spaces.Box(-1.0, 1.0, inner.shape, np.float32)

    def action(self, act: Any) -> Any:
        if not isinstance(self.action_space, spaces.Box):
            return act
        half = (np.clip(np.asarray(act, np.float64), -1, 1) + 1) / 2
        return (self._low + half * (self._high - self._low)).astype(np.float32)


class AsDict(ObservationWrapper):
    """The agent sees a dictionary: images under ``image``, all else as one float32 ``vector``.

    An image is a uint8 Box of two or three axes. Several images of a Dict keep their own names. Discrete
    parts become one-hot, and parts of a Dict are put one after another in the order of its keys.

    Raises:
        UserError: a space that has no fixed length, or nothing of the ``kind`` that was asked for.
    """

    def __init__(self, env: Env, kind: str = "auto") -> None:
        super().__init__(env)
        parts = list(_parts("", env.observation_space))
        images = [(name, path) for name, path, space in parts if _pictorial(space)]
        vectors = [(path, space) for name, path, space in parts if not _pictorial(space)]
        if (kind == "vector" and not vectors) or (kind == "pixels" and not images):
            raise UserError(f"this environment gives no {kind}, but {env.observation_space}; type: obs auto")
        self._images = {} if kind == "vector" else {"image" if len(images) == 1 else n: p for n, p in images}
        self._vectors = [] if kind == "pixels" else vectors
        self._given = [
            (path, _at(env.observation_space, path))
            for path in (*self._images.values(), *(p for p, _ in self._vectors))
        ]
        for _, space in self._vectors:
            if not space.is_np_flattenable:
                raise UserError(f"observations of {space} have no fixed length; give a Box, Discrete or Dict of these")
        form: dict[str, spaces.Space] = {n: _at(env.observation_space, p) for n, p in self._images.items()}
        if self._vectors:
            flat: list[Any] = [flatten_space(space) for _, space in self._vectors]
            low = np.concatenate([np.asarray(f.low, np.float64).reshape(-1) for f in flat])
            high = np.concatenate([np.asarray(f.high, np.float64).reshape(-1) for f in flat])
            with np.errstate(over="ignore"):  # bounds beyond float32 are no bounds
                form["vector"] = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.observation_space = spaces.Dict(form)

    def observation(self, obs: Any) -> dict[str, np.ndarray]:
        for path, space in self._given:
            _check(obs, path, space)
        out = {name: np.asarray(_at(obs, path)) for name, path in self._images.items()}
        if self._vectors:
            flat = [np.asarray(flatten(space, _at(obs, path))).reshape(-1) for path, space in self._vectors]
            out["vector"] = np.concatenate(flat).astype(np.float32)
        return out


class Pixels(ObservationWrapper):
    """The agent sees images cropped, resized (bilinear, antialiased), perhaps grey, as uint8 (C, h, w)."""

    def __init__(
        self,
        env: Env,
        size: tuple[int, int],
        crop: tuple[int, int, int, int] | None = None,
        grey: bool = False,
    ) -> None:
        super().__init__(env)
        self._size, self._crop, self._grey = size, crop, grey
        assert isinstance(env.observation_space, spaces.Dict)
        form = dict(env.observation_space.spaces)
        self._keys = [key for key, space in form.items() if _pictorial(space)]
        for key in self._keys:
            blank = np.zeros(form[key].shape or (), np.uint8)
            form[key] = image_space(picture(blank, size, crop, grey).shape)
        self.observation_space = spaces.Dict(form)

    def observation(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: picture(v, self._size, self._crop, self._grey) if k in self._keys else v for k, v in obs.items()}


def image_space(shape: tuple[int, ...]) -> spaces.Box:
    """Images uint8 (C, h, w)."""
    return spaces.Box(0, 255, shape, np.uint8)  # type: ignore[arg-type]


def has_images(space: spaces.Space) -> bool:
    """Whether an environment's observations have pictures in them."""
    return any(_pictorial(part) for *_, part in _parts("", space))


def _pictorial(space: spaces.Space) -> bool:
    return is_image(space) or (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 2)


def _parts(name: str, space: spaces.Space, path: tuple = ()) -> Iterator[tuple[str, tuple, spaces.Space]]:
    """The leaves of nested Dict and Tuple spaces: joined name, path of keys, space."""
    if isinstance(space, spaces.Dict):
        inner: list[tuple[Any, spaces.Space]] = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = list(enumerate(space.spaces))
    else:
        yield name or "image", path, space
        return
    for key, part in inner:
        yield from _parts(f"{name}_{key}" if name else str(key), part, (*path, key))


def _at(nested: Any, path: tuple) -> Any:
    for key in path:
        nested = nested[key]
    return nested


def _check(obs: Any, path: tuple, space: spaces.Space) -> None:
    """Raises ValueError, naming the key: an observation that is missing, or is not of its space's shape and kind.

    Later it would be stretched, cut or broadcast to what is stored. Values are not looked into: that takes time.
    """
    name = "the observation" + (f" {'/'.join(map(str, path))!r}" if path else "")
    try:
        value = _at(obs, path)
    except (KeyError, IndexError, TypeError):
        there = sorted(map(str, obs)) if isinstance(obs, Mapping) else type(obs).__name__
        raise ValueError(f"{name} is missing: the environment's space has it, and this step gave {there}") from None
    if not isinstance(space, spaces.Box):
        return
    value = np.asarray(value)
    alike = (
        (value.shape, value.dtype) == (space.shape, space.dtype)
        if _pictorial(space)
        else value.size == np.prod(space.shape)
    )
    if not alike:
        raise ValueError(f"{name} is {value.dtype} of shape {value.shape}, the environment's space says {space}")


GOES_ON = "goes_on"
"""in the info of an episode's last step: the next reset is none, the game goes on; and of the first step after that"""


class SeededReset(Wrapper):
    """The agent sees episodes that depend on (seed, environment, episode number) alone, so that any can be had again.

    ``reset(options=...)``:
        ``{}``: the next own episode; episode k has the seed ``derive(seed, "episode", index, k)``.
        ``{"resume": {"episode": k, "actions": (t, ...)}}``: own episode k, its first t actions played again.
            If they end it, the next step begins episode k + 1, as NEXT_STEP autoreset would have.
        ``{"seeds": s}``: one episode with exactly this seed, then idle; None is idle at once.
        ``None``, which autoreset sends: the next own episode, or idle after a one-off.

    Idle: the last observation, reward 0, no flags, at no cost.

    Where an environment ends an episode for learning alone (``GOES_ON``), what follows belongs to the same own
    episode: it has the same number, and the action that autoreset ignored has a place among its actions.
    """

    def __init__(self, env: Env, seed: int, index: int) -> None:
        super().__init__(env)
        self._seed, self._index = seed, index
        self._next = 0  # number of the next own episode
        self._one_off = self._idle = self._over = self._goes_on = self._started = False
        self._obs: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """The next of its own episodes; with ``options["seeds"]`` one of those seeds instead, or none: it idles."""
        if options is None and self._one_off:
            self._idle = True
            return self._obs, {}
        if options is None and self._goes_on:
            return self._go_on()
        options = options or {}
        self._one_off = "seeds" in options
        self._idle = self._one_off and options["seeds"] is None
        self._over = False
        if self._idle:
            if self._obs is None:
                self._obs = {k: np.zeros(s.shape, s.dtype) for k, s in self.observation_space.spaces.items()}  # type: ignore[attr-defined]
            return self._obs, {}
        if self._one_off:
            return self._start(int(options["seeds"]))
        resume = options.get("resume")
        episode = self._next if resume is None else int(resume["episode"])
        self._next = episode + 1
        found = self._start(derive(self._seed, "episode", self._index, episode))
        return found if resume is None else self._replay(episode, resume["actions"])

    def step(self, act: Any) -> tuple[Any, float, bool, bool, dict]:
        if self._idle:
            return self._obs, 0.0, False, False, {}
        if self._over:
            obs, info = self.reset()
            return obs, 0.0, False, False, info
        self._obs, rew, terminated, truncated, info = self.env.step(act)
        self._goes_on = bool(info.get(GOES_ON, False))
        return self._obs, float(rew), bool(terminated), bool(truncated), _scalars(info)

    def render(self) -> Any:
        """The frame now; None for an environment that has idled since it was made."""
        return None if self._idle and not self._started else self.env.render()

    def _start(self, seed: int) -> tuple[Any, dict]:
        self._obs, info = self.env.reset(seed=seed)
        self._started, self._goes_on = True, False
        return self._obs, _scalars(info)

    def _go_on(self) -> tuple[Any, dict]:
        self._obs, info = self.env.reset()
        self._over = self._goes_on = False
        return self._obs, {**_scalars(info), GOES_ON: True}

    def _replay(self, episode: int, actions: np.ndarray) -> tuple[Any, dict]:
        info: dict = {}
        for t, act in enumerate(actions):
            if self._over and self._goes_on:
                self._go_on()
                continue
            if self._over:
                raise not_deterministic(episode, self._index, t, len(actions))
            *_, terminated, truncated, info = self.step(act)
            self._over = terminated or truncated
        return self._obs, info


def not_deterministic(episode: int, index: int, t: int, actions: int) -> RunError:
    """The error for an episode that cannot be had again."""
    return RunError(
        f"episode {episode} of environment {index} ended after {t} of the {actions} actions that were played in it: "
        "the environment is not deterministic under a seed (dreamlab envs check says more)"
    )


def _scalars(info: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers only: vector environments cannot stack whatever else environments put here."""
    return {k: v for k, v in info.items() if isinstance(v, (bool, int, float, np.number, np.bool_))}
