"""``dreamlab export RUN --out DIR``: a policy as a program of torch alone, checked over an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tyro.conf import Positional

from dreamlab.cli.flags import ask
from dreamlab.core.errors import Interrupted, RunError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dreamlab.cli.session import Opened

ABOUT = "write a run's policy as a torch.export program that runs without dreamlab"
TOLERANCE = 1e-4
"""of a number in the state, or a continuous action"""


@dataclass(frozen=True)
class Options:
    """Write a run's policy, with its recurrent state, as a torch.export program, and compare the two over an episode.

    What it draws is made of uniforms that are an input: drawn anew it acts as it is evaluated; all 0.5 it takes the
    likeliest of everything.
    """

    run: Positional[str]
    """the run's folder, a published model's, or user/name on the Hugging Face Hub"""
    out: Path
    """a folder for policy.pt2, policy.json, act.py and the episode"""
    checkpoint: int | None = None
    """the step to export; the newest unless told"""
    steps: int = 500
    """of the episode at most"""
    seed: int = 0
    """of the episode and of what is drawn in it"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    export(**vars(ask(Options, argv, "dreamlab export", __doc__ or "")))
    return 0


def export(
    run: str | Path, out: str | Path, checkpoint: int | None = None, steps: int = 500, seed: int = 0, say: Any = print
) -> Any:
    """Export a run's policy; returns how far the program is from it (``publish.exported.Parity``).

    Raises:
        UserError: the run has no behaviour, or torch cannot trace it.
        RunError: program and policy do not agree; nothing is written.
    """
    if steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    import torch

    from dreamlab.cli import session
    from dreamlab.publish import exported

    opened = session.open_run(run, checkpoint, "cpu")
    if not getattr(opened.agent, "acts", True):
        raise UserError(f"{run} has not learned to act, so there is no policy to export")
    observations = {
        key: (tuple(space.shape or ()), torch.uint8 if space.dtype == "uint8" else torch.float32)
        for key, space in opened.obs_space.spaces.items()
    }
    pure = exported.Pure(opened.policy(), observations)
    made = exported.program(pure)
    given, where = _episode(opened, steps, seed)
    found, taken = exported.parity(made.module(), pure, given, seed)
    continuous = taken[0].act.is_floating_point()
    say(
        f"parity over {found.steps} steps of {where}: {found.same} actions are the same to the bit; largest difference "
        f"of an action {found.act:.3g}, of the state {found.state:.3g}"
    )
    if found.state > TOLERANCE or (found.act > TOLERANCE if continuous else found.same < found.steps):
        raise RunError("the program does not act as the policy does: nothing was written")
    about = {
        "agent": opened.spec.agent,
        "env": opened.own_env or opened.spec.env.id,
        "step": opened.step,
        "torch": str(torch.__version__),
        "outputs": ["act", "state"],
        "parity": found._asdict(),
    }
    folder = Path(out)
    exported.write(folder, made, pure, taken, about)
    size = (folder / exported.PROGRAM).stat().st_size
    say(f"{folder / exported.PROGRAM}: {size:,} bytes, {pure.uniforms} uniforms a step (0.5 each: no chance)")
    say(f"without dreamlab: python {folder / exported.SCRIPT}")
    return found


def _episode(opened: Opened, steps: int, seed: int) -> tuple[Sequence[tuple[Mapping[str, Tensor], bool]], str]:
    """What is seen in an episode that the policy plays; where there is no environment here, in the rows that it has."""
    from dreamlab.cli import recorded, session
    from dreamlab.envs import evaluation
    from dreamlab.evals import episodes
    from dreamlab.publish.exported import Watched

    policy = Watched(opened.policy())
    try:
        env = evaluation(recorded.stage(opened, None))
        venv = session.environments(dataclasses.replace(opened.spec, env=env), 1)
    except UserError:
        rows = opened.rows()
        index = rows.index
        batch = rows.gather(np.arange(index.start, index.stop)[:steps] * index.streams)
        begins = [t == 0 or bool(first) for t, first in enumerate(batch.is_first)]
        return [({k: v[t : t + 1] for k, v in batch.obs.items()}, first) for t, first in enumerate(begins)], "its rows"
    try:
        with suppress(Interrupted):
            seeds = episodes.seeds_of(seed, 1)
            stop = lambda: len(policy.given) >= steps  # noqa: E731
            episodes.evaluate(policy, venv, seeds, opened.compute.device, stop=stop)
    finally:
        venv.close()
    return policy.given, f"an episode of {env.id}"
