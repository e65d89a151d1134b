"""``dreamlab publish RUN --repo user/name``: a run's agent as a model on the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dreamlab import agents
from dreamlab.cli import named, options
from dreamlab.cli.flags import ask
from dreamlab.core.errors import RunError, UserError

if TYPE_CHECKING:
    from dreamlab.cli.session import Opened

ABOUT = "put a run's agent on the Hugging Face Hub, with scores, film and start contexts"
FILM_STEPS = 1000
"""of the film that is made where the run has none of this checkpoint"""
FILM_BYTES = 25 << 20
"""a larger film stays at home"""


@dataclass(frozen=True)
class Options:
    """Put a run's agent on the Hugging Face Hub: weights, settings, start contexts, scores, a film, a model card."""

    run: Positional[str]
    """the run's folder, a published model's, or user/name on the Hub"""
    repo: str
    """user/name of the model on the Hub"""
    private: bool = False
    """make the repository private, if it is new"""
    dry_run: bool = False
    """write the folder that would be uploaded, and list it; the Hub is not asked"""
    out: Path | None = None
    """with --dry-run: that folder; without it published/<step> in the run's"""
    checkpoint: int | None = None
    """the step to publish; the newest unless told"""
    film: bool = True
    """include a film: the checkpoint's own, or one episode that is played now"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    publish(**vars(ask(Options, argv, "dreamlab publish", __doc__ or "")))
    return 0


def publish(
    run: str | Path,
    repo: str,
    private: bool = False,
    dry_run: bool = False,
    out: str | Path | None = None,
    checkpoint: int | None = None,
    film: bool = True,
    say: Any = print,
) -> Path | str:
    """Publish a run; returns the model's address, or with ``dry_run`` the folder.

    Raises:
        UserError: a name that the Hub does not take, an agent that only its owner could load, no token.
        RunError: the Hub cannot be reached.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise UserError(f"--repo {repo}: a model on the Hub is named user/name")
    if out is not None and not dry_run:
        raise UserError("--out is the folder of a --dry-run; without that the files go to the Hub alone")
    from dreamlab.cli import session
    from dreamlab.publish import huggingface_hub

    if not dry_run:
        huggingface_hub.refuse_no_token()
    opened = session.open_run(run, checkpoint)
    agent = opened.spec.agent
    if agents.canonical(agent) not in agents.names():
        raise UserError(
            f"{agent} is an agent of your own: nobody could load it, as code that a model names is never run. "
            f"Agents that can be published: {', '.join(agents.names())}"
        )
    if dry_run:
        folder = Path(out) if out else opened.folder / "published" / str(opened.step)
        _written(opened, named.place(run), repo, folder, film, say)
        say(f"{folder} is what would be put on the Hub as {repo}; without --dry-run it is")
        return folder
    with tempfile.TemporaryDirectory(prefix="dreamlab-publish-") as temporary:
        folder = _written(opened, named.place(run), repo, Path(temporary) / "model", film, say)
        message = f"{agent} on {opened.own_env or opened.spec.env.id}, checkpoint {opened.step}"
        address = huggingface_hub.upload(folder, repo, private, message)
    say(f"published: {address}")
    say(f"dreamlab.load({repo!r}) has it")
    return address


def _written(opened: Opened, place: named.Place, repo: str, folder: Path, film: bool, say: Any) -> Path:
    """Write the model's folder, load it back, and list it."""
    from dreamlab.publish import contexts, package
    from dreamlab.publish.card import card

    starts = None
    try:
        starts = contexts.choose(opened.rows(), opened.spec.run.seed)
    except RunError as error:
        say(f"without start contexts, so that it cannot dream: {error}")
    scores = _scores(place.folder, opened.step)
    if not scores:
        say(f"checkpoint {opened.step} was not evaluated: the card says so. dreamlab evaluate {place.folder} scores it")
    config = options.to_dict(opened.spec) | {"from": None, "data": None}
    if opened.own_env:
        config["env"]["id"] = opened.own_env
    with tempfile.TemporaryDirectory(prefix="dreamlab-film-") as temporary:
        films = _films(opened, place.folder, Path(temporary), film, say)
        parameters = sum(p.numel() for part in opened.agent.parts.values() for p in _parameters(part))
        dreams = hasattr(opened.agent, "model")
        text = card(
            repo, config, opened.step, scores, parameters, len(starts.lengths) if starts else 0,
            {name: what for name, (_, what) in films.items()}, dreams,
        )  # fmt: skip
        files: dict[str, Path | str] = {"README.md": text, **{name: path for name, (path, _) in films.items()}}
        files |= {f"evaluations/{name}": json.dumps(score, indent=1) for name, score in scores.items()}
        state = package.without_learning(opened.agent.state_dict())
        model = package.Package(config, opened.step, opened.obs_space, opened.act_space, state, starts)
        lines = package.write(folder, model, files)
    _refuse_changed(opened, folder)
    for name, size in lines:
        say(f"  {size:>12,}  {name}")
    say(f"  {sum(size for _, size in lines):>12,}  bytes in all; loaded back, every weight is the same")
    return folder


