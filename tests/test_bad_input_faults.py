"""What goes wrong while a run is under way is told in words, what came before it is kept, and the run goes on.

Environments that crash, die, hang or give NaN; losses that become NaN; disks that are full. Each run ends as if
nothing had happened, once the fault is mended and the same command typed again.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from faulty_envs import fault_file
from test_bad_input import QUICK, SHORT, go, plain  # noqa: F401 (fixtures)
from test_resume import assert_same, facts

import dreamlab
from dreamlab.cli import plan as planning
from dreamlab.cli.main import main
from dreamlab.logs import jsonl
from dreamlab.run import checkpoint, columns
from dreamlab.run.experience import Experience

Go = Callable[..., str]
OPTIONS = ("--env.timeout", "1", "--env.size", "16", "16", *SHORT, *QUICK)
COLLECTING = 20
"""steps of one worker until the fault"""


@pytest.fixture
def fault() -> Iterator[Callable[[int], None]]:
    """Set the fault's step; mended afterwards."""
    yield lambda at: fault_file().write_text(str(at))  # type: ignore[misc]
    fault_file().unlink(missing_ok=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The run of an agent and an environment that nothing befell."""
    runs: dict[tuple[str, str], Path] = {}

    def made(agent: str, env: str) -> Path:
        if (agent, env) not in runs:
            runs[agent, env] = tmp_path_factory.mktemp("whole") / "run"
            assert main([*train(agent, env), *OPTIONS, "--run", str(runs[agent, env])]) == 0
        return runs[agent, env]

    return made


def train(agent: str, env: str) -> tuple[str, ...]:
    return "train", agent, "--env", env if "/" in env else f"faulty_envs:{env}"


def assert_same_end(a: Path, b: Path) -> None:
    """The same weights, rows and progress."""
    (one, _), (other, _) = facts(a), facts(b)
    assert (one["step"], one["progress"], one["agent"]) == (other["step"], other["progress"], other["agent"])
    for kind in ("tensors", "rows"):
        assert one[kind].keys() == other[kind].keys()
        for name in one[kind]:
            assert np.array_equal(one[kind][name], other[kind][name]), name


def children() -> list[psutil.Process]:
    """Worker processes: all descendants but the fork server and the resource tracker."""
    return [p for p in psutil.Process().children(recursive=True) if p.ppid() != os.getpid()]


# -- environments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Crash", ["crashed during a step: ValueError: the wheel came off (faulty_envs.py line "]),
        pytest.param("Exit", ["died during a step (exit code 7)"], marks=pytest.mark.slow),
        pytest.param("Segfault", ["died during a step (SIGSEGV)"], marks=pytest.mark.slow),
        ("Hang", ["gave no answer for 1 s during a step: it hangs, or needs longer (--env.timeout, in seconds)"]),
        ("Reward", ["environment 0 gave a reward that is not finite: [nan]"]),
        pytest.param(
            "Vector", ["gave an observation 'vector' that is not finite: [nan nan nan]"], marks=pytest.mark.slow
        ),
        pytest.param(
            "Longer",
            ["the observation is float32 of shape (4,), the environment's space says Box(-1.0, 8.0, (3,), float"],
            marks=pytest.mark.slow,
        ),
        (
            "Vanishing",
            ["the observation 'far' is missing: the environment's space has it, and this step gave ['near']"],
        ),
        pytest.param(
            "Colourless",
            ["the observation is uint8 of shape (", "the environment's space says Box(0, 255, ("],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_while_collecting_loses_nothing(go, whole, fault, tmp_path, env, words):  # noqa: F811
    fault(COLLECTING)
    begin = time.monotonic()
    said = go(*train("toy_agent", env), *OPTIONS, "--run", tmp_path / "run", code=1)
    for word in [*words, "[step 3", "all until then is saved: once it is mended, the same command goes on]"]:
        assert word in said, said
    assert time.monotonic() - begin < 6
    assert children() == []
    assert dreamlab.load(tmp_path / "run").step == checkpoint.Checkpoints(tmp_path / "run").steps()[-1]
    if env == "Crash":
        again = go(*train("toy_agent", env), *OPTIONS, "--run", tmp_path / "run", code=1)
        assert words[0] in again, "the fault is still there: nothing is lost by trying"
    fault_file().unlink()
    go(*train("toy_agent", env), *OPTIONS, "--run", tmp_path / "run")
    assert_same(whole("toy_agent", env), tmp_path / "run")


@pytest.mark.parametrize("at", [5, 10])
def test_a_fault_in_a_rollout_or_an_evaluation_loses_nothing(go, whole, fault, tmp_path, monkeypatch, at):  # noqa: F811
    """The environments of whole episodes take seven steps in tuning, then they evaluate."""
    run, argv = tmp_path / "run", (*train("toy_agent", "Crash"), *OPTIONS)
    fault_after_collecting(monkeypatch, fault, at)
    said = go(*argv, "--run", run, code=1)
    assert "the wheel came off" in said
    assert "all until then is saved" in said
    assert f"[step {82 if at == 5 else 143}; " in said
    fault(at)
    for extra in ((), ("--video",)):
        assert "the wheel came off" in go("evaluate", run, "--episodes", "4", *extra, code=1)
    fault_file().unlink()
    go(*argv, "--run", run)
    assert_same(whole("toy_agent", "Crash"), run)


@pytest.mark.parametrize("env", ["Hang", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Reward", "Crash"))])
def test_a_fault_in_a_generation_of_the_controller(go, fault, tmp_path, monkeypatch, env):  # noqa: F811
    """World Models: CMA-ES plays whole episodes in workers of its own."""
    argv = ("train", "world-models", "--env", f"faulty_envs:{env}", "--preset", "smoke", "--env.size", "16", "16",
            "--env.timeout", "1", *QUICK)  # fmt: skip
    fault_after_collecting(monkeypatch, fault, 10)
    said = go(*argv, "--run", tmp_path / "run", code=1)
    assert "all until then is saved" in said
    assert children() == []
    fault_file().unlink()
    go(*argv, "--run", tmp_path / "run")
    go(*argv, "--run", tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")


def fault_after_collecting(monkeypatch: pytest.MonkeyPatch, fault: Callable[[int], None], at: int) -> None:
    """Environments read the step of their fault when they are built: those that collect are built without one."""
    plainly = Experience.rollout_envs

    def rollout_envs(self: Experience) -> Any:
        if self._rollouts is None and not fault_file().exists():
            fault(at)
            monkeypatch.undo()
        return plainly(self)

    monkeypatch.setattr(Experience, "rollout_envs", rollout_envs)


def test_nan_when_an_episode_begins(go, fault, tmp_path):  # noqa: F811
    fault(0)
    argv = (*train("toy_agent", "VectorAtReset"), *OPTIONS, "--run", tmp_path / "run")
    said = go(*argv, code=1)
    assert "gave an observation 'vector' that is not finite" in said
    assert "[step 0; nothing had been done yet]" in said
    fault_file().unlink()
    go(*argv)


# -- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "log_every"), [(4, "1"), (7, "1000"), (10, "1000"), (12, "1")])
def test_a_loss_that_becomes_nan_is_named_and_never_saved(go, whole, fault, tmp_path, at, log_every):  # noqa: F811
    """In study (updates 1 to 10) and in practice, where the policy would draw from what has become NaN."""
    run = tmp_path / "run"
    argv = (*train("faulty_agent", "tiny/Catch"), *OPTIONS, "--run", run)
    fault(at)
    said = go(*argv, "--log-every", log_every, code=1)
    assert f"{'study' if at < 10 else 'practice'}/loss" in said
    assert "became nan" in said
    assert "[step " in said
    found = checkpoint.Checkpoints(run).steps()
    assert f"the last good checkpoint is step {found[-1]}]" in said
    assert found[-1] == (80 if at < 10 else 83)
    dreamlab.load(run)
    assert "nan" not in (run / "metrics.jsonl").read_text().lower()
    fault_file().unlink()
    go(*argv)
    assert_same_end(whole("faulty_agent", "tiny/Catch"), run)  # but for other lines of metrics


# -- the disk ------------------------------------------------------------------------------------------------------


def full(*args: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


class Disk:
    """The module ``os`` as one file sees it, so that no other is disturbed."""

    write = staticmethod(os.write)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


DISK = Disk()


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (columns.Column, "reserve", 60),
        (checkpoint, "save_file", 3),
        (checkpoint, "sync_folder", 2),
        (DISK, "write", 3),
    ],
)
def test_a_full_disk_loses_nothing(go, whole, tmp_path, monkeypatch, owner, name, after):  # noqa: F811
    run, argv = tmp_path / "run", (*train("toy_agent", "Crash"), *OPTIONS)
    really, calls = getattr(owner, name), iter(range(10**9))
    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "os", DISK)
        patch.setattr(owner, name, lambda *a, **k: full() if next(calls) >= after else really(*a, **k))
        said = go(*argv, "--run", run, code=1)
    assert "the disk is full" in said
    assert "somewhere" in said or "metrics.jsonl" in said
    assert "ree some space and" in said
    assert children() == []
    if checkpoint.Checkpoints(run).steps():
        dreamlab.load(run)
    go(*argv, "--run", run)
    assert_same(whole("toy_agent", "Crash"), run)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where this may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.name != "posix" or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a file system of its own")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(go, whole, small, monkeypatch):  # noqa: F811
    run, argv = small / "run", (*train("toy_agent", "Crash"), *OPTIONS)
    monkeypatch.setattr(planning, "refuse_if_too_big", lambda *_: None)  # something else fills it while it runs
    for room in (50_000, 250_000, 500_000, 700_000, 900_000):
        ballast = small / "ballast"
        with open(ballast, "wb") as file:
            free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            os.posix_fallocate(file.fileno(), 0, max(free - room, 1))
        code = main([*argv, "--run", str(run)])
        ballast.unlink()
        if code == 0:
            break
        assert code == 1
    go(*argv, "--run", run)
    assert_same(whole("toy_agent", "Crash"), run)
