"""``--data PATH``: the recordings that a run learns from, found, compared with its environment, read into its rows.

A run keeps a word about them in its own folder (``recordings.json``): it goes on, and is opened, without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from dreamlab import agents
from dreamlab.cli import dreams
from dreamlab.core.config import to_dict
from dreamlab.core.errors import UserError
from dreamlab.core.types import Recorded, is_image
from dreamlab.envs import dream
from dreamlab.envs.config import EnvConfig
from dreamlab.envs.recordings import ID

if TYPE_CHECKING:
    from dreamlab.cli.options import Spec
    from dreamlab.cli.session import Opened
    from dreamlab.run.dataset import About
    from dreamlab.run.experience import Experience
    from dreamlab.run.recordings import Recordings

BEHAVIOUR = ("repeat", "actions")
"""settings of an environment that change what an action does"""


@dataclass(frozen=True)
class Material:
    """What a run learns from."""

    about: About
    """spaces as they were recorded; of a run that has its rows already, as it sees them"""
    recordings: Recordings | None
    """None for a run that has its rows already"""


def find(spec: Spec, folder: Path | None) -> Material | None:
    """The recordings of a run; None without ``--data``.

    Raises:
        UserError: there are none, or they are not in order.
    """
    from dreamlab.run.checkpoint import Checkpoints

    if spec.data is None:
        return None
    if folder is not None and (known := remembered(folder)) and Checkpoints(folder).steps():
        return known
    return Material(*survey(spec.data, spec.skip_bad))


def remembered(folder: Path) -> Material | None:
    """What a run's folder says of the recordings that it began with."""
    from dreamlab.run.dataset import read_about

    about = read_about(folder)
    return None if about is None else Material(about, None)


def told(found: Material | None, env: EnvConfig) -> Recorded | None:
    """What an agent is told of its recordings."""
    if found is None:
        return None
    holds = found.about.holds
    return Recorded(found.about.rows, holds["actions"], holds["rewards"], holds["ends"], env.id != ID)


def survey(path: Path, skip_bad: bool = False) -> tuple[About, Recordings]:
    """What lies at ``path``.

    Raises:
        UserError: nothing, or a file that is not in order.
    """
    from dreamlab.run import readers
    from dreamlab.run.dataset import About, read_about
    from dreamlab.run.recordings import look

    if path.name == "replay" and readers.is_run(path.parent):
        path = path.parent
    said = read_about(path) if path.is_dir() else None
    if said is None and readers.is_run(path):
        said = _of_run(path)
    known = None if said is None else (said.obs_space, said.act_space)
    found = look(path, known, said.env if said else None, said.holds if said else None, skip_bad)
    request = {"data": str(path)}
    about = About(found.obs_space, found.act_space, found.holds, found.env, request, len(found.spans), found.rows)
    return about, found


def _of_run(folder: Path) -> About | None:
    """The spaces of a run's rows, where its environment can be asked."""
    from dreamlab.cli import session
    from dreamlab.run.dataset import About

    try:
        spec, obs_space, act_space, _ = session.settle(session.stored_spec(folder))
    except UserError:  # not installed here: the rows alone must say it
        return None
    whole = {"actions": True, "rewards": True, "ends": True}
    return About(obs_space, act_space, whole, to_dict(spec.env))


def spaces_alone(found: Material, env: EnvConfig) -> tuple[spaces.Dict, spaces.Space]:
    """What an agent sees that learns from recordings with no environment: images resized as ``env`` says."""
    form = dict(found.about.obs_space.spaces)
    for key, space in form.items():
        if is_image(space) and found.recordings is not None:
            form[key] = spaces.Box(0, 255, _resized(space.shape or (), found, env), np.uint8)  # type: ignore[arg-type]
    if env.obs != "auto":
        form = {key: space for key, space in form.items() if is_image(space) == (env.obs == "pixels")}
        if not form:
            raise UserError(f"the recordings hold no {env.obs}; they hold: {', '.join(found.about.obs_space)}")
    return spaces.Dict(form), found.about.act_space


def _resized(shape: tuple[int, ...], found: Material, env: EnvConfig) -> tuple[int, ...]:
    """The shape of an image (C, h, w) after the environment's preprocessing."""
    from dreamlab.core.pictures import pictures

    blank = np.zeros((1, *shape[1:], shape[0]), np.uint8)
    return pictures(blank, env.size, _crop(found, env), env.grey, "last").shape[1:]


def _crop(found: Material, env: EnvConfig) -> Any:
    """What was collected here has been cropped already."""
    return None if found.about.env is not None else env.crop