def _parameters(part: Any) -> Any:
    return part.parameters() if hasattr(part, "parameters") else ()


def _refuse_changed(opened: Opened, folder: Path) -> None:
    """Load what was written, and compare. Raises RunError where a weight differs."""
    import torch

    from dreamlab.cli.published import open_published

    again = open_published(named.Place(folder, folder, folder, True), str(opened.compute.device))
    for name, part in opened.agent.parts.items():
        if not hasattr(part, "state_dict"):
            continue
        back = again.agent.parts[name].state_dict()
        for key, value in part.state_dict().items():
            if not torch.equal(value, back[key]):
                raise RunError(f"{folder} does not hold this agent: {name}.{key} differs when it is loaded back")


def _scores(folder: Path, step: int) -> Mapping[str, Mapping[str, Any]]:
    """Scores of one checkpoint, of the most episodes first."""
    found = {}
    for path in sorted((folder / "evaluations").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            score = json.loads(path.read_text(encoding="utf-8"))
            if score["protocol"]["checkpoint"] == step and {"mean", "std", "returns"} <= score.keys():
                found[path.name] = score
    return dict(sorted(found.items(), key=lambda item: -len(item[1]["returns"])))


def _films(opened: Opened, folder: Path, temporary: Path, film: bool, say: Any) -> dict[str, tuple[Path, str]]:
    """Films of this checkpoint by the name that they get, and what they show; an episode is played where none is."""
    if not film:
        return {}
    step, found = opened.step, {}
    newest = {
        "replay.mp4": ([*folder.glob(f"videos/{step}-*.mp4"), *folder.glob("replay.mp4")], "One episode"),
        "dream.mp4": (
            [*folder.glob(f"dreams/{step}-*.mp4"), *folder.glob("dream.mp4")],
            "Reality, reconstruction, the open-loop dream of the same actions, and the difference",
        ),
    }
    for name, (paths, what) in newest.items():
        fit = [path for path in paths if path.stat().st_size <= FILM_BYTES]
        if fit:
            found[name] = (max(fit, key=lambda path: path.stat().st_mtime), what)
    if "replay.mp4" not in found and getattr(opened.agent, "acts", True):
        try:
            _played(opened, temporary / "replay.mp4")
        except UserError as error:
            say(f"without a film of an episode: {error}")
        else:
            found["replay.mp4"] = (temporary / "replay.mp4", "One episode")
    return found


def _played(opened: Opened, path: Path) -> None:
    """Film an episode, of ``FILM_STEPS`` at most."""
    from dreamlab.cli import recorded, session
    from dreamlab.envs import evaluation
    from dreamlab.evals import episodes

    env = evaluation(recorded.stage(opened, None))
    env = dataclasses.replace(env, time_limit=min(env.time_limit or FILM_STEPS, FILM_STEPS))
    venv = session.environments(dataclasses.replace(opened.spec, env=env), 1, render=True)
    try:
        seeds = episodes.seeds_of(opened.spec.run.seed, 1)
        outcome, frames = episodes.evaluate(opened.policy(), venv, seeds, opened.compute.device, film=True)
    finally:
        venv.close()
    title = f"{opened.spec.agent} · {env.id} · return {episodes.figure(float(outcome.ret[0]))}"
    episodes.film(path, frames, title)
    if path.stat().st_size > FILM_BYTES:
        raise UserError(f"it would take {path.stat().st_size >> 20} MiB")
