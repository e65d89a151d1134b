"""The front of the command line: verbs, exit codes, listings, the plan."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dreamlab
from dreamlab.cli import main as front
from dreamlab.cli import plan as planning
from dreamlab.cli.main import main, usage, verbs
from dreamlab.cli.options import parse
from dreamlab.core.errors import Interrupted, RunError, UserError
from dreamlab.core.protocols import Phase

TINY = "own_agents.tiny"


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(front, "verbs", lambda: {"fail": "fails"})
    monkeypatch.setattr(front.importlib, "import_module", lambda name: SimpleNamespace(run=run))


# -- verbs -------------------------------------------------------------------------------------------------------


def test_own_warnings_are_worded_as_its_other_messages_are_and_those_of_others_stay():
    assert front._worded("mind the gap", UserWarning, planning.__file__, 3) == "dreamlab: mind the gap\n"
    for category, file in ((UserWarning, __file__), (DeprecationWarning, planning.__file__)):
        assert f"{Path(file).name}:3: {category.__name__}: mind" in front._worded("mind", category, file, 3)


def test_version_and_help(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dreamlab {dreamlab.__version__}\n"
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert {"plan", "agents", "envs", "presets"} <= verbs().keys()
    assert all(f"  {verb}" in usage() for verb in verbs())


def test_unknown_verb(capsys: pytest.CaptureFixture[str]):
    assert main(["pln"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dreamlab: unknown command 'pln'; commands: ")
    assert err.endswith("Did you mean 'plan'?\n")


HEAVY = {"torch", "matplotlib", "fastapi", "uvicorn", "av", "tianshou", "tensorboard", "wandb"}


@pytest.mark.parametrize("argv", [["--help"], ["plan", "--help"], ["plan", TINY, "--env", "CarRacing-v3", "--help"]])
def test_help_is_quick(argv: list[str]):
    """What must never come back is the second that importing torch takes."""
    code = f"import sys; from dreamlab.cli.main import main; code = main({argv!r}); print(*sys.modules); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


def test_help_shows_the_docstrings_of_settings(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", TINY, "--env", "CarRacing-v3", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--agent.vision.latent INT size of what is seen (default: 9)" in out
    assert "--env.crop" in out
    assert "--seed INT everything random in the run is derived from it (default: 0)" in out
    assert main(["plan", TINY, "--help"]) == 0
    assert main(["plan", "--help"]) == 0
    assert "Agents: " in capsys.readouterr().out


# -- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such thing"), 2, "dreamlab: no such thing\n"),
        (RunError("it crashed"), 1, "dreamlab: it crashed\n"),
        (KeyboardInterrupt(), 130, "dreamlab: stopped\n"),
        (Interrupted(), 130, "dreamlab: stopped\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 1, "dreamlab: the disk is full (runs/a): "),
        (SystemExit(3), 3, ""),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
):
    monkeypatch.delenv("DREAMLAB_DEBUG", raising=False)
    failing(monkeypatch, error)
    assert main(["fail"]) == code
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert "Traceback" not in err


def test_our_own_mistakes_are_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.delenv("DREAMLAB_DEBUG", raising=False)
    monkeypatch.setattr(front.tempfile, "tempdir", str(tmp_path))
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    assert main(["fail"]) == 70
    err = capsys.readouterr().err
    [file] = tmp_path.iterdir()
    assert (
        err == f"dreamlab: an error of its own: ZeroDivisionError: division by zero; where it happened is in {file}\n"
    )
    assert "Traceback" in file.read_text()
    monkeypatch.setenv("DREAMLAB_DEBUG", "1")
    assert main(["fail"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; sys.exit(__import__('dreamlab.cli.main').cli.main.main(['envs', '--json']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


# -- listings ----------------------------------------------------------------------------------------------------


def listed(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict]:
    assert main([*argv, "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert main(list(argv)) == 0
    table = capsys.readouterr().out
    assert all(str(next(iter(row.values()))) in table for row in as_json)
    return as_json


def test_listings(capsys: pytest.CaptureFixture[str]):
    listed(capsys, "agents")
    suites = {row["suite"]: row["environments"] for row in listed(capsys, "envs")}
    assert "CartPole-v1" in suites["gym"]
    listed(capsys, "presets")
    rows = listed(capsys, "presets", TINY)
    assert [(row["preset"], row["default for"]) for row in rows] == [("fast", ["gym"]), ("pole", ["BipedalWalker-v3"])]
    assert main(["presets", "nobody"]) == 2
    assert capsys.readouterr().err.startswith("dreamlab: unknown agent 'nobody'")


# -- plan --------------------------------------------------------------------------------------------------------


def test_plan_has_the_shape_that_other_programs_read(capsys: pytest.CaptureFixture[str]):
    argv = ["plan", TINY, "--env", "CartPole-v1", "--steps", "5000", "--env.repeat", "2"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["agent", "env", "phases", "frames", "parameters", "memory_bytes", "disk_bytes"]
    assert found["phases"] == [
        {"name": "collect", "env_steps": 5000, "rounds": 0},
        {"name": "learn", "env_steps": 0, "rounds": 2},
    ]
    assert found["frames"] == 10_000
    assert found["parameters"] == {"vision": 45, "all": 20, "total": 65}, "a shared weight counts once"
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{TINY} on CartPole-v1: preset fast, the default of {TINY} for gym\n")
    assert "parameters: 65 (vision 45, all 20)" in out


def test_plan_grows_with_what_is_asked():
    def cost(*argv: str) -> planning.Plan:
        return planning.plan(parse((TINY, "--env", "CartPole-v1", *argv), "dreamlab plan", planning.Flags)[0])

    small, long, wide = cost("--steps", "1e5"), cost("--steps", "2e5"), cost("--steps", "1e5", "--envs", "9")
    row = 4 * 4 + 8 + 4 + 3 + 4 * 9  # vector, action, reward, flags, annotations
    assert long.disk_bytes - small.disk_bytes >= 1e5 * row
    assert wide.memory_bytes > small.memory_bytes
    assert cost("--steps", "2e5", "--capacity", "1e4").disk_bytes < small.disk_bytes


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    big = planning.Plan(TINY, "CartPole-v1", (Phase("collect", env_steps=1000),), 1, {}, 8 << 30, 100 << 30)
    monkeypatch.setattr(planning, "free_memory", lambda: 16 << 30)
    monkeypatch.setattr(planning, "free_disk", lambda folder: 50 << 30)
    with pytest.raises(UserError) as caught:
        planning.refuse_if_too_big(big, tmp_path)
    assert "needs about 100 GiB of disk, but 50 GiB are free" in str(caught.value)
    assert "--steps 470" in str(caught.value)
    assert "memory" not in str(caught.value)
    monkeypatch.setattr(planning, "free_memory", lambda: 4 << 30)
    monkeypatch.setattr(planning, "free_disk", lambda folder: 500 << 30)
    with pytest.raises(UserError, match=r"needs about 8 GiB of memory, but 4 GiB are free"):
        planning.refuse_if_too_big(big, tmp_path)
    monkeypatch.setattr(planning, "free_memory", lambda: 16 << 30)
    planning.refuse_if_too_big(big, tmp_path)


def test_what_is_free_is_found(tmp_path: Path):
    assert planning.free_memory() > 1 << 20
    assert planning.free_disk(tmp_path / "not" / "yet" / "there") > 0


@pytest.mark.parametrize("steps", [300, 3000])
def test_planned_rows_are_the_rows_on_disk(tmp_path: Path, steps: int):
    import numpy as np
    from gymnasium import spaces

    from dreamlab.run.replay import Replay

    spec = parse((TINY, "--env", "CartPole-v1", "--envs", "2"), "dreamlab plan", planning.Flags)[0]
    image = spaces.Box(0, 255, (3, 32, 32), np.uint8)
    replay = Replay(tmp_path, streams=2)
    row = {"image": image.sample()[None].repeat(2, 0), "act": np.zeros(2, np.int64), "rew": np.zeros(2, np.float32)}
    for t in range(steps // 2):
        replay.append({**row, **{f: np.array([t == 0] * 2) for f in ("is_first", "is_last", "is_terminal")}})
    phases = [Phase("collect", env_steps=steps)]
    planned = planning.replay_bytes(spec, phases, spaces.Dict({"image": image}), spaces.Discrete(2), 0)
    assert planned == pytest.approx(replay.bytes(), rel=0.5), "blocks are reserved ahead, up to twice the rows"
    planned = planning.replay_bytes(spec, [Phase("learn", rounds=3)], spaces.Dict({"image": image}), image, 0)
    assert planned == 0