def refuse_unfit(found: Material, spec: Spec, obs_space: spaces.Dict, act_space: spaces.Space) -> None:
    """Raise UserError where recordings are of another environment than the one that is named, or not all are kept."""
    recordings, about, env = found.recordings, found.about, spec.env
    if recordings is None:
        return
    if 0 < spec.run.capacity < about.rows:
        raise UserError(
            f"--capacity {spec.run.capacity} keeps fewer than the {about.rows} rows of the recordings; leave it out, "
            "or give it fewer recordings"
        )
    if env.id == ID:
        return
    for key, space in obs_space.spaces.items():
        if key not in about.obs_space.spaces:
            have = list(about.obs_space.spaces)
            raise UserError(
                f"{env.id} gives {key}, but the recordings in {recordings.path} hold {', '.join(have)}; "
                f"type: --env.obs {'pixels' if 'image' in have else 'vector'}"
            )
        there = about.obs_space[key]
        shape = _resized(there.shape or (), found, env) if is_image(there) else there.shape
        if shape != space.shape:
            raise UserError(
                f"{key} of {env.id} is {space.shape}, but in the recordings {shape}"
                + (" after resizing: these are not its pictures" if is_image(there) else "")
            )
    if not about.holds["actions"]:
        raise UserError(
            f"the recordings in {recordings.path} hold no actions, so nothing can be learned of acting in {env.id}: "
            "to learn what they show, type --env recordings"
        )
    _refuse_actions(recordings.exact, about.act_space, env, act_space)


def _refuse_actions(exact: bool, there: spaces.Space, env: EnvConfig, act_space: spaces.Space) -> None:
    what = f"the recordings' actions are {there}, but {env.id} takes {act_space}"
    if isinstance(there, spaces.Discrete) and isinstance(act_space, spaces.Discrete):
        if there.n > act_space.n or (exact and there.n != act_space.n):
            raise UserError(f"{what}: these are not its actions")
        return
    if isinstance(there, spaces.MultiDiscrete) and isinstance(act_space, spaces.MultiDiscrete):
        fits = there.shape == act_space.shape and (there.nvec <= act_space.nvec).all()
        if not fits or (exact and there != act_space):
            raise UserError(f"{what}: these are not its actions")
        return
    if not (isinstance(there, spaces.Box) and isinstance(act_space, spaces.Box)) or there.shape != act_space.shape:
        raise UserError(f"{what}: these are not its actions")
    if exact and not (np.allclose(there.low, act_space.low) and np.allclose(there.high, act_space.high)):
        raise UserError(f"{what}; --env.actions native or unit may be what they were recorded with")
    if not exact and ((there.low < np.floor(act_space.low)).any() or (there.high > np.ceil(act_space.high)).any()):
        raise UserError(f"{what}: some lie outside; they must be scaled to its bounds first")


def taken(spec: Spec) -> tuple[str, ...]:
    """The parts that another run brings (``--from``)."""
    module = agents.load(spec.agent)
    return module.TAKES if spec.source is not None and hasattr(module, "TAKES") else ()


def refuse_unable(agent: Any, spec: Spec, recorded: Recorded | None) -> None:
    """Tell an agent what it learns from. Raises UserError where it cannot, or where its recipe lacks something."""
    if recorded is None:
        return
    if not hasattr(agent, "learn_from"):
        raise UserError(
            f"{spec.agent} cannot learn from recordings; leave out --data, and it collects its own experience"
        )
    if parts := taken(spec):  # they may be read only later: a plan reads none, a run that goes on its own checkpoint
        agent.loaded = getattr(agent, "loaded", None) or set(parts)
    agent.learn_from(recorded)


def fill(found: Material, experience: Experience, folder: Path, env: EnvConfig) -> None:
    """Read all into the run's empty rows, and leave a word about them in its folder.

    Raises:
        UserError: a file is damaged.
    """
    from dreamlab.run import dataset, recordings
    from dreamlab.run.recording import Form

    assert found.recordings is not None
    form = Form.to(experience.obs_space, experience.act_space, _crop(found, env), env.grey)
    recordings.fill(experience.replay, found.recordings, form)
    seen = found.about._replace(obs_space=experience.obs_space, act_space=experience.act_space)
    dataset.write_about(folder, seen)


