"""Weights & Biases: scalars, pictures and films under their keys, over the run's step.

The folder's name is the run's, ``config.yaml`` its configuration, agent and environment its group. A job that goes
on goes on with the same run there, whose id is in the checkpoint. W&B cannot be cut back: it keeps what a killed
process sent after its last checkpoint and drops the same steps when they come again. ``WANDB_MODE=offline`` and
W&B's other variables are obeyed.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dreamlab.core.config import read_yaml
from dreamlab.core.errors import RunError, missing_package
from dreamlab.core.pictures import to_rgb
from dreamlab.logs import logger
from dreamlab.logs.video import FPS, enlarge, write_mp4

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

SMALLEST = 256
"""pixels: films and pictures are enlarged to about this"""
PATIENCE = 30.0
"""seconds that beginning and ending may take, each; W&B itself is given them, and we wait a little longer"""
UPLOADS = ("online", "run", "shared")
"""the modes that need a key"""


class Sink(logger.Sink):
    """Begins at the first value: by then it is known whether the run goes on.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, run: Path, project: str = "dreamlab") -> None:
        refuse_missing("logging to W&B")
        self.folder = run
        self.entity, _, self.project = project.rpartition("/")
        self.id = secrets.token_hex(4)
        self._run: Any = None
        self._closed = -1  # the last step that W&B takes nothing for any more

    def write(self, step: int, scalars: Mapping[str, float], media: logger.Media) -> None:
        run = self._open()
        with tempfile.TemporaryDirectory(prefix="dreamlab-wandb-") as folder:  # what is logged is copied at once
            shown = {key: _shown(pixels, Path(folder) / f"{i}.mp4") for i, (key, pixels) in enumerate(media.items())}
            # More of the step at which the last job ended, as an evaluation that was broken off, goes to the next one.
            run.log({**scalars, **shown}, step=step + (step == self._closed))

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.id = str(state["id"])

    def close(self) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            _within(1.1 * PATIENCE, "ending its run", run.finish)

    def _open(self) -> Any:
        if self._run is None:
            self._run = _within(1.1 * PATIENCE, "beginning a run", self._begin)
            self._closed = self._run.step - 1
            if self._run.offline:
                place = Path(self._run.dir).parent
                self.say(f"W&B is offline; to upload this run later: wandb sync {place}")
            elif self._run.url:  # WANDB_MODE=disabled has none
                self.say(f"W&B: {self._run.url}")
        return self._run

    def _begin(self) -> Any:
        config = read_yaml(self.folder / "config.yaml")
        return _init(
            entity=self.entity or None,
            project=self.project,
            id=self.id,
            resume="allow",
            name=self.folder.resolve().name,
            group=f"{config['agent']}-{config['env']['id']}",
            job_type="train",
            config=config,
            dir=str(self.folder.resolve()),
        )


def refuse_missing(why: str) -> None:
    """Raise UserError where the package is not installed."""
    spec = find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder wandb/ that its runs have left is no package
        raise missing_package("wandb", "wandb", why)


Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""head and rows"""


def log_once(
    project: str,
    values: Mapping[str, float | Table | bytes | Path],
    *,
    kind: str,
    place: Path,
    config: Mapping[str, Any],
    say: Callable[[str], None],
    step: int = 0,
    name: str | None = None,
    group: str | None = None,
) -> None:
    """One W&B run that holds all of this at once: numbers, tables, pictures as PNG, films and pictures as files.

    Args:
        project: ``PROJECT`` or ``TEAM/PROJECT``.
        values: by the key that they have there, ``group/name``.
        kind: what W&B calls the type of the job.
        place: the folder in which W&B keeps its own.
        config: what is written beside it.
        say: takes a line about where it is.
        step: the run's step that all of it belongs to.
        name: of the run there; W&B's own invention unless told.
        group: of runs there.

    Raises:
        RunError: W&B refused, or took too long.
    """
    entity, _, named = project.rpartition("/")

    def send() -> Any:
        given = {"entity": entity or None, "project": named, "job_type": kind, "name": name, "group": group}
        run = _init(**given, config=dict(config), dir=str(place.resolve()))
        run.log({key: _sent(value) for key, value in values.items()}, step=step)
        run.finish()
        return run

    try:
        run = _within(2.2 * PATIENCE, "logging to W&B", send)
    except Exception as error:
        raise RunError(f"W&B did not take it: {type(error).__name__}: {error}") from error
    where = f"to upload it later: wandb sync {Path(run.dir).parent}" if run.offline else run.url
    say(f"W&B: {where}")


def _sent(value: float | Table | bytes | Path) -> Any:
    """A value in W&B's own form."""
    import io

    import wandb
    from PIL import Image

    if isinstance(value, tuple):
        return wandb.Table(columns=list(value[0]), data=[list(row) for row in value[1]])
    if isinstance(value, bytes):
        return wandb.Image(Image.open(io.BytesIO(value)))
    if isinstance(value, Path):
        return wandb.Video(str(value)) if value.suffix == ".mp4" else wandb.Image(str(value))
    return value


def _init(**given: Any) -> Any:
    """A W&B run. Raises RuntimeError where a key is needed and there is none."""
    import wandb

    quiet = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, finish_timeout=PATIENCE)
    if wandb.setup(quiet).settings.mode in UPLOADS and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("there is no key; type wandb login, or set WANDB_API_KEY or WANDB_MODE=offline")
    return wandb.init(**given, settings=quiet)


def _shown(pixels: np.ndarray, path: Path) -> Any:
    """A picture or a film as W&B shows it; a film is encoded here, as W&B would need moviepy for it."""
    import wandb

    if pixels.ndim == 3:
        return wandb.Image(enlarge(to_rgb(pixels)[None], SMALLEST)[0])
    write_mp4(path, enlarge(to_rgb(pixels), SMALLEST), FPS)
    return wandb.Video(str(path))


def _within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """What ``call()`` gives, in a thread that is left behind where it hangs: a network must not hold up a run.

    Raises:
        TimeoutError: it took longer.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="wandb", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():  # a timeout of its own
            raise
        raise TimeoutError(f"{what} took longer than {seconds:.0f} s") from None
