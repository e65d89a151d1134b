"""``dreamlab dream RUN``: film a run's open-loop dreams beside reality, and measure their error by horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dreamlab.cli import output
from dreamlab.cli.flags import ask
from dreamlab.core.errors import UserError

if TYPE_CHECKING:
    from dreamlab.cli.session import Opened
    from dreamlab.core.types import Batch

MEASURED = 128
"""windows over which the error is measured"""
SHOWN = (1, 5, 10, 15, 20, 30, 50, 100)
"""horizons of the printed table"""
STORED = "stored state"
"""beside a filmed window whose context begins with one, not with an empty state"""


ABOUT = "film a run's dreams beside reality, and measure their error by horizon"


@dataclass(frozen=True)
class Options:
    """Film open-loop dreams beside reality for the same actions, and write their error by horizon."""

    run: Positional[str]
    """the run's folder, a published model's, or user/name on the Hugging Face Hub"""
    horizon: int = 50
    """imagined steps"""
    context: int = 5
    """real steps that the model sees first"""
    count: int = 5
    """windows that are filmed"""
    temperature: float = 1.0
    """how freely the model draws; lower is calmer"""
    samples: int = 1
    """futures drawn for each window when the error is measured; the mean of several is scored"""
    checkpoint: int | None = None
    """the step to dream with; the newest unless told"""
    seed: int = 0
    """which windows are taken, and what the model draws"""
    json: str | None = None
    """also write the error to this file; - for standard output"""
    wandb: str | None = None
    """also log film and error to this W&B project; TEAM/PROJECT for a team's"""
    device: str = "auto"
    """where the networks live"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab dream", __doc__ or "")
    output.refuse_unwritable(chosen.json)
    quiet = chosen.json == "-"
    error = dream(**{k: v for k, v in vars(chosen).items() if k != "json"}, say=(lambda _: None) if quiet else print)
    output.write(chosen.json, error)
    return 0


def dream(
    run: str | Path,
    horizon: int = 50,
    context: int = 5,
    count: int = 5,
    temperature: float = 1.0,
    samples: int = 1,
    checkpoint: int | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Any = print,
    wandb: str | None = None,
) -> dict[str, Any]:
    """Film and measure; returns the error by horizon, which is also written to ``dreams/``.

    Raises:
        UserError: the agent has no world model, or no episode is long enough.
    """
    least = {
        "horizon": (horizon, 1),
        "context": (context, 1),
        "samples": (samples, 1),
        "count": (count, 0),
        "seed": (seed, 0),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"--{name} must be at least {smallest}, got {value}")
    if not temperature > 0:
        raise UserError(f"--temperature must be positive, got {temperature}")
    from dreamlab.cli import session
    from dreamlab.dream.prediction import prediction_error
    from dreamlab.run.checkpoint import write_json

    if wandb is not None:
        from dreamlab.logs.wandb import refuse_missing

        refuse_missing("logging a dream to W&B")
    opened = session.open_run(run, checkpoint, device)
    model = opened.model  # refused before anything is read, where there is none
    batches = windows(opened, context, horizon, max(MEASURED, count), seed)
    error = prediction_error(model, batches, context, horizon, temperature, samples, seed)
    name = f"{opened.step}-horizon{horizon}"
    folder = opened.folder / "dreams"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", error)
    for line in table(error):
        say(line)
    if "remembered" in error:
        say(f"{error['remembered']:.0%} of the windows begin within an episode, with the h that the last updates left")
    path = folder / f"{name}.mp4" if count and "image" in opened.obs_space.spaces else None
    if path is not None:
        film(path, opened, batches, context, temperature, count, seed)
        say(f"film: {path}")
    if wandb is not None:
        upload(error, opened, path, wandb, say)
    return error


def upload(error: dict[str, Any], opened: Opened, film: Path | None, project: str, say: Any) -> None:
    """Film and error as a W&B run of the kind "dream" in the group of the training run."""
    from dreamlab.logs.wandb import log_once

    names, columns = zip(*_columns(error), strict=True)
    rows = list(zip(error["horizon"], *columns, strict=True))
    values: dict[str, Any] = {"dream/error": (("horizon", *names), rows)}
    values |= {} if film is None else {"dream/film": film}
    log_once(
        project,
        values,
        kind="dream",
        place=opened.folder,
        config={},
        say=say,
        step=opened.step,
        name=opened.folder.resolve().name,
        group=f"{opened.spec.agent}-{opened.spec.env.id}",
    )


def windows(opened: Opened, context: int, horizon: int, count: int, seed: int) -> list[Batch]:
    """Windows (B, context + horizon) of what the run has experienced, in batches.

    They are spread over all rows. Where no episode is that long, windows are cut at its end.
    """
    from dreamlab.core.sampling import EpisodeWindows
    from dreamlab.core.seeds import derive

    rows = opened.rows()
    ids = EpisodeWindows(derive(seed, "dream"))(rows.index, count, context + horizon)
    return [rows.gather(ids[i : i + 16]) for i in range(0, len(ids), 16)]


def film(
    path: Path, opened: Opened, batches: Sequence[Batch], context: int, temperature: float, count: int, seed: int
) -> None:
    """Real | reconstruction | dream | difference, one row a window; said of each that begins with a stored state."""
    from dreamlab.core.pictures import to_rgb
    from dreamlab.dream.film import films
    from dreamlab.logs.video import tile, write_mp4

    shots = [shot for batch in batches for shot in films(opened.model, batch, context, temperature, seed)]
    shots = sorted(shots, key=lambda s: -len(s.real))[:count]  # the whole ones first
    rows = [[to_rgb(part) for part in (s.real, s.reconstruction, s.dream, s.difference)] for s in shots]
    labels = ("reality", "reconstruction", "dream", "difference")
    title = f"{opened.spec.agent} · {opened.spec.env.id} · temperature {temperature:g}"
    names = [STORED if s.remembered else "" for s in shots] if any(s.remembered for s in shots) else ()
    scale = max(1, 128 // rows[0][0].shape[1])
    write_mp4(path, tile(rows, labels, scale, title=title, names=names, context=context), fps=12)


def table(error: dict[str, Any]) -> list[str]:
    """The error as lines: a few horizons, the model beside its baselines."""
    horizons = [h for h in SHOWN if h <= error["horizon"][-1]]
    columns = _columns(error)
    lines = ["  ".join(["horizon", *(f"{name:>13}" for name, _ in columns)])]
    for h in horizons:
        values = [series[h - 1] for _, series in columns]
        lines.append("  ".join([f"{h:>7}", *(f"{'-' if v is None else format(v, '.4g'):>13}" for v in values)]))
    return lines


RIVALS = (("model", "model"), ("repeat", "repeat_last"), ("mean", "mean_frame"))


def _columns(error: dict[str, Any]) -> list[tuple[str, list]]:
    """What was measured, with its name: one entry for each horizon."""
    measures = [m for m in ("mse", "psnr", "ssim") if m in error["model"]]
    columns = [(f"{m} {who}", error[key][m]) for m in measures for who, key in RIVALS]
    if "latent" in error:
        columns += [("latent model", error["latent"]["model"]), ("latent repeat", error["latent"]["repeat_last"])]
    return columns + [(k.replace("_", " "), error[k]) for k in ("reward_mae", "continue_accuracy") if k in error]