def stage(opened: Opened, id: str | None) -> EnvConfig:
    """The environment in which a run is scored: its own, or for one that learned from recordings or in a dream, ``id``.

    Raises:
        UserError: it has none and none is named, or the one named is not what it learned of.
    """
    from dreamlab import envs

    if dream.claims(opened.spec.env.id) and id not in (None, opened.spec.env.id):
        config = dreams.reality(opened, str(id))
        _refuse_other_spaces(opened, config, "dreamt of")
        return config
    if opened.spec.env.id != ID:
        if id not in (None, opened.spec.env.id):
            raise UserError(f"{opened.folder} was trained in {opened.spec.env.id} and is scored there; leave out --env")
        return opened.spec.env
    if not getattr(opened.agent, "acts", True):
        raise UserError(
            f"{opened.folder} has not learned to act, so there is nothing to score; watch what it has learned: "
            f"dreamlab dream {opened.folder}"
        )
    if id is None and opened.own_env:
        raise UserError(
            f"{opened.folder} was trained in {opened.own_env}, which is code of its publisher's own and is not run for "
            f"a downloaded model. If you have it here and trust it: dreamlab evaluate ... --env {opened.own_env}"
        )
    if id is None:
        raise UserError(
            f"{opened.folder} learned from recordings alone, so there is no environment to score it in. "
            f"Where one fits, name it: dreamlab evaluate {opened.folder} --env ID"
        )
    images = [space.shape for space in opened.obs_space.spaces.values() if is_image(space)]
    config = dataclasses.replace(envs.default_config(id), grey=opened.spec.env.grey)
    if images:
        _, h, w = images[0] or ()
        config = dataclasses.replace(config, size=(h, w))
    if len(opened.obs_space) == 1:
        config = dataclasses.replace(config, obs="pixels" if images else "vector")
    _refuse_other_spaces(opened, config, "recorded")
    return config


def _refuse_other_spaces(opened: Opened, config: EnvConfig, how: str) -> None:
    """Raise UserError where an environment is not seen and acted in as what a run learned of."""
    from dreamlab import envs

    obs_space, act_space = envs.spaces_of(config)
    shapes = [{k: s.shape for k, s in space.spaces.items()} for space in (opened.obs_space, obs_space)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{opened.folder} sees {shapes[0]}, but {config.id} gives {shapes[1]}: it was not {how} there")
    if opened.act_space != act_space:
        raise UserError(f"{opened.folder} acts in {opened.act_space}, but {config.id} takes {act_space}")


# -- words ---------------------------------------------------------------------------------------------------


def words(found: Material, env: EnvConfig, obs_space: spaces.Dict) -> list[str]:
    """What a run says of its recordings as it starts."""
    from dreamlab.run.readers import WORDS

    recordings, about = found.recordings, found.about
    if recordings is None:
        return []
    holds = [name for name, there in about.holds.items() if there]
    lacks = [name for name, there in about.holds.items() if not there]
    where = f"{WORDS[recordings.format]} in {recordings.path}"
    lines = [
        f"recordings: {about.episodes:,} episodes, {about.rows:,} rows ({where})"
        + (f"; with {', '.join(holds)}" if holds else "")
        + (f"; no {', '.join(lacks)}" if lacks else "")
        + (f"; mean return {np.mean(recordings.returns):.2f}" if recordings.returns else "")
    ]
    lines += remarks(recordings)
    for space in obs_space.spaces.values():
        if is_image(space) and (others := [s for s in recordings.sizes if s != space.shape[1:]]):  # type: ignore[index]
            lines.append(f"  {sized(others)} frames are resized to {sized([space.shape[1:]])}")  # type: ignore[index]
    if env.id == ID and about.holds["actions"] and not recordings.exact:
        lines.append(f"  actions are taken to be {about.act_space}: the smallest that holds them")
    if about.env and env.id == ID:
        lines.append(f"  they come from {about.env['id']}: with --env {about.env['id']} the result is evaluated there")
    if about.env and env.id != ID:
        lines += _differing(about.env, env)
    return lines


def _differing(there: Mapping[str, Any], env: EnvConfig) -> list[str]:
    """Where the environment is not as it was when it was recorded."""
    now = to_dict(env)
    if there.get("id") != env.id:
        return [f"  they were recorded in {there.get('id')}, not in {env.id}"]
    changed = [k for k in BEHAVIOUR if k in there and there[k] != now[k]]
    return [f"  they were recorded with {k} {there[k]}, and {env.id} now has {k} {now[k]}" for k in changed]


def remarks(recordings: Recordings) -> list[str]:
    """What is unusual about files."""
    spans = recordings.spans
    standing = sum(span.stands_in for span in spans)
    lines = []
    if standing:
        lines.append(
            f"  in {standing:,} of {len(spans):,} episodes the frame after the last action was not recorded: "
            "the last one stands in for it"
        )
    if recordings.ignored:
        lines.append(f"  arrays that mean nothing here: {', '.join(recordings.ignored)}")
    return lines + [f"  skipped: {word}" for word in recordings.skipped]


def sized(sizes: Any) -> str:
    """Heights and widths for reading: 96x96."""
    return ", ".join("x".join(map(str, size)) for size in sizes)
