"""``dreamlab import PATH --out DATA``: turn recordings of any kind into one dataset."""

# ruff: noqa: N999 (the verb is called import)
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import Positional

from dreamlab.cli.flags import Argument, ask
from dreamlab.core.errors import UserError
from dreamlab.core.types import is_image

if TYPE_CHECKING:
    from gymnasium import spaces

    from dreamlab.run.dataset import About
    from dreamlab.run.recordings import Recordings

ABOUT = "turn recordings (npy, npz, mp4, a run's rows) into one dataset"


@dataclass(frozen=True)
class Options:
    """Turn recordings into a dataset: a folder of one .npz an episode, and recordings.json."""

    path: Positional[Path]
    """a folder of .npy or .npz files or of films, a run's folder, or one file"""
    out: Annotated[Path, Argument(metavar="DATA")]
    """the folder that is written"""
    size: Annotated[tuple[int, int] | None, Argument(metavar="HEIGHT WIDTH")] = None
    """resize images to this; without it they stay as they are"""
    skip_bad: bool = False
    """leave out files that are not in order, and list them"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab import", __doc__ or "")
    convert(chosen.path, chosen.out, chosen.size, chosen.skip_bad)
    return 0


def convert(
    path: Path,
    out: Path,
    size: tuple[int, int] | None = None,
    skip_bad: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write the recordings at ``path`` as a dataset; what is there already of the same request is not written again.

    Raises:
        UserError: nothing to read, a file that is not in order, images of several sizes, no room, or ``out`` is taken.
    """
    from dreamlab.cli import recorded
    from dreamlab.run.dataset import Dataset, episodes
    from dreamlab.run.recording import Form, rows

    if size is not None and min(size) < 1:
        raise UserError(f"--size must be at least 1 by 1, got {size[0]} {size[1]}")
    if out.resolve() == path.resolve():
        raise UserError(f"--out {out} is the folder that is read; name another")
    about, found = recorded.survey(path, skip_bad)
    refuse_sizes(found, size)
    about = about._replace(
        obs_space=_as_written(about.obs_space, size),
        request={"import": str(path.resolve()), "size": list(size) if size else None, "skip_bad": skip_bad},
        episodes=0,
        rows=0,
    )
    refuse_no_room(about, found.rows, out)
    for line in recorded.remarks(found):
        say(line)
    dataset = Dataset(out, about)
    form = Form.to(about.obs_space, about.act_space)
    number = 0
    for recording in found.files:
        lengths = [span.rows for span in recording.spans]
        if not all(dataset.has(number + i) for i in range(len(lengths))):
            for i, (length, pieces) in enumerate(episodes(rows(recording, form), lengths)):
                dataset.write(number + i, length, pieces)
        number += len(lengths)
    dataset.finish(len(found.spans), found.rows)
    say(f"{out}: {len(found.spans):,} episodes, {found.rows:,} rows")
    say(f"next: dreamlab train world-models --data {out}")


def refuse_sizes(found: Recordings, size: tuple[int, int] | None) -> None:
    """Raise UserError where images differ in size and no size is asked for."""
    from dreamlab.cli.recorded import sized

    sizes = found.sizes
    if size is None and len(sizes) > 1:
        counts = ", ".join(f"{sized([s])} ({n} file{'s' * (n > 1)})" for s, n in sizes.most_common())
        h, w = sizes.most_common(1)[0][0]
        raise UserError(f"frames differ in size: {counts}; to resize them all, type --size {h} {w} (or --size 64 64)")


def refuse_no_room(about: About, rows: int, out: Path) -> None:
    """Raise UserError where even what is not compressed well might not fit on the disk."""
    from dreamlab.cli.plan import free_disk, size

    widths = [int(np.prod(s.shape)) * np.dtype(s.dtype).itemsize for s in about.obs_space.spaces.values()]  # type: ignore[arg-type]
    need, free = rows * sum(widths), free_disk(out)
    if need > free:
        raise UserError(
            f"up to {size(need)} would be written, but {size(free)} are free at {out}: "
            "a smaller --size, or --out on another disk"
        )


def _as_written(obs_space: spaces.Dict, size: tuple[int, int] | None) -> spaces.Dict:
    from gymnasium import spaces

    form = dict(obs_space.spaces)
    for key, space in form.items():
        if size is not None and is_image(space):
            form[key] = spaces.Box(0, 255, ((space.shape or ())[0], *size), np.uint8)
    return spaces.Dict(form)
